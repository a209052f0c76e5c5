"""Recorded answers served from a local server, called through the catalogue's providers and the gateway, and compared
with what an independent reader finds in the recording."""

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
from modelyard.base.settings import CredentialSettings, LocalSettings, ProviderSettings, Settings
from modelyard.providers.factory import catalog_definition
from modelyard.testing import Answer, Upstream, UpstreamRequest
from modelyard.transport.aws_events import dump_event
from tools.show.exchanges import Exchange
from tools.show.sameness import Change, changes, excuse
from tools.show.truth import READERS, Truth, differences

INGRESS = ("openai_chat", "openai_responses", "anthropic", "gemini")
OWN = ("cohere", "openai_completions")
"""Formats beyond those four that the gateway answers in."""

# Family of the recordings → the catalogue's provider. What is recorded behind other addresses is called as the generic
# provider of its format.
_PROVIDERS = {
    "openai": "openai", "azure": "azure_openai", "anthropic": "anthropic", "bedrock": "bedrock", "cohere": "cohere",
    "deepseek": "deepseek", "google": "gemini", "groq": "groq", "huggingface": "huggingface", "mistral": "mistral",
    "openrouter": "openrouter",
}  # fmt: skip
_SPEAKS = {
    "openai": "openai_chat", "azure_openai": "openai_chat", "anthropic": "anthropic", "bedrock": "bedrock",
    "cohere": "cohere", "deepseek": "openai_chat", "gemini": "gemini", "groq": "openai_chat",
    "huggingface": "openai_chat", "mistral": "openai_chat", "openrouter": "openai_chat",
}  # fmt: skip
_GENERIC = {
    "openai_chat": "openai_api_compatible", "anthropic": "anthropic_api_compatible",
    "gemini": "gemini_api_compatible", "ollama": "ollama", "cohere": "cohere", "bedrock": "bedrock",
}  # fmt: skip
_WIRES = {"openai_responses": "openai_responses", "openai_completions": "openai_completions"}


def provider_of(one: Exchange) -> str:
    """Its name in the settings below."""
    named = _PROVIDERS.get(one.provider, "")
    if _SPEAKS.get(named) == one.format:
        return named
    return f"of-{one.format}" if one.format in _WIRES else _GENERIC[one.format]


def settings(origin: str, home: str) -> Settings:
    """Every provider of the catalogue that recordings stand for, each with its address on this machine."""
    key = [CredentialSettings(values={"api_key": "sk-replayed"})]
    names = {*_PROVIDERS.values(), *_GENERIC.values()} - {"azure_openai", "bedrock"}
    chat = {"openai_api_compatible", *(name for name, form in _SPEAKS.items() if form == "openai_chat")}
    # In the format that was recorded, whatever else the provider speaks by now.
    providers = [
        ProviderSettings(
            name=name, base_url=origin, wire="openai" if name in chat else "", credentials=key,
        )
        for name in sorted(names)
    ]  # fmt: skip
    azure = CredentialSettings(values={"endpoint": origin, "api_key": "sk-replayed"})
    aws = {"auth_method": "access_key", "aws_access_key_id": "AKIA", "aws_secret_access_key": "secret"}
    bedrock = [CredentialSettings(values={**aws, "endpoint_url": origin})]
    providers += [
        ProviderSettings(name="azure_openai", wire="openai", credentials=[azure]),
        ProviderSettings(name="bedrock", credentials=bedrock),
        *(ProviderSettings(name=f"of-{wire}", base_url=origin, wire=wire, credentials=key) for wire in _WIRES),
    ]
    return Settings(home=home, providers=providers, retries=0, local=LocalSettings(enabled=False), log_level="error")


class Recorded:
    """Answers a call to model `rec-N` with recording N, as its provider did."""

    def __init__(self, many: Sequence[Exchange]) -> None:
        self._many = many

    def __call__(self, request: UpstreamRequest) -> Answer:
        found = re.search(r"rec-(\d+)", request.path) or re.search(r'"rec-(\d+)"', request.body.decode())
        if found is None:
            return Answer(status=404, body=b"{}")
        one = self._many[int(found[1])]
        return Answer(status=one.status, headers={"content-type": kind_of(one)}, body=body_of(one))


def kind_of(one: Exchange) -> str:
    if one.format == "bedrock" and one.is_stream:
        return "application/vnd.amazon.eventstream"
    if one.format == "ollama" and one.is_stream:
        return "application/x-ndjson"
    return "text/event-stream" if one.is_stream else "application/json"


def body_of(one: Exchange) -> bytes:
    if isinstance(one.response, dict) and "$base64" in one.response:
        return base64.b64decode(one.response["$base64"])
    if one.format == "bedrock" and one.events is not None:
        pairs = [pair for event in one.events for pair in event.items()]
        return b"".join(dump_event(name, json.dumps(body).encode()) for name, body in pairs)
    is_bare = isinstance(one.response, list) or "data:" not in one.response
    if one.events is not None and one.format != "ollama" and is_bare:
        return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in one.events)
    return one.response.encode() if isinstance(one.response, str) else json.dumps(one.response).encode()


def question(ingress: str, model: str, *, stream: bool) -> tuple[str, dict[str, Any]]:
    """Path and body of a plain request in this format."""
    turn = {"role": "user", "content": "hi"}
    match ingress:
        case "openai_chat":
            options = {"stream_options": {"include_usage": True}} if stream else {}
            return "/v1/chat/completions", {"model": model, "messages": [turn], "stream": stream, **options}
        case "openai_responses":
            return "/v1/responses", {"model": model, "input": "hi", "stream": stream, "store": False}
        case "anthropic":
            return "/v1/messages", {"model": model, "messages": [turn], "max_tokens": 64, "stream": stream}
        case "gemini":
            verb = "streamGenerateContent" if stream else "generateContent"
            return f"/v1beta/models/{model}:{verb}", {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
        case "cohere":
            return "/v2/chat", {"model": model, "messages": [turn], "stream": stream}
        case _:
            options = {"stream_options": {"include_usage": True}} if stream else {}
            return "/v1/completions", {"model": model, "prompt": "hi", "stream": stream, **options}


async def ask(gateway: Any, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """Status and body of the gateway's answer, over ASGI."""
    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        await asyncio.Event().wait()
        return {}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"alt=sse"}
    await gateway(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def events_of(body: bytes) -> Iterator[dict[str, Any]]:
    for block in body.decode().split("\n\n"):
        data = "".join(line.removeprefix("data: ") for line in block.split("\n") if line.startswith("data: "))
        if data and data != "[DONE]":
            yield json.loads(data)


def is_error(body: Any) -> bool:
    return isinstance(body, dict) and (body.get("type") == "error" or isinstance(body.get("error"), dict))


@dataclass
class Outcome:
    exchange: Exchange
    ingress: str
    found: list[str] = field(default_factory=list[str])
    """What was lost or changed; nothing where all came through."""
    excused: list[str] = field(default_factory=list[str])
    """Why parts of a whole answer may differ from what was recorded in the same format."""


async def replayed(gateway: Any, one: Exchange, number: int, ingress: str) -> Outcome:
    model = f"{provider_of(one)}/rec-{number}"
    path, body = question(ingress, model, stream=one.is_stream)
    status, said = await ask(gateway, path, body)
    wanted = expected(one)
    changed: list[Change] = []
    if one.is_stream and status == 200:
        events = list(events_of(said))
        broken = next((event for event in events if is_error(event)), None)
        seen = None if broken else READERS[ingress][1](events)
    else:
        document = json.loads(said)
        broken = document if status != 200 else None
        if status == 200 and ingress == one.format:
            changed = list(changes(one.response, document))
        seen = None if broken else READERS[ingress][0](document)
    if wanted is None:
        passed = "an answer that broke off, or told of an error, passed for a whole one"
        return Outcome(one, ingress, [] if broken else [passed])
    if seen is None:
        return Outcome(one, ingress, [f"status {status}: {json.dumps(broken)[:200]}"])
    found = differences(wanted, seen, ingress, is_same=ingress == one.format)
    reasons = [(change, excuse(change, ingress)) for change in changed]
    found += [str(change) for change, why in reasons if not why]
    return Outcome(one, ingress, found, [why for _, why in reasons if why])


def expected(one: Exchange) -> Truth | None:
    """What the recording says; None where it was recorded cut short, or is an error."""
    source: Any = one.response if one.events is None else one.events
    if one.status != 200 or (one.events is None and is_error(source)):
        return None
    if one.events is not None and (any(is_error(event) or _failed(event) for event in one.events) or _is_cut(one)):
        return None
    said = READERS[one.format][one.is_stream](source)
    if catalog_definition(_GENERIC_NAMES.get(provider_of(one), provider_of(one))).quirks.get("think_tags"):
        said.without_tags()
    return said


_GENERIC_NAMES = {f"of-{wire}": "openai_api_compatible" for wire in _WIRES}


def _failed(event: dict[str, Any]) -> bool:
    inner = [choice.get("error") for choice in event.get("choices") or () if isinstance(choice, dict)]
    return event.get("type") == "response.failed" or any(isinstance(error, dict) for error in inner)


def _is_cut(one: Exchange) -> bool:
    """Recorded without its end: no word of why it ended, in any of the ways that formats have for it."""
    text = one.response if isinstance(one.response, str) else json.dumps(one.events)
    marks = (
        "[DONE]", '"finish_reason":', "message_stop", "finishReason", "messageStop", "message-end", '"done":true',
        '"done": true', "response.completed", "response.incomplete", "blockReason",
    )  # fmt: skip
    if one.format == "openai_chat":
        ended = any(choice.get("finish_reason") for event in one.events or () for choice in event.get("choices") or ())
        return not ended and "[DONE]" not in text
    return not any(mark in text for mark in marks)


@asynccontextmanager
async def gateway_over(many: Sequence[Exchange]) -> AsyncGenerator[Any]:
    """A gateway whose providers answer with these recordings."""
    with Upstream(Recorded(many)) as upstream, tempfile.TemporaryDirectory(prefix="modelyard-show-") as home:
        origin = upstream.url.removesuffix("/v1")
        async with Modelyard(settings(origin, home), environ={}) as yard:
            yield gateway_for(yard.services)


async def replay(many: Sequence[Exchange]) -> list[Outcome]:
    """Every recording in its own format, where the gateway answers in it, and in the four that callers speak most."""
    outcomes: list[Outcome] = []
    async with gateway_over(many) as gateway:
        for number, one in enumerate(many):
            wanted = [name for name in dict.fromkeys([one.format, *INGRESS]) if name in (*INGRESS, *OWN)]
            outcomes += [await replayed(gateway, one, number, ingress) for ingress in wanted]
    return outcomes
