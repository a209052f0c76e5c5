"""The recorded HTTP exchanges with model vendors. Each has its wire format, or the
reason why it is not supported."""

import base64
import gzip
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from modelyard.transport.aws_events import AwsEventStream

FOLDER = Path(__file__).parents[2] / "tests" / "wire" / "recordings"

# Pattern at the end of a path → wire format. Excluded paths and the reasons are listed
# in `_NOT_CALLS`.
_BY_PATH = (
    (r"/chat/completions$", "openai_chat"),
    (r"^/v1/chat$", "openai_chat"),  # Writer's
    (r"/responses(/[^/]+)?$", "openai_responses"),
    (r"/v1/messages$", "anthropic"),
    (r":(generateContent|streamGenerateContent)$", "gemini"),
    (r"/converse(-stream)?$", "bedrock"),
    (r"^/v2/chat$", "cohere"),
    (r"^/api/(chat|generate)$", "ollama"),
    (r"/v1/completions$", "openai_completions"),
    (r"/v2/embed$", "embed:cohere"),
    (r":(batchEmbedContents)$", "embed:gemini"),
    (r"^/api/embed(dings)?$", "embed:ollama"),
    (r"/embeddings$", "embed:openai"),
    (r"/v2/rerank$", "rerank:cohere"),
    (r"/rerank$", "rerank:openai"),
)
_NOT_CALLS = (
    (r"/threads|/assistants", "OpenAI's Assistants, retired in 2026"),
    (
        r"/files|/fileSearchStores|/vector_stores|/upload|/cachedContents",
        "files and stores, not model calls",
    ),
    (
        r"/conversations|/realtime|/traces|/interactions",
        "sessions and traces, not model calls",
    ),
    (r"count.?tokens|countTokens|/input_tokens", "token counts"),
    (
        r"/models$|/schema|/meta|/nodes|/objects|/graphql|/indexes|/api/models|/predictions|/streams",
        "lists, databases and job queues",
    ),
    (r"/complete$|/v1/generate$|/v1/chat$", "formats that their makers have retired"),
    (r"/guardrail/|/agents/", "guardrails and agents, not model calls"),
    (
        r"/invoke|:predict$|:embedContent$",
        "models' own bodies behind Bedrock's invoke and Vertex's predict",
    ),
    (r"/stable-diffusion|/clipdraw|/versions/", "images"),
    (r"^/$", "one model's own server"),
)

# Fixture folders → wire format. The other folders contain images, music, translation
# and agent logs.
_FIXTURES = (
    ("anthropic/src/__fixtures__", "anthropic"),
    ("amazon-bedrock/src/__fixtures__", "bedrock"),
    ("cohere/src/__fixtures__", "cohere"),
    ("google/src/__fixtures__", "gemini"),
    ("openai/src/responses", "openai_responses"),
    ("azure/src/__fixtures__", "openai_responses"),
    ("open-responses/src/responses", "openai_responses"),
    ("xai/src/responses", "openai_responses"),
    ("openai/src/chat", "openai_chat"),
    ("openai-compatible/src/chat", "openai_chat"),
    ("deepseek/src/chat", "openai_chat"),
    ("alibaba/src/__fixtures__", "openai_chat"),
    ("groq/src/__fixtures__", "openai_chat"),
    ("mistral/src/__fixtures__", "openai_chat"),
    ("moonshotai/src/__fixtures__", "openai_chat"),
    ("perplexity/src/__fixtures__", "openai_chat"),
    ("xai/src/__fixtures__", "openai_chat"),
    ("openai/src/completion", "openai_completions"),
    ("openai/src/embedding", "embed:openai"),
    ("voyage/src/__fixtures__", "embed:openai"),
    ("voyage/src/reranking", "rerank:openai"),
    ("togetherai/src/reranking", "rerank:openai"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """A recorded request and its response; compared by identity."""

    id: str
    provider: str
    """The name of the recording's file: `openai`, `google` and so on."""
    format: str
    """The wire format; empty if the exchange is not in a supported format. `why` then
    gives the reason."""
    status: int
    request: Any
    response: Any
    events: tuple[dict[str, Any], ...] | None
    """The events of a streamed response; None if it is not a stream."""
    path: str = ""
    content_type: str = ""
    why: str = ""

    @property
    def is_stream(self) -> bool:
        """Whether the response is a stream."""
        return self.events is not None


@cache
def exchanges() -> tuple[Exchange, ...]:
    """Return all exchanges, in the order of the files."""
    return tuple(_read())


def _read() -> Iterator[Exchange]:
    for path in sorted(FOLDER.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield _exchange(json.loads(line), path.name.partition(".")[0])


def _exchange(raw: dict[str, Any], provider: str) -> Exchange:
    """Convert a raw recording. Its format is determined from the path or the fixture's
    folder."""
    path = (raw.get("path") or "").partition("?")[0]
    name, skip_reason = (
        _fixture_format(raw)
        if raw.get("response_only")
        else _format(path, provider, raw)
    )
    response = raw["response"]
    events: list[dict[str, Any]] | None = None
    # Only successful responses are read as streams.
    if name and raw.get("status", 200) == 200:
        events = _events(response, name)
        if reason := _mismatch_reason(response, events, name):
            name, skip_reason = "", reason
    return Exchange(
        id=raw["id"],
        provider=provider,
        format=name,
        status=raw.get("status") or 200,
        request=raw.get("request"),
        response=response,
        events=None if events is None else tuple(events),
        path=raw.get("path") or "",
        content_type=raw.get("content_type") or "",
        why=skip_reason,
    )


def _format(path: str, provider: str, raw: dict[str, Any]) -> tuple[str, str]:
    """Return the wire format for a request path, or an empty string and the reason."""
    if reason := _unsupported_reason(path, provider, raw["id"]):
        return "", reason
    # Amazon Bedrock's invoke route takes the vendor's own body, which is supported for
    # Claude.
    is_claude = path.endswith("/invoke") and "anthropic" in path
    if is_claude and "content" in (raw["response"] or {}):
        return "anthropic", ""
    # A GET request is a model call only if it retrieves a stored response by its id.
    if raw.get("method") == "GET" and not re.search(r"/responses/[^/]+$", path):
        return "", "lists, databases and job queues"
    if name := _first_match(_BY_PATH, path):
        return name, ""
    return "", _first_match(_NOT_CALLS, path) or f"unsupported format: {path}"


def _unsupported_reason(path: str, provider: str, exchange_id: str) -> str:
    """Return why an API is not supported at all; empty if it may be supported."""
    test_name = exchange_id.rpartition("/")[2]
    is_token_count = "count_tokens" in path or "/input_tokens" in path
    if is_token_count or "_count_tokens" in test_name:
        return "token counts"
    if provider == "cohere" and path == "/v1/chat":
        return "formats that their vendors have retired"
    if "/threads/" in path or path.endswith("/threads"):
        return "OpenAI's Assistants, retired in 2026"
    return ""


def _first_match(names_by_pattern: Iterable[tuple[str, str]], path: str) -> str:
    """Return the name of the first pattern that a path matches; empty if none does."""
    for pattern, name in names_by_pattern:
        if re.search(pattern, path):
            return name
    return ""


def _fixture_format(raw: dict[str, Any]) -> tuple[str, str]:
    """Return the wire format of a fixture that has a response but no request."""
    name = next(
        (name for folder, name in _FIXTURES if f"packages/{folder}" in raw["id"]), ""
    )
    body = raw["response"]
    if isinstance(body, dict) and "cohere-embedding" in raw["id"]:
        return "embed:cohere", ""
    # Some fixtures in the folders for Responses are in the chat format.
    if isinstance(body, dict) and "choices" in body and name == "openai_responses":
        return "openai_chat", ""
    if not name:
        return "", "images, speech, rerank and agents of vendors' own kinds"
    return name, ""


def _events(response: Any, name: str) -> list[dict[str, Any]] | None:
    """Return the events of a streamed response; None if it is not a stream."""
    if isinstance(response, list):
        return response if name == "gemini" else None
    if isinstance(response, dict):
        is_binary_stream = "$base64" in response and name == "bedrock"
        return _binary_events(response["$base64"]) if is_binary_stream else None
    if name == "ollama":
        return list(_json_lines(response))
    try:
        return list(_sse(response))
    except ValueError:  # the recorder cut an event, so its content is unknown
        return []


def _binary_events(encoded: str) -> list[dict[str, Any]]:
    """Return the events of Amazon's binary event stream, which is stored in base64,
    since the recordings are JSON."""
    events = AwsEventStream().feed(base64.b64decode(encoded))
    return [{event_type: json.loads(body)} for event_type, body in events]


def _json_lines(text: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a text with one JSON object on each line."""
    for line in text.splitlines():
        if line.strip():
            yield json.loads(line)


def _sse(text: str) -> Iterator[dict[str, Any]]:
    """Yield the events of an SSE stream. Some fixtures are plain JSON lines, which are
    parsed too."""
    if "data:" not in text:
        yield from _json_lines(text)
        return
    for block in re.split(r"\r?\n\r?\n", text):
        data_lines = [line for line in block.splitlines() if line.startswith("data:")]
        data = "\n".join(line[5:].lstrip(" ") for line in data_lines)
        # `[DONE]` is OpenAI's end marker and is not JSON.
        if data and data != "[DONE]":
            yield json.loads(data)


_REQUIRED_FIELDS = {
    "openai_chat": "choices",
    "openai_responses": "output",
    "anthropic": "content",
    "bedrock": "output",
    "cohere": "message",
    "openai_completions": "choices",
}


def _mismatch_reason(
    response: Any, events: list[dict[str, Any]] | None, name: str
) -> str:
    """Return why a response is not in the format that its path suggests; empty if it
    is."""
    if events is not None:
        return _stream_mismatch_reason(events, name)
    if not isinstance(response, dict):
        return "recorded without its body"
    required_field = _REQUIRED_FIELDS.get(name)
    if required_field and required_field not in response and "error" not in response:
        return "a vendor's own response at a known path"
    return ""


def _stream_mismatch_reason(events: list[dict[str, Any]], name: str) -> str:
    """Return why a stream is not in the expected format; empty if it is."""
    if not events:
        return "recorded without its body"
    # More than one start event means that the recorder concatenated several responses.
    starts = ("message_start", "response.created")
    if sum(event.get("type") in starts for event in events) > 1:
        return "several responses in one file"
    is_untyped = name == "anthropic" and "type" not in events[0]
    if is_untyped or "value" in events[0]:
        return "a vendor's own stream at a known path"
    return ""
