"""Send hostile texts in every field that tenants or strangers can fill, and measure how
long they delay other callers.

A real server runs with its own home folder, next to two other processes. The *probe* is
another tenant. It requests `/health` every few milliseconds and a cheap chat about
twenty times a second, on persistent connections, with a provider in its own process.
The *attacker* runs with a lower priority (nice), so that its own work (creating bodies,
simulating the provider that answers with hostile texts) does not distort the
measurement.

Each round calls every field with a harmless text of the same size, then every field
with the hostile one. A call's window lasts until its response, but at least a moment. A
field's result is the longest probe call in its windows, as the median over the rounds:
a text that blocks the event loop blocks it every time, other load on the machine does
not. The other tenant's p99 is computed over all windows of a phase, again as the median
over the rounds.

Each harmless text must be accepted: if it is refused, the hostile one may not reach the
code under test. `python -m tools.show.loop_hostage probe` runs the probe, `… world`
creates the home folder.
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
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from modelyard.testing import (
    Answer,
    Upstream,
    UpstreamRequest,
    chat_answer,
    embedding_answer,
    json_answer,
)
from tools.show.proof import ROOT, Proof, free_port, running, serve_command

# Several rounds, because the median removes interference by other processes.
ROUNDS = int(os.environ.get("MODELYARD_SHOW_ROUNDS", "3"))
_MAX_STALL_SECONDS = 0.1
_MAX_P99_RATIO = 1.5
_MAX_RESPONSE_SECONDS = 60.0
_MIN_WINDOW_SECONDS = 0.3
_MODEL = "openai/gpt-5-mini"
_MB = 1 << 20


# ---------------------------------------------------------------------------- the probe


@dataclass(frozen=True)
class ProbeCall:
    """One call of the probe: its start time and its duration in seconds."""

    began: float
    seconds: float


def _probe(port: int) -> None:
    """Print the provider's address, read an API key from stdin, then measure. Print all
    calls so far for each further input line."""
    calls: dict[str, list[tuple[float, float]]] = {"health": [], "chat": []}

    def measure(request_type: str, key: str, pause: float) -> None:
        """Send requests of one type forever and record their start times and durations."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
        while True:
            started_at = time.monotonic()
            with suppress(OSError, http.client.HTTPException):
                _send_probe(connection, request_type, key)
            calls[request_type].append((started_at, time.monotonic() - started_at))
            time.sleep(pause)

    with Upstream(lambda request: chat_answer("fine")) as upstream:
        print(upstream.url, flush=True)
        key = sys.stdin.readline().strip()
        # The pauses determine the resolution: a stall shorter than 4 ms is not visible.
        for request_type, pause in (("health", 0.004), ("chat", 0.04)):
            threading.Thread(
                target=measure, args=(request_type, key, pause), daemon=True
            ).start()
        for _ in sys.stdin:
            reported_calls = dict(calls)
            # Start new lists, so that each report contains only calls since the last
            # one.
            calls.update(health=[], chat=[])
            print(json.dumps(reported_calls), flush=True)


def _send_probe(
    connection: http.client.HTTPConnection, request_type: str, key: str
) -> None:
    """Send one request and read its response. Closes the connection on an error, so
    that the next request opens a new one."""
    message = {"role": "user", "content": "hi"}
    body = json.dumps({"model": _MODEL, "messages": [message]})
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    try:
        if request_type == "health":
            connection.request("GET", "/health")
        else:
            connection.request("POST", "/v1/chat/completions", body, headers)
        # Read the whole body, or the connection could not be reused.
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        connection.close()
        raise


class Probe:
    """The probe process, controlled over stdin and stdout."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-m", "tools.show.loop_hostage", "probe", str(port)]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
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
        """Start the measurement with the quiet tenant's key."""
        self._say(key)

    def seen(self) -> dict[str, list[ProbeCall]]:
        """Return the calls since the last request for them, by type."""
        self._say("")
        return {
            request_type: [ProbeCall(*call) for call in calls]
            for request_type, calls in json.loads(self._line()).items()
        }

    def end(self) -> None:
        """Stop the process."""
        # Leaving the block closes the pipes and waits for the process.
        with self._process:
            self._process.terminate()


# ---------------------------------------------------------------------------- the world


def _workflow(nodes: Mapping[str, Mapping[str, Any]], mode: str = "workflow") -> str:
    """Return a workflow app file whose nodes are connected in order."""
    names = list(nodes)
    model = {
        "provider": "openai",
        "name": "gpt-5-mini",
        "mode": "chat",
        "completion_params": {},
    }
    # These node types require a model.
    needy = ("llm", "question-classifier", "parameter-extractor")
    graph_nodes = [
        {
            "id": name,
            "data": {
                "title": name,
                **({"model": model} if data["type"] in needy else {}),
                **data,
            },
        }
        for name, data in nodes.items()
    ]
    edges = [
        {"source": source, "target": target}
        for source, target in itertools.pairwise(names)
    ]
    return yaml.safe_dump(
        {
            "kind": "app",
            "version": "0.6.0",
            "app": {"name": "test", "mode": mode},
            "workflow": {
                "graph": {"nodes": graph_nodes, "edges": edges},
                "features": {},
            },
        }
    )


def _form(field_type: str = "paragraph", **options: Any) -> dict[str, Any]:
    """Return a start node with one optional variable `v`."""
    return {
        "type": "start",
        "variables": [
            {
                "variable": "v",
                "label": "v",
                "type": field_type,
                "required": False,
                **options,
            }
        ],
    }


_END = {"type": "end", "outputs": []}
_PASSWORD = r"^(?=.*\d)(?=.*[a-z]).{8,}$"


def _apps(url: str) -> dict[str, str]:
    """Return the app files by name. `url` is the address of the attacker's provider."""
    return {
        **{name: _workflow(nodes) for name, nodes in _form_apps().items()},
        **{name: _workflow(nodes) for name, nodes in _node_apps(url).items()},
        **{name: _workflow(nodes) for name, nodes in _model_apps().items()},
        "chat pattern": _workflow(
            {
                "start": _form("json_object", json_schema=_SLOW_PATTERN),
                "answer": {"type": "answer", "answer": "x"},
            },
            "advanced-chat",
        ),
        "hook": _workflow({"hook": _WEBHOOK, "end": _END}),
        "chat": _chat_app(),
    }


Nodes = dict[str, dict[str, Any]]
# A pattern with catastrophic backtracking: exponential time in a naive engine.
_SLOW_PATTERN = {"properties": {"a": {"pattern": "^(a+)+$"}}}
_WEBHOOK = {
    "type": "trigger-webhook",
    "method": "post",
    "content_type": "application/json",
    "body": [{"name": "v"}],
    "async_mode": False,
}


def _form_apps() -> dict[str, Nodes]:
    """Return the nodes of workflows whose input must conform to a JSON schema."""
    # Each level refers twice to the next: 2^40 schemas if they were expanded.
    definitions: dict[str, Any] = {
        f"a{level}": {"allOf": [{"$ref": f"#/definitions/a{level + 1}"}] * 2}
        for level in range(40)
    }
    schemas: dict[str, Any] = {
        "pattern": _SLOW_PATTERN,
        "lookahead": {"properties": {"a": {"pattern": "^(?=.*x)(a+)+$"}}},
        "password": {"properties": {"a": {"pattern": _PASSWORD}}},
        "doubling": {
            "$ref": "#/definitions/a0",
            "definitions": {**definitions, "a40": {}},
        },
        "object": {
            "properties": {"a": {"type": "array", "items": {"type": "integer"}}}
        },
    }
    return {
        name: {"start": _form("json_object", json_schema=schema), "end": _END}
        for name, schema in schemas.items()
    }


def _node_apps(url: str) -> dict[str, Nodes]:
    """Return the nodes of workflows that process the input without a model."""
    fetch = {
        "type": "http-request",
        "method": "get",
        "url": f"{url}/{{{{#start.v#}}}}",
    }
    send = {
        **fetch,
        "method": "post",
        "url": f"{url}/x",
        "body": {"type": "json", "data": [{"type": "text", "value": "{{#start.v#}}"}]},
    }
    template = {
        "type": "template-transform",
        "template": "{% for a in v %}{% for b in v %}{{ a }}{% endfor %}{% endfor %}",
        "variables": [{"variable": "v", "value_selector": ["start", "v"]}],
    }
    form = _form()
    return {
        "text": {"start": form, "end": _END},
        "number": {"start": _form("number"), "end": _END},
        "condition": {"start": form, "if": _condition_node(), "end": _END},
        "list": {"start": form, "c": _SPLIT_NODE, "o": _LIST_NODE, "end": _END},
        "template": {"start": form, "t": template, "end": _END},
        "fetch": {"start": form, "h": fetch, "end": _END},
        "send": {"start": form, "h": send, "end": _END},
    }


_SPLIT_NODE: dict[str, Any] = {
    "type": "code",
    "code": "def main(v):\n    return {'l': v.split(' ')[:1000]}",
    "code_language": "python3",
    "variables": [{"variable": "v", "value_selector": ["start", "v"]}],
    "outputs": {"l": {"type": "array[string]"}},
}
_LIST_NODE: dict[str, Any] = {
    "type": "list-operator",
    "variable": ["c", "l"],
    "order_by": {"enabled": True, "value": "asc"},
    "filter_by": {
        "enabled": True,
        "conditions": [{"comparison_operator": "contains", "value": "{{#start.v#}}"}],
    },
}


def _condition_node() -> dict[str, Any]:
    """Return a node with one hundred comparisons of the same text with itself."""
    conditions = [
        {
            "variable_selector": ["start", "v"],
            "comparison_operator": operator,
            "value": "{{#start.v#}}",
        }
        for operator in ("contains", "is", "start with", "end with") * 25
    ]
    case = {"case_id": "a", "logical_operator": "or", "conditions": conditions}
    return {"type": "if-else", "cases": [case]}


def _model_apps() -> dict[str, Nodes]:
    """Return the nodes of workflows that send the input to a model."""
    llm = {
        "type": "llm",
        "prompt_template": [{"role": "user", "text": "{{#start.v#}}"}],
    }
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
    }
    structured = {
        **llm,
        "structured_output_enabled": True,
        "structured_output": {"schema": schema},
    }
    parameter = {"name": "a", "type": "string", "description": "a", "required": True}
    extract = {
        "type": "parameter-extractor",
        "query": ["start", "v"],
        "parameters": [parameter],
    }
    form, agent = _form(), _agent_node()
    return {
        "llm": {"start": form, "llm": llm, "end": _END},
        "structured": {"start": form, "llm": structured, "end": _END},
        "extract": {
            "start": form,
            "p": {**extract, "reasoning_mode": "prompt"},
            "end": _END,
        },
        "extract by tool": {
            "start": form,
            "p": {**extract, "reasoning_mode": "function_call"},
            "end": _END,
        },
        "agent": {"start": form, "agent": agent, "end": _END},
        "react": {
            "start": form,
            "agent": {**agent, "agent_strategy_name": "react"},
            "end": _END,
        },
    }


def _agent_node() -> dict[str, Any]:
    """Return an agent that calls tools by function calls."""
    tool = {
        "enabled": True,
        "provider_type": "builtin",
        "provider_id": "time",
        "tool_name": "weekday",
        "tool_parameters": {},
        "provider_name": "time",
    }
    parameters = {
        "model": {"provider": "openai", "model": "gpt-5-mini"},
        "tools": [tool],
        "query": "{{#start.v#}}",
        "instruction": "help",
        "maximum_iterations": 2,
    }
    return {
        "type": "agent",
        "agent_strategy_name": "function_calling",
        "agent_parameters": {
            name: {"type": "constant", "value": value}
            for name, value in parameters.items()
        },
    }


def _chat_app() -> str:
    """Return a chat app with a prompt variable and moderation by keywords."""
    model = {
        "provider": "openai",
        "name": "gpt-5-mini",
        "mode": "chat",
        "completion_params": {},
    }
    moderation = {
        "enabled": True,
        "type": "keywords",
        "config": {
            "keywords": "secret\nhidden",
            "inputs_config": {"enabled": True, "preset_response": "no"},
        },
    }
    variable = {"variable": "v", "label": "v", "required": False}
    return yaml.safe_dump(
        {
            "kind": "app",
            "version": "0.6.0",
            "app": {"name": "chat", "mode": "chat"},
            "model_config": {
                "model": model,
                "pre_prompt": "{{v}} {{v}}",
                "user_input_form": [{"paragraph": variable}],
                "sensitive_word_avoidance": moderation,
            },
        }
    )


async def _build(home: str, attacked: str, quiet_url: str) -> dict[str, Any]:
    """Create two tenants: `mallory` has resources of every kind and attacks; the calls
    of `quiet` are measured."""
    from modelyard.app import Modelyard
    from modelyard.base.settings import EgressSettings, Settings
    from modelyard.knowledge.entities import DatasetSettings, MetadataField, Technique
    from modelyard.tenancy.caller import Caller
    from modelyard.workflow.dsl import AppMapping

    # Both simulated providers are on loopback, which egress blocks unless it is listed
    # as private.
    private = [urlsplit(url).netloc for url in (attacked, quiet_url)]
    yard = Modelyard(
        Settings(home=home, egress=EgressSettings(private=private)), environ={}
    )
    world: dict[str, Any] = {"keys": {}, "apps": {}, "pages": {}}
    try:
        await yard.open()
        for tenant, url in (("mallory", attacked), ("quiet", quiet_url)):
            await yard.services.tenancy.administration.create(
                Caller(tenant="default"), "default", "tenant", tenant, {}
            )
            owner = Caller(tenant=tenant)
            created_key = await yard.services.tenancy.administration.create(
                owner, tenant, "key", "owner", {"role": "owner"}
            )
            world["keys"][tenant] = created_key["key"]
            values = {"api_key": f"sk-{tenant}", "base_url": url}
            for provider in ("openai", "jina"):
                credential = {"provider": provider, "values": values}
                await yard.services.tenancy.administration.create(
                    owner, tenant, "credential", provider, credential
                )
        # All model references of the apps are mapped to the simulated model.
        mapping = AppMapping(models={"*": _MODEL})
        for name, text in _apps(attacked.removesuffix("/v1")).items():
            app, _, _ = await yard.apps.add("mallory", text, name=name, mapping=mapping)
            _, world["keys"][name] = await yard.apps.make_key(app)
            world["apps"][name] = app.id
            app = await yard.apps.set_page(app, is_on=True)
            world["pages"][name] = app.stored.page.token
        fields = [MetadataField(id="5b4f4e3e-0000-4000-8000-000000000001", name="year")]
        # A keyword index, because indexing must not depend on a model here.
        settings = DatasetSettings(indexing_technique=Technique.ECONOMY, fields=fields)
        dataset = await yard.knowledge.datasets.create(
            "mallory", "shop", settings=settings
        )
        texts = [
            (f"d{number}", f"Parcels number {number} leave before noon. " * 20)
            for number in range(20)
        ]
        # Wait for the index, so that indexing does not run during the measurement.
        added = await yard.knowledge.datasets.add_texts(dataset, texts, batch="b")
        await yard.knowledge.datasets.wait(dataset, added[0].batch)
        world |= {"dataset": dataset.id, "document": added[0].id}
    finally:
        await yard.aclose()
    return world


# --------------------------------------------------------------------------- the fields


@dataclass
class AttackField:
    """A field that others can fill, with a hostile and a harmless request body."""

    name: str
    path: str
    hostile: Callable[[], Any]
    harmless: Callable[[], Any]
    key: str = "mallory"
    method: str = "POST"
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Additional headers of the hostile request."""
    harmless_path: str = ""
    """The path of the harmless request, if the path itself is hostile."""
    answers: tuple[Callable[[], Answer], Callable[[], Answer]] | None = None
    """The provider's responses: (hostile, harmless)."""
    stalls: list[float] = field(default_factory=list[float])
    calm: list[float] = field(default_factory=list[float])
    """Like `stalls`, during the harmless request."""
    statuses: set[int] = field(default_factory=set[int])
    calm_statuses: set[int] = field(default_factory=set[int])
    """Statuses of the harmless requests."""
    seconds: list[float] = field(default_factory=list[float])

    @cached_property
    def bodies(self) -> tuple[bytes, bytes]:
        """The hostile and the harmless request body, built once."""
        return _bytes(self.hostile()), _bytes(self.harmless())

    @property
    def stall(self) -> float:
        """Median of the longest probe calls, in seconds."""
        return statistics.median(self.stalls)


def _bytes(value: Any) -> bytes:
    """Return the value as bytes; anything but text and bytes is encoded as JSON."""
    return (
        value
        if isinstance(value, bytes)
        else value.encode()
        if isinstance(value, str)
        else json.dumps(value).encode()
    )


def _harmless_text(size: int) -> str:
    """Return harmless text of about `size` characters."""
    return "a word " * (size // 7)


def _chat(content: Any = "hi", **extra_fields: Any) -> dict[str, Any]:
    """Return a chat completion request."""
    return {
        "model": _MODEL,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 5,
        **extra_fields,
    }


def _json_with_raw(document: Any, text: bytes) -> bytes:
    """Return a document as JSON in which the string "HERE" is replaced by raw JSON."""
    return json.dumps(document).encode().replace(b'"HERE"', text)


def _json_string(size: int) -> bytes:
    """Return a JSON string of about `size` bytes."""
    return b'"' + b"a word " * (size // 7) + b'"'


def _tool(schema: Any) -> list[Any]:
    """Return a list with one function tool whose parameters have this schema."""
    return [
        {
            "type": "function",
            "function": {"name": "f", "description": "d", "parameters": schema},
        }
    ]


_DOUBLING = {
    "$ref": "#/$defs/a0",
    "$defs": {
        **{
            f"a{level}": {"allOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2}
            for level in range(40)
        },
        "a40": {"type": "string"},
    },
}
# About 10 MB of JSON each, with a structure that is expensive to parse or validate.
_LISTS = b"[" + b"[]," * (10 * _MB // 3) + b"1]"
_DEEP = b"[" + (b"[" * 150 + b"]" * 150 + b",") * (10 * _MB // 301) + b"1]"
_FLOATS = b"[" + b"1.2345678901234567890123e-300," * (10 * _MB // 30) + b"1]"
_INTS = b"[" + (b"1" * 4000 + b",") * (10 * _MB // 4001) + b"1]"
_KEYS = b"{" + b",".join(b'"%d":1' % index for index in range(10 * _MB // 12)) + b"}"
# Texts that a lenient JSON repair would scan again and again: quadratic time.
_ALMOST_JSON = (
    '{"a": "' + '"' * 61_000,
    '{"a": ' + '"b":' * 15_000,
    "[" + "/*" * 30_000,
    '{"a": "' + 'b " c ' * 10_000,
    '{"a": "b" "c" ' * 4_300,
)


def _calls(text: str) -> Answer:
    """Return a model response that calls the tool `weekday` with these arguments."""
    call = {
        "id": "c",
        "type": "function",
        "function": {"name": "weekday", "arguments": text},
    }
    return chat_answer("", tool_calls=[call])


def _extracted(text: str) -> Answer:
    """Return a model response that calls the parameter extractor's function with these
    arguments."""
    call = {
        "id": "c",
        "type": "function",
        "function": {"name": "extract_parameters", "arguments": text},
    }
    return chat_answer("", tool_calls=[call])


def _fields(world: Mapping[str, Any]) -> Iterator[AttackField]:
    """Yield all fields under attack."""
    yield from _wire_fields()
    yield from _answered_fields()
    yield from _app_fields(world)
    yield from _knowledge_fields(world)
    yield from _admin_fields(world)


_CHAT_PATH = "/v1/chat/completions"


def _wire_fields() -> Iterator[AttackField]:
    """Yield fields of the model APIs' requests."""
    yield from _raw_fields()
    yield from _chat_fields()
    yield from _batch_fields()
    yield from _head_fields()


def _raw_field(name: str, path: str, document: Any, text: bytes) -> AttackField:
    """Return a field whose hostile value is raw JSON and whose harmless value is
    text of the same size."""
    # For chat, a plain message of the same size is a valid request and takes the
    # same path.
    fine = _chat("HERE") if path == _CHAT_PATH else document
    return AttackField(
        name,
        path,
        lambda: _json_with_raw(document, text),
        lambda: _json_with_raw(fine, _json_string(len(text))),
    )


def _raw_fields() -> Iterator[AttackField]:
    """Yield fields whose hostile value is raw JSON."""
    chat, responses, messages = _CHAT_PATH, "/v1/responses", "/v1/messages"
    gemini, cohere = f"/v1beta/models/{_MODEL}:generateContent", "/v2/chat"

    yield _raw_field("chat: 10 MB of lists in a message", chat, _chat("HERE"), _LISTS)
    yield _raw_field(
        "chat: 10 MB, 150 deep, over and over", chat, _chat(extra_fields="HERE"), _DEEP
    )
    yield _raw_field(
        "responses: 10 MB of long fractions",
        responses,
        {"model": _MODEL, "input": "HERE"},
        _FLOATS,
    )
    yield _raw_field(
        "messages: 10 MB of numbers with 4,000 digits", messages, _chat("HERE"), _INTS
    )
    yield _raw_field(
        "gemini: 10 MB of names",
        gemini,
        {"contents": [{"parts": [{"text": "x"}]}], "more": "HERE"},
        _KEYS,
    )
    cohere_document = {
        "model": _MODEL,
        "messages": [{"role": "user", "content": "HERE"}],
    }
    yield _raw_field("cohere: 10 MB of lists", cohere, cohere_document, _LISTS)
    yield _raw_field("chat: 10 MB of brackets", chat, _chat("HERE"), b"[" * (10 * _MB))
    yield _raw_field(
        "chat: a model's name of 10 MB",
        chat,
        {"model": "HERE", "messages": []},
        b'"' + b"a" * (10 * _MB) + b'"',
    )
    yield _raw_field(
        "chat: a model's name of 5 MB of slashes",
        chat,
        {"model": "HERE", "messages": []},
        b'"' + b"openai/" * 700_000 + b'"',
    )
    yield _raw_field(
        "chat: 10 MB of escapes",
        chat,
        _chat("HERE"),
        b'"' + b"\\ud83d\\ude00" * (10 * _MB // 12) + b'"',
    )
    yield _raw_field(
        "chat: 10 MB of quotes", chat, _chat("HERE"), b'"' + b'\\"' * (5 * _MB) + b'"'
    )


def _chat_fields() -> Iterator[AttackField]:
    """Yield fields of a chat request."""
    yield from _long_chat_fields()
    yield from _chat_schema_fields()
    yield from _chat_option_fields()


def _long_chat_fields() -> Iterator[AttackField]:
    """Yield chat requests with many or long values."""
    many_messages = [{"role": "user", "content": "a"}] * 9_000
    yield AttackField(
        "chat: 9,000 messages",
        _CHAT_PATH,
        lambda: {"model": _MODEL, "messages": many_messages},
        lambda: _chat(_harmless_text(300_000)),
    )
    yield AttackField(
        "chat: a text of 2 MB without a space",
        _CHAT_PATH,
        lambda: _chat("é" * _MB),
        lambda: _chat(_harmless_text(2 * _MB)),
    )


def _chat_schema_fields() -> Iterator[AttackField]:
    """Yield schemas of tools and of the response format."""
    yield AttackField(
        "chat: tools with a schema that doubles",
        _CHAT_PATH,
        lambda: _chat(tools=_tool(_DOUBLING)),
        lambda: _chat(_harmless_text(6000)),
    )
    hostile = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "pattern": "^(a+)+$"},
            "b": {"$ref": "http://127.0.0.1:9/x"},
        },
    }
    yield AttackField(
        "chat: tools with patterns and references",
        _CHAT_PATH,
        lambda: _chat(tools=_tool(hostile)),
        lambda: _chat(),
    )
    yield AttackField(
        "chat: 5,000 tools",
        _CHAT_PATH,
        lambda: _chat(tools=_tool({"type": "object"}) * 5000),
        lambda: _chat(_harmless_text(500_000)),
    )
    response_format = {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": _DOUBLING},
    }
    yield AttackField(
        "chat: response_format with a schema that doubles",
        _CHAT_PATH,
        lambda: _chat(response_format=response_format),
        lambda: _chat(_harmless_text(6000)),
    )


def _chat_option_fields() -> Iterator[AttackField]:
    """Yield long options and a broken picture."""
    yield AttackField(
        "chat: 20,000 stop words",
        _CHAT_PATH,
        lambda: _chat(stop=["a" * 40] * 20_000),
        lambda: _chat(_harmless_text(900_000)),
    )
    bias = {str(token_id): 1 for token_id in range(100_000)}
    yield AttackField(
        "chat: logit_bias of 100,000",
        _CHAT_PATH,
        lambda: _chat(logit_bias=bias),
        lambda: _chat(_harmless_text(_MB)),
    )
    picture = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + "A@=" * _MB},
    }
    yield AttackField(
        "chat: a picture of 3 MB of broken base64",
        _CHAT_PATH,
        lambda: _chat([picture]),
        lambda: _chat(_harmless_text(3 * _MB)),
    )


def _batch_fields() -> Iterator[AttackField]:
    """Yield fields with many or long texts."""
    embedding = "openai/text-embedding-3-small"
    # The first count is within the vendor's limit, the second far above it.
    for count in (2048, 100_000):
        yield AttackField(
            f"embeddings: {count:,} texts",
            "/v1/embeddings",
            # Bind the loop variable as a default, since the lambda is called later.
            lambda count=count: {"model": embedding, "input": ["a"] * count},
            lambda count=count: {
                "model": embedding,
                "input": _harmless_text(count * 5),
            },
        )
    reranker = "jina/jina-reranker-v2-base-multilingual"
    for count in (1000, 50_000):
        yield AttackField(
            f"rerank: {count:,} documents",
            "/v2/rerank",
            lambda count=count: {
                "model": reranker,
                "query": "q",
                "documents": ["d"] * count,
            },
            lambda count=count: {
                "model": reranker,
                "query": "q",
                "documents": [_harmless_text(count * 5)],
            },
        )
    yield AttackField(
        "count_tokens: 3 MB of one letter",
        "/v1/messages/count_tokens",
        lambda: _chat("a" * (3 * _MB)),
        lambda: _chat(_harmless_text(3 * _MB)),
    )
    # As above: the first count is a typical maximum, the second far above it.
    for count in (256, 20_000):
        yield AttackField(
            f"moderations: {count:,} texts",
            "/v1/moderations",
            lambda count=count: {
                "input": ["a" * 4000 if count == 256 else "a"] * count
            },
            lambda count=count: {"input": _harmless_text(count * 5)},
        )


def _head_fields() -> Iterator[AttackField]:
    """Yield fields in the path, the query and the headers."""

    def get_field(name: str, path: str, harmless: str, **headers: str) -> AttackField:
        """Return a GET request whose path or headers are hostile."""
        request_headers = {
            header_name.replace("_", "-"): value
            for header_name, value in headers.items()
        }
        return AttackField(
            name,
            path,
            lambda: b"",
            lambda: b"",
            method="GET",
            harmless_path=harmless,
            headers=request_headers,
        )

    models = "/v1/models"
    yield get_field(
        "models: a name of 8,000 characters", f"{models}/{'a' * 8000}", models
    )
    yield get_field("a query of 4,000 parameters", f"{models}?{'a&' * 4000}", models)
    yield get_field("a path of 8,000 escapes", f"{models}/{'%41' * 2600}", models)
    yield get_field("a path of 4,000 dots", f"{models}{'/..' * 2600}", models)
    yield get_field("cookies: 10,000 of them", models, models, cookie="a=b; " * 6000)
    yield get_field(
        "cookies: 30 kB of quotes", models, models, cookie='a="' + '\\"' * 14_000
    )
    yield get_field(
        "forwarded: 10,000 addresses",
        models,
        models,
        x_forwarded_for="127.0.0.1, " * 2700,
    )
    yield get_field("accept: 10,000 kinds", models, models, accept="a/b;q=0.1, " * 2700)
    yield get_field(
        "traceparent and tracestate of 30 kB",
        models,
        models,
        traceparent="0" * 15_000,
        tracestate="a=b," * 3700,
    )
    yield get_field(
        "a key of 30 kB", models, models, authorization=f"Bearer {'a' * 30_000}"
    )
    yield get_field(
        "a sign-in's name and password in 30 kB",
        models,
        models,
        authorization=f"Basic {'A' * 30_000}",
    )


def _answered_fields() -> Iterator[AttackField]:
    """Yield fields that a provider or model fills."""
    yield from _model_answer_fields()
    yield from _provider_answer_fields()
    yield from _fetched_fields()


def _model_answer_fields() -> Iterator[AttackField]:
    """Yield fields that a model fills: arguments of calls, and structured answers."""
    for index, text in enumerate(_ALMOST_JSON):
        # Both kinds of agent parse arguments: from a tool call, or from text.
        yield AttackField(
            f"agent: arguments of 61 kB that are nearly JSON, {index}",
            "/v1/workflows/run",
            lambda: _run("SAY"),
            lambda: _run("SAY"),
            key=("agent", "react")[index % 2],
            answers=(
                (lambda text=text: _calls(text))
                if index % 2 == 0
                else (
                    lambda text=text: chat_answer(
                        f"Action: weekday\nAction Input: {text}"
                    )
                ),
                lambda: chat_answer(_harmless_text(61_000)),
            ),
        )
    yield AttackField(
        "extractor: a call's arguments, nearly JSON",
        "/v1/workflows/run",
        lambda: _run("SAY"),
        lambda: _run("SAY"),
        key="extract by tool",
        answers=(lambda: _extracted(_ALMOST_JSON[0]), lambda: _extracted('{"a": "x"}')),
    )
    yield AttackField(
        "extractor: a text of 4 MB of braces",
        "/v1/workflows/run",
        lambda: _run("SAY"),
        lambda: _run("SAY"),
        key="extract",
        answers=(
            lambda: chat_answer('{"a": [' * (4 * _MB // 7)),
            lambda: chat_answer(_harmless_text(4 * _MB)),
        ),
    )
    yield AttackField(
        "structured answer: nearly JSON",
        "/v1/workflows/run",
        lambda: _run("SAY"),
        lambda: _run("SAY"),
        key="structured",
        answers=(
            lambda: chat_answer(_ALMOST_JSON[3]),
            lambda: chat_answer('{"a": "x"}'),
        ),
    )


def _provider_answer_fields() -> Iterator[AttackField]:
    """Yield fields of a provider's response as it is transferred."""
    yield AttackField(
        "provider: 10 MB of lists",
        "/v1/chat/completions",
        lambda: _chat("SAY"),
        lambda: _chat("SAY"),
        answers=(
            lambda: Answer(headers={"content-type": "application/json"}, body=_LISTS),
            lambda: chat_answer(_harmless_text(10 * _MB)),
        ),
    )
    yield AttackField(
        # Sixty thousand network chunks without an event boundary.
        "provider: a stream of one event in 60,000 pieces",
        "/v1/chat/completions",
        lambda: _chat("SAY", stream=True),
        lambda: _chat("SAY", stream=True),
        answers=(
            lambda: Answer(
                headers={"content-type": "text/event-stream"},
                pieces=[b"data: " + b"x" * 100] * 60_000,
            ),
            lambda: chat_answer("fine"),
        ),
    )


def _fetched_fields() -> Iterator[AttackField]:
    """Yield fields of the responses that an HTTP node reads."""
    yield AttackField(
        "HTTP node: an answer in punycode",
        "/v1/workflows/run",
        lambda: _run("SAY"),
        lambda: _run("SAY"),
        key="fetch",
        answers=(
            lambda: Answer(
                headers={"content-type": "text/html; charset=punycode"},
                body=b"a-" * (_MB // 2),
            ),
            lambda: Answer(
                headers={"content-type": "text/html"}, body=_harmless_text(_MB).encode()
            ),
        ),
    )
    yield AttackField(
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
            lambda: Answer(
                headers={"content-type": "text/html"}, body=_harmless_text(_MB).encode()
            ),
        ),
    )


_RUN_PATH = "/v1/workflows/run"


def _run(value: Any) -> dict[str, Any]:
    """Return the request of a workflow run with `v` as input."""
    return {"inputs": {"v": value}, "user": "u", "response_mode": "blocking"}


def _app_fields(world: Mapping[str, Any]) -> Iterator[AttackField]:
    """Yield fields that the users of an app fill."""
    yield from _form_fields(world["pages"]["chat pattern"])
    yield from _node_fields()
    yield from _chat_input_fields(world["hook"])


def _form_fields(page: str) -> Iterator[AttackField]:
    """Yield the variables of start forms. `page` is the token of a published page."""
    # A value that matches the password pattern.
    fine = {"a": "aaaa1xyz"}
    yield AttackField(
        "a published page: a pattern that goes back, by a stranger",
        f"/chat/{page}/v1/chat-messages",
        lambda: {**_run({"a": "a" * 41 + "!"}), "query": "q"},
        lambda: {**_run({"a": "aaaa"}), "query": "q"},
        key="",
    )
    yield AttackField(
        "start form: a pattern that goes back",
        _RUN_PATH,
        lambda: _run({"a": "a" * 50_000 + "!"}),
        lambda: _run({"a": "a" * 50_000}),
        key="pattern",
    )
    yield AttackField(
        "start form: a lookahead that goes back",
        _RUN_PATH,
        lambda: _run({"a": "a" * 50 + "!x"}),
        lambda: _run({}),
        key="lookahead",
    )
    yield AttackField(
        "start form: a password of 100,000",
        _RUN_PATH,
        lambda: _run({"a": "A" * 100_000}),
        lambda: _run(fine),
        key="password",
    )
    empty_request = {"inputs": {}, "user": "u", "response_mode": "blocking"}
    yield AttackField(
        "start form: a schema that doubles",
        _RUN_PATH,
        lambda: _run({"a": "x"}),
        lambda: empty_request,
        key="doubling",
    )
    yield from _value_fields()


def _value_fields() -> Iterator[AttackField]:
    """Yield values of start forms that are long or hard to convert."""
    yield AttackField(
        "start form: 40,000 values",
        _RUN_PATH,
        lambda: _run({"a": [1] * 39_999 + ["x"]}),
        lambda: _run({"a": [1]}),
        key="object",
    )
    yield AttackField(
        "start form: text of 5,000 digits as a number",
        _RUN_PATH,
        lambda: _run("9" * 5000),
        lambda: _run("9"),
        key="number",
    )
    yield AttackField(
        "start form: 1e999999999 as a number",
        _RUN_PATH,
        lambda: _run("1e999999999"),
        lambda: _run("1.9"),
        key="number",
    )


def _node_fields() -> Iterator[AttackField]:
    """Yield inputs that nodes of a workflow process."""
    yield AttackField(
        "condition: 200 kB in 200 kB",
        _RUN_PATH,
        lambda: _run("a" * 100_000 + "b" + "a" * 100_000),
        lambda: _run(_harmless_text(200_000)),
        key="condition",
    )
    yield AttackField(
        "list filter: a text of 1,000 words",
        _RUN_PATH,
        lambda: _run("a" * 60_000 + " b" * 1000),
        lambda: _run(_harmless_text(60_000)),
        key="list",
    )
    yield AttackField(
        "template: loops in loops",
        _RUN_PATH,
        lambda: _run("a" * 20_000),
        lambda: _run("a" * 10),
        key="template",
    )
    yield AttackField(
        "HTTP node: a body that is nearly JSON",
        _RUN_PATH,
        lambda: _run(_ALMOST_JSON[1]),
        lambda: _run('{"a": 1}'),
        key="send",
    )
    yield AttackField(
        "LLM node: variables in variables, 1 MB",
        _RUN_PATH,
        lambda: _run("{{#start.v#}}" * 80_000),
        lambda: _run(_harmless_text(_MB)),
        key="llm",
    )


def _chat_input_fields(hook: str) -> Iterator[AttackField]:
    """Yield inputs of chat apps and of a webhook. `hook` is the webhook's path."""
    ask = {"query": "q", "user": "u", "response_mode": "blocking"}
    yield AttackField(
        "chat app: prompt variables of 1 MB",
        "/v1/chat-messages",
        lambda: {**ask, "inputs": {"v": "{{v}}" * 200_000}},
        lambda: {**ask, "inputs": {"v": _harmless_text(_MB)}},
        key="chat",
    )
    yield AttackField(
        "webhook: 5 MB of lists",
        hook,
        lambda: _json_with_raw({"v": "HERE"}, _LISTS[: 5 * _MB - 1] + b"1]"),
        lambda: {"v": _harmless_text(5 * _MB)},
        key="",
    )
    yield AttackField(
        "app: 5 MB of lists in a chat's inputs",
        "/v1/chat-messages",
        lambda: _json_with_raw(
            {**ask, "inputs": "HERE"}, _LISTS[: 5 * _MB - 1] + b"1]"
        ),
        lambda: {**ask, "inputs": {"v": _harmless_text(5 * _MB)}},
        key="chat",
    )


def _knowledge_fields(world: Mapping[str, Any]) -> Iterator[AttackField]:
    """Yield fields of datasets, documents and searches."""
    base = f"/v1/datasets/{world['dataset']}"
    yield from _query_fields(base)
    yield from _document_fields(base)
    yield from _filter_fields(base)
    yield from _metadata_fields(base, world["document"])


def _query_fields(base: str) -> Iterator[AttackField]:
    """Yield the texts of searches. `base` is the dataset's path."""
    # Thousands of distinct rare characters, so that every one is a new search term.
    odd = "".join(chr(0x4E00 + index * 37 % 20_000) for index in range(4000))
    yield AttackField(
        "knowledge: a query of 4,000 odd characters",
        f"{base}/retrieve",
        lambda: {"query": odd},
        lambda: {"query": _harmless_text(4000)},
    )
    yield AttackField(
        "knowledge: a query of combining marks",
        f"{base}/retrieve",
        lambda: {"query": "a" + "\u0301" * 3999},
        lambda: {"query": _harmless_text(4000)},
    )


def _document_fields(base: str) -> Iterator[AttackField]:
    """Yield names and texts of documents. `base` is the dataset's path."""
    text = {"indexing_technique": "economy", "process_rule": {"mode": "automatic"}}
    yield AttackField(
        "knowledge: a document's name of 1 MB",
        f"{base}/document/create-by-text",
        lambda: {**text, "name": "a/" * (_MB // 2), "text": "x"},
        lambda: {**text, "name": "x", "text": _harmless_text(10_000)},
    )
    custom = {
        "indexing_technique": "economy",
        "process_rule": {
            "mode": "custom",
            "rules": {
                "pre_processing_rules": [],
                "segmentation": {"separator": "a", "max_tokens": 50},
            },
        },
    }
    yield AttackField(
        "knowledge: a document of 1 MB of separators",
        f"{base}/document/create-by-text",
        lambda: {**custom, "name": "y", "text": "a" * _MB},
        lambda: {**text, "name": "y", "text": _harmless_text(100_000)},
    )


def _filter_fields(base: str) -> Iterator[AttackField]:
    """Yield metadata filters and segmentation rules. `base` is the dataset's path."""
    # Each condition becomes part of a database query.
    conditions = [
        {"name": "year", "comparison_operator": "contains", "value": "a" * 1000}
    ] * 2000
    model = {
        "search_method": "keyword_search",
        "top_k": 2,
        "reranking_enable": False,
        "score_threshold_enabled": False,
    }
    yield AttackField(
        "knowledge: 2,000 filters on metadata",
        f"{base}/retrieve",
        lambda: {
            "query": "parcels",
            "retrieval_model": {
                **model,
                "metadata_filtering_conditions": {
                    "logical_operator": "or",
                    "conditions": conditions,
                },
            },
        },
        lambda: {"query": _harmless_text(2000)},
    )
    yield AttackField(
        "split: a rule with an odd separator",
        "/admin/v1/split",
        lambda: {
            "text": "a" * 200_000,
            "rule": {
                "mode": "custom",
                "rules": {
                    "segmentation": {"separator": "(a+)+$", "max_tokens": 50},
                    "pre_processing_rules": [
                        {"id": "remove_urls_emails", "enabled": True}
                    ],
                },
            },
        },
        lambda: {"text": _harmless_text(20_000)},
    )


def _metadata_fields(base: str, document: str) -> Iterator[AttackField]:
    """Yield metadata values and keywords of a document. `base` is the dataset's path."""

    def values(count: int, size: int) -> dict[str, Any]:
        """Return a metadata update with many or long values."""
        metadata_value = {
            "id": "5b4f4e3e-0000-4000-8000-000000000001",
            "name": "year",
            "value": "a" * size,
        }
        return {
            "operation_data": [
                {
                    "document_id": document,
                    "metadata_list": [metadata_value] * count,
                }
            ]
        }

    yield AttackField(
        "knowledge: 20,000 values of metadata",
        f"{base}/documents/metadata",
        lambda: values(20_000, 40),
        lambda: values(1, 40),
    )
    yield AttackField(
        "knowledge: a segment's 100,000 keywords",
        f"{base}/documents/{document}/segments",
        lambda: {"segments": [{"content": "x", "keywords": ["a" * 20] * 100_000}]},
        lambda: {"segments": [{"content": "x", "keywords": ["a"]}]},
    )


def _yaml_alias_bomb() -> str:
    """Return a "billion laughs" YAML document: aliases of aliases that grow
    exponentially."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    # Nine levels of ten aliases each: a thousand million elements if expanded.
    lines += [
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]"
        for level in range(1, 9)
    ]
    return "\n".join(lines)


def _admin_fields(world: Mapping[str, Any]) -> Iterator[AttackField]:
    """Yield fields of the admin API, of imports and of tools."""
    yield from _import_fields(world["apps"]["text"])
    yield from _description_fields()
    yield from _tool_fields()
    yield from _setting_fields()


def _import_fields(app: str) -> Iterator[AttackField]:
    """Yield app files that are imported. `app` is the id of the app that they replace."""
    harmless = {"file": _workflow({"start": _form(), "end": _END})}
    for name, make_text in _HOSTILE_APPS.items():
        yield AttackField(
            f"import: {name}",
            f"/admin/v1/apps/{app}/file",
            # Bind the loop variable as a default, since the lambda is called later.
            lambda make_text=make_text: {"file": make_text()},
            lambda: harmless,
            method="PUT",
        )


def _scheduled_app(cron: str) -> str:
    """Return an app file with a schedule."""
    trigger = {
        "type": "trigger-schedule",
        "mode": "cron",
        "cron_expression": cron,
        "timezone": "UTC",
    }
    return _workflow({"when": trigger, "end": _END})


def _templated_app(template: str) -> str:
    """Return an app file with a template."""
    node = {"type": "template-transform", "template": template, "variables": []}
    return _workflow({"start": _form(), "t": node, "end": _END})


_HOSTILE_APPS: Mapping[str, Callable[[], str]] = {
    "YAML with aliases of aliases": lambda: (
        "kind: app\napp: {name: x, mode: workflow}\n" + _yaml_alias_bomb()
    ),
    "YAML 10,000 deep": lambda: "kind: app\na: " + "[" * 10_000,
    "YAML of 2 MB of lists": lambda: "kind: app\na: [" + "[]," * (2 * _MB // 3) + "]",
    # Large graphs test the graph validation for quadratic time.
    "2,000 nodes in a ring": lambda: _workflow(
        {f"n{index}": {"type": "answer", "answer": "x"} for index in range(2000)}
    ),
    "a template of 1 MB of braces": lambda: _templated_app("{{" * (_MB // 2)),
    # 30 February never occurs, so a search for the next run would not end.
    "a cron that never comes": lambda: _scheduled_app("0 0 30 2 *"),
    "a cron of 60,000 numbers": lambda: _scheduled_app("1," * 30_000 + "1 * * * *"),
}
"""Attack to the function that builds its app file."""


def _description_fields() -> Iterator[AttackField]:
    """Yield OpenAPI descriptions of tool providers."""
    operation = {"operationId": "o", "responses": {}}
    harmless = {"openapi": "3.0.0", "info": {}, "paths": {"/a": {"get": operation}}}
    provider = {"name": "x", "type": "api", "server": "http://example.org"}
    for name, make_description in _HOSTILE_DESCRIPTIONS.items():
        yield AttackField(
            f"OpenAPI: {name}",
            "/admin/tool-providers",
            # Bind the loop variable as a default, since the lambda is called later.
            lambda make_description=make_description: {
                **provider,
                "description": make_description(),
            },
            lambda: {**provider, "description": harmless},
        )


def _doubling_description() -> dict[str, Any]:
    """Return a description in which each schema refers twice to the next one."""
    schemas: dict[str, Any] = {
        f"a{level}": {"allOf": [{"$ref": f"#/components/schemas/a{level + 1}"}] * 2}
        for level in range(40)
    }
    body = {"schema": {"$ref": "#/components/schemas/a0"}}
    operation = {
        "operationId": "o",
        "requestBody": {"content": {"application/json": body}},
    }
    return {
        "openapi": "3.0.0",
        "info": {},
        "components": {"schemas": {**schemas, "a40": {}}},
        "paths": {"/a": {"post": operation}},
    }


def _large_description() -> dict[str, Any]:
    """Return a description with 2,000 operations."""
    paths = {
        f"/a{index}": {"get": {"operationId": f"o{index}", "summary": "x" * 100}}
        for index in range(2000)
    }
    return {"openapi": "3.0.0", "info": {}, "paths": paths}


_HOSTILE_DESCRIPTIONS: Mapping[str, Callable[[], Any]] = {
    "YAML with aliases of aliases": lambda: (
        "openapi: 3.0.0\ninfo: {}\npaths: {}\n" + _yaml_alias_bomb()
    ),
    "YAML 10,000 deep": lambda: "openapi: 3.0.0\na: " + "{a: " * 10_000,
    "references that double": _doubling_description,
    "2,000 operations": _large_description,
}
"""Attack to the function that builds its description."""


def _tool_fields() -> Iterator[AttackField]:
    """Yield calls of tools, by MCP and by the admin API."""

    def called(arguments: Any) -> dict[str, Any]:
        """Return an MCP call of the calculator."""
        return {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "calculate", "arguments": arguments},
        }

    # Arithmetic that would need huge memory or time if it were evaluated exactly.
    for name, text in (
        ("rounded to a thousand million places", "round(1/3, 10**9)"),
        ("an exponent of 999,999,999", "1e-999999999"),
    ):
        yield AttackField(
            f"MCP: {name}",
            "/mcp",
            lambda text=text: called({"expression": text}),
            lambda: called({"expression": "1+1"}),
        )
    yield AttackField(
        "MCP: an expression that grows",
        "/mcp",
        lambda: called({"expression": "9**9**9**9"}),
        lambda: called({"expression": "1+1"}),
    )
    yield AttackField(
        "MCP: an expression of 60,000 brackets",
        "/mcp",
        lambda: called({"expression": "(" * 30_000 + ")" * 30_000}),
        lambda: called({"expression": "1+1"}),
    )
    yield AttackField(
        "a tool: arguments of 5 MB of lists",
        "/admin/tools/call",
        lambda: _json_with_raw(
            {"tool": "calculate", "arguments": {"expression": "HERE"}},
            _LISTS[: 5 * _MB - 1] + b"1]",
        ),
        lambda: {
            "tool": "calculate",
            "arguments": {"expression": _harmless_text(5 * _MB)},
        },
    )
    yield AttackField(
        "a tool's name of 60,000 characters",
        "/admin/tools/call",
        lambda: {"tool": "calc" * 15_000, "arguments": {}},
        lambda: {"tool": "calculate", "arguments": {"expression": "1"}},
    )


def _setting_fields() -> Iterator[AttackField]:
    """Yield fields of resources of the admin API."""
    yield AttackField(
        "a key: 10,000 globs of stars",
        "/admin/v1/keys",
        lambda: {"name": "k NUMBER", "role": "viewer", "models": ["*a" * 50] * 10_000},
        lambda: {"name": "k NUMBER", "role": "viewer", "models": ["*"]},
    )
    yield AttackField(
        "a limit: a number of 5,000 digits",
        "/admin/v1/limits",
        # Raw bytes, because Python refuses to print an integer of 5,000 digits.
        lambda: (
            b'{"name": "l NUMBER", "unit": "tokens", "amount": ' + b"9" * 5000 + b"}"
        ),
        lambda: {"name": "l NUMBER", "unit": "tokens", "amount": 10**15},
    )
    yield AttackField(
        "a model: a price of 1e999999999",
        "/admin/v1/models",
        lambda: {
            "name": "m",
            "provider": "openai",
            "definition": {
                "name": "m",
                "context_size": 9,
                "pricing": {
                    "input": "1e999999999",
                    "output": "1",
                    "unit": "0.000001",
                    "currency": "USD",
                },
            },
        },
        lambda: {
            "name": "m NUMBER",
            "provider": "openai",
            "definition": {"name": "m NUMBER", "context_size": 9},
        },
    )
    yield AttackField(
        "usage: filters of 8,000 characters",
        f"/admin/v1/usage?group=model&model={'*a' * 2000}&from=1e999999999",
        lambda: b"",
        lambda: b"",
        method="GET",
    )
    yield AttackField(
        "a plan: a model's name of 1 MB",
        "/admin/v1/plan",
        lambda: {"model": "openai/" + "a" * _MB, "type": "llm"},
        lambda: {"model": _MODEL, "type": "llm"},
    )
    yield AttackField(
        "a provider's name of 1 MB",
        "/admin/v1/credentials",
        lambda: {"name": "c", "provider": "open" * (_MB // 4), "values": {}},
        lambda: {"name": "c NUMBER", "provider": "openai", "values": {"api_key": "sk"}},
    )


# --------------------------------------------------------------------------- the attack


@dataclass(frozen=True)
class Window:
    """The time in which one attacking call could delay others."""

    field: AttackField
    is_hostile: bool
    began: float
    ended: float


def _response_of(document: Any) -> Answer:
    """Return a response in the format of OpenAI's Responses API."""
    message = {
        "type": "message",
        "id": "m",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "fine", "annotations": []}],
    }
    usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    response_head = {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": "completed",
    }
    return json_answer({**response_head, "output": [message], "usage": usage})


def _moderation_of(document: Any) -> Answer:
    """Return one moderation result for each input."""
    count = len(document["input"]) if isinstance(document["input"], list) else 1
    result = {
        "flagged": False,
        "categories": {"hate": False},
        "category_scores": {"hate": 0.0},
    }
    return json_answer({"id": "m", "model": "m", "results": [result] * count})


def _rerank_of(document: Any) -> Answer:
    """Return one rerank result for each document."""
    results = [
        {"index": index, "relevance_score": 0.5}
        for index in range(len(document["documents"]))
    ]
    return json_answer({"model": "m", "results": results, "usage": {"total_tokens": 3}})


def _embedding_of(document: Any) -> Answer:
    """Return one embedding for each input."""
    return embedding_answer(
        [[1.0, 0.5]]
        * (len(document["input"]) if isinstance(document["input"], list) else 1)
    )


_ANSWERS: Mapping[str, Callable[[Any], Answer]] = {
    "responses": _response_of,
    "moderations": _moderation_of,
    "rerank": _rerank_of,
    "embeddings": _embedding_of,
}


class Attacker:
    """The attacking caller, and the provider that answers its requests."""

    def __init__(self, port: int, keys: Mapping[str, str]) -> None:
        self._port, self._keys = port, keys
        self._answer: Answer | None = None
        self._number = 0

    def upstream(self, request: UpstreamRequest) -> Answer:
        """Return the current field's hostile or harmless response, or a plain one in
        the format of the path."""
        # The current field decides what the provider answers.
        if self._answer is not None:
            return self._answer
        answer = _ANSWERS.get(request.path.rpartition("/")[2])
        if answer is not None:
            return answer(json.loads(request.body))
        return json_answer({"a": 1}) if request.method == "GET" else chat_answer("fine")

    def call(self, attack_field: AttackField, *, is_hostile: bool) -> Window:
        """Send one hostile or harmless request and return its window."""
        self._number += 1  # what can be made once is made by another name each time
        # The placeholder makes names unique where the server refuses duplicates.
        body = attack_field.bodies[0 if is_hostile else 1].replace(
            b"NUMBER", b"%d" % self._number
        )
        path = (
            attack_field.path
            if is_hostile
            else attack_field.harmless_path or attack_field.path
        )
        self._answer = (
            attack_field.answers[0 if is_hostile else 1]()
            if attack_field.answers
            else None
        )
        headers = {
            "content-type": attack_field.content_type,
            "x-visitor": "v" * 24,
            "host": f"127.0.0.1:{self._port}",
        }
        if attack_field.key:
            headers["authorization"] = f"Bearer {self._keys[attack_field.key]}"
        if is_hostile:
            headers |= attack_field.headers
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=_MAX_RESPONSE_SECONDS
        )
        status, started_at = 0, time.monotonic()
        try:
            connection.request(attack_field.method, path, body or None, headers)
            answer = connection.getresponse()
            status = answer.status
            response_body = answer.read()
            # Set this variable to see every response when a field does not behave as
            # expected.
            if os.environ.get("MODELYARD_SHOW_TALK"):
                print(
                    is_hostile,
                    attack_field.name,
                    status,
                    response_body[:200],
                    file=sys.stderr,
                )
        except (OSError, http.client.HTTPException):
            pass  # it was refused before it was read
        finally:
            connection.close()
        ended = time.monotonic()
        (attack_field.statuses if is_hostile else attack_field.calm_statuses).add(
            status
        )
        if is_hostile:
            attack_field.seconds.append(ended - started_at)
        # Keep the window open for a minimum time, so that it contains several probe
        # calls.
        time.sleep(max(0.05, started_at + _MIN_WINDOW_SECONDS - ended))
        return Window(attack_field, is_hostile, started_at, time.monotonic())


def _in_window(calls: Sequence[ProbeCall], window: Window) -> list[float]:
    """Return the durations of the calls that overlap with the window."""
    # A call that overlaps with the window only partly may have been delayed as well.
    return [
        call.seconds
        for call in calls
        if call.began < window.ended and call.began + call.seconds > window.began
    ]


def _p99(values: Sequence[float]) -> float:
    """Return the 99th percentile; 0 for an empty sequence."""
    return sorted(values)[int(len(values) * 0.99)] if values else 0.0


def _phase(
    fields: Sequence[AttackField], attacker: Attacker, probe: Probe, *, is_hostile: bool
) -> dict[str, float]:
    """Call all fields once and return the probe's p99 by request type."""
    # Discard the calls before this phase.
    probe.seen()
    windows = [
        attacker.call(attack_field, is_hostile=is_hostile) for attack_field in fields
    ]
    calls_by_type = probe.seen()
    for window in windows:
        longest = max(
            _in_window([*calls_by_type["health"], *calls_by_type["chat"]], window),
            default=0.0,
        )
        (window.field.stalls if is_hostile else window.field.calm).append(longest)
    return {
        request_type: _p99(
            [took for window in windows for took in _in_window(calls, window)]
        )
        for request_type, calls in calls_by_type.items()
    }


def _webhook_path(world: dict[str, Any], port: int) -> str:
    """Return the path of the app's webhook."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"authorization": f"Bearer {world['keys']['mallory']}"}
    path = f"/admin/v1/apps/{world['apps']['hook']}/triggers"
    connection.request("GET", path, headers=headers)
    triggers = json.loads(connection.getresponse().read())
    connection.close()
    return urlsplit(triggers["data"][0]["address"]).path


def prove() -> Proof:
    """Measure all fields on a real server."""
    proof, port = Proof(), free_port()
    probe = Probe(port)
    try:
        with tempfile.TemporaryDirectory(
            prefix="modelyard-show-", ignore_cleanup_errors=True
        ) as home:
            _measure(proof, probe, port, home)
    finally:
        probe.end()
    return proof


def _measure(proof: Proof, probe: Probe, port: int, home: str) -> None:
    """Create the home folder, run the server and all rounds, and report the results."""
    attacker = Attacker(port, {})
    with Upstream(attacker.upstream) as upstream:
        command = [
            sys.executable,
            "-m",
            "tools.show.loop_hostage",
            "world",
            home,
            upstream.url,
            probe.upstream,
        ]
        # A separate process creates the home folder, so that no database handle stays
        # open here.
        process = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        )
        world = json.loads(process.stdout.splitlines()[-1])
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
            world["hook"] = _webhook_path(world, port)
            name_filter = os.environ.get("MODELYARD_SHOW_ONLY", "")
            fields = [
                attack_field
                for attack_field in _fields(world)
                if name_filter in attack_field.name
            ]
            # Build the large bodies before the measurement, because that takes CPU
            # time.
            for attack_field in fields:
                _ = attack_field.bodies
            probe.begin(world["keys"]["quiet"])
            # The attacker and its provider must not compete with the server for the
            # CPU.
            os.nice(10)
            _phase(
                fields, attacker, probe, is_hostile=False
            )  # what every server does once
            rounds = [
                (
                    _phase(fields, attacker, probe, is_hostile=False),
                    _phase(fields, attacker, probe, is_hostile=True),
                )
                for _ in range(ROUNDS)
            ]
    _report(proof, fields, rounds)


def _report(
    proof: Proof,
    fields: Sequence[AttackField],
    rounds: Sequence[tuple[dict[str, float], dict[str, float]]],
) -> None:
    """Report every field, and the other tenant's latency."""
    for attack_field in fields:
        _report_field(proof, attack_field)
    for request_type in ("health", "chat"):
        # Index 0 is the harmless phase of a round, index 1 the hostile one.
        harmless, hostile = (
            statistics.median(phases[phase_index][request_type] for phases in rounds)
            for phase_index in (0, 1)
        )
        ratio = hostile / harmless if harmless else 1.0
        summary = (
            f"{harmless * 1000:.0f} ms during harmless texts, {hostile * 1000:.0f} ms"
            f" during hostile ones: {ratio:.2f} times"
        )
        label = f"p99 of the other tenant, {request_type}"
        proof.line(label, summary, ratio <= _MAX_P99_RATIO)
        proof.figures[f"{request_type}_ratio"] = round(ratio, 2)
    longest_stall = max((attack_field.stall for attack_field in fields), default=0.0)
    proof.figures |= {
        "fields": len(fields),
        "longest_ms": round(longest_stall * 1000),
        "rounds": len(rounds),
    }


def _report_field(proof: Proof, attack_field: AttackField) -> None:
    """Report a field. It passes if the stall is short, the response arrives in time, and
    the harmless text was accepted."""
    calm = statistics.median(attack_field.calm)
    summary = (
        f"{attack_field.stall * 1000:5.0f} ms at most, {calm * 1000:3.0f} harmless; "
        f"status {sorted(attack_field.statuses)} in {min(attack_field.seconds):.2f} s,"
        f" harmless {sorted(attack_field.calm_statuses)}"
    )
    is_short = attack_field.stall < _MAX_STALL_SECONDS
    is_answered = max(attack_field.seconds) < _MAX_RESPONSE_SECONDS
    is_real = all(200 <= status < 300 for status in attack_field.calm_statuses)
    proof.line(attack_field.name, summary, is_short and is_answered and is_real)


if __name__ == "__main__":
    if sys.argv[1] == "probe":
        _probe(int(sys.argv[2]))
    else:
        print(json.dumps(asyncio.run(_build(*sys.argv[2:5]))))
