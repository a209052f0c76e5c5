"""Send mutated requests to every route of every API. None may cause an unhandled error,
a status of 500 or a hang.

Valid requests for every route are the seeds. Values that often break servers then
replace parts of their bodies, paths, queries and headers. Field names are taken from
the source code, so a new field is tested at once. In addition, schemathesis generates
requests from the OpenAPI description.
"""

import asyncio
import json
import logging
import os
import random
import re
import tempfile
import traceback
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from modelyard.gateway.admin.rows import PREFIX
from modelyard.gateway.openapi import describe
from modelyard.tenancy.caller import Caller
from modelyard.testing import (
    Answer,
    Upstream,
    UpstreamRequest,
    chat_answer,
    chat_events,
    embedding_answer,
    json_answer,
    stream_answer,
)
from tools.show.proof import ROOT, Proof
from tools.show.tenancy import TenantWorld, app_cases, build, call_cases, cases

CASES = int(os.environ.get("MODELYARD_SHOW_CASES", "60000"))
DESCRIBED_FRACTION = 0.15
"""The fraction of the cases that schemathesis generates."""
_CASES_PER_WORLD = 2500
"""Cases before the tenants are created again: resources that a case deletes are missing
for later cases."""
_TIMEOUT_SECONDS = 15.0
_STREAM_SECONDS = 0.3
# Matches the reader functions and dictionary look-ups with which the source reads
# fields.
_FIELD = re.compile(
    r"""(?:need|may|number|query|list_of|mapping_of)\((?:\w+, )?"(\w+)"|\.get\("(\w+)"\)|\["(\w+)"\]"""
)
# A list nested 2,000 levels deep, to exceed recursion limits.
_deep: Any = []
for _ in range(2000):
    _deep = [_deep]
# Boundary numbers, non-ASCII digits, lone surrogates, injection strings and wrong
# types.
HOSTILE: Sequence[Any] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    1e308,
    -1e308,
    0.1,
    "",
    " ",
    "0",
    "-1",
    "²",
    "٣",
    "9" * 5000,
    "1e400",
    "NaN",
    "Infinity",
    "é",
    "\x00",
    "\ud800",
    "😀" * 20,
    "a" * 70_000,
    "../../etc/passwd",
    "%00",
    "%2e%2e/",
    "://",
    "http://[",
    "http://127.0.0.1:9/x",
    "file:///etc/passwd",
    "data:image/png;base64,@@@",
    "null",
    "2024-13-45",
    "1" * 400 + ".5",
    "a/b/c",
    "openai/",
    "/",
    "{",
    "{{#a.b#}}",
    "{{ 1/0 }}",
    "^(a+)+$",
    "*",
    "?",
    "'; --",
    [],
    {},
    [None],
    [[]],
    [1, "a", {}],
    {"": ""},
    {"a": {"b": {"c": []}}},
    [{}] * 3,
    ["x"] * 300,
    {"type": "x"},
    {"role": 1},
    {"type": ["text"]},
    [{"role": "user", "content": [{"type": "text"}]}],
)
# Bodies that are invalid JSON, extremely nested, or not JSON at all.
RAW: Sequence[bytes] = (
    b"",
    b"{",
    b"null",
    b"[]",
    b"1",
    b'"x"',
    b"NaN",
    b'{"a": NaN}',
    b"\xff\xfe",
    b"{" * 3000,
    b"[" * 100_000,
    b'{"a":' * 20_000,
    b"\x00" * 100,
    b"a=b&c=d",
    b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n',
    b'{"model": "openai/gpt-5-mini", "messages": "\\ud800"}',
    b'{"a": 1e999}',
    b'{"a": 1, "a": {}}',
)
HEADERS: Sequence[tuple[bytes, bytes]] = (
    (b"content-type", b"multipart/form-data; boundary="),
    (b"content-type", b"multipart/form-data; boundary=x"),
    (b"content-type", b"text/plain; charset=punycode"),
    (b"content-type", b"\xff"),
    (b"content-type", b""),
    (b"authorization", b"Bearer \xe9\xff"),
    (b"authorization", b"Bearer"),
    (b"authorization", b"Basic ::"),
    (b"authorization", b"Bearer mdy_" + b"\xc2\xb2" * 20),
    (b"authorization", b"Bearer app-\xff"),
    (b"authorization", b"Bearer dataset-\xff"),
    (b"x-api-key", b"\xe9"),
    (b"x-goog-api-key", b""),
    (b"content-length", b"\xb2"),
    (b"content-length", b"9" * 400),
    (b"content-length", b"-1"),
    (b"x-modelyard-cache", b"\xe9"),
    (b"x-modelyard-tenant", b"\xe9"),
    (b"last-event-id", b"\xb2"),
    (b"last-event-id", b"9" * 5000),
    (b"idempotency-key", b"\xe9" * 300),
    (b"cookie", b"modelyard-session=\xff; =;;"),
    (b"x-visitor", b"v" * 30),
    (b"x-visitor", b"\xe9" * 30),
    (b"accept", b"\xff"),
    (b"mcp-session-id", b"\xe9"),
    (b"mcp-protocol-version", b"\xb2"),
    (b"a2a-version", b"\xe9"),
    (b"range", b"bytes=\xb2-"),
    (b"host", b"[::1"),
    (b"origin", b"http://["),
    (b"x-forwarded-proto", b"\xff"),
    (b"accept-language", b"\xe9" * 500),
)


_TOOL = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["a"]}},
    "required": ["city"],
}
_PICTURE = "data:image/png;base64,iVBORw0KGgo="
VALID_REQUESTS: Mapping[str, Any] = {
    "/v1/chat/completions": {
        "model": "openai/gpt-5-mini",
        "stream": False,
        "max_tokens": 5,
        "temperature": 0.5,
        "stop": ["x"],
        "n": 1,
        "seed": 1,
        "messages": [
            {"role": "system", "content": "s"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "t"},
                    {"type": "image_url", "image_url": {"url": _PICTURE}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c",
                        "type": "function",
                        "function": {"name": "f", "arguments": "{}"},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c", "content": "r"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "f",
                    "description": "d",
                    "parameters": _TOOL,
                    "strict": True,
                },
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "stream_options": {"include_usage": True},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": _TOOL},
        },
        "logit_bias": {"1": 1},
    },
    "/v1/responses": {
        "model": "openai/gpt-5-mini",
        "instructions": "i",
        "max_output_tokens": 20,
        "reasoning": {"effort": "low"},
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "t"},
                    {"type": "input_image", "image_url": _PICTURE},
                ],
            },
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "r"},
            {
                "type": "reasoning",
                "id": "r",
                "summary": [{"type": "summary_text", "text": "s"}],
                "encrypted_content": "x",
            },
        ],
        "tools": [
            {"type": "function", "name": "f", "parameters": _TOOL},
            {"type": "file_search", "vector_store_ids": ["x"]},
        ],
        "text": {"format": {"type": "json_schema", "name": "a", "schema": _TOOL}},
        "store": True,
        "include": ["x"],
    },
    "/v1/messages": {
        "model": "openai/gpt-5-mini",
        "max_tokens": 10,
        "system": [{"type": "text", "text": "s"}],
        "stop_sequences": ["x"],
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "text",
                        "text": "t",
                        "cache_control": {"type": "ephemeral"},
                    },
                    {
                        "type": "image",
                        "source": {
                            "type": "base64",
                            "media_type": "image/png",
                            "data": "iVBORw0KGgo=",
                        },
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "c", "name": "f", "input": {}},
                    {"type": "thinking", "thinking": "t", "signature": "s"},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "c",
                        "content": [{"type": "text", "text": "r"}],
                    }
                ],
            },
        ],
        "tools": [{"name": "f", "input_schema": _TOOL}],
        "tool_choice": {"type": "any"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "metadata": {"user_id": "u"},
    },
    "/v1/messages/count_tokens": {
        "model": "openai/gpt-5-mini",
        "messages": [{"role": "user", "content": "x"}],
    },
    "/v1beta/models/openai/gpt-5-mini:generateContent": {
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "t"},
                    {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
                ],
            },
            {
                "role": "model",
                "parts": [
                    {
                        "functionCall": {"name": "f", "args": {}},
                        "thoughtSignature": "eA==",
                    }
                ],
            },
            {
                "role": "user",
                "parts": [{"functionResponse": {"name": "f", "response": {"a": 1}}}],
            },
        ],
        "systemInstruction": {"parts": [{"text": "s"}]},
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
        "tools": [
            {
                "functionDeclarations": [
                    {
                        "name": "f",
                        "parameters": {
                            "type": "OBJECT",
                            "properties": {"a": {"type": "STRING"}},
                        },
                    }
                ]
            }
        ],
        "generationConfig": {
            "maxOutputTokens": 5,
            "temperature": 1,
            "stopSequences": ["x"],
            "responseMimeType": "application/json",
            "responseSchema": {"type": "OBJECT"},
            "thinkingConfig": {"thinkingBudget": 5},
        },
        "safetySettings": [{"category": "x", "threshold": "y"}],
    },
    "/v1beta/models/openai/gpt-5-mini:countTokens": {
        "contents": [{"parts": [{"text": "t"}]}]
    },
    "/v1beta/models/openai/text-embedding-3-small:batchEmbedContents": {
        "requests": [{"content": {"parts": [{"text": "t"}]}}]
    },
    "/v2/chat": {
        "model": "openai/gpt-5-mini",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "t"}]}],
        "p": 0.5,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": _TOOL}}],
        "documents": [{"data": {"text": "d"}}],
    },
    "/v2/embed": {
        "model": "openai/text-embedding-3-small",
        "texts": ["a"],
        "input_type": "search_query",
        "embedding_types": ["float"],
    },
    "/v2/rerank": {
        "model": "openai/x",
        "query": "q",
        "documents": ["a", {"text": "b"}],
        "top_n": 1,
    },
    "/v1/completions": {
        "model": "openai/gpt-5-mini",
        "prompt": ["a"],
        "max_tokens": 5,
        "suffix": "s",
        "logprobs": 1,
        "echo": False,
    },
    "/v1/embeddings": {
        "model": "openai/text-embedding-3-small",
        "input": ["a", [1, 2]],
        "dimensions": 3,
        "encoding_format": "base64",
    },
    "/v1/rerank": {
        "model": "openai/x",
        "query": "q",
        "documents": ["a"],
        "top_n": 1,
        "return_documents": True,
    },
    "/v1/moderations": {
        "model": "openai/omni-moderation-latest",
        "input": [{"type": "text", "text": "t"}],
    },
    "/v1/audio/speech": {
        "model": "openai/gpt-4o-mini-tts",
        "input": "t",
        "voice": "alloy",
        "response_format": "mp3",
        "speed": 1.0,
    },
    "/mcp": {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "calculate", "arguments": {"expression": "1+1"}},
    },
    "/admin/tools/call": {"tool": "calculate", "arguments": {"expression": "1+1"}},
    "/admin/tool-providers": {
        "name": "x",
        "type": "api",
        "description": {
            "openapi": "3.0.0",
            "info": {},
            "paths": {
                "/a/{b}": {
                    "get": {
                        "operationId": "o",
                        "parameters": [
                            {"name": "b", "in": "path", "schema": {"type": "string"}}
                        ],
                    }
                }
            },
        },
        "server": "http://example.org",
        "auth": {"type": "bearer", "values": {"key": "k"}},
    },
    "/admin/v1/limits": {
        "name": "l",
        "unit": "tokens",
        "amount": 5,
        "window": "day",
        "model": "openai/*",
        "per": "key",
    },
    "/admin/v1/routes": {
        "name": "r",
        "targets": [{"model": "openai/gpt-5-mini", "weight": 1}],
        "strategy": "weighted",
        "retries": 1,
    },
    "/admin/v1/models": {
        "name": "m",
        "provider": "openai",
        "definition": {
            "name": "mm",
            "context_size": 100,
            "pricing": {
                "input": "1",
                "output": "2",
                "unit": "0.000001",
                "currency": "USD",
            },
            "parameter_rules": [{"name": "temperature"}],
        },
    },
    "/admin/v1/credentials": {
        "name": "c",
        "provider": "openai",
        "values": {"api_key": "k", "base_url": "http://127.0.0.1:9"},
        "weight": 1,
    },
    "/admin/v1/keys": {
        "name": "k",
        "role": "viewer",
        "models": ["openai/*"],
        "user": "u",
        "priority": 1,
        "expires_at": 4e9,
    },
    "/admin/v1/apps": {
        "name": "a",
        "file": "kind: app\nversion: 0.6.0\napp: {name: b, mode: chat}\n",
    },
    "/admin/v1/split": {
        "text": "a b c",
        "rule": {
            "mode": "custom",
            "rules": {"segmentation": {"max_tokens": 50, "separator": "x"}},
        },
    },
    "/admin/v1/plan": {"model": "openai/gpt-5-mini", "type": "llm"},
    "/retrieval": {
        "knowledge_id": "x",
        "query": "text of it",
        "retrieval_setting": {"top_k": 2, "score_threshold": 0.1},
    },
    "/console/api/sign-in": {"email": "a@example.org", "password": "x" * 12},
    "/console/api/set-up": {
        "email": "a@example.org",
        "password": "x" * 12,
        "name": "a",
    },
}
"""Valid or nearly valid requests by path, which use most features of their format."""


ADDRESSES = (
    "/files/x?tenant=alpha&until=%C2%B2&sign=a",
    f"/files/x?tenant=alpha&until={'9' * 5000}&sign=a",
    "/oauth/begin/abc.%C3%A9",
    "/files/x?tenant=alpha&until=99999999999&sign=%C3%A9",
    "/oauth/back?state=%C3%A9.%C3%A9&code=x",
    "/chat/%C3%A9/messages",
    "/e/%C3%A9/x",
    "/t/%C3%A9",
    "/triggers/webhook/%C3%A9",
    "/console/%C3%A9",
    "/a2a/%C3%A9",
    "/console/api/oidc/back?state=%C3%A9",
)


@dataclass
class Tally:
    """Counts and findings of a campaign."""

    cases: int = 0
    hangs: list[str] = field(default_factory=list[str])
    failures: dict[str, tuple[int, str]] = field(
        default_factory=dict[str, tuple[int, str]]
    )
    """Failure group → number of failures and one example request."""
    statuses: Counter[int] = field(default_factory=Counter[int])

    def failed(self, group: str, case: str) -> None:
        """Count a failure. The first case of a group is stored as the example."""
        count, first = self.failures.get(group, (0, case))
        self.failures[group] = (count + 1, first)


class _Unhandled(logging.Handler):
    """Log handler that stores the last exception that the gateway did not handle."""

    def __init__(self) -> None:
        super().__init__()
        self.last: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Store the location, type and message of a logged exception."""
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            frames = traceback.extract_tb(error.__traceback__)
            # The innermost frame in this project identifies the bug better than the
            # innermost frame of a library.
            own_frames = [frame for frame in frames if "modelyard" in frame.filename]
            where = own_frames[-1] if own_frames else frames[-1]
            name = where.filename.rpartition("modelyard/")[2]
            self.last = (
                f"{name}:{where.lineno} {type(error).__name__}: {str(error)[:60]}"
            )


def field_names(world: TenantWorld) -> list[str]:
    """Return the names of all fields and query parameters that the source code reads
    from requests, sorted."""
    names = {
        query.name for _, row in world.gateway.router.rows() for query in row.query
    }
    for folder in ("gateway", "wire", "knowledge", "workflow", "runtime"):
        for path in (ROOT / "src/modelyard" / folder).rglob("*.py"):
            names |= _names_read_by(path.read_text("utf-8"))
    return sorted(names)


def _names_read_by(source: str) -> set[str]:
    """Return the names of the fields that a module's source reads."""
    return {next(filter(None, match.groups())) for match in _FIELD.finditer(source)}


@dataclass(frozen=True)
class Case:
    """One request: the key to authenticate with, and the request's parts. `raw`
    replaces `body` if it is set."""

    key: str
    method: str
    path: str
    body: Any = None
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()
    raw: bytes | None = None

    def __str__(self) -> str:
        body = repr(self.raw)[:120] if self.raw is not None else repr(self.body)[:300]
        return f"{self.method} {self.path[:120]!r} query {str(self.query)[:200]} {self.headers} body {body}"


Group = tuple[str, str, str]
"""A key, a method, and a path whose ids are replaced by `ID`."""


def start_cases(world: TenantWorld) -> dict[Group, list[Case]]:
    """Return valid requests for every route, with existing ids and authorised keys.

    They are grouped by route, so that each route is tried equally often.
    """
    groups: dict[Group, list[Case]] = {}
    for case in _all_cases(world):
        # Path segments with digits or test names are ids. A version like `v1` is not.
        path = re.sub(
            r"(?<=/)(?!v\d)[^/?]*(\d|canary|alpha)[^/?]*",
            "ID",
            case.path.partition("?")[0],
        )
        groups.setdefault((case.key, case.method, path), []).append(case)
    for path, body in VALID_REQUESTS.items():
        groups["rich", "POST", path] = [Case("alpha/owner", "POST", path, body)]
    return groups


def _all_cases(world: TenantWorld) -> list[Case]:
    all_cases: list[Case] = []
    for method, path, body, _ in (*cases(world), *app_cases(world)):
        all_cases.append(Case("alpha/owner", method, path, body))
    for method, path, body, _ in call_cases(world):
        all_cases.append(Case("alpha/app", method, path, body))
    for _, row in world.gateway.router.rows():
        # Routes with a required role are tried as operator and as tenant owner; the
        # others as owner and anonymously.
        keys = (
            ("operator", "alpha/owner")
            if row.auth.role is not None
            else ("alpha/owner", "")
        )
        path = re.sub(r"\{\w+(:path)?\}", "x", row.path)
        all_cases += [Case(key, row.method, path) for key in keys]
    all_cases += _upload_cases(world)
    all_cases += [Case("", "GET", path) for path in ADDRESSES]
    page = world.ids.get("page", ["none"])[0]
    # The same calls on the public chat page of an app, without a key.
    for method, path, body, _ in call_cases(world):
        all_cases.append(
            Case("", method, path.replace("/v1/", f"/chat/{page}/", 1), body)
        )
    for api, row in world.gateway.router.rows():
        if api.name == "admin":
            # Each admin route is tried with an invalid id and with an existing one.
            all_cases.append(
                Case("operator", row.method, re.sub(r"\{\w+\}", "x", row.path))
            )
            all_cases.append(
                Case("alpha/owner", row.method, _with_ids(world, row.path))
            )
    return all_cases


def _upload_cases(world: TenantWorld) -> list[Case]:
    """Return file uploads and signed addresses."""
    content_type = ((b"content-type", b"multipart/form-data; boundary=x"),)
    file = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\ncontent-type: text/plain\r\n\r\nabc\r\n'
    fields = b"".join(
        b'--x\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n'
        % name_and_value
        for name_and_value in (
            (b"model", b"openai/whisper-1"),
            (b"temperature", b"0.5"),
            (b"user", b"u"),
            (b"data", b'{"name": "a"}'),
        )
    )
    dataset, app = world.ids["dataset"][0], world.ids["app"][0]
    signed = world.yard.services.storage.files.sign(
        "read", "alpha", world.ids["file"][0], seconds=600
    )
    uploads = (
        ("alpha/owner", "/v1/audio/transcriptions"),
        ("alpha/app", "/v1/files/upload"),
        ("alpha/app", "/v1/audio-to-text"),
        ("alpha/owner", f"/v1/datasets/{dataset}/document/create-by-file"),
        ("alpha/owner", f"/admin/v1/apps/{app}/files"),
        ("operator", "/admin/v1/plugins"),
    )
    return [
        *(
            Case(
                key, "POST", path, None, (), content_type, file + fields + b"--x--\r\n"
            )
            for key, path in uploads
        ),
        Case("", "GET", f"/files/{world.ids['file'][0]}?{signed}"),
    ]


def _with_ids(world: TenantWorld, path: str) -> str:
    def id_for(match: re.Match[str]) -> str:
        """Return an existing id of the resource that the preceding path segment names."""
        segments = path[: match.start()].rstrip("/").rpartition("/")[2]
        # Collections are plural and the ids are stored by the singular: `apps` → `app`.
        return world.ids.get(segments.rstrip("s"), ["x"])[0]

    return re.sub(r"\{(\w+)\}", id_for, path)


def mutate(case: Case, names: Sequence[str], chance: random.Random) -> Case:
    """Apply one to three random mutations to a request."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        case = _mutate_once(case, names, chance)
    return case


def _mutate_once(case: Case, names: Sequence[str], chance: random.Random) -> Case:
    # Path 10 %, query 20 %, header 10 %, raw body 10 %, added fields 20 %, replaced
    # values 30 %.
    match chance.randrange(10):
        case 0:
            return replace(case, path=_mutated_path(case.path, chance), raw=None)
        case 1 | 2:
            value = chance.choice(HOSTILE)
            text = value if isinstance(value, str) else json.dumps(value)
            query = (*case.query, (chance.choice(names), text[:8000]))
            return replace(case, query=query)
        case 3:
            return replace(case, headers=(*case.headers, chance.choice(HEADERS)))
        case 4:
            return replace(case, body=None, raw=chance.choice(RAW))
        case 5 | 6:
            body = dict(case.body) if isinstance(case.body, dict) else {}
            for _ in range(chance.randrange(1, 4)):
                body[chance.choice(names)] = chance.choice(HOSTILE)
            return replace(case, body=body, raw=None)
        case _:
            return replace(
                case, body=_replace_random_value(case.body, chance), raw=None
            )


def _mutated_path(path: str, chance: random.Random) -> str:
    target, _, query = path.partition("?")
    segments = target.split("/")
    value = chance.choice(
        [
            candidate
            for candidate in HOSTILE
            if isinstance(candidate, str) and len(candidate) < 6000
        ]
    )
    segments[chance.randrange(1, max(2, len(segments)))] = value
    return "/".join(segments) + (f"?{query}" if query else "")


def _replace_random_value(body: Any, chance: random.Random) -> Any:
    """Replace one value of the body, at a random depth."""
    # Descend in 85 % of the cases, so that replacements occur at every depth.
    if isinstance(body, dict) and body and chance.random() < 0.85:
        name = chance.choice(list(body))
        return {**body, name: _replace_random_value(body[name], chance)}
    if isinstance(body, list) and body and chance.random() < 0.85:
        index = chance.randrange(len(body))
        return [
            *body[:index],
            _replace_random_value(body[index], chance),
            *body[index + 1 :],
        ]
    value = chance.choice(HOSTILE)
    return _deep if chance.random() < 0.01 else value


async def send(world: TenantWorld, case: Case) -> tuple[int, bytes]:
    """Send a request to the gateway through ASGI, without a socket. Return status and
    body; status 0 if there was no response."""
    scope, data = _scope_of(world, case), _raw_body(case)
    messages: list[Any] = []
    is_sent = False

    async def receive() -> Any:
        """ASGI receive: the body once, then a client disconnect after a short time."""
        nonlocal is_sent
        if not is_sent:
            is_sent = True
            return {"type": "http.request", "body": data, "more_body": False}
        # Event streams may never end; a disconnect ends them.
        await asyncio.sleep(_STREAM_SECONDS)
        return {"type": "http.disconnect"}

    async def collect(message: Any) -> None:
        """ASGI send: collect the message."""
        messages.append(message)

    # A stream that breaks is cut, as the server does it; the log has the reason.
    with suppress(Exception):
        await world.gateway(scope, receive, collect)
    if not messages:
        return 0, b""
    body = b"".join(message.get("body", b"") for message in messages[1:])
    return messages[0]["status"], body


def _raw_body(case: Case) -> bytes:
    """Return the bytes of a request's body."""
    if case.raw is not None:
        return case.raw
    return b"" if case.body is None else _encoded(case.body)


def _scope_of(world: TenantWorld, case: Case) -> dict[str, Any]:
    """Return the ASGI scope of a request."""
    target, _, query = case.path.partition("?")
    extra = urllib.parse.urlencode(case.query, errors="surrogatepass")
    query = "&".join(filter(None, (query, extra)))
    # As an ASGI server does: decode the path and replace invalid UTF-8.
    path = urllib.parse.unquote(target).encode("utf-8", "replace").decode("utf-8")
    return {
        "type": "http",
        "method": case.method,
        "path": path,
        "query_string": query.encode("utf-8", "replace"),
        "headers": _headers_of(world, case),
        "client": ("127.0.0.1", 5),
        "scheme": "http",
        "http_version": "1.1",
        "raw_path": urllib.parse.quote(path).encode(),
        "root_path": "",
        "server": ("127.0.0.1", 8790),
    }


def _headers_of(world: TenantWorld, case: Case) -> list[tuple[bytes, bytes]]:
    """Return the headers of a request. A header of the case replaces the usual one, so
    that a broken header is not duplicated."""
    names = {name for name, _ in case.headers}
    headers = [*case.headers]
    if case.key and b"authorization" not in names:
        headers.append((b"authorization", b"Bearer " + world.keys[case.key].encode()))
    if b"content-type" not in names:
        headers.append((b"content-type", b"application/json"))
    if not case.key and b"x-visitor" not in names:
        headers.append((b"x-visitor", b"visitor-0123456789abcdef"))
    return headers


def _encoded(body: Any) -> bytes:
    """Encode the body as JSON. A body that is nested too deeply for the encoder becomes
    raw brackets."""
    try:
        return json.dumps(body).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b"[" * 5000 + b"]" * 5000


async def trial(
    world: TenantWorld, case: Case, unhandled: _Unhandled, tally: Tally
) -> None:
    """Send a request and record a hang, an unhandled error or a status of 500."""
    unhandled.last = None
    tally.cases += 1
    try:
        status, body = await asyncio.wait_for(send(world, case), _TIMEOUT_SECONDS)
    except TimeoutError:
        tally.hangs.append(str(case))
        return
    tally.statuses[status] += 1
    if unhandled.last is not None:
        tally.failed(unhandled.last, str(case))
    elif status == 500:
        # Ids are replaced, so that equal errors form one group.
        tally.failed(
            f"500: {re.sub(r'[0-9a-zA-Z_-]{20,}', 'ID', body.decode('utf-8', 'replace'))[:120]}",
            str(case),
        )


def upstream_answer(request: UpstreamRequest) -> Answer:
    """Answer as the simulated provider, in the format of the requested path."""
    try:
        body = request.json
    except ValueError:
        return json_answer({"error": {"message": "no JSON"}}, status=400)
    if not isinstance(body, dict):
        return json_answer({"error": {"message": "no object"}}, status=400)
    if request.path.endswith("/embeddings"):
        texts = body.get("input")
        return embedding_answer(
            [[1.0, 0.5, 0.25]] * (len(texts) if isinstance(texts, list) else 1)
        )
    if request.path.endswith("/responses"):
        text = [{"type": "output_text", "text": "fine", "annotations": []}]
        message = {
            "type": "message",
            "role": "assistant",
            "id": "m",
            "status": "completed",
            "content": text,
        }
        usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        return json_answer(
            {
                "id": "r",
                "object": "response",
                "status": "completed",
                "model": "m",
                "created_at": 1,
                "output": [message],
                "usage": usage,
            }
        )
    return (
        stream_answer(chat_events(["fi", "ne"]))
        if body.get("stream") is True
        else chat_answer("fine")
    )


async def weights(url: str) -> dict[Group, int]:
    """Return how often each group is tried. Requests that are refused before their
    content is read get a low weight."""
    weight_by_group: dict[Group, int] = {}
    with tempfile.TemporaryDirectory(
        prefix="modelyard-show-", ignore_cleanup_errors=True
    ) as folder:
        world = await make_world(folder, url)
        try:
            for group, group_cases in start_cases(world).items():
                # A DELETE would remove data that the later probes need.
                if group[1] == "DELETE" or not await _can_call(world):
                    weight_by_group[group] = 2
                    continue
                # Probe the group once: only requests that pass authentication are worth
                # many tries.
                status, _ = await asyncio.wait_for(
                    send(world, group_cases[0]), _TIMEOUT_SECONDS
                )
                weight_by_group[group] = (
                    30 if group[0] == "rich" else 1 if status in (401, 404, 405) else 10
                )
        finally:
            await world.yard.aclose()
    return weight_by_group


async def make_world(folder: str, url: str, *, database: str = "") -> TenantWorld:
    """Create tenants with data, an operator key and a public app page."""
    world = await build(folder, url, [], database=database)
    operator = Caller(tenant="default")
    created = await world.yard.services.tenancy.administration.create(
        operator, "default", "key", "operator", {"role": "owner"}
    )
    world.keys["operator"] = created["key"]
    app = world.yard.apps.list_all("alpha")[0]
    world.ids["page"] = [app.stored.page.token]
    return world


async def campaign(
    count: int, seed: int, *, described: float = DESCRIBED_FRACTION
) -> Tally:
    """Run `count` cases. The same seed gives the same cases."""
    tally, chance = Tally(), random.Random(seed)
    unhandled = _Unhandled()
    logger = logging.getLogger("modelyard")
    logger.addHandler(unhandled)
    # Do not print thousands of expected errors.
    was_propagating, logger.propagate = logger.propagate, False
    try:
        with Upstream(upstream_answer) as upstream:
            weight_by_group = await weights(upstream.url)
            while tally.cases < count:
                await _one_world(
                    weight_by_group,
                    upstream.url,
                    min(_CASES_PER_WORLD, count - tally.cases),
                    chance,
                    unhandled,
                    tally,
                    described,
                )
    finally:
        logger.removeHandler(unhandled)
        logger.propagate = was_propagating
    return tally


async def _one_world(
    weight_by_group: Mapping[Group, int],
    url: str,
    count: int,
    chance: random.Random,
    unhandled: _Unhandled,
    tally: Tally,
    described: float,
) -> None:
    """Run at most `count` cases against one world."""
    with tempfile.TemporaryDirectory(
        prefix="modelyard-show-", ignore_cleanup_errors=True
    ) as folder:
        world = await make_world(folder, url)
        start = start_cases(world)
        groups, names = list(start), field_names(world)
        shares = [weight_by_group.get(group, 1) for group in groups]
        try:
            # A case may revoke the keys of this world. Then the loop ends early and the
            # campaign creates the next world.
            for _ in range(int(count * (1 - described))):
                (group,) = chance.choices(groups, shares)
                await trial(
                    world,
                    mutate(chance.choice(start[group]), names, chance),
                    unhandled,
                    tally,
                )
                if tally.cases % 100 == 0 and not await _can_call(world):
                    break
            for case in described_cases(
                world, count - int(count * (1 - described)), chance.randrange(2**31)
            ):
                await trial(world, case, unhandled, tally)
        finally:
            await world.yard.aclose()


async def _can_call(world: TenantWorld) -> bool:
    """Return whether the keys of a world still work, on routes that cost little."""
    statuses = [
        (await send(world, Case(key, "GET", path)))[0]
        for key, path in (
            ("alpha/owner", f"{PREFIX}/routes"),
            ("operator", f"{PREFIX}/routes"),
            ("alpha/app", "/v1/info"),
        )
    ]
    return statuses == [200, 200, 200]


def described_cases(world: TenantWorld, count: int, seed: int) -> Iterator[Case]:
    """Yield requests that schemathesis generates from the admin API's OpenAPI
    description."""
    if count <= 0:
        return
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from schemathesis.generation import GenerationMode

    described = next(
        describe(api) for api in world.gateway.router.apis if api.name == "admin"
    )
    schema = schemathesis.openapi.from_dict(described)
    operations = [result.ok() for result in schema.get_all_operations()]
    cases_per_operation = max(1, count // len(operations))
    generated_cases: list[Case] = []
    for operation_index, operation in enumerate(operations):
        modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        # Alternate between valid and invalid requests by operation.
        strategy = operation.as_strategy(generation_mode=modes[operation_index % 2])

        def take(case: Any) -> None:
            """Store a generated case."""
            generated_cases.append(_from_schemathesis(case))

        # Hypothesis generates the examples; without a database and deadline the seed
        # alone decides.
        seeded(seed + operation_index)(
            settings(
                max_examples=cases_per_operation,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )(given(strategy)(take))
        )()
    yield from generated_cases[:count]


def _from_schemathesis(case: Any) -> Case:
    path = case.formatted_path
    query = tuple((str(name), str(value)) for name, value in (case.query or {}).items())
    headers = tuple(
        (
            str(name).lower().encode("latin-1", "replace"),
            str(value).encode("latin-1", "replace"),
        )
        for name, value in (case.headers or {}).items()
    )
    # Omit objects of schemathesis that stand for a missing body.
    body = (
        case.body
        if isinstance(case.body, dict | list | str | int | float | bool)
        else None
    )
    return Case("operator", case.method.upper(), path, body, query, headers)


def prove() -> Proof:
    """Run a campaign and report its findings."""
    proof = Proof()
    tally = asyncio.run(campaign(CASES, 20_260_101))
    unhandled = {
        group: failure
        for group, failure in tally.failures.items()
        if not group.startswith("500:")
    }
    refused = {
        group: failure
        for group, failure in tally.failures.items()
        if group.startswith("500:")
    }
    # The most frequent failures first.
    for group, (count, case) in sorted(
        tally.failures.items(), key=lambda failure: -failure[1][0]
    )[:60]:
        proof.line(f"{count} × {group}", case[:400], False)
    proof.line("cases", tally.cases, tally.cases >= CASES)
    proof.line(
        "unhandled errors", sum(count for count, _ in unhandled.values()), not unhandled
    )
    proof.line(
        "refusals sent as 500", sum(count for count, _ in refused.values()), not refused
    )
    proof.line("hangs", len(tally.hangs), not tally.hangs)
    proof.line("statuses", dict(sorted(tally.statuses.items())))
    proof.figures |= {
        "cases": tally.cases,
        "unhandled": sum(count for count, _ in unhandled.values()),
        "refused_as_500": sum(count for count, _ in refused.values()),
        "hangs": len(tally.hangs),
        "statuses": {
            str(status): count for status, count in sorted(tally.statuses.items())
        },
    }
    return proof
