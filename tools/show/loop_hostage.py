"""Hostile texts in every field that tenants and strangers fill: whoever else calls meanwhile hardly notices.

A real server in a home of its own. Three processes besides: the *probe*, another tenant, which asks for `/health` every
few milliseconds and for a cheap chat twenty times a second, each on a connection that is kept, from a provider in the
probe's own process; the *attacker*, which runs niced so that its own work (making bodies, playing the provider that
answers with hostile texts) is not what is measured; and the server.

Each field is called twice a round: first all fields with a harmless text of the same size, then all with the hostile
one. A call's window lasts until it is answered, and at least a moment. What is told of a field is the longest that a
call of the probe took in its windows: the median of the rounds, since a text that holds the loop holds it each time and
whatever else runs on the machine does not. The others' p99 is that of all windows of a phase, the median of the rounds.
Each harmless text has to be taken: where it is refused, the hostile one may never reach what it is meant for.
`python -m tools.show.loop_hostage probe` is the probe, `… world` makes the home.
"""

import asyncio
import http.client
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from modelyard.testing import Answer, Upstream, UpstreamRequest, chat_answer, embedding_answer, json_answer
from tools.show.proof import ROOT, Proof, free_port, running, serve_command

ROUNDS = int(os.environ.get("MODELYARD_SHOW_ROUNDS", "3"))
_MOST_STALL = 0.1
_MOST_RATIO = 1.5
_MOST_SECONDS = 60.0
_LEAST_SECONDS = 0.3
_MODEL = "openai/gpt-5-mini"
_MB = 1 << 20


# ------------------------------------------------------------------------------------------------ the probe


@dataclass(frozen=True)
class Seen:
    """One call of the probe: when it began, and how many seconds it took."""

    began: float
    seconds: float


def _probe(port: int) -> None:
    """Says where its provider listens, waits for a key, then measures; tells all so far for each line that comes in."""
    calls: dict[str, list[tuple[float, float]]] = {"health": [], "chat": []}

    def measure(kind: str, key: str, pause: float) -> None:
        body = json.dumps({"model": _MODEL, "messages": [{"role": "user", "content": "hi"}]})
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
        while True:
            began = time.monotonic()
            try:
                if kind == "health":
                    connection.request("GET", "/health")
                else:
                    connection.request("POST", "/v1/chat/completions", body, headers)
                if connection.getresponse().read() and kind:
                    pass
            except (OSError, http.client.HTTPException):
                connection.close()
            calls[kind].append((began, time.monotonic() - began))
            time.sleep(pause)

    with Upstream(lambda request: chat_answer("fine")) as upstream:
        print(upstream.url, flush=True)
        key = sys.stdin.readline().strip()
        for kind, pause in (("health", 0.004), ("chat", 0.04)):
            threading.Thread(target=measure, args=(kind, key, pause), daemon=True).start()
        for _ in sys.stdin:
            told = dict(calls)
            calls.update(health=[], chat=[])
            print(json.dumps(told), flush=True)


class Probe:
    def __init__(self, port: int) -> None:
        command = [sys.executable, "-m", "tools.show.loop_hostage", "probe", str(port)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.upstream = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _say(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()

    def begin(self, key: str) -> None:
        self._say(key)

    def seen(self) -> dict[str, list[Seen]]:
        """By kind, since it was asked last."""
        self._say("")
        return {kind: [Seen(*one) for one in calls] for kind, calls in json.loads(self._line()).items()}

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(10)


# ------------------------------------------------------------------------------------------------ the world


def _workflow(nodes: Mapping[str, Mapping[str, Any]], mode: str = "workflow") -> str:
    """Nodes one after another."""
    names = list(nodes)
    model = {"provider": "openai", "name": "gpt-5-mini", "mode": "chat", "completion_params": {}}
    needy = ("llm", "question-classifier", "parameter-extractor")
    made = [
        {"id": name, "data": {"title": name, **({"model": model} if data["type"] in needy else {}), **data}}
        for name, data in nodes.items()
    ]
    edges = [{"source": one, "target": other} for one, other in itertools.pairwise(names)]
    return yaml.safe_dump({
        "kind": "app", "version": "0.6.0", "app": {"name": "test", "mode": mode},
        "workflow": {"graph": {"nodes": made, "edges": edges}, "features": {}},
    })  # fmt: skip


def _form(kind: str = "paragraph", **more: Any) -> dict[str, Any]:
    return {"type": "start", "variables": [{"variable": "v", "label": "v", "type": kind, "required": False, **more}]}


_END = {"type": "end", "outputs": []}
_PASSWORD = r"^(?=.*\d)(?=.*[a-z]).{8,}$"


def _apps(url: str) -> dict[str, str]:
    def held_to(schema: Mapping[str, Any]) -> dict[str, Any]:
        return {"start": _form("json_object", json_schema=schema), "end": _END}

    tool = {
        "enabled": True,
        "provider_type": "builtin",
        "provider_id": "time",
        "tool_name": "weekday",
        "tool_parameters": {},
    }
    agent = {
        "type": "agent", "agent_strategy_name": "function_calling", "agent_parameters": {
            "model": {"type": "constant", "value": {"provider": "openai", "model": "gpt-5-mini"}},
            "tools": {"type": "constant", "value": [{**tool, "provider_name": "time"}]},
            "query": {"type": "constant", "value": "{{#start.v#}}"},
            "instruction": {"type": "constant", "value": "help"}, "maximum_iterations": {"type": "constant", "value": 2},
        },
    }  # fmt: skip
    react = {**agent, "agent_strategy_name": "react"}
    extracts = {"type": "parameter-extractor", "query": ["start", "v"], "parameters": [
        {"name": "a", "type": "string", "description": "a", "required": True}]}  # fmt: skip
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    fetches = {"type": "http-request", "method": "get", "url": f"{url}/{{{{#start.v#}}}}"}
    sends = {
        **fetches,
        "method": "post",
        "url": f"{url}/x",
        "body": {"type": "json", "data": [{"type": "text", "value": "{{#start.v#}}"}]},
    }
    code = {"type": "code", "code": "def main(v):\n    return {'l': v.split(' ')[:1000]}", "code_language": "python3",
            "variables": [{"variable": "v", "value_selector": ["start", "v"]}], "outputs": {"l": {"type": "array[string]"}}}  # fmt: skip
    lists = {"type": "list-operator", "variable": ["c", "l"], "order_by": {"enabled": True, "value": "asc"}, "filter_by": {
        "enabled": True, "conditions": [{"comparison_operator": "contains", "value": "{{#start.v#}}"}]}}  # fmt: skip
    decides = {"type": "if-else", "cases": [{"case_id": "a", "logical_operator": "or", "conditions": [
        {"variable_selector": ["start", "v"], "comparison_operator": kind, "value": "{{#start.v#}}"}
        for kind in ("contains", "is", "start with", "end with") * 25]}]}  # fmt: skip
    renders = {"type": "template-transform", "template": "{% for a in v %}{% for b in v %}{{ a }}{% endfor %}{% endfor %}",
               "variables": [{"variable": "v", "value_selector": ["start", "v"]}]}  # fmt: skip
    speaks = {"type": "llm", "prompt_template": [{"role": "user", "text": "{{#start.v#}}"}]}
    structured = {**speaks, "structured_output_enabled": True, "structured_output": {"schema": schema}}
    return {
        "pattern": _workflow(held_to({"properties": {"a": {"pattern": "^(a+)+$"}}})),
        "chat pattern": _workflow({"start": _form("json_object", json_schema={"properties": {"a": {"pattern": "^(a+)+$"}}}),
                                   "answer": {"type": "answer", "answer": "x"}}, "advanced-chat"),
        "lookahead": _workflow(held_to({"properties": {"a": {"pattern": "^(?=.*x)(a+)+$"}}})),
        "password": _workflow(held_to({"properties": {"a": {"pattern": _PASSWORD}}})),
        "doubling": _workflow(held_to({"$ref": "#/definitions/a0", "definitions": {
            **{f"a{at}": {"allOf": [{"$ref": f"#/definitions/a{at + 1}"}] * 2} for at in range(40)}, "a40": {}}})),
        "object": _workflow(held_to({"properties": {"a": {"type": "array", "items": {"type": "integer"}}}})),
        "text": _workflow({"start": _form(), "end": _END}),
        "number": _workflow({"start": _form("number"), "end": _END}),
        "condition": _workflow({"start": _form(), "if": decides, "end": _END}),
        "list": _workflow({"start": _form(), "c": code, "o": lists, "end": _END}),
        "template": _workflow({"start": _form(), "t": renders, "end": _END}),
        "fetch": _workflow({"start": _form(), "h": fetches, "end": _END}),
        "send": _workflow({"start": _form(), "h": sends, "end": _END}),
        "llm": _workflow({"start": _form(), "llm": speaks, "end": _END}),
        "structured": _workflow({"start": _form(), "llm": structured, "end": _END}),
        "extract": _workflow({"start": _form(), "p": {**extracts, "reasoning_mode": "prompt"}, "end": _END}),
        "extract by tool": _workflow({"start": _form(), "p": {**extracts, "reasoning_mode": "function_call"}, "end": _END}),
        "agent": _workflow({"start": _form(), "agent": agent, "end": _END}),
        "react": _workflow({"start": _form(), "agent": react, "end": _END}),
        "hook": _workflow({"hook": {"type": "trigger-webhook", "method": "post", "content_type": "application/json",
                                    "body": [{"name": "v"}], "async_mode": False}, "end": _END}),
        "chat": yaml.safe_dump({"kind": "app", "version": "0.6.0", "app": {"name": "chat", "mode": "chat"}, "model_config": {
            "model": {"provider": "openai", "name": "gpt-5-mini", "mode": "chat", "completion_params": {}},
            "pre_prompt": "{{v}} {{v}}", "user_input_form": [{"paragraph": {"variable": "v", "label": "v", "required": False}}],
            "sensitive_word_avoidance": {"enabled": True, "type": "keywords", "config": {
                "keywords": "secret\nhidden", "inputs_config": {"enabled": True, "preset_response": "no"}}}}}),
    }  # fmt: skip


async def _build(home: str, attacked: str, others: str) -> dict[str, Any]:
    """Two tenants: one with something of everything, whose members attack; the other's calls are measured."""
    from modelyard.app import Modelyard
    from modelyard.base.settings import EgressSettings, Settings
    from modelyard.knowledge.entities import DatasetSettings, MetadataField, Technique
    from modelyard.tenancy.caller import Caller
    from modelyard.workflow.dsl import AppMapping

    private = [urlsplit(url).netloc for url in (attacked, others)]
    yard = Modelyard(Settings(home=home, egress=EgressSettings(private=private)), environ={})
    told: dict[str, Any] = {"keys": {}, "apps": {}, "pages": {}}
    try:
        await yard.open()
        for tenant, url in (("mallory", attacked), ("quiet", others)):
            await yard.services.tenancy.administration.create(Caller(tenant="default"), "default", "tenant", tenant, {})
            owner = Caller(tenant=tenant)
            made = await yard.services.tenancy.administration.create(owner, tenant, "key", "owner", {"role": "owner"})
            told["keys"][tenant] = made["key"]
            values = {"api_key": f"sk-{tenant}", "base_url": url}
            for provider in ("openai", "jina"):
                given = {"provider": provider, "values": values}
                await yard.services.tenancy.administration.create(owner, tenant, "credential", provider, given)
        mapping = AppMapping(models={"*": _MODEL})
        for name, text in _apps(attacked.removesuffix("/v1")).items():
            found, _, _ = await yard.apps.add("mallory", text, name=name, mapping=mapping)
            _, told["keys"][name] = await yard.apps.make_key(found)
            told["apps"][name] = found.id
            found = await yard.apps.set_page(found, is_on=True)
            told["pages"][name] = found.stored.page.token
        fields = [MetadataField(id="5b4f4e3e-0000-4000-8000-000000000001", name="year")]
        settings = DatasetSettings(indexing_technique=Technique.ECONOMY, fields=fields)
        dataset = await yard.knowledge.datasets.create("mallory", "shop", settings=settings)
        texts = [(f"d{at}", f"Parcels number {at} leave before noon. " * 20) for at in range(20)]
        added = await yard.knowledge.datasets.add_texts(dataset, texts, batch="b")
        await yard.knowledge.datasets.wait(dataset, added[0].batch)
        told |= {"dataset": dataset.id, "document": added[0].id}
    finally:
        await yard.aclose()
    return told


# ------------------------------------------------------------------------------------------------ the fields


@dataclass
class Field:
    """A place that others fill. `made` makes the body of a request with a text or value there."""

    name: str
    path: str
    hostile: Callable[[], Any]
    harmless: Callable[[], Any]
    key: str = "mallory"
    method: str = "POST"
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """More of them, beside the hostile body."""
    harmless_path: str = ""
    """Where the path is what is hostile."""
    answers: tuple[Callable[[], Answer], Callable[[], Answer]] | None = None
    """What the provider says to it: (hostile, harmless)."""
    stalls: list[float] = field(default_factory=list[float])
    calm: list[float] = field(default_factory=list[float])
    """The same beside the harmless text."""
    statuses: set[int] = field(default_factory=set[int])
    calm_statuses: set[int] = field(default_factory=set[int])
    """What the harmless text got."""
    seconds: list[float] = field(default_factory=list[float])

    @cached_property
    def bodies(self) -> tuple[bytes, bytes]:
        return _bytes(self.hostile()), _bytes(self.harmless())

    @property
    def stall(self) -> float:
        """Seconds."""
        return statistics.median(self.stalls)


def _bytes(value: Any) -> bytes:
    return (
        value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else json.dumps(value).encode()
    )


def _words(size: int) -> str:
    return "a word " * (size // 7)


def _chat(content: Any = "hi", **more: Any) -> dict[str, Any]:
    return {"model": _MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 5, **more}


def _within(document: Any, text: bytes) -> bytes:
    """A document with raw JSON where it says "HERE"."""
    return json.dumps(document).encode().replace(b'"HERE"', text)


def _text_of(size: int) -> bytes:
    """A JSON text of so many bytes."""
    return b'"' + b"a word " * (size // 7) + b'"'


def _tool(schema: Any) -> list[Any]:
    return [{"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}]


_DOUBLING = {"$ref": "#/$defs/a0", "$defs": {
    **{f"a{at}": {"allOf": [{"$ref": f"#/$defs/a{at + 1}"}] * 2} for at in range(40)}, "a40": {"type": "string"}}}  # fmt: skip
_LISTS = b"[" + b"[]," * (10 * _MB // 3) + b"1]"
_DEEP = b"[" + (b"[" * 150 + b"]" * 150 + b",") * (10 * _MB // 301) + b"1]"
_FLOATS = b"[" + b"1.2345678901234567890123e-300," * (10 * _MB // 30) + b"1]"
_INTS = b"[" + (b"1" * 4000 + b",") * (10 * _MB // 4001) + b"1]"
_KEYS = b"{" + b",".join(b'"%d":1' % at for at in range(10 * _MB // 12)) + b"}"
_NEARLY = (
    '{"a": "' + '"' * 61_000, '{"a": ' + '"b":' * 15_000, "[" + "/*" * 30_000, '{"a": "' + 'b " c ' * 10_000,
    '{"a": "b" "c" ' * 4_300,
)  # fmt: skip


def _calls(text: str) -> Answer:
    call = {"id": "c", "type": "function", "function": {"name": "weekday", "arguments": text}}
    return chat_answer("", tool_calls=[call])


def _extracted(text: str) -> Answer:
    call = {"id": "c", "type": "function", "function": {"name": "extract_parameters", "arguments": text}}
    return chat_answer("", tool_calls=[call])


def _fields(world: Mapping[str, Any]) -> Iterator[Field]:
    yield from _wire_fields()
    yield from _answered_fields()
    yield from _app_fields(world)
    yield from _knowledge_fields(world)
    yield from _admin_fields(world)


def _wire_fields() -> Iterator[Field]:
    chat, responses, messages = "/v1/chat/completions", "/v1/responses", "/v1/messages"
    gemini, cohere, embeddings = f"/v1beta/models/{_MODEL}:generateContent", "/v2/chat", "/v1/embeddings"

    def raw(name: str, path: str, document: Any, text: bytes) -> Field:
        fine = _chat("HERE") if path == chat else document
        return Field(name, path, lambda: _within(document, text), lambda: _within(fine, _text_of(len(text))))

    yield raw("chat: 10 MB of lists in a message", chat, _chat("HERE"), _LISTS)
    yield raw("chat: 10 MB, 150 deep, over and over", chat, _chat(more="HERE"), _DEEP)
    yield raw("responses: 10 MB of long fractions", responses, {"model": _MODEL, "input": "HERE"}, _FLOATS)
    yield raw("messages: 10 MB of numbers with 4,000 digits", messages, _chat("HERE"), _INTS)
    yield raw("gemini: 10 MB of names", gemini, {"contents": [{"parts": [{"text": "x"}]}], "more": "HERE"}, _KEYS)
    said = {"model": _MODEL, "messages": [{"role": "user", "content": "HERE"}]}
    yield raw("cohere: 10 MB of lists", cohere, said, _LISTS)
    yield raw("chat: 10 MB of brackets", chat, _chat("HERE"), b"[" * (10 * _MB))
    yield raw("chat: a model's name of 10 MB", chat, {"model": "HERE", "messages": []}, b'"' + b"a" * (10 * _MB) + b'"')
    yield raw(
        "chat: a model's name of 5 MB of slashes",
        chat,
        {"model": "HERE", "messages": []},
        b'"' + b"openai/" * 700_000 + b'"',
    )
    yield raw("chat: 10 MB of escapes", chat, _chat("HERE"), b'"' + b"\\ud83d\\ude00" * (10 * _MB // 12) + b'"')
    yield raw("chat: 10 MB of quotes", chat, _chat("HERE"), b'"' + b'\\"' * (5 * _MB) + b'"')
    many = [{"role": "user", "content": "a"}] * 9_000
    yield Field(
        "chat: 9,000 messages", chat, lambda: {"model": _MODEL, "messages": many}, lambda: _chat(_words(300_000))
    )
    yield Field("chat: a text of 2 MB without a space", chat, lambda: _chat("é" * _MB), lambda: _chat(_words(2 * _MB)))
    yield Field(
        "chat: tools with a schema that doubles",
        chat,
        lambda: _chat(tools=_tool(_DOUBLING)),
        lambda: _chat(_words(6000)),
    )
    hostile = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}, "b": {"$ref": "http://127.0.0.1:9/x"}},
    }
    yield Field("chat: tools with patterns and references", chat, lambda: _chat(tools=_tool(hostile)), lambda: _chat())
    yield Field(
        "chat: 5,000 tools", chat, lambda: _chat(tools=_tool({"type": "object"}) * 5000), lambda: _chat(_words(500_000))
    )
    given = {"type": "json_schema", "json_schema": {"name": "a", "schema": _DOUBLING}}
    yield Field(
        "chat: response_format with a schema that doubles",
        chat,
        lambda: _chat(response_format=given),
        lambda: _chat(_words(6000)),
    )
    yield Field(
        "chat: 20,000 stop words", chat, lambda: _chat(stop=["a" * 40] * 20_000), lambda: _chat(_words(900_000))
    )
    bias = {str(at): 1 for at in range(100_000)}
    yield Field("chat: logit_bias of 100,000", chat, lambda: _chat(logit_bias=bias), lambda: _chat(_words(_MB)))
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A@=" * _MB}}
    yield Field(
        "chat: a picture of 3 MB of broken base64", chat, lambda: _chat([picture]), lambda: _chat(_words(3 * _MB))
    )
    embedding = "openai/text-embedding-3-small"
    for count in (2048, 100_000):
        yield Field(
            f"embeddings: {count:,} texts",
            embeddings,
            lambda count=count: {"model": embedding, "input": ["a"] * count},
            lambda count=count: {"model": embedding, "input": _words(count * 5)},
        )
    reranker = "jina/jina-reranker-v2-base-multilingual"
    for count in (1000, 50_000):
        yield Field(
            f"rerank: {count:,} documents",
            "/v2/rerank",
            lambda count=count: {"model": reranker, "query": "q", "documents": ["d"] * count},
            lambda count=count: {"model": reranker, "query": "q", "documents": [_words(count * 5)]},
        )
    yield Field(
        "count_tokens: 3 MB of one letter",
        "/v1/messages/count_tokens",
        lambda: _chat("a" * (3 * _MB)),
        lambda: _chat(_words(3 * _MB)),
    )
    for count in (256, 20_000):
        yield Field(
            f"moderations: {count:,} texts",
            "/v1/moderations",
            lambda count=count: {"input": ["a" * 4000 if count == 256 else "a"] * count},
            lambda count=count: {"input": _words(count * 5)},
        )
    yield from _head_fields()


def _head_fields() -> Iterator[Field]:
    """What stands before a body."""

    def asked(name: str, path: str, harmless: str, **headers: str) -> Field:
        named = {each.replace("_", "-"): value for each, value in headers.items()}
        return Field(name, path, lambda: b"", lambda: b"", method="GET", harmless_path=harmless, headers=named)

    models = "/v1/models"
    yield asked("models: a name of 8,000 characters", f"{models}/{'a' * 8000}", models)
    yield asked("a query of 4,000 parameters", f"{models}?{'a&' * 4000}", models)
    yield asked("a path of 8,000 escapes", f"{models}/{'%41' * 2600}", models)
    yield asked("a path of 4,000 dots", f"{models}{'/..' * 2600}", models)
    yield asked("cookies: 10,000 of them", models, models, cookie="a=b; " * 6000)
    yield asked("cookies: 30 kB of quotes", models, models, cookie='a="' + '\\"' * 14_000)
    yield asked("forwarded: 10,000 addresses", models, models, x_forwarded_for="127.0.0.1, " * 2700)
    yield asked("accept: 10,000 kinds", models, models, accept="a/b;q=0.1, " * 2700)
    yield asked(
        "traceparent and tracestate of 30 kB", models, models, traceparent="0" * 15_000, tracestate="a=b," * 3700
    )
    yield asked("a key of 30 kB", models, models, authorization=f"Bearer {'a' * 30_000}")
    yield asked("a sign-in's name and password in 30 kB", models, models, authorization=f"Basic {'A' * 30_000}")


def _answered_fields() -> Iterator[Field]:
    """What a provider or model answers."""
    for at, text in enumerate(_NEARLY):
        yield Field(
            f"agent: arguments of 61 kB that are nearly JSON, {at}",
            "/v1/workflows/run",
            lambda: _run("SAY"),
            lambda: _run("SAY"),
            key=("agent", "react")[at % 2],
            answers=(
                (lambda text=text: _calls(text))
                if at % 2 == 0
                else (lambda text=text: chat_answer(f"Action: weekday\nAction Input: {text}")),
                lambda: chat_answer(_words(61_000)),
            ),
        )
    yield Field(
        "extractor: a call's arguments, nearly JSON",
        "/v1/workflows/run",
        lambda: _run("SAY"),
        lambda: _run("SAY"),
        key="extract by tool",
        answers=(lambda: _extracted(_NEARLY[0]), lambda: _extracted('{"a": "x"}')),
    )
    yield Field(
        "extractor: a text of 4 MB of braces",
        "/v1/workflows/run",
        lambda: _run("SAY"),
        lambda: _run("SAY"),
        key="extract",
        answers=(lambda: chat_answer('{"a": [' * (4 * _MB // 7)), lambda: chat_answer(_words(4 * _MB))),
    )
    yield Field(
        "structured answer: nearly JSON",
        "/v1/workflows/run",
        lambda: _run("SAY"),
        lambda: _run("SAY"),
        key="structured",
        answers=(lambda: chat_answer(_NEARLY[3]), lambda: chat_answer('{"a": "x"}')),
    )
    yield Field(
        "provider: 10 MB of lists",
        "/v1/chat/completions",
        lambda: _chat("SAY"),
        lambda: _chat("SAY"),
        answers=(
            lambda: Answer(headers={"content-type": "application/json"}, body=_LISTS),
            lambda: chat_answer(_words(10 * _MB)),
        ),
    )
    yield Field(
        "provider: a stream of one event in 60,000 pieces",
        "/v1/chat/completions",
        lambda: _chat("SAY", stream=True),
        lambda: _chat("SAY", stream=True),
        answers=(
            lambda: Answer(headers={"content-type": "text/event-stream"}, pieces=[b"data: " + b"x" * 100] * 60_000),
            lambda: chat_answer("fine"),
        ),
    )
    yield Field(
        "HTTP node: an answer in punycode",
        "/v1/workflows/run",
        lambda: _run("SAY"),
        lambda: _run("SAY"),
        key="fetch",
        answers=(
            lambda: Answer(headers={"content-type": "text/html; charset=punycode"}, body=b"a-" * (_MB // 2)),
            lambda: Answer(headers={"content-type": "text/html"}, body=_words(_MB).encode()),
        ),
    )
    yield Field(
        "HTTP node: an answer of 1 MB with a thousand names",
        "/v1/workflows/run",
        lambda: _run("SAY"),
        lambda: _run("SAY"),
        key="fetch",
        answers=(
            lambda: Answer(
                headers={
                    "content-type": "application/json",
                    "content-disposition": "attachment; filename=" + "a;" * 3000,
                },
                body=_LISTS[:_MB],
            ),
            lambda: Answer(headers={"content-type": "text/html"}, body=_words(_MB).encode()),
        ),
    )


def _run(value: Any) -> dict[str, Any]:
    return {"inputs": {"v": value}, "user": "u", "response_mode": "blocking"}


def _app_fields(world: Mapping[str, Any]) -> Iterator[Field]:
    run, page = "/v1/workflows/run", world["pages"]["chat pattern"]
    fine = {"a": "aaaa1xyz"}
    yield Field(
        "a published page: a pattern that goes back, by a stranger",
        f"/chat/{page}/v1/chat-messages",
        lambda: {**_run({"a": "a" * 41 + "!"}), "query": "q"},
        lambda: {**_run({"a": "aaaa"}), "query": "q"},
        key="",
    )
    yield Field(
        "start form: a pattern that goes back",
        run,
        lambda: _run({"a": "a" * 50_000 + "!"}),
        lambda: _run({"a": "a" * 50_000}),
        key="pattern",
    )
    yield Field(
        "start form: a lookahead that goes back",
        run,
        lambda: _run({"a": "a" * 50 + "!x"}),
        lambda: _run({}),
        key="lookahead",
    )
    yield Field(
        "start form: a password of 100,000", run, lambda: _run({"a": "A" * 100_000}), lambda: _run(fine), key="password"
    )
    without = {"inputs": {}, "user": "u", "response_mode": "blocking"}
    yield Field("start form: a schema that doubles", run, lambda: _run({"a": "x"}), lambda: without, key="doubling")
    yield Field(
        "start form: 40,000 values",
        run,
        lambda: _run({"a": [1] * 39_999 + ["x"]}),
        lambda: _run({"a": [1]}),
        key="object",
    )
    yield Field(
        "start form: text of 5,000 digits as a number", run, lambda: _run("9" * 5000), lambda: _run("9"), key="number"
    )
    yield Field(
        "start form: 1e999999999 as a number", run, lambda: _run("1e999999999"), lambda: _run("1.9"), key="number"
    )
    yield Field(
        "condition: 200 kB in 200 kB",
        run,
        lambda: _run("a" * 100_000 + "b" + "a" * 100_000),
        lambda: _run(_words(200_000)),
        key="condition",
    )
    yield Field(
        "list filter: a text of 1,000 words",
        run,
        lambda: _run("a" * 60_000 + " b" * 1000),
        lambda: _run(_words(60_000)),
        key="list",
    )
    yield Field("template: loops in loops", run, lambda: _run("a" * 20_000), lambda: _run("a" * 10), key="template")
    yield Field(
        "HTTP node: a body that is nearly JSON", run, lambda: _run(_NEARLY[1]), lambda: _run('{"a": 1}'), key="send"
    )
    yield Field(
        "LLM node: variables in variables, 1 MB",
        run,
        lambda: _run("{{#start.v#}}" * 80_000),
        lambda: _run(_words(_MB)),
        key="llm",
    )
    ask = {"query": "q", "user": "u", "response_mode": "blocking"}
    yield Field(
        "chat app: prompt variables of 1 MB",
        "/v1/chat-messages",
        lambda: {**ask, "inputs": {"v": "{{v}}" * 200_000}},
        lambda: {**ask, "inputs": {"v": _words(_MB)}},
        key="chat",
    )
    yield Field(
        "webhook: 5 MB of lists",
        world["hook"],
        lambda: _within({"v": "HERE"}, _LISTS[: 5 * _MB - 1] + b"1]"),
        lambda: {"v": _words(5 * _MB)},
        key="",
    )
    yield Field(
        "app: 5 MB of lists in a chat's inputs",
        "/v1/chat-messages",
        lambda: _within({**ask, "inputs": "HERE"}, _LISTS[: 5 * _MB - 1] + b"1]"),
        lambda: {**ask, "inputs": {"v": _words(5 * _MB)}},
        key="chat",
    )


def _knowledge_fields(world: Mapping[str, Any]) -> Iterator[Field]:
    base = f"/v1/datasets/{world['dataset']}"
    odd = "".join(chr(0x4E00 + at * 37 % 20_000) for at in range(4000))
    yield Field(
        "knowledge: a query of 4,000 odd characters",
        f"{base}/retrieve",
        lambda: {"query": odd},
        lambda: {"query": _words(4000)},
    )
    yield Field(
        "knowledge: a query of combining marks",
        f"{base}/retrieve",
        lambda: {"query": "a" + "\u0301" * 3999},
        lambda: {"query": _words(4000)},
    )
    text = {"indexing_technique": "economy", "process_rule": {"mode": "automatic"}}
    yield Field(
        "knowledge: a document's name of 1 MB",
        f"{base}/document/create-by-text",
        lambda: {**text, "name": "a/" * (_MB // 2), "text": "x"},
        lambda: {**text, "name": "x", "text": _words(10_000)},
    )
    custom = {"indexing_technique": "economy", "process_rule": {"mode": "custom", "rules": {
        "pre_processing_rules": [], "segmentation": {"separator": "a", "max_tokens": 50}}}}  # fmt: skip
    yield Field(
        "knowledge: a document of 1 MB of separators",
        f"{base}/document/create-by-text",
        lambda: {**custom, "name": "y", "text": "a" * _MB},
        lambda: {**text, "name": "y", "text": _words(100_000)},
    )
    conditions = [{"name": "year", "comparison_operator": "contains", "value": "a" * 1000}] * 2000
    model = {"search_method": "keyword_search", "top_k": 2, "reranking_enable": False, "score_threshold_enabled": False}
    yield Field(
        "knowledge: 2,000 filters on metadata",
        f"{base}/retrieve",
        lambda: {
            "query": "parcels",
            "retrieval_model": {
                **model,
                "metadata_filtering_conditions": {"logical_operator": "or", "conditions": conditions},
            },
        },
        lambda: {"query": _words(2000)},
    )
    yield Field(
        "split: a rule with an odd separator",
        "/admin/v1/split",
        lambda: {
            "text": "a" * 200_000,
            "rule": {
                "mode": "custom",
                "rules": {
                    "segmentation": {"separator": "(a+)+$", "max_tokens": 50},
                    "pre_processing_rules": [{"id": "remove_urls_emails", "enabled": True}],
                },
            },
        },
        lambda: {"text": _words(20_000)},
    )

    def values(count: int, size: int) -> dict[str, Any]:
        one = {"id": "5b4f4e3e-0000-4000-8000-000000000001", "name": "year", "value": "a" * size}
        return {"operation_data": [{"document_id": world["document"], "metadata_list": [one] * count}]}

    yield Field(
        "knowledge: 20,000 values of metadata",
        f"{base}/documents/metadata",
        lambda: values(20_000, 40),
        lambda: values(1, 40),
    )
    yield Field(
        "knowledge: a segment's 100,000 keywords",
        f"{base}/documents/{world['document']}/segments",
        lambda: {"segments": [{"content": "x", "keywords": ["a" * 20] * 100_000}]},
        lambda: {"segments": [{"content": "x", "keywords": ["a"]}]},
    )


def _bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]" for at in range(1, 9)]
    return "\n".join(lines)


def _admin_fields(world: Mapping[str, Any]) -> Iterator[Field]:
    apps, providers, app = "/admin/v1/apps", "/admin/tool-providers", world["apps"]["text"]
    fine = _workflow({"start": _form(), "end": _END})

    def imported(name: str, text: Callable[[], str]) -> Field:
        return Field(
            f"import: {name}", f"{apps}/{app}/file", lambda: {"file": text()}, lambda: {"file": fine}, method="PUT"
        )

    yield imported("YAML with aliases of aliases", lambda: "kind: app\napp: {name: x, mode: workflow}\n" + _bomb())
    yield imported("YAML 10,000 deep", lambda: "kind: app\na: " + "[" * 10_000)
    yield imported("YAML of 2 MB of lists", lambda: "kind: app\na: [" + "[]," * (2 * _MB // 3) + "]")
    yield imported(
        "2,000 nodes in a ring", lambda: _workflow({f"n{at}": {"type": "answer", "answer": "x"} for at in range(2000)})
    )
    yield imported(
        "a template of 1 MB of braces",
        lambda: _workflow(
            {
                "start": _form(),
                "t": {"type": "template-transform", "template": "{{" * (_MB // 2), "variables": []},
                "end": _END,
            }
        ),
    )
    yield imported(
        "a cron that never comes",
        lambda: _workflow(
            {
                "when": {
                    "type": "trigger-schedule",
                    "mode": "cron",
                    "cron_expression": "0 0 30 2 *",
                    "timezone": "UTC",
                },
                "end": _END,
            }
        ),
    )
    yield imported(
        "a cron of 60,000 numbers",
        lambda: _workflow(
            {
                "when": {
                    "type": "trigger-schedule",
                    "mode": "cron",
                    "cron_expression": "1," * 30_000 + "1 * * * *",
                    "timezone": "UTC",
                },
                "end": _END,
            }
        ),
    )

    def described(name: str, text: Callable[[], Any]) -> Field:
        paths = {"/a": {"get": {"operationId": "o", "responses": {}}}}
        return Field(
            f"OpenAPI: {name}",
            providers,
            lambda: {"name": "x", "type": "api", "server": "http://example.org", "description": text()},
            lambda: {
                "name": "x",
                "type": "api",
                "server": "http://example.org",
                "description": {"openapi": "3.0.0", "info": {}, "paths": paths},
            },
        )

    yield described("YAML with aliases of aliases", lambda: "openapi: 3.0.0\ninfo: {}\npaths: {}\n" + _bomb())
    yield described("YAML 10,000 deep", lambda: "openapi: 3.0.0\na: " + "{a: " * 10_000)
    yield described(
        "references that double",
        lambda: {
            "openapi": "3.0.0",
            "info": {},
            "components": {
                "schemas": {
                    **{f"a{at}": {"allOf": [{"$ref": f"#/components/schemas/a{at + 1}"}] * 2} for at in range(40)},
                    "a40": {},
                }
            },
            "paths": {
                "/a": {
                    "post": {
                        "operationId": "o",
                        "requestBody": {
                            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/a0"}}}
                        },
                    }
                }
            },
        },
    )
    yield described(
        "2,000 operations",
        lambda: {
            "openapi": "3.0.0",
            "info": {},
            "paths": {f"/a{at}": {"get": {"operationId": f"o{at}", "summary": "x" * 100}} for at in range(2000)},
        },
    )

    def called(arguments: Any) -> dict[str, Any]:
        return {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "calculate", "arguments": arguments},
        }

    for name, text in (
        ("rounded to a thousand million places", "round(1/3, 10**9)"),
        ("an exponent of 999,999,999", "1e-999999999"),
    ):
        yield Field(
            f"MCP: {name}",
            "/mcp",
            lambda text=text: called({"expression": text}),
            lambda: called({"expression": "1+1"}),
        )
    yield Field(
        "MCP: an expression that grows",
        "/mcp",
        lambda: called({"expression": "9**9**9**9"}),
        lambda: called({"expression": "1+1"}),
    )
    yield Field(
        "MCP: an expression of 60,000 brackets",
        "/mcp",
        lambda: called({"expression": "(" * 30_000 + ")" * 30_000}),
        lambda: called({"expression": "1+1"}),
    )
    yield Field(
        "a tool: arguments of 5 MB of lists",
        "/admin/tools/call",
        lambda: _within({"tool": "calculate", "arguments": {"expression": "HERE"}}, _LISTS[: 5 * _MB - 1] + b"1]"),
        lambda: {"tool": "calculate", "arguments": {"expression": _words(5 * _MB)}},
    )
    yield Field(
        "a tool's name of 60,000 characters",
        "/admin/tools/call",
        lambda: {"tool": "calc" * 15_000, "arguments": {}},
        lambda: {"tool": "calculate", "arguments": {"expression": "1"}},
    )
    yield Field(
        "a key: 10,000 globs of stars",
        "/admin/v1/keys",
        lambda: {"name": "k NUMBER", "role": "viewer", "models": ["*a" * 50] * 10_000},
        lambda: {"name": "k NUMBER", "role": "viewer", "models": ["*"]},
    )
    yield Field(
        "a limit: a number of 5,000 digits",
        "/admin/v1/limits",
        lambda: b'{"name": "l NUMBER", "unit": "tokens", "amount": ' + b"9" * 5000 + b"}",
        lambda: {"name": "l NUMBER", "unit": "tokens", "amount": 10**15},
    )
    yield Field(
        "a model: a price of 1e999999999",
        "/admin/v1/models",
        lambda: {
            "name": "m",
            "provider": "openai",
            "definition": {
                "name": "m",
                "context_size": 9,
                "pricing": {"input": "1e999999999", "output": "1", "unit": "0.000001", "currency": "USD"},
            },
        },
        lambda: {"name": "m NUMBER", "provider": "openai", "definition": {"name": "m NUMBER", "context_size": 9}},
    )
    yield Field(
        "usage: filters of 8,000 characters",
        f"/admin/v1/usage?group=model&model={'*a' * 2000}&from=1e999999999",
        lambda: b"",
        lambda: b"",
        method="GET",
    )
    yield Field(
        "a plan: a model's name of 1 MB",
        "/admin/v1/plan",
        lambda: {"model": "openai/" + "a" * _MB, "type": "llm"},
        lambda: {"model": _MODEL, "type": "llm"},
    )
    yield Field(
        "a provider's name of 1 MB",
        "/admin/v1/credentials",
        lambda: {"name": "c", "provider": "open" * (_MB // 4), "values": {}},
        lambda: {"name": "c NUMBER", "provider": "openai", "values": {"api_key": "sk"}},
    )


# ------------------------------------------------------------------------------------------------ the attack


@dataclass(frozen=True)
class Window:
    field: Field
    is_hostile: bool
    began: float
    ended: float


def _response_of(document: Any) -> Answer:
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [
        {"type": "output_text", "text": "fine", "annotations": []}]}  # fmt: skip
    usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    told = {"id": "r", "object": "response", "created_at": 1, "model": "m", "status": "completed"}
    return json_answer({**told, "output": [message], "usage": usage})


def _moderation_of(document: Any) -> Answer:
    count = len(document["input"]) if isinstance(document["input"], list) else 1
    result = {"flagged": False, "categories": {"hate": False}, "category_scores": {"hate": 0.0}}
    return json_answer({"id": "m", "model": "m", "results": [result] * count})


def _rerank_of(document: Any) -> Answer:
    results = [{"index": at, "relevance_score": 0.5} for at in range(len(document["documents"]))]
    return json_answer({"model": "m", "results": results, "usage": {"total_tokens": 3}})


def _embedding_of(document: Any) -> Answer:
    return embedding_answer([[1.0, 0.5]] * (len(document["input"]) if isinstance(document["input"], list) else 1))


_ANSWERS: Mapping[str, Callable[[Any], Answer]] = {
    "responses": _response_of, "moderations": _moderation_of, "rerank": _rerank_of, "embeddings": _embedding_of,
}  # fmt: skip


class Attacker:
    def __init__(self, port: int, keys: Mapping[str, str]) -> None:
        self._port, self._keys = port, keys
        self._answer: Answer | None = None
        self._number = 0

    def upstream(self, request: UpstreamRequest) -> Answer:
        if self._answer is not None:
            return self._answer
        answer = _ANSWERS.get(request.path.rpartition("/")[2])
        if answer is not None:
            return answer(json.loads(request.body))
        return json_answer({"a": 1}) if request.method == "GET" else chat_answer("fine")

    def call(self, one: Field, *, is_hostile: bool) -> Window:
        self._number += 1  # what can be made once is made by another name each time
        body = one.bodies[0 if is_hostile else 1].replace(b"NUMBER", b"%d" % self._number)
        path = one.path if is_hostile else one.harmless_path or one.path
        self._answer = one.answers[0 if is_hostile else 1]() if one.answers else None
        headers = {"content-type": one.content_type, "x-visitor": "v" * 24, "host": f"127.0.0.1:{self._port}"}
        if one.key:
            headers["authorization"] = f"Bearer {self._keys[one.key]}"
        if is_hostile:
            headers |= one.headers
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_MOST_SECONDS)
        status, began = 0, time.monotonic()
        try:
            connection.request(one.method, path, body or None, headers)
            answer = connection.getresponse()
            status = answer.status
            said = answer.read()
            if os.environ.get("MODELYARD_SHOW_TALK"):
                print(is_hostile, one.name, status, said[:200], file=sys.stderr)
        except (OSError, http.client.HTTPException):
            pass  # it was refused before it was read
        finally:
            connection.close()
        ended = time.monotonic()
        (one.statuses if is_hostile else one.calm_statuses).add(status)
        if is_hostile:
            one.seconds.append(ended - began)
        time.sleep(max(0.05, began + _LEAST_SECONDS - ended))
        return Window(one, is_hostile, began, time.monotonic())


def _in_window(calls: Sequence[Seen], window: Window) -> list[float]:
    """How long those took that ran while it was open."""
    return [one.seconds for one in calls if one.began < window.ended and one.began + one.seconds > window.began]


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)] if values else 0.0


def _phase(fields: Sequence[Field], attacker: Attacker, probe: Probe, *, is_hostile: bool) -> dict[str, float]:
    probe.seen()
    windows = [attacker.call(one, is_hostile=is_hostile) for one in fields]
    seen = probe.seen()
    for window in windows:
        longest = max(_in_window([*seen["health"], *seen["chat"]], window), default=0.0)
        (window.field.stalls if is_hostile else window.field.calm).append(longest)
    return {
        kind: _p99([took for window in windows for took in _in_window(calls, window)]) for kind, calls in seen.items()
    }


def _hook(world: dict[str, Any], port: int) -> str:
    """Where the webhook of the app listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"authorization": f"Bearer {world['keys']['mallory']}"}
    connection.request("GET", f"/admin/v1/apps/{world['apps']['hook']}/triggers", headers=headers)
    told = json.loads(connection.getresponse().read())
    connection.close()
    return urlsplit(told["data"][0]["address"]).path


def prove() -> Proof:
    proof, port = Proof(), free_port()
    probe = Probe(port)
    try:
        with tempfile.TemporaryDirectory(prefix="modelyard-show-", ignore_cleanup_errors=True) as home:
            _measure(proof, probe, port, home)
    finally:
        probe.end()
    return proof


def _measure(proof: Proof, probe: Probe, port: int, home: str) -> None:
    attacker = Attacker(port, {})
    with Upstream(attacker.upstream) as upstream:
        command = [sys.executable, "-m", "tools.show.loop_hostage", "world", home, upstream.url, probe.upstream]
        made = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        world = json.loads(made.stdout.splitlines()[-1])
        private = [urlsplit(url).netloc for url in (upstream.url, probe.upstream)]
        settings = {
            "log_level": "error",
            "egress": {"private": private},
            "local": {"enabled": False},
            "plugins": {"debug_port": 0},
        }
        (Path(home) / "modelyard.yaml").write_text(yaml.safe_dump(settings))
        with running(serve_command(), port, environ={"MODELYARD_HOME": home}):
            attacker._keys = world["keys"]
            world["hook"] = _hook(world, port)
            wanted = os.environ.get("MODELYARD_SHOW_ONLY", "")
            fields = [one for one in _fields(world) if wanted in one.name]
            for one in fields:
                _ = one.bodies
            probe.begin(world["keys"]["quiet"])
            os.nice(10)
            _phase(fields, attacker, probe, is_hostile=False)  # what every server does once
            rounds = [
                (_phase(fields, attacker, probe, is_hostile=False), _phase(fields, attacker, probe, is_hostile=True))
                for _ in range(ROUNDS)
            ]
    _tell(proof, fields, rounds)


def _tell(proof: Proof, fields: Sequence[Field], rounds: Sequence[tuple[dict[str, float], dict[str, float]]]) -> None:
    for one in fields:
        answered = max(one.seconds) < _MOST_SECONDS
        calm = statistics.median(one.calm)
        seen = (
            f"{one.stall * 1000:5.0f} ms at longest, {calm * 1000:3.0f} harmless; "
            f"status {sorted(one.statuses)} in {min(one.seconds):.2f} s, harmless {sorted(one.calm_statuses)}"
        )
        is_real = all(200 <= status < 300 for status in one.calm_statuses)
        proof.line(one.name, seen, one.stall < _MOST_STALL and answered and is_real)
    for kind in ("health", "chat"):
        harmless, hostile = (statistics.median(one[at][kind] for one in rounds) for at in (0, 1))
        ratio = hostile / harmless if harmless else 1.0
        seen = f"{harmless * 1000:.0f} ms beside harmless texts, {hostile * 1000:.0f} ms beside hostile ones: {ratio:.2f} times"
        proof.line(f"others' p99, {kind}", seen, ratio <= _MOST_RATIO)
        proof.figures[f"{kind}_ratio"] = round(ratio, 2)
    worst = max((one.stall for one in fields), default=0.0)
    proof.figures |= {"fields": len(fields), "longest_ms": round(worst * 1000), "rounds": len(rounds)}


if __name__ == "__main__":
    if sys.argv[1] == "probe":
        _probe(int(sys.argv[2]))
    else:
        print(json.dumps(asyncio.run(_build(*sys.argv[2:5]))))
