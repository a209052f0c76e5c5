"""The cases of the proof `never-hangs`: an app for each kind of node that takes values
from outside, and odd values for it, with the expected outputs where they are known.

Everything follows from a seed, so that the served process and the outside server know
the same cases.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from tests.workflow.building import document

from modelyard.base.json_types import is_array, is_object
from modelyard.testing import Answer, json_answer
from tools.show.odd_values import (
    BIG,
    JAVASCRIPT_HELPERS,
    PYTHON_HELPERS,
    SPECIAL,
    UNKNOWN,
    Odd,
    odd_text,
    odd_value,
    stored,
    stored_text,
    text,
)

MODES = ("blocking", "streamed", "resumed")
_SMALL_SHARE = 8
"""Cases of a kind below which no text of 50 MB is among them."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run: what comes from outside, and what the run's outputs have to be."""

    number: int = 0
    kind: str = ""
    mode: str = "blocking"
    odd: Odd = SPECIAL[0]
    variant: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    """Name of an input → its value as JSON."""
    answers: Sequence["Answer | Spoken"] = ()
    """What the outside server answers, the last one repeatedly."""
    upload: tuple[str, bytes] | None = None
    """Name and content of the file that is the input `doc`."""
    expected: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Outputs that are known; the run must then succeed."""
    error: str = ""
    """Part of the run's error, if it is known that it fails."""


Draw = Callable[[random.Random], Case]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of node: its app, and how its cases are drawn."""

    weight: int
    draw: Draw
    nodes: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict[str, Mapping[str, Any]]
    )
    """The nodes between the two gates, in order; those inside of a container follow it."""
    outputs: Mapping[str, Sequence[str]] = field(
        default_factory=dict[str, Sequence[str]]
    )
    mode: str = "workflow"
    answer: str = ""
    """The answer's template, in a chat."""
    root: Mapping[str, Any] | None = None
    """The trigger that the app begins with, instead of a form."""
    edges: Sequence[str] = ()
    """The edges between the gates, if the nodes are not a plain sequence."""
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further fields of the workflow."""
    packages: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The agents of a file in version 0.7.0."""

    def app(self, name: str, origin: str) -> str:
        """Return the app's file as JSON, which is YAML too."""
        first = "hook" if self.root else "start"
        gate = {"type": "http-request", "method": "get"}
        number = "{{#" + first + ".n#}}"
        nodes: dict[str, Any] = {
            first: self.root or _START,
            "before": {**gate, "url": f"{origin}/gate/before/{number}"},
            **{key: _at(node, origin) for key, node in self.nodes.items()},
            "after": {**gate, "url": f"{origin}/gate/after/{number}"},
            "end": self._end(),
        }
        outer = [key for key, node in nodes.items() if "in" not in node]
        edges = list(self.edges) or [f"{a} > {b}" for a, b in pairwise(outer)]
        app = document(nodes, edges, mode=self.mode, **self.extra)
        app["app"]["name"] = name
        if self.packages:
            app |= {"version": "0.7.0", "agent_packages": self.packages}
        return json.dumps(app)

    def _end(self) -> dict[str, Any]:
        """Return the last node."""
        if self.mode != "workflow":
            return {"type": "answer", "answer": self.answer}
        outputs = [
            {"variable": name, "value_selector": list(selector)}
            for name, selector in self.outputs.items()
        ]
        return {"type": "end", "outputs": outputs}


def _at(node: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Return a node whose address is that of the outside server."""
    if "url" not in node:
        return dict(node)
    return {**node, "url": node["url"].replace("ORIGIN", origin)}


_START = {
    "type": "start",
    "variables": [
        {"variable": "n", "type": "number"},
        {"variable": "e", "type": "paragraph"},
        {"variable": "o", "type": "json_object"},
        {"variable": "doc", "type": "file"},
    ],
}


def as_json(value: str) -> str:
    """Return a text as JSON; lone surrogates are escaped."""
    return json.dumps(value)


# ---------------------------------------------------------------- code and templates


def code_value(value: Any, depth: int = 1) -> Any:
    """Return what a code node accepts of a value, as it is stored; UNKNOWN if it must
    fail."""
    match value:
        case None | bool():
            return value
        case int() if abs(value) >= 2**63:
            return UNKNOWN
        case str() if len(value) > 400_000:
            return UNKNOWN
        case list() | dict() if depth > 6:
            return UNKNOWN
        case _ if is_array(value):
            elements = [code_value(element, depth + 1) for element in value]
            return UNKNOWN if UNKNOWN in map(_identity, elements) else elements
        case _ if is_object(value):
            fields = {stored_text(key): code_value(element, depth + 1) for key, element in value.items()}  # fmt: skip
            return UNKNOWN if UNKNOWN in map(_identity, fields.values()) else fields
        case _:
            return stored(value)


def _identity(value: Any) -> Any:
    """Return UNKNOWN itself, and None for all else: values are not to be compared."""
    return value if value is UNKNOWN else None


def _python(chance: random.Random) -> Case:
    odd = odd_value(chance)
    case = Case(odd=odd, inputs={"e": as_json(odd.python)})
    if odd.value is UNKNOWN or isinstance(odd.value, bytes):
        return case
    value = code_value(odd.value)
    if value is UNKNOWN:
        return replace(case, error="v")
    return replace(case, expected={"v": value})


def _python_big(chance: random.Random) -> Case:
    del chance
    return Case(odd=BIG, inputs={"e": as_json(BIG.python)})


_SAME_IN_JAVASCRIPT = {"value", "text", "lone surrogates", "object of 20,000", "list of 100,000"}  # fmt: skip


def _javascript(chance: random.Random) -> Case:
    odd = odd_value(chance)
    case = Case(odd=odd, inputs={"e": as_json(f"({odd.javascript})")})
    if odd.label not in _SAME_IN_JAVASCRIPT or '"__proto__"' in odd.json:
        return case
    value = code_value(odd.value)
    return replace(case, error="v") if value is UNKNOWN else replace(case, expected={"v": value})  # fmt: skip


def _input_text(chance: random.Random) -> Case:
    odd = odd_text(chance)
    return Case(
        odd=odd,
        inputs={"e": as_json(odd.value)},
        expected={"v": stored_text(odd.value)},
    )


def _input_object(chance: random.Random) -> Case:
    odd = odd_value(chance)
    case = Case(odd=odd, inputs={"o": f'{{"v": {odd.json or "null"}}}'})
    if odd.label not in ("value", "lone surrogates", "list of 100,000"):
        return case
    return replace(case, expected={"v": {"v": stored(odd.value)}})


def _code(language: str, helpers: str, main: str) -> dict[str, Any]:
    """Return a code node that returns the value of an expression."""
    variables = [{"variable": "e", "value_selector": ["start", "e"]}]
    return {
        "type": "code",
        "code_language": language,
        "variables": variables,
        "code": helpers + main,
        "outputs": {},
    }


_PYTHON_NODE = _code("python3", PYTHON_HELPERS, "\ndef main(e):\n    return {'v': eval(e, globals())}\n")  # fmt: skip
_JAVASCRIPT_NODE = _code("javascript", JAVASCRIPT_HELPERS, "\nfunction main({e}) { return {v: (0, eval)(e)} }\n")  # fmt: skip


def _template(source: str, *selector: str) -> dict[str, Any]:
    """Return a template node with one variable, `e`."""
    variables = [{"variable": "e", "value_selector": list(selector)}]
    return {"type": "template-transform", "template": source, "variables": variables}


# --------------------------------------------------------------------------- HTTP


def _http(chance: random.Random) -> Case:
    return chance.choice(_HTTP_CASES)(chance)


def _http_text(chance: random.Random) -> Case:
    odd = odd_text(chance)
    body = stored_text(odd.value).lstrip("\ufeff")
    headers = {"content-type": "text/plain; charset=utf-8"}
    answer = Answer(status=chance.choice((200, 200, 404, 500)), headers=headers, body=body.encode())  # fmt: skip
    return Case(odd=odd, variant="text", answers=[answer], expected={"v": body})


def _http_json(chance: random.Random) -> Case:
    odd = chance.choice(SPECIAL)
    headers = {"content-type": "application/json"}
    answer = Answer(headers=headers, body=odd.json.encode("utf-8", "surrogatepass"))
    case = Case(odd=odd, variant="json", answers=[answer])
    is_comparable = odd.json.isascii() and len(odd.json) < 1 << 20
    return replace(case, expected={"v": odd.json}) if is_comparable else case


def _http_bytes(chance: random.Random) -> Case:
    charset = chance.choice(("utf-16", "utf-7", "cp037", "idna", "zlib", "rot13", "unicode_escape", "undefined", "x" * 99, "\xe9", "gb18030", "latin-1"))  # fmt: skip
    headers = {"content-type": f"text/plain; charset={charset}".encode("latin-1", "replace").decode("latin-1").encode("ascii", "replace").decode()}  # fmt: skip
    body = chance.randbytes(chance.randint(0, 3000))
    return Case(variant="bytes", answers=[Answer(headers=headers, body=body)])


def _http_head(chance: random.Random) -> Case:
    """Odd heads, sent byte by byte as they are."""
    odd = odd_text(chance)
    name = odd.value.encode("utf-8", "surrogatepass")
    line = name.replace(b"\r", b"").replace(b"\n", b"")
    heads = (
        b"HTTP/1.1 200 OK\r\nx-odd: " + line + b"\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 " + line + b"\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 " + str(chance.randint(0, 1200)).encode() + b" X\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/9.9 20\xb2 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: %d\r\n" % (n, n) for n in range(3000)) + b"content-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 300_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: " + line + b"\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-disposition: attachment; filename*=UTF-8''%ff%00" + line + b"\r\ncontent-length: 2\r\n\r\nok",
        b'HTTP/1.1 200 OK\r\ncontent-disposition: attachment; filename="' + line + b'"\r\ncontent-length: 2\r\n\r\nok',
        b"HTTP/1.1 200 OK\r\ncontent-type: " + line + b"\r\ncontent-length: 2\r\n\r\n\xff\xfe",
        b"HTTP/1.1 302 Found\r\nlocation: " + line + b"\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\n\x1f\x8b\x08ab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nok",
        b"HTTP/1.1 204 No\r\ncontent-length: 4\r\n\r\nbody",
        b"\x00\xff\n\n",
    )  # fmt: skip
    answer = Answer(body=chance.choice(heads), fault="raw")
    return Case(odd=odd, variant="head", answers=[answer])


def _http_fault(chance: random.Random) -> Case:
    fault = chance.choice(("cut", "hang_up"))
    return Case(variant=fault, answers=[Answer(body=b"half", fault=fault)])


def _http_big(chance: random.Random) -> Case:
    del chance
    answer = Answer(headers={"content-type": "text/plain"}, body=b"x" * (50 << 20))
    return Case(odd=BIG, variant="50 MB", answers=[answer], error="larger")


_HTTP_CASES: Sequence[Draw] = (
    *[_http_text] * 3, _http_json, _http_json, _http_bytes, _http_head, _http_head, _http_fault,
)  # fmt: skip


# -------------------------------------------------------------------------- models


@dataclass(frozen=True)
class Spoken:
    """What a model answers, streamed or not; it may be what no vendor sends."""

    deltas: Sequence[Mapping[str, Any]]
    usage: Any = None
    reason: Any = "stop"

    def answer(self, *, is_streamed: bool) -> Answer:
        """Return the response in OpenAI's format."""
        usage = self.usage or {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}  # fmt: skip
        head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
        if not is_streamed:
            choice = {"index": 0, "message": self._message(), "finish_reason": self.reason}  # fmt: skip
            return json_answer({**head, "choices": [choice], "usage": usage})
        head["object"] = "chat.completion.chunk"
        choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in self.deltas]  # fmt: skip
        choices.append({"index": 0, "delta": {}, "finish_reason": self.reason})
        documents: list[Any] = [{**head, "choices": [choice]} for choice in choices]
        documents.append({**head, "choices": [], "usage": usage})
        events = [f"data: {json.dumps(event)}\n\n".encode() for event in documents]
        headers = {"content-type": "text/event-stream"}
        return Answer(headers=headers, pieces=[b"".join(events), b"data: [DONE]\n\n"])

    def _message(self) -> dict[str, Any]:
        """Return the deltas as one message; texts are joined."""
        message: dict[str, Any] = {"role": "assistant", "content": None}
        for delta in self.deltas:
            for name, value in delta.items():
                before = message.get(name)
                is_text = isinstance(value, str) and isinstance(before, str)
                message[name] = f"{before}{value}" if is_text else value
        return message


def chat_events(*deltas: Mapping[str, Any], usage: Any = None, reason: Any = "stop") -> Spoken:  # fmt: skip
    """Return what a model answers."""
    return Spoken(deltas, usage, reason)


def _split(text: str, chance: random.Random) -> list[str]:
    """Return a text in pieces of random length."""
    pieces: list[str] = []
    while text:
        length = chance.randint(1, max(1, len(text)))
        pieces.append(text[:length])
        text = text[length:]
    return pieces


def says(text: str, chance: random.Random, name: str = "content") -> Spoken:
    """Return a model's answer in pieces."""
    return chat_events(*({name: piece} for piece in _split(text, chance)))


def _model_text(chance: random.Random, output: str = "v") -> Case:
    odd = odd_text(chance)
    spoken = "a" + odd.value
    answer = says(spoken, chance)
    return Case(odd=odd, variant="text", answers=[answer], expected={output: stored_text(spoken)})  # fmt: skip


def _model_fault(chance: random.Random) -> Case:
    """Answers that no vendor sends. The status 404 is not among them: it says that the
    server does not speak this format, and the next calls then use another one."""
    odd = odd_value(chance)
    value = None if odd.value is UNKNOWN or isinstance(odd.value, bytes) else odd.value
    value = value if len(odd.json) < 5000 and odd.label != "integer of 5,000 digits" else "x"  # fmt: skip
    call = {"index": value, "id": value, "type": "function", "function": {"name": value, "arguments": value}}  # fmt: skip
    headers = {"content-type": "text/event-stream"}
    raw = (b"", b"data: \xff\xfe\n\n", b"data: {\n\n", b"\0" * 99, b"data: []\n\n", b"data: [DONE]\n\n", b"data: null\n\n", b"event: error\ndata: {}\n\n", b"data: " + odd.json.encode("utf-8", "surrogatepass") + b"\n\n")  # fmt: skip
    answers: Sequence[Callable[[], Answer | Spoken]] = (
        lambda: chat_events({"content": value}),
        lambda: chat_events({"reasoning_content": value, "content": "a"}),
        lambda: chat_events({"tool_calls": [call]}, reason="tool_calls"),
        lambda: chat_events({"tool_calls": value}),
        lambda: chat_events({"content": "a"}, reason=value),
        lambda: chat_events({"content": "a"}, usage={"prompt_tokens": value, "completion_tokens": -1, "total_tokens": value}),
        lambda: chat_events({"role": value, "content": "a", "refusal": value, "annotations": value}),
        lambda: Answer(headers=headers, pieces=[chance.choice(raw)]),
        lambda: Answer(headers=headers, pieces=[b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'], fault="cut"),
        lambda: json_answer({"error": {"message": value, "code": value, "type": value}}, status=chance.choice((400, 401, 403, 422, 429, 500, 503))),
        lambda: json_answer({"error": value}, status=chance.choice((400, 500))),
        lambda: Answer(status=chance.choice((204, 299, 304, 418, 599)), body=b"\xff"),
    )  # fmt: skip
    return Case(odd=odd, variant="fault", answers=[_deep_safe(chance.choice(answers))])


def _deep_safe(make: Callable[[], Answer | Spoken]) -> Answer | Spoken:
    """Return an answer; one that this process cannot write is replaced by a short one."""
    try:
        made = make()
        if isinstance(made, Spoken):
            made.answer(is_streamed=True)
        return made
    except (RecursionError, ValueError):
        return Answer(status=500, body=b"[" * 100_000)


def _llm(chance: random.Random) -> Case:
    return _model_text(chance) if chance.random() < 0.5 else _model_fault(chance)


def _reasoning(chance: random.Random) -> Case:
    odd = odd_text(chance)
    thought = f"a{odd.value}b"
    answer = chat_events(
        *({"reasoning_content": piece} for piece in _split(thought, chance)),
        {"content": "said"},
    )
    expected = {"v": stored_text(thought), "w": "said"}
    return Case(odd=odd, variant="reasoning", answers=[answer], expected=expected)


def _structured(chance: random.Random) -> Case:
    odd = odd_value(chance)
    answer = says(f'{{"v": {odd.json}}}', chance)
    case = Case(odd=odd, variant="structured output", answers=[answer])
    if odd.label in ("value", "lone surrogates"):
        return replace(case, expected={"v": stored(odd.value)})
    return case


def _extracted(chance: random.Random) -> Case:
    if chance.random() < 0.4:
        return _model_fault(chance)
    odd = odd_text(chance)
    arguments = json.dumps({"v": f"a{odd.value}"})
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "extract_parameters", "arguments": arguments}}  # fmt: skip
    answer = chat_events({"tool_calls": [call]}, reason="tool_calls")
    return Case(odd=odd, variant="arguments", answers=[answer], expected={"v": stored_text(f"a{odd.value}")})  # fmt: skip


def _classified(chance: random.Random) -> Case:
    if chance.random() < 0.5:
        return _model_fault(chance)
    odd = odd_value(chance)
    documents = (
        '{"category_id": "b", "category_name": "B"}',
        f'{{"category_id": {odd.json}, "category_name": "B"}}',
        f'{{"keywords": {odd.json}, "category_id": "b", "category_name": "B"}}',
        odd.json,
    )
    answer = says(chance.choice(documents), chance)
    return Case(odd=odd, variant="class", answers=[answer])


def _agent(chance: random.Random) -> Case:
    odd = odd_value(chance) if chance.random() < 0.5 else odd_text(chance)
    spoken = "a" + text(chance)
    arguments = chance.choice(('{"n": NUMBER}', '{"n": NUMBER}', odd.json, '{"n": "NUMBER", "x": 1}', "", "{"))  # fmt: skip
    name = chance.choice(("odd", "odd", "odd", "missing", "\ud800"))
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}  # fmt: skip
    asked = chat_events({"content": text(chance)}, {"tool_calls": [call]}, reason="tool_calls")  # fmt: skip
    case = Case(odd=odd, variant="agent", answers=[asked, says(spoken, chance)])
    return case if chance.random() < 0.7 else replace(case, answers=[asked, _model_fault(chance).answers[0]])  # fmt: skip


_PROMPT = [{"role": "user", "text": "case {{#start.n#}}:"}]
_LLM_NODE = {"type": "llm", "prompt_template": _PROMPT}
_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"v": {}},
    "required": ["v"],
}


# --------------------------------------------------------------------------- tools


def tool_messages(case: Case) -> list[Any]:
    """Return what the tool `odd` answers in a case."""
    value = "x" * (50 << 20) if case.odd is BIG else case.odd.value
    if value is UNKNOWN:
        # What is no JSON at all comes from Python functions alone.
        value = eval(case.odd.python, _scope())
    match case.variant:
        case "text":
            return [{"type": "text", "message": {"text": value}}]
        case "json":
            return [{"type": "json", "message": {"json_object": value}}]
        case "list":
            value = [value, "b\ud800", value]
        case _:
            pass
    message = {"variable_name": "v", "variable_value": value}
    return [{"type": "variable", "message": message}]


def _scope() -> dict[str, Any]:
    """Return the names of PYTHON_HELPERS."""
    scope: dict[str, Any] = {}
    exec(PYTHON_HELPERS, scope)
    return scope


def _tool(chance: random.Random) -> Case:
    odd, variant = odd_value(chance), chance.choice(("variable", "variable", "json"))
    if chance.random() < 0.25:
        odd, variant = odd_text(chance), "text"
    case = Case(odd=odd, variant=variant)
    if odd.value is UNKNOWN:
        return case
    value = stored(odd.value)
    if value is UNKNOWN:
        return replace(case, error="v" if variant == "variable" else "json")
    names = {"variable": "v", "json": "json", "text": "text"}
    return replace(case, expected={names[variant]: [value] if variant == "json" else value})  # fmt: skip


def _tool_big(chance: random.Random) -> Case:
    del chance
    return Case(odd=BIG, variant="variable", error="v")


def _assigned(chance: random.Random) -> Case:
    odd = odd_text(chance)
    return Case(odd=odd, variant="variable", expected={"answer": f"<{stored_text(odd.value)}>"})  # fmt: skip


def _looped(chance: random.Random) -> Case:
    if chance.random() < 0.5:
        return Case(odd=odd_value(chance), variant="variable")
    odd = odd_text(chance)
    return Case(odd=odd, variant="variable", expected={"v": stored_text(odd.value)})


def _iterated(chance: random.Random) -> Case:
    if chance.random() < 0.4:
        return Case(odd=odd_value(chance), variant="list")
    odd = odd_text(chance)
    mended = stored_text(odd.value)
    return Case(odd=odd, variant="list", expected={"v": [mended, "b\ufffd", mended]})


def _listed(chance: random.Random) -> Case:
    if chance.random() < 0.5:
        return Case(odd=odd_value(chance), variant="list")
    odd = odd_text(chance)
    return Case(odd=odd, variant="list", expected={"v": [stored_text(odd.value), "b\ufffd"]})  # fmt: skip


_TOOL_NODE = {
    "type": "tool",
    "provider_type": "builtin",
    "provider_id": "function",
    "tool_name": "odd",
    "tool_parameters": {"n": {"type": "variable", "value": ["start", "n"]}},
}
_AGENT_TOOL = {"enabled": True, "provider_type": "builtin", "provider_id": "function", "tool_name": "odd"}  # fmt: skip
_AGENT_NODE = {
    "type": "agent",
    "agent_strategy_name": "function_calling",
    "agent_parameters": {
        "model": {"type": "constant", "value": {"provider": "openai", "model": "gpt-4o"}},
        "tools": {"type": "constant", "value": [_AGENT_TOOL]},
        "query": {"type": "mixed", "value": "case {{#start.n#}}:"},
        "maximum_iterations": {"type": "constant", "value": 3},
    },
}  # fmt: skip


# ------------------------------------------- tools of APIs, of MCP servers, and agents


def _api_tool(chance: random.Random) -> Case:
    if chance.random() < 0.5:
        draw = chance.choice((_http_json, _http_bytes, _http_head, _http_fault))
        # What an HTTP node makes of it is not what a tool makes of it.
        return replace(draw(chance), expected={})
    odd = odd_text(chance)
    # With a letter first, so that the text is never JSON and never empty.
    body = "a" + stored_text(odd.value)
    answer = Answer(headers={"content-type": "text/plain; charset=utf-8"}, body=body.encode())  # fmt: skip
    return Case(odd=odd, variant="text", answers=[answer], expected={"text": body})


def _api_json(chance: random.Random) -> Case:
    """JSON answers of an API: what is stored is known, unless parsers differ on it."""
    odd = odd_value(chance)
    headers = {"content-type": "application/json"}
    body = f'{{"v": {odd.json}}}'.encode("utf-8", "surrogatepass")
    case = Case(odd=odd, variant="json", answers=[Answer(headers=headers, body=body)])
    if odd.label not in ("value", "lone surrogates"):
        return case
    return replace(case, expected={"json": [{"v": stored(odd.value)}]})


def _api(chance: random.Random) -> Case:
    return _api_json(chance) if chance.random() < 0.4 else _api_tool(chance)


REQUEST_ID = b'"REQUEST ID"'
"""Stands in answers of an MCP server for the id of the request."""


def _rpc(result: str, name: str = "result") -> Answer:
    """Return a JSON-RPC response whose result, or error, is a JSON text."""
    text = f'{{"jsonrpc": "2.0", "id": {REQUEST_ID.decode()}, "{name}": {result}}}'
    headers = {"content-type": "application/json"}
    return Answer(headers=headers, body=text.encode("utf-8", "surrogatepass"))


def _mcp(chance: random.Random) -> Case:
    share = chance.random()
    if share < 0.35:
        odd = odd_text(chance)
        content = json.dumps([{"type": "text", "text": f"a{odd.value}"}])
        answer = _rpc(f'{{"content": {content}}}')
        return Case(odd=odd, variant="text", answers=[answer], expected={"text": stored_text(f"a{odd.value}")})  # fmt: skip
    if share < 0.7:
        odd = odd_value(chance)
        content = '[{"type": "text", "text": "said"}]'
        answer = _rpc(f'{{"content": {content}, "structuredContent": {{"v": {odd.json}}}}}')  # fmt: skip
        case = Case(odd=odd, variant="structured", answers=[answer])
        is_known = odd.label in ("value", "lone surrogates")
        return replace(case, expected={"v": stored(odd.value)}) if is_known else case
    return _mcp_fault(chance)


def _mcp_fault(chance: random.Random) -> Case:
    """Answers that no MCP server sends."""
    odd = odd_value(chance)
    value = odd.json
    events = {"content-type": "text/event-stream"}
    answers = (
        _rpc(value),
        _rpc(value, "error"),
        _rpc(f'{{"code": {value}, "message": {value}, "data": {value}}}', "error"),
        _rpc(f'{{"content": {value}, "isError": {value}}}'),
        _rpc(f'{{"content": [{value}, {{"type": {value}}}], "structuredContent": {value}}}'),
        _rpc(f'{{"content": [{{"type": "image", "data": {value}, "mimeType": {value}}}]}}'),
        _rpc(f'{{"content": [{{"type": "resource", "resource": {{"uri": {value}, "blob": {value}}}}}]}}'),
        _rpc(f'{{"content": [], "resultType": {value}, "isError": true}}'),
        Answer(headers=events, body=b"data: " + value.encode("utf-8", "surrogatepass") + b"\n\n"),
        Answer(headers=events, body=b"event: \xff\ndata: {\n\n"),
        Answer(status=chance.choice((204, 400, 404, 410, 500)), body=value.encode("utf-8", "surrogatepass")),
        Answer(body=b"half", fault=chance.choice(("cut", "hang_up"))),
    )  # fmt: skip
    return Case(odd=odd, variant="fault", answers=[chance.choice(answers)])


def _session_lines(*messages: str) -> Answer:
    """Return what a plugin on another server answers: messages of a session, as JSON
    texts."""
    lines = [f'{{"event": "session", "session_id": "s", "data": {message}}}\n' for message in messages]  # fmt: skip
    return Answer(body="".join(lines).encode("utf-8", "surrogatepass"))


def says_once(data: str) -> Answer:
    """Return the answer of a plugin that yields one result, as a JSON text."""
    return _session_lines(f'{{"type": "stream", "data": {data}}}', '{"type": "end", "data": {}}')  # fmt: skip


def _plugin_tool(chance: random.Random) -> Case:
    share = chance.random()
    if share < 0.3:
        odd = odd_text(chance)
        message = json.dumps({"type": "text", "message": {"text": f"a{odd.value}"}})
        return Case(odd=odd, variant="text", answers=[says_once(message)], expected={"text": stored_text(f"a{odd.value}")})  # fmt: skip
    if share < 0.65:
        odd = odd_value(chance)
        message = f'{{"variable_name": "v", "variable_value": {odd.json}, "stream": false}}'  # fmt: skip
        answer = says_once(f'{{"type": "variable", "message": {message}}}')
        case = Case(odd=odd, variant="variable", answers=[answer])
        is_known = odd.label in ("value", "lone surrogates")
        return replace(case, expected={"v": stored(odd.value)}) if is_known else case
    return _plugin_fault(chance)


def _plugin_fault(chance: random.Random) -> Case:
    """Answers that no plugin gives."""
    odd = odd_value(chance)
    value = odd.json
    answers = (
        says_once(value),
        says_once(f'{{"type": {value}, "message": {value}, "meta": {value}}}'),
        says_once(f'{{"type": "json", "message": {{"json_object": {value}}}}}'),
        says_once(f'{{"type": "json", "message": {value}}}'),
        says_once(f'{{"type": "text", "message": {{"text": {value}}}}}'),
        says_once(f'{{"type": "blob", "message": {{"blob": {value}}}, "meta": {{"mime_type": {value}, "filename": {value}}}}}'),
        says_once(f'{{"type": "blob_chunk", "message": {{"id": {value}, "sequence": {value}, "total_length": {value}, "blob": {value}, "end": {value}}}}}'),
        says_once(f'{{"type": "image_link", "message": {{"text": {value}}}}}'),
        says_once(f'{{"type": "file", "message": {{}}, "meta": {{"file": {value}}}}}'),
        says_once(f'{{"type": "log", "message": {{"id": {value}, "label": {value}, "status": {value}, "data": {value}}}}}'),
        says_once(f'{{"type": "variable", "message": {{"variable_name": {value}, "variable_value": {value}, "stream": true}}}}'),
        _session_lines(f'{{"type": "error", "data": {value}}}', '{"type": "end", "data": {}}'),
        _session_lines(f'{{"type": "error", "data": {{"error_type": {value}, "message": {value}, "args": {value}}}}}'),
        _session_lines(f'{{"type": {value}, "data": {value}}}', value),
        Answer(body=value.encode("utf-8", "surrogatepass")),
        Answer(body=b"\xff\n{\n\0\n"),
        Answer(status=chance.choice((204, 404, 500)), body=b"no"),
        Answer(body=b"half", fault=chance.choice(("cut", "hang_up"))),
    )  # fmt: skip
    return Case(odd=odd, variant="fault", answers=[chance.choice(answers)])


def _event(chance: random.Random) -> Case:
    """What a plugin says of an event: first which events a call has, then the variables
    of one."""
    odd = odd_text(chance) if chance.random() < 0.3 else odd_value(chance)
    value = odd.json
    if chance.random() < 0.6:
        answers = [says_once(DISPATCHED), says_once(f'{{"variables": {{"n": {NUMBER}, "beat": {value}}}}}')]  # fmt: skip
        case = Case(odd=odd, variant="variables", answers=answers)
        is_known = odd.label in ("value", "text", "lone surrogates")
        return replace(case, expected={"v": stored(odd.value)}) if is_known else case
    variables = says_once(f'{{"variables": {{"n": {NUMBER}}}}}')
    faults = (
        [says_once(f'{{"events": {value}, "payload": {value}, "response": {value}}}'), variables],
        [says_once(f'{{"events": [{value}, "beat"], "payload": {value}}}'), variables],
        [says_once(f'{{"events": ["beat"], "response": {value}}}'), variables],
        [says_once(value), variables],
        [says_once(DISPATCHED), says_once(f'{{"variables": {value}}}')],
        [says_once(DISPATCHED), says_once(f'{{"cancelled": {value}, "variables": {{"n": {NUMBER}, "v": {value}}}}}')],
        [says_once(DISPATCHED), says_once(value)],
        [says_once(DISPATCHED), Answer(body=b"half", fault="cut")],
    )  # fmt: skip
    return Case(odd=odd, variant="fault", answers=chance.choice(faults))


NUMBER = '"NUMBER"'
"""Stands in answers of a trigger plugin for the number of the case."""
_HEARD = b"HTTP/1.1 202 Accepted\r\ncontent-type: text/plain\r\n\r\nheard".hex()
DISPATCHED = f'{{"events": ["beat"], "payload": {{}}, "response": "{_HEARD}"}}'
"""What a trigger plugin says of a call with one event, as JSON."""


def _job(chance: random.Random) -> Case:
    """What the model of an agent of version 2 says to its task."""
    return _model_text(chance) if chance.random() < 0.6 else _model_fault(chance)


def _job_outputs(chance: random.Random) -> Case:
    """What it says where its node declares an output."""
    odd = odd_text(chance) if chance.random() < 0.5 else odd_value(chance)
    answer = says(f'{{"v": {odd.json}}}', chance)
    case = Case(odd=odd, variant="outputs", answers=[answer])
    if odd.label == "text":
        return replace(case, expected={"v": stored_text(odd.value)})
    return case


_API_NODE = {
    "type": "tool",
    "provider_type": "api",
    "provider_id": "outside-api",
    "tool_name": "value",
    "tool_parameters": {"n": {"type": "variable", "value": ["start", "n"]}},
}
_MCP_NODE = {**_API_NODE, "provider_type": "mcp", "provider_id": "outside-mcp"}
_PLUGIN_NODE = {
    "type": "tool",
    "provider_type": "builtin",
    "provider_id": "modelyard/toolbox/toolbox",
    "tool_name": "add",
    "tool_parameters": {
        "a": {"type": "variable", "value": ["start", "n"]},
        "b": {"type": "constant", "value": 1},
    },
}
EVENT_ROOT = {
    "type": "trigger-plugin",
    "provider_id": "modelyard/pulse/pulse",
    "event_name": "beat",
}
_JOB = {
    "schema_version": 1,
    "mode": "tell_agent_what_to_do",
    "workflow_prompt": "case {{#start.n#}}: say something",
    "previous_node_output_refs": [],
    "human_contacts": [],
    "metadata": {"file_refs": None, "agent_soul": None},
}
_FAILURE = {"retry": {"enabled": False, "max_retries": 0, "retry_interval_ms": 0}, "on_failure": "stop", "default_value": None}  # fmt: skip
_DECLARED = {"id": "o", "name": "v", "type": "string", "description": "", "required": True, "file": None, "array_item": None, "children": [], "check": None, "failure_strategy": _FAILURE}  # fmt: skip
_PACKAGES: Mapping[str, Any] = {
    "p": {
        "schema_version": 1,
        "metadata": {"name": "Odd", "description": "", "role": ""},
        "soul": {
            "schema_version": 1,
            "prompt": {"system_prompt": "You answer."},
            "model": {"plugin_id": "langgenius/openai", "model_provider": "langgenius/openai/openai", "model": "gpt-4o", "credential_ref": None, "model_settings": {}},
        },
        "omitted_assets": [],
    }
}  # fmt: skip


def _agent_v2(*declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return an agent node of version 2 with declared outputs."""
    return {
        "type": "agent",
        "version": "2",
        "agent_node_kind": "dify_agent",
        "agent_binding": {"binding_type": "inline_agent", "package_ref": "p"},
        "agent_job": {**_JOB, "declared_outputs": list(declared)},
    }


# ----------------------------------------------- documents, people and other servers


def _retrieved(chance: random.Random) -> Case:
    odd = odd_text(chance)
    if chance.random() < 0.5:
        content = f"a{odd.value}b"
        record = {"content": content, "score": 0.5, "title": odd.value, "metadata": {"k": odd.value}}  # fmt: skip
        return Case(odd=odd, variant="segment", answers=[json_answer({"records": [record]})], expected={"v": stored_text(content)})  # fmt: skip
    odd = odd_value(chance)
    fields = [f'"{name}": {odd.json if chance.random() < 0.5 else chr(34) + "a" + chr(34)}' for name in ("content", "score", "title", "metadata")]  # fmt: skip
    documents = (
        f'{{"records": [{{{", ".join(fields)}}}]}}',
        f'{{"records": {odd.json}}}',
        f'{{"records": [{odd.json}]}}',
        odd.json,
    )
    body = chance.choice(documents).encode("utf-8", "surrogatepass")
    headers = {"content-type": "application/json"}
    return Case(odd=odd, variant="record", answers=[Answer(headers=headers, body=body)])


_ENDINGS = ("txt", "md", "csv", "json", "html", "xml", "yaml", "eml", "docx", "pdf", "xlsx", "pptx", "epub", "vtt", "properties", "rtf", "")  # fmt: skip


def _extracted_text(chance: random.Random) -> Case:
    odd = odd_text(chance)
    if chance.random() < 0.4:
        body = f"a {stored_text(odd.value)} b"
        case = Case(odd=odd, variant="txt", upload=("a.txt", body.encode()))
        has_breaks = any(char in body for char in "\r\ufeff")
        return case if has_breaks else replace(case, expected={"v": body})
    ending = chance.choice(_ENDINGS)
    magic = {"docx": b"PK\x03\x04", "xlsx": b"PK\x03\x04", "pptx": b"PK\x03\x04", "epub": b"PK\x03\x04", "pdf": b"%PDF-1.7\n", "rtf": b"{\\rtf1 "}  # fmt: skip
    content = chance.choice((
        chance.randbytes(400),
        odd.value.encode("utf-8", "surrogatepass"),
        odd.value.encode("utf-16", "surrogatepass"),
        b"[" * 50_000,
        b"<a>" * 20_000,
        b"",
        odd_value(chance).json.encode("utf-8", "surrogatepass"),
    ))  # fmt: skip
    name = chance.choice(("a", odd.value[:40] or "a")) + f".{ending}"
    return Case(odd=odd, variant=ending, upload=(name, magic.get(ending, b"") + content))  # fmt: skip


def _submitted(chance: random.Random) -> Case:
    if chance.random() < 0.5:
        odd = odd_text(chance)
        return Case(odd=odd, variant="text", expected={"v": stored_text(f"a{odd.value}")})  # fmt: skip
    return Case(odd=odd_value(chance), variant="value")


def _hooked(chance: random.Random) -> Case:
    odd = odd_value(chance)
    case = Case(odd=odd, variant="body")
    if odd.label not in ("value", "lone surrogates", "list of 100,000"):
        return case
    return replace(case, expected={"w": stored(odd.value)})


def _chatted(chance: random.Random) -> Case:
    return _model_text(chance, "answer") if chance.random() < 0.6 else _model_fault(chance)  # fmt: skip


_FORM = {
    "type": "human-input",
    "form_content": "May it go on? {{#$output.note#}}",
    "inputs": [{"type": "paragraph", "output_variable_name": "note"}],
    "user_actions": [{"id": "yes", "title": "Yes"}],
}
_HOOK = {
    "type": "trigger-webhook",
    "method": "post",
    "content_type": "application/json",
    "body": [{"name": "n", "type": "number", "required": True}],
}
_ITERATION: Mapping[str, Any] = {
    "x": _TOOL_NODE,
    "all": {
        "type": "iteration",
        "iterator_selector": ["x", "v"],
        "output_selector": ["inner", "output"],
        "start_node_id": "inner",
    },
    "inner": {"in": "all", **_template("{{ e }}", "all", "item")},
}
_LOOP: Mapping[str, Any] = {
    "x": _TOOL_NODE,
    "all": {
        "type": "loop",
        "loop_count": 2,
        "start_node_id": "inner",
        "loop_variables": [{"label": "s", "var_type": "string", "value_type": "variable", "value": ["x", "v"]}],
        "break_conditions": [],
    },
    "inner": {"in": "all", **_template("{{ e }}", "all", "s")},
}  # fmt: skip
_ASSIGNER = {
    "type": "assigner",
    "version": "2",
    "items": [{"variable_selector": ["conversation", "v"], "input_type": "variable", "operation": "over-write", "value": ["x", "v"]}],
}  # fmt: skip
_CONVERSATION = {"conversation_variables": [{"name": "v", "value_type": "string", "value": ""}]}  # fmt: skip
_RETRIEVAL = {"type": "knowledge-retrieval", "query_variable_selector": ["q", "output"], "dataset_ids": ["outside"]}  # fmt: skip
_ALL_CONTENT = "{% for s in e %}{{ s.content }}{% endfor %}"
_CLASSIFIER = {
    "type": "question-classifier",
    "query_variable_selector": ["q", "output"],
    "classes": [{"id": "a", "name": "A"}, {"id": "b", "name": "B"}],
}
_CLASSIFIER_EDGES = ("start > before", "before > q", "q > x", "x:a > after", "x:b > after", "after > end")  # fmt: skip
_EXTRACTOR = {
    "type": "parameter-extractor",
    "query": ["q", "output"],
    "parameters": [{"name": "v", "type": "string", "required": True}],
}
_QUESTION = _template("case {{ e }}:", "start", "n")
_LIST_OPERATOR = {"type": "list-operator", "variable": ["x", "v"], "limit": {"enabled": True, "size": 2}}  # fmt: skip

KINDS: Mapping[str, Kind] = {
    "start form": Kind(weight=4, draw=_input_object, outputs={"v": ("start", "o")}),
    "code Python": Kind(weight=9, draw=_python, nodes={"x": _PYTHON_NODE}, outputs={"v": ("x", "v")}),
    "code JavaScript": Kind(weight=7, draw=_javascript, nodes={"x": _JAVASCRIPT_NODE}, outputs={"v": ("x", "v")}),
    "template": Kind(weight=5, draw=_input_text, nodes={"x": _template("{{ e }}", "start", "e")}, outputs={"v": ("x", "output")}),
    "template in the jail": Kind(weight=4, draw=_input_text, nodes={"x": _template("{% set y = [e] %}{{ y|map('string')|join }}", "start", "e")}, outputs={"v": ("x", "output")}),
    "HTTP request": Kind(weight=12, draw=_http, nodes={"x": {"type": "http-request", "method": "get", "url": "ORIGIN/value/{{#start.n#}}"}}, outputs={"v": ("x", "body"), "headers": ("x", "headers"), "status": ("x", "status_code")}),
    "model": Kind(weight=10, draw=_llm, nodes={"x": _LLM_NODE}, outputs={"v": ("x", "text")}),
    "model reasoning": Kind(weight=4, draw=_reasoning, nodes={"x": {**_LLM_NODE, "reasoning_format": "separated"}}, outputs={"v": ("x", "reasoning_content"), "w": ("x", "text")}),
    "structured output": Kind(weight=5, draw=_structured, nodes={"x": {**_LLM_NODE, "structured_output_enabled": True, "structured_output": {"schema": _SCHEMA}}}, outputs={"v": ("x", "structured_output", "v")}),
    "parameter extractor": Kind(weight=4, draw=_extracted, nodes={"q": _QUESTION, "x": _EXTRACTOR}, outputs={"v": ("x", "v")}),
    "classifier": Kind(weight=4, draw=_classified, nodes={"q": _QUESTION, "x": _CLASSIFIER}, edges=_CLASSIFIER_EDGES, outputs={"v": ("x", "class_name")}),
    "agent": Kind(weight=6, draw=_agent, nodes={"x": _AGENT_NODE}, outputs={"v": ("x", "text"), "json": ("x", "json")}),
    "tool": Kind(weight=10, draw=_tool, nodes={"x": _TOOL_NODE}, outputs={"v": ("x", "v"), "text": ("x", "text"), "json": ("x", "json")}),
    "OpenAPI tool": Kind(weight=6, draw=_api, nodes={"x": _API_NODE}, outputs={"text": ("x", "text"), "json": ("x", "json"), "files": ("x", "files")}),
    "MCP tool": Kind(weight=7, draw=_mcp, nodes={"x": _MCP_NODE}, outputs={"v": ("x", "v"), "text": ("x", "text"), "json": ("x", "json"), "files": ("x", "files")}),
    "plugin tool": Kind(weight=7, draw=_plugin_tool, nodes={"x": _PLUGIN_NODE}, outputs={"v": ("x", "v"), "text": ("x", "text"), "json": ("x", "json"), "files": ("x", "files")}),
    "plugin trigger": Kind(weight=6, draw=_event, root=EVENT_ROOT, outputs={"v": ("hook", "beat")}),
    "agent of version 2": Kind(weight=5, draw=_job, nodes={"x": _agent_v2()}, packages=_PACKAGES, outputs={"v": ("x", "text"), "json": ("x", "json")}),
    "declared outputs": Kind(weight=4, draw=_job_outputs, nodes={"x": _agent_v2(_DECLARED)}, packages=_PACKAGES, outputs={"v": ("x", "v")}),
    "knowledge retrieval": Kind(weight=5, draw=_retrieved, nodes={"q": _QUESTION, "x": _RETRIEVAL, "t": _template(_ALL_CONTENT, "x", "result")}, outputs={"v": ("t", "output"), "all": ("x", "result")}),
    "document extractor": Kind(weight=7, draw=_extracted_text, nodes={"x": {"type": "document-extractor", "variable_selector": ["start", "doc"]}}, outputs={"v": ("x", "text")}),
    "human input": Kind(weight=4, draw=_submitted, nodes={"x": _FORM}, edges=("start > before", "before > x", "x:yes > after", "after > end"), outputs={"v": ("x", "note")}),
    "webhook": Kind(weight=5, draw=_hooked, root=_HOOK, outputs={"w": ("hook", "_webhook_raw", "body", "v")}),
    "iteration": Kind(weight=4, draw=_iterated, nodes=_ITERATION, outputs={"v": ("all", "output")}),
    "loop": Kind(weight=3, draw=_looped, nodes=_LOOP, outputs={"v": ("all", "s")}),
    "list operator": Kind(weight=3, draw=_listed, nodes={"x": _TOOL_NODE, "l": _LIST_OPERATOR}, outputs={"v": ("l", "result")}),
    "variable assigner": Kind(weight=4, draw=_assigned, mode="advanced-chat", nodes={"x": _TOOL_NODE, "a": _ASSIGNER}, answer="<{{#conversation.v#}}>", extra=_CONVERSATION),
    "chat with memory": Kind(weight=4, draw=_chatted, mode="advanced-chat", nodes={"x": {**_LLM_NODE, "memory": {"window": {"enabled": True, "size": 10}, "query_prompt_template": "{{#sys.query#}}"}}}, answer="{{#x.text#}}"),
}  # fmt: skip
_BIG: Mapping[str, Draw] = {
    "code Python": _python_big,
    "HTTP request": _http_big,
    "tool": _tool_big,
}


def make_cases(seed: int, count: int) -> list[Case]:
    """Return about `count` cases, each kind with its share and in each mode."""
    total = sum(kind.weight for kind in KINDS.values())
    cases: list[Case] = []
    for name, kind in KINDS.items():
        share = max(3, round(count * kind.weight / total))
        for index in range(share):
            is_big = index == 0 and share >= _SMALL_SHARE and name in _BIG
            draw = _BIG[name] if is_big else kind.draw
            case = draw(random.Random(f"{seed}/{name}/{index}"))
            mode = MODES[index % len(MODES)]
            cases.append(replace(case, number=len(cases) + 1, kind=name, mode=mode))
    return cases


__all__ = ["KINDS", "MODES", "Case", "Kind", "Spoken", "make_cases", "tool_messages"]
