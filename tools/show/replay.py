"""Serve recorded responses from a local server, call them through the catalogue's
providers and the gateway, and compare the result with what an independent reader finds
in the recording."""

import asyncio
import base64
import json
import re
import tempfile
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.settings import (
    CredentialSettings,
    LocalSettings,
    ProviderSettings,
    Settings,
)
from modelyard.providers.factory import catalog_definition
from modelyard.testing import Answer, Upstream, UpstreamRequest
from modelyard.transport.aws_events import dump_event
from tools.show.exchanges import Exchange
from tools.show.reader import FORMATS
from tools.show.reader.compare import differences, expected_facts
from tools.show.reader.facts import Answer as ReadAnswer
from tools.show.reader.facts import Block
from tools.show.sameness import changes, excuse

JSON = dict[str, Any]
INGRESS = ("openai_chat", "openai_responses", "anthropic", "gemini", "cohere")
OTHER_INGRESS = ("openai_completions",)
"""Formats beyond the five common ones in which the gateway also responds."""

# Family of a recording to the catalogue's provider. Recordings from other addresses use
# the generic provider of their format.
_PROVIDERS = {
    "openai": "openai",
    "azure": "azure_openai",
    "anthropic": "anthropic",
    "bedrock": "bedrock",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "google": "gemini",
    "groq": "groq",
    "huggingface": "huggingface",
    "mistral": "mistral",
    "openrouter": "openrouter",
}
_SPEAKS = {
    "openai": "openai_chat",
    "azure_openai": "openai_chat",
    "anthropic": "anthropic",
    "bedrock": "bedrock",
    "cohere": "cohere",
    "deepseek": "openai_chat",
    "gemini": "gemini",
    "groq": "openai_chat",
    "huggingface": "openai_chat",
    "mistral": "openai_chat",
    "openrouter": "openai_chat",
}
_GENERIC = {
    "openai_chat": "openai_api_compatible",
    "anthropic": "anthropic_api_compatible",
    "gemini": "gemini_api_compatible",
    "ollama": "ollama",
    "cohere": "cohere",
    "bedrock": "bedrock",
}
_WIRES = {
    "openai_responses": "openai_responses",
    "openai_completions": "openai_completions",
}


def provider_of(exchange: Exchange) -> str:
    """Return the provider's name in `settings`."""
    provider = _PROVIDERS.get(exchange.provider, "")
    # The provider is used only if it speaks the recorded format; otherwise the generic
    # provider of that format is.
    if _SPEAKS.get(provider) == exchange.format:
        return provider
    return (
        f"of-{exchange.format}"
        if exchange.format in _WIRES
        else _GENERIC[exchange.format]
    )


def settings(origin: str, home: str) -> Settings:
    """Return settings with every provider that recordings need, each with `origin` as
    its address."""
    key = [CredentialSettings(values={"api_key": "sk-replayed"})]
    names = {*_PROVIDERS.values(), *_GENERIC.values()} - {"azure_openai", "bedrock"}
    chat = {
        "openai_api_compatible",
        *(
            name
            for name, wire_format in _SPEAKS.items()
            if wire_format == "openai_chat"
        ),
    }
    # Use the recorded format, even if the provider prefers another one today.
    providers = [
        ProviderSettings(
            name=name,
            base_url=origin,
            wire="openai" if name in chat else "",
            credentials=key,
        )
        for name in sorted(names)
    ]
    azure = CredentialSettings(values={"endpoint": origin, "api_key": "sk-replayed"})
    aws = {
        "auth_method": "access_key",
        "aws_access_key_id": "AKIA",
        "aws_secret_access_key": "secret",
    }
    bedrock = [CredentialSettings(values={**aws, "endpoint_url": origin})]
    providers += [
        ProviderSettings(name="azure_openai", wire="openai", credentials=[azure]),
        ProviderSettings(name="bedrock", credentials=bedrock),
        *(
            ProviderSettings(
                name=f"of-{wire}", base_url=origin, wire=wire, credentials=key
            )
            for wire in _WIRES
        ),
    ]
    return Settings(
        home=home,
        providers=providers,
        retries=0,
        local=LocalSettings(enabled=False),
        log_level="error",
    )


class RecordedUpstream:
    """An upstream that responds to model `rec-N` or `rec-N-ANYTHING` with recording N,
    as its provider did."""

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        self._many = exchanges

    def __call__(self, request: UpstreamRequest) -> Answer:
        # Some formats have the model in the path, others in the body.
        match = re.search(r"rec-(\d+)", request.path) or re.search(
            r'"rec-(\d+)\b', request.body.decode()
        )
        if match is None:
            return Answer(status=404, body=b"{}")
        exchange = self._many[int(match[1])]
        return Answer(
            status=exchange.status,
            headers={
                "content-type": content_type_of(exchange),
                **vendor_headers(exchange.format),
            },
            body=body_of(exchange),
        )


def content_type_of(exchange: Exchange) -> str:
    """Return the content type of the recorded response."""
    if exchange.format == "bedrock" and exchange.is_stream:
        return "application/vnd.amazon.eventstream"
    if exchange.format == "ollama" and exchange.is_stream:
        return "application/x-ndjson"
    return "text/event-stream" if exchange.is_stream else "application/json"


def body_of(exchange: Exchange) -> bytes:
    """Return the recorded response as the bytes that the provider sent."""
    response = exchange.response
    if isinstance(response, dict) and "$base64" in response:
        return base64.b64decode(response["$base64"])
    if exchange.events is not None and exchange.format == "bedrock":
        return _bedrock_stream(exchange.events)
    # The recording is a list of events and not the text of a server-sent event stream,
    # so write the framing.
    is_bare = isinstance(response, list) or "data:" not in response
    if exchange.events is not None and exchange.format != "ollama" and is_bare:
        return b"".join(
            b"data: " + json.dumps(event).encode() + b"\n\n"
            for event in exchange.events
        )
    return (response if isinstance(response, str) else json.dumps(response)).encode()


def _bedrock_stream(events: Sequence[Any]) -> bytes:
    """Encode the decoded events of a recording as Bedrock's binary stream."""
    return b"".join(
        dump_event(name, json.dumps(body).encode())
        for event in events
        for name, body in event.items()
    )


def minimal_request(
    ingress: str, model: str, *, stream: bool
) -> tuple[str, dict[str, Any]]:
    """Return the path and body of a minimal request in this format."""
    message = {"role": "user", "content": "hi"}
    match ingress:
        case "openai_chat":
            options = {"stream_options": {"include_usage": True}} if stream else {}
            return "/v1/chat/completions", {
                "model": model,
                "messages": [message],
                "stream": stream,
                **options,
            }
        case "openai_responses":
            return "/v1/responses", {
                "model": model,
                "input": "hi",
                "stream": stream,
                "store": False,
            }
        case "anthropic":
            return "/v1/messages", {
                "model": model,
                "messages": [message],
                "max_tokens": 64,
                "stream": stream,
            }
        case "gemini":
            verb = "streamGenerateContent" if stream else "generateContent"
            return f"/v1beta/models/{model}:{verb}", {
                "contents": [{"role": "user", "parts": [{"text": "hi"}]}]
            }
        case "cohere":
            return "/v2/chat", {"model": model, "messages": [message], "stream": stream}
        case _:
            options = {"stream_options": {"include_usage": True}} if stream else {}
            return "/v1/completions", {
                "model": model,
                "prompt": "hi",
                "stream": stream,
                **options,
            }


@dataclass(frozen=True, slots=True)
class Reply:
    """The gateway's response to a replayed request, as bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def ask(
    gateway: Any,
    path: str,
    body: dict[str, Any],
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Call the gateway over ASGI in this process; return its response."""
    sent: list[dict[str, Any]] = []
    waiting = [
        {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
    ]

    async def receive() -> dict[str, Any]:
        """Return the request body once, then block: the caller does not disconnect."""
        if waiting:
            return waiting.pop()
        await asyncio.Event().wait()
        return {}

    async def send(message: dict[str, Any]) -> None:
        """Collect a message of the response."""
        sent.append(message)

    raw_headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    for name, value in (headers or {}).items():
        raw_headers.append((name.encode(), value.encode()))
    # `alt=sse` makes Gemini's streaming endpoint return server-sent events; the other
    # routes ignore it.
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": raw_headers,
        "query_string": b"alt=sse",
    }
    await gateway(scope, receive, send)
    answered = {
        name.decode().lower(): value.decode("latin-1")
        for name, value in sent[0]["headers"]
    }
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return Reply(sent[0]["status"], answered, content)


def events_of(body: bytes) -> Iterator[dict[str, Any]]:
    """Yield the JSON payloads of a server-sent event stream, without the end marker."""
    prefix = "data: "
    for block in body.decode().split("\n\n"):
        lines = [line for line in block.split("\n") if line.startswith(prefix)]
        data = "".join(line.removeprefix(prefix) for line in lines)
        if data and data != "[DONE]":
            yield json.loads(data)


def is_error(body: Any) -> bool:
    """Return whether a response or event reports an error."""
    return isinstance(body, dict) and (
        body.get("type") == "error" or isinstance(body.get("error"), dict)
    )


@dataclass
class Outcome:
    """The result of one replayed recording in one caller's format."""

    exchange: Exchange
    ingress: str
    problems: list[str] = field(default_factory=list[str])
    """Descriptions of what was lost or changed; empty if everything was preserved."""
    excused: list[str] = field(default_factory=list[str])
    """Reasons of accepted differences."""
    compared: frozenset[str] = frozenset()
    """Kinds of facts that were compared."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a recording says."""

    document: JSON
    """The answer; a stream is folded."""
    facts: dict[str, Any]
    facts_without_last_signature: dict[str, Any]
    """The facts without a signature after the last block; the same object if there is
    none."""
    flaws: frozenset[str]
    """Violations of the stream's grammar by the vendor itself."""
    error: str | None
    """Words of an error; None for an answer that ended well."""
    is_cut: bool = False
    """Whether the recorded stream lacks its end."""


@cache
def recorded(exchange: Exchange) -> Recorded:
    """Read a recording with the independent reader of its format."""
    events = exchange.events
    failure = _recorded_failure(exchange)
    if failure is not None:
        return Recorded({}, {}, {}, frozenset(), error_words(failure))
    fold, read = FORMATS[exchange.format]
    flaws: list[str] = []
    document = exchange.response if events is None else fold(events, flaws)
    answer = read(document)
    if _thinks_in_tags(exchange):
        separate_thinking(answer)
    is_cut = events is not None and _is_cut(exchange)
    facts = shorter = answer.facts()
    if exchange.format == "gemini" and remove_last_signature(answer):
        shorter = answer.facts()
    return Recorded(document, facts, shorter, frozenset(flaws), None, is_cut)


def _recorded_failure(exchange: Exchange) -> Any:
    """Return the document or event that reports a failure; None if none does."""
    if exchange.status != 200:
        return exchange.response
    parts = exchange.events or (exchange.response,)
    return next((part for part in parts if is_error(part) or _failed(part)), None)


def _thinks_in_tags(exchange: Exchange) -> bool:
    """Whether the provider's thinking is inside tags in the text; the gateway separates
    it."""
    provider = provider_of(exchange)
    definition = catalog_definition(_GENERIC_NAMES.get(provider, provider))
    return definition.capabilities.think_tags


LAST_SIGNATURE = (
    "a signature after the last text of a stream proves a text that is already sent; an"
    " answer must not end with an empty thought"
)
# Formats in which a signature is a block of its own.
_ENDS_WITH_TEXT = ("anthropic", "openai_responses")


def remove_last_signature(answer: ReadAnswer) -> bool:
    """Remove a signature without a text after the last block; return whether there was
    one."""
    removed = False
    for choice in answer.choices:
        last = next(
            (
                number
                for number in reversed(range(len(choice.blocks)))
                if choice.blocks[number].text or choice.blocks[number].signature
            ),
            None,
        )
        if last is not None and _is_signature(choice.blocks[last]):
            del choice.blocks[last]
            removed = True
    return removed


def _is_signature(block: Block) -> bool:
    """Whether a block is only a signature."""
    return block.kind == "thinking" and not block.text


def separate_thinking(answer: ReadAnswer) -> None:
    """Turn tags at the start of the text into a block of thinking."""
    for choice in answer.choices:
        for index, block in enumerate(choice.blocks):
            head, _, rest = block.text.lstrip().partition("</think>")
            if block.kind == "text" and head.startswith("<think>"):
                block.text = rest.lstrip()
                thought = Block("thinking", head.removeprefix("<think>"))
                choice.blocks.insert(index, thought)
                break


def error_words(document: Any) -> str:
    """Return the words of an error in any of the formats."""
    if not isinstance(document, dict):
        return ""
    inner = document.get("error")
    failure = document.get("response")
    if isinstance(failure, dict):
        inner = failure.get("error")
    for choice in document.get("choices") or ():
        inner = choice.get("error") or inner
    # Cohere's streams end with an event whose delta has the words.
    if document.get("type") == "message-end":
        inner = document.get("delta", {}).get("error")
    if isinstance(inner, dict):
        return str(inner.get("message") or "")
    return str(inner or document.get("message") or "")


def compare(exchange: Exchange, ingress: str, reply: Reply) -> Outcome:
    """Compare the gateway's response with the recording."""
    source = recorded(exchange)
    outcome = Outcome(exchange, ingress)
    outcome.problems += _header_problems(exchange, ingress, reply)
    if source.error is not None or source.is_cut:
        outcome.compared = _compared_in_error(exchange, ingress, source)
        outcome.problems += _error_problems(exchange, ingress, reply, source)
        return outcome
    if reply.status != 200:
        outcome.problems.append(f"status {reply.status}: {reply.body[:200].decode()}")
        return outcome
    try:
        _compare_answer(outcome, source, reply)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        outcome.problems.append(f"the answer cannot be read: {error!r}")
    return outcome


def _compare_answer(outcome: Outcome, source: Recorded, reply: Reply) -> None:
    """Compare an answer: its facts, and in the same format the whole document."""
    exchange, ingress = outcome.exchange, outcome.ingress
    is_same = ingress == exchange.format
    flaws: list[str] = []
    document = _document_of(outcome, reply, flaws)
    if document is None:
        return
    facts = _comparable_facts(outcome, source)
    expected, unsaid = expected_facts(facts, ingress, is_same=is_same)
    outcome.compared = frozenset(expected) | _compared_in_answer(exchange, ingress)
    _, read = FORMATS[ingress]
    target = "" if is_same else ingress
    outcome.problems += differences(expected, read(document).facts(), unsaid, target)
    outcome.problems += [flaw for flaw in flaws if flaw not in source.flaws]
    outcome.excused += [f"{ingress} {kind}: {unsaid[kind]}" for kind in unsaid]
    if is_same:
        _compare_documents(outcome, source.document, document)


def _document_of(outcome: Outcome, reply: Reply, flaws: list[str]) -> JSON | None:
    """Return the document of an answer, with the flaws of its stream; None, with a
    problem, if it reports an error."""
    if not outcome.exchange.is_stream:
        return json.loads(reply.body)
    fold, _ = FORMATS[outcome.ingress]
    events = list(events_of(reply.body))
    if failed := next((event for event in events if is_error(event)), None):
        outcome.problems.append(f"an error: {error_words(failed)[:200]}")
        return None
    if outcome.ingress in _HAS_DONE and b"data: [DONE]" not in reply.body:
        flaws.append("the end marker is missing")
    return fold(events, flaws)


def _comparable_facts(outcome: Outcome, source: Recorded) -> dict[str, Any]:
    """Return the recorded facts, without a last signature where it cannot be."""
    is_same = outcome.ingress == outcome.exchange.format
    is_stream = outcome.exchange.is_stream
    if is_same or not is_stream or outcome.ingress not in _ENDS_WITH_TEXT:
        return source.facts
    shorter = source.facts_without_last_signature
    if shorter is not source.facts:
        outcome.excused.append(LAST_SIGNATURE)
    return shorter


def _compare_documents(outcome: Outcome, before: JSON, after: JSON) -> None:
    """Compare the whole documents of an answer that needed no translation."""
    for change in changes(before, after):
        reason = excuse(change, outcome.ingress)
        if reason:
            outcome.excused.append(reason)
        else:
            outcome.problems.append(str(change))


def _compared_in_answer(exchange: Exchange, ingress: str) -> frozenset[str]:
    """Return what is compared besides the facts of an answer."""
    is_compared = {
        "headers": _has_vendor_headers(exchange, ingress),
        "document": ingress == exchange.format and not exchange.is_stream,
        "done": exchange.is_stream and ingress in _HAS_DONE,
    }
    return frozenset(name for name, applies in is_compared.items() if applies)


def _compared_in_error(
    exchange: Exchange, ingress: str, source: Recorded
) -> frozenset[str]:
    """Return what is compared of a failure."""
    is_compared = {
        "error": True,
        "error.words": bool(source.error),
        "error.status": exchange.status != 200,
        "headers": _has_vendor_headers(exchange, ingress),
    }
    return frozenset(name for name, applies in is_compared.items() if applies)


def _has_vendor_headers(exchange: Exchange, ingress: str) -> bool:
    """Whether the caller uses the API of the vendor that sent the headers. Those of an
    error with status 200 or within a stream are not compared."""
    if exchange.status == 200 and recorded(exchange).error is not None:
        return False
    vendor = _VENDOR_OF.get(ingress)
    return vendor is not None and vendor == _VENDOR_OF.get(exchange.format)


_HAS_DONE = ("openai_chat", "openai_completions")
# Recorded status → statuses that the gateway may give it.
_STATUSES = {404: (404, 400), 401: (401, 403, 502, 503)}
_MEANINGS = {
    # AWS's words for a model that does not exist, which is 404 elsewhere.
    "model identifier is invalid": 404,
    # OpenAI says it with 404 and, for some models, with 400.
    "does not exist": 404,
    # The model wrote no call, or one that Groq could not read: no fault of the caller's.
    "model did not call a tool": 502,
    "ool call validation failed": 502,
    "Failed to call a function": 502,
}
"""Words of an error that has status 400 → the status that its meaning has."""
_ERROR_TYPES = {
    "anthropic": {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        429: "rate_limit_error",
        502: "api_error",
    },
    "gemini": {
        400: "INVALID_ARGUMENT",
        401: "UNAUTHENTICATED",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        429: "RESOURCE_EXHAUSTED",
        500: "INTERNAL",
        502: "INTERNAL",
        503: "UNAVAILABLE",
    },
    "openai": {
        400: "invalid_request_error",
        404: "invalid_request_error",
        502: "server_error",
    },
}
"""Caller's format → status → type of an error, as the vendors document them."""


def _error_problems(
    exchange: Exchange, ingress: str, reply: Reply, source: Recorded
) -> Iterator[str]:
    """Yield what is wrong with the gateway's response to a recorded failure."""
    document = _failure_of(ingress, reply, is_stream=exchange.is_stream)
    if document is None:
        yield "an interrupted stream or an error became a successful response"
        return
    if reply.status != 200:
        yield from _shape_problems(ingress, reply.status, document)
    if source.error and source.error not in error_words(document):
        yield f"the error {source.error[:60]!r} became {error_words(document)[:60]!r}"
    accepted = _STATUSES.get(exchange.status, (exchange.status,))
    accepted += tuple(
        status for words, status in _MEANINGS.items() if words in (source.error or "")
    )
    if exchange.status != 200 and reply.status not in accepted:
        yield f"status {exchange.status} became {reply.status}"


def _failure_of(ingress: str, reply: Reply, *, is_stream: bool) -> Any:
    """Return the document or event that reports a failure; None if none does."""
    if reply.status != 200:
        return json.loads(reply.body)
    if not is_stream:
        return None
    events = list(events_of(reply.body))
    failed = [event for event in events if is_error(event) or _is_plain(event)]
    # The last event may report it in the format's own way.
    failed += [event for event in events[-1:] if _ends_with_error(ingress, event)]
    return failed[0] if failed else None


def _is_plain(event: JSON) -> bool:
    """Whether an event is an error of Cohere's, which has only words."""
    return isinstance(event.get("message"), str)


def _ends_with_error(ingress: str, event: JSON) -> bool:
    """Whether the last event of a stream reports a failure in the format's own way."""
    if ingress == "openai_responses":
        return event.get("type") == "response.failed"
    return ingress == "cohere" and event.get("type") == "message-end"


def _shape_problems(ingress: str, status: int, document: JSON) -> Iterator[str]:
    """Yield what an error response has that is not of the caller's format."""
    if ingress == "cohere":
        if not isinstance(document.get("message"), str):
            yield "the error has no message at the top level"
        return
    inner = document.get("error")
    if not isinstance(inner, dict) or not inner.get("message"):
        yield "the error has no message"
        return
    shape = ingress if ingress in _ERROR_TYPES else "openai"
    stated = inner.get("status" if shape == "gemini" else "type")
    documented = _ERROR_TYPES[shape].get(status, stated)
    outer = {
        "gemini": (inner.get("code"), status),
        "anthropic": (document.get("type"), "error"),
    }
    actual, expected = outer.get(shape, (None, None))
    if stated != documented or actual != expected:
        yield f"an error {status} has the type {stated}, and {actual}"


# Headers that the upstream sends with each recorded answer, by vendor of the format.
_VENDOR_HEADERS = {
    "openai": {
        "x-request-id": "req-recorded",
        "x-ratelimit-remaining-requests": "41",
    },
    "anthropic": {
        "request-id": "req-recorded",
        "anthropic-ratelimit-requests-remaining": "41",
    },
}
_VENDOR_OF = {
    "openai_chat": "openai",
    "openai_responses": "openai",
    "openai_completions": "openai",
    "anthropic": "anthropic",
}


def vendor_headers(name: str) -> dict[str, str]:
    """Return the headers that a vendor sends with an answer of a format."""
    return _VENDOR_HEADERS.get(_VENDOR_OF.get(name, ""), {})


def _header_problems(exchange: Exchange, ingress: str, reply: Reply) -> Iterator[str]:
    """Yield the vendor's headers that a caller of the same vendor's API does not get."""
    if not _has_vendor_headers(exchange, ingress):
        return
    for name, value in vendor_headers(ingress).items():
        # The gateway's own request id stands beside the vendor's.
        if value not in reply.headers.get(name, ""):
            yield f"header {name} is missing"


async def replay_one(
    gateway: Any, exchange: Exchange, number: int, ingress: str
) -> Reply:
    """Return the gateway's response to a plain request for one recording in the format
    `ingress`."""
    # A model of its own: after a refusal with a time to wait, a model has to wait.
    model = f"{provider_of(exchange)}/rec-{number}-{ingress}"
    path, body = minimal_request(ingress, model, stream=exchange.is_stream)
    return await ask(gateway, path, body)


_GENERIC_NAMES = {f"of-{wire}": "openai_api_compatible" for wire in _WIRES}


def _failed(event: Any) -> bool:
    """Return whether an event of a stream reports a failure inside an otherwise normal
    shape."""
    if not isinstance(event, dict):
        return False
    inner = [
        choice.get("error")
        for choice in event.get("choices") or ()
        if isinstance(choice, dict)
    ]
    return event.get("type") == "response.failed" or any(
        isinstance(error, dict) for error in inner
    )


def _is_cut(exchange: Exchange) -> bool:
    """Return whether a recorded stream lacks its end: no marker for it in any of the
    formats."""
    text = (
        exchange.response
        if isinstance(exchange.response, str)
        else json.dumps(exchange.events)
    )
    marks = (
        "[DONE]",
        '"finish_reason":',
        "message_stop",
        "finishReason",
        "messageStop",
        "message-end",
        '"done":true',
        '"done": true',
        "response.completed",
        "response.incomplete",
        "blockReason",
    )
    if exchange.format == "openai_chat":
        ended = any(
            choice.get("finish_reason")
            for event in exchange.events or ()
            for choice in event.get("choices") or ()
        )
        return not ended and "[DONE]" not in text
    return not any(mark in text for mark in marks)


@asynccontextmanager
async def gateway_over(
    exchanges: Sequence[Exchange], recorded_upstream: RecordedUpstream | None = None
) -> AsyncGenerator[Any]:
    """Yield a gateway whose providers respond with these recordings, from the given
    upstream or a new one."""
    with (
        Upstream(recorded_upstream or RecordedUpstream(exchanges)) as upstream,
        tempfile.TemporaryDirectory(prefix="modelyard-show-") as home,
    ):
        origin = upstream.url.removesuffix("/v1")
        async with Modelyard(settings(origin, home), environ={}) as yard:
            yield gateway_for(yard.services)


def ingress_formats(exchange: Exchange) -> list[str]:
    """Return the callers' formats for a recording: its own, if the gateway offers it,
    and the five common ones."""
    names = dict.fromkeys([exchange.format, *INGRESS])
    return [name for name in names if name in (*INGRESS, *OTHER_INGRESS)]


async def replay(
    exchanges: Sequence[Exchange],
) -> AsyncIterator[tuple[Exchange, str, Reply]]:
    """Yield (recording, caller's format, response) for every recording in every
    caller's format."""
    async with gateway_over(exchanges) as gateway:
        for number, exchange in enumerate(exchanges):
            for ingress in ingress_formats(exchange):
                reply = await replay_one(gateway, exchange, number, ingress)
                yield exchange, ingress, reply
