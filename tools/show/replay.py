"""Serve recorded responses from a local server, call them through the catalogue's
providers and the gateway, and compare the result with what an independent reader finds
in the recording."""

import asyncio
import base64
import json
import re
import tempfile
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
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
from tools.show.sameness import Change, changes, excuse
from tools.show.truth import READERS, Truth, differences

INGRESS = ("openai_chat", "openai_responses", "anthropic", "gemini")
OTHER_INGRESS = ("cohere", "openai_completions")
"""Formats beyond the four common ones in which the gateway also responds."""

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
    """An upstream that responds to model `rec-N` with recording N, as its provider did."""

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        self._many = exchanges

    def __call__(self, request: UpstreamRequest) -> Answer:
        # Some formats have the model in the path, others in the body.
        match = re.search(r"rec-(\d+)", request.path) or re.search(
            r'"rec-(\d+)"', request.body.decode()
        )
        if match is None:
            return Answer(status=404, body=b"{}")
        exchange = self._many[int(match[1])]
        return Answer(
            status=exchange.status,
            headers={"content-type": content_type_of(exchange)},
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


async def ask(gateway: Any, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """Call the gateway over ASGI in this process; return the status and body of its
    response."""
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

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    # `alt=sse` makes Gemini's streaming endpoint return server-sent events; the other
    # routes ignore it.
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": headers,
        "query_string": b"alt=sse",
    }
    await gateway(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def events_of(body: bytes) -> Iterator[dict[str, Any]]:
    """Yield the JSON payloads of a server-sent event stream, without the end marker."""
    for block in body.decode().split("\n\n"):
        data = "".join(
            line.removeprefix("data: ")
            for line in block.split("\n")
            if line.startswith("data: ")
        )
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
    found: list[str] = field(default_factory=list[str])
    """Descriptions of what was lost or changed; empty if everything was preserved."""
    excused: list[str] = field(default_factory=list[str])
    """Reasons why parts of a complete response may differ from a recording in the same
    format."""


async def replay_one(
    gateway: Any, exchange: Exchange, number: int, ingress: str
) -> Outcome:
    """Replay one recording in the format `ingress` and compare the result."""
    model = f"{provider_of(exchange)}/rec-{number}"
    path, body = minimal_request(ingress, model, stream=exchange.is_stream)
    status, response_body = await ask(gateway, path, body)
    response = _read_response(exchange, ingress, status, response_body)
    expected_truth = expected(exchange)
    # A recording of an error or of an interrupted stream must not turn into a
    # successful response.
    if expected_truth is None:
        passed = "an interrupted stream or an error became a successful response"
        return Outcome(exchange, ingress, [] if response.error else [passed])
    if response.truth is None:
        problem = f"status {status}: {json.dumps(response.error)[:200]}"
        return Outcome(exchange, ingress, [problem])
    problems = differences(
        expected_truth, response.truth, ingress, is_same=ingress == exchange.format
    )
    # Differences with an accepted reason are reported separately.
    reasons = [(change, excuse(change, ingress)) for change in response.changes]
    problems += [str(change) for change, reason in reasons if not reason]
    return Outcome(
        exchange, ingress, problems, [reason for _, reason in reasons if reason]
    )


@dataclass(frozen=True, slots=True)
class _Response:
    """The gateway's response to a replayed request."""

    error: Any
    """The error event or the document of an error; None if there is none."""
    truth: Truth | None
    """The facts of the response; None if it is an error."""
    changes: Sequence[Change] = ()
    """The differences from the recorded document, if no translation was needed."""


def _read_response(
    exchange: Exchange, ingress: str, status: int, response_body: bytes
) -> _Response:
    """Read the gateway's response with the independent reader of its format."""
    read_complete, read_stream = READERS[ingress]
    if exchange.is_stream and status == 200:
        events = list(events_of(response_body))
        error = next((event for event in events if is_error(event)), None)
        return _Response(error, None if error else read_stream(events))
    document = json.loads(response_body)
    if status != 200:
        return _Response(document, None)
    # If no translation is needed, the complete document is compared, not only its
    # facts.
    is_same = ingress == exchange.format
    changed = list(changes(exchange.response, document)) if is_same else ()
    return _Response(None, read_complete(document), changed)


def expected(exchange: Exchange) -> Truth | None:
    """Return the facts of the recording; None if it was recorded incomplete or is an
    error."""
    source: Any = exchange.response if exchange.events is None else exchange.events
    if exchange.status != 200 or (exchange.events is None and is_error(source)):
        return None
    if exchange.events is not None and (
        any(is_error(event) or _failed(event) for event in exchange.events)
        or _is_cut(exchange)
    ):
        return None
    truth = READERS[exchange.format][exchange.is_stream](source)
    # This provider's thinking is inside tags in the text; the gateway separates it, so
    # the expectation has to.
    if catalog_definition(
        _GENERIC_NAMES.get(provider_of(exchange), provider_of(exchange))
    ).capabilities.think_tags:
        truth.without_tags()
    return truth


_GENERIC_NAMES = {f"of-{wire}": "openai_api_compatible" for wire in _WIRES}


def _failed(event: dict[str, Any]) -> bool:
    """Return whether an event of a stream reports a failure inside an otherwise normal
    shape."""
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
async def gateway_over(exchanges: Sequence[Exchange]) -> AsyncGenerator[Any]:
    """Yield a gateway whose providers respond with these recordings."""
    with (
        Upstream(RecordedUpstream(exchanges)) as upstream,
        tempfile.TemporaryDirectory(prefix="modelyard-show-") as home,
    ):
        origin = upstream.url.removesuffix("/v1")
        async with Modelyard(settings(origin, home), environ={}) as yard:
            yield gateway_for(yard.services)


async def replay(exchanges: Sequence[Exchange]) -> list[Outcome]:
    """Replay every recording in its own format, if the gateway offers it, and in the
    four common formats."""
    outcomes: list[Outcome] = []
    async with gateway_over(exchanges) as gateway:
        for number, exchange in enumerate(exchanges):
            ingress_formats = [
                name
                for name in dict.fromkeys([exchange.format, *INGRESS])
                if name in (*INGRESS, *OTHER_INGRESS)
            ]
            outcomes += [
                await replay_one(gateway, exchange, number, ingress)
                for ingress in ingress_formats
            ]
    return outcomes
