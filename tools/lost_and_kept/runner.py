"""Sends requests through a real gateway to stand-ins of all vendors, and tells from what
arrives what has become of each feature."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests.gateway.conftest import Running

from modelyard.base.settings import (
    CredentialSettings,
    LocalSettings,
    ProviderSettings,
    Settings,
)
from modelyard.testing import Answer, Upstream, UpstreamRequest, json_answer
from tools.lost_and_kept.answer_features import AnswerFeature
from tools.lost_and_kept.answers import answer_of, streamed
from tools.lost_and_kept.clients import events_of, joined, named_in
from tools.lost_and_kept.features import MARKER, Feature, Place
from tools.lost_and_kept.formats import (
    ANTHROPIC,
    CALLERS,
    CHAT,
    COHERE,
    GEMINI,
    JSON,
    RESPONSES,
    TARGETS,
    target_of_path,
    unknown_fields,
)
from tools.lost_and_kept.json_paths import holds, leaves, paths_of

CARRIED = "carried"
ADAPTED = "adapted"
NAMED = "named"
REFUSED = "refused"
LOST = "LOST"

# OpenAI's own servers with one format each, so that every caller's format is translated.
# A model that reasons and accepts everything else shows what the format can carry.
_OPENAI = """\
name: {name}
label: {{en_US: OpenAI}}
wire: {wire}
base_url: {url}
any_model: true
model_types: [llm]
credentials: [{{name: api_key, label: {{en_US: API key}}}}]
quirks:
  developer_role: true
  max_tokens_field: max_completion_tokens
  reasoning_field: ""
  drop: [top_k]
  custom_tools: true
  thinking: {{control: effort, words: [none, minimal, low, medium, high, xhigh]}}
"""
_AWS = {
    "auth_method": "access_key",
    "aws_access_key_id": "k",
    "aws_secret_access_key": "s",
    "aws_region": "us-east-1",
}


@dataclass(frozen=True)
class Cell:
    """What became of a feature between two formats."""

    outcome: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.outcome} ({self.detail})" if self.detail else self.outcome

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost silently."""
        return self.outcome in (CARRIED, ADAPTED, NAMED, REFUSED)


@dataclass
class World:
    """A gateway whose providers are stand-ins of all vendors."""

    gateway: Running
    server: Upstream
    client: httpx.Client
    answers: dict[str, JSON]
    """Target → its next answers, whole."""
    streams: dict[str, Answer]
    """Target → its next answers, streamed."""

    def call(
        self,
        caller: str,
        target: str,
        fields: Mapping[str, Any],
        *,
        stream: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[httpx.Response, JSON | None]:
        """Send a request; return the response and the body that the target got, None if
        it got none."""
        form = CALLERS[caller]
        model = TARGETS[target].model
        body = {**form.body, **fields}
        path = (form.stream_path if stream else "") or form.path
        if "MODEL" in path:
            path = path.replace("MODEL", model)
        else:
            body = {"model": model, **body, **({"stream": True} if stream else {})}
        before = len(self.server.requests)
        response = self.client.post(
            self.gateway.origin + path, json=body, headers=dict(headers or {})
        )
        sent = self.server.requests[before:]
        return response, json.loads(sent[0].body) if sent else None

    def handle(self, request: UpstreamRequest) -> Answer:
        """Answer a request as the vendor whose path it has."""
        target = target_of_path(request.path)
        is_stream = (
            bool(request.json.get("stream"))
            or "stream" in request.path.lower()
            or request.headers.get("x-dashscope-sse") == "enable"
        )
        if is_stream and target in self.streams:
            return self.streams[target]
        return json_answer(self.answers.get(target) or answer_of(target))


def _providers(url: str, folder: Path) -> list[ProviderSettings]:
    """Return the providers of all targets."""
    for name, wire in (("chat", "openai"), ("responses", "openai_responses")):
        text = _OPENAI.format(name=name, wire=wire, url=url)
        (folder / f"{name}.yaml").write_text(text, "utf-8")
    key = [CredentialSettings(values={"api_key": "k"})]
    named = [
        ProviderSettings(name=name, base_url=url, credentials=key)
        for name in ("anthropic", "gemini", "cohere")
    ]
    return [
        *named,
        ProviderSettings(path=str(folder / "chat.yaml"), credentials=key),
        ProviderSettings(path=str(folder / "responses.yaml"), credentials=key),
        ProviderSettings(
            name="bedrock",
            base_url=url,
            credentials=[CredentialSettings(values=_AWS)],
        ),
        ProviderSettings(name="ollama", base_url=url),
        ProviderSettings(name="dashscope", wire="dashscope", base_url=url),
    ]


@contextmanager
def world() -> Iterator[World]:
    """Start a gateway and the stand-ins; they stop when the block ends."""
    answers: dict[str, JSON] = {}
    streams: dict[str, Answer] = {}
    holder: list[World] = []
    with (
        tempfile.TemporaryDirectory() as home,
        Upstream(lambda request: holder[0].handle(request)) as server,
        httpx.Client(timeout=30) as client,
    ):
        providers = _providers(server.url, Path(home))
        settings = Settings(
            home=home,
            providers=providers,
            retries=0,
            local=LocalSettings(enabled=False),
        )
        gateway = Running(settings)
        holder.append(World(gateway, server, client, answers, streams))
        try:
            yield holder[0]
        finally:
            gateway.close()


def stands_at(body: JSON, place: Place, wanted: Any) -> bool:
    """Return whether a feature stands at a place of a body."""
    pattern = place
    if isinstance(place, tuple):
        pattern, wanted = place
    if pattern == "without":
        return wanted not in body
    if pattern == "only":
        path, values = wanted
        found = [value for leaf, value in leaves(body) if holds_path(leaf, path)]
        return found == values
    return holds(body, str(pattern), wanted)


def holds_path(path: str, pattern: str) -> bool:
    """Return whether a path fits a pattern without `**`."""
    steps, wanted = path.split("."), pattern.split(".")
    return len(steps) == len(wanted) and all(
        want in ("*", step) for step, want in zip(steps, wanted, strict=True)
    )


def request_cell(world: World, feature: Feature, caller: str, target: str) -> Cell:
    """Return what becomes of a feature of a request on its way to a target."""
    fields = feature.requests[caller]
    response, sent = world.call(caller, target, fields)
    dropped = response.headers.get("x-modelyard-dropped", "")
    if sent is None:
        return _refusal(response)
    if response.status_code != 200:
        return Cell(LOST, f"{response.status_code} {response.text[:120]}")
    cell = _judged(feature, caller, target, sent, dropped)
    if not dropped:
        return cell
    strict, sent_strictly = world.call(
        caller, target, fields, headers={"x-modelyard-unsupported": "refuse"}
    )
    if strict.status_code != 400 or sent_strictly is not None:
        return Cell(LOST, f"{cell}, but with `refuse` {strict.status_code}")
    return cell


def _refusal(response: httpx.Response) -> Cell:
    """Return the cell of a call that was refused before it was sent."""
    if response.status_code != 400:
        return Cell(LOST, f"{response.status_code} {response.text[:120]}")
    return Cell(REFUSED)


def _judged(
    feature: Feature, caller: str, target: str, sent: JSON, dropped: str
) -> Cell:
    """Return the cell of a feature whose request has arrived."""
    unknown = [] if caller == target else unknown_fields(target, sent)
    if unknown:
        return Cell(LOST, f"the vendor has no {', '.join(unknown)}")
    note = f"named {dropped}" if dropped else ""
    outcome = _outcome(
        feature, target, lambda place: stands_at(sent, place, feature.wanted)
    )
    if caller in feature.stands_in:
        outcome = ADAPTED
    if outcome:
        return Cell(outcome, note)
    if caller != target and (stray := _stray_paths(feature, sent)):
        return Cell(LOST, f"it stands at {', '.join(stray)}")
    return Cell(NAMED, dropped) if dropped else Cell(LOST)


def _outcome(
    feature: Feature | AnswerFeature,
    receiver: str,
    is_there: Callable[[Place], bool],
) -> str:
    """Return whether a feature is carried or adapted in the receiver's format; empty if
    it is in none of its places."""
    if any(is_there(place) for place in feature.own.get(receiver, ())):
        return CARRIED
    if any(is_there(place) for place in feature.adapted.get(receiver, ())):
        return ADAPTED
    return ""


def _stray_paths(feature: Feature, sent: JSON) -> list[str]:
    """Return where a feature stands that has no place in the target's format. A short
    word such as `low` may stand anywhere."""
    marker = feature.wanted if isinstance(feature.wanted, str) else MARKER
    return paths_of(sent, marker) if len(marker) > 4 else []


# ----------------------------------------------------------------------------- answers


def answer_cell(
    world: World, feature: AnswerFeature, caller: str, target: str, *, stream: bool
) -> Cell:
    """Return what becomes of a feature of a target's answer on its way back."""
    response = _answered(world, feature, caller, target, stream=stream)
    if response.status_code != 200:
        return Cell(LOST, f"{response.status_code} {response.text[:120]}")
    named = response.headers.get("x-modelyard-dropped", "")
    events = events_of(response.text) if stream else []
    if any("error" in event for event in events):
        return Cell(LOST, response.text[-200:])
    named = named_in(response.text, events) or named
    document = joined(caller, events) if stream else response.json()
    outcome = _outcome(
        feature,
        caller,
        lambda place: _is_in_answer(caller, document, place, feature.wanted),
    )
    if outcome:
        return Cell(outcome, f"named {named}" if named else "")
    return Cell(NAMED, named) if named else Cell(LOST)


def _answered(
    world: World, feature: AnswerFeature, caller: str, target: str, *, stream: bool
) -> httpx.Response:
    """Return the response to a call that a target answers with a feature."""
    answer = feature.answers[target]
    fields = feature.requests.get(caller, {})
    # Only a stream has options of one.
    if not stream:
        fields = {
            name: value for name, value in fields.items() if name != "stream_options"
        }
    world.answers[target] = answer
    world.streams[target] = streamed(target, answer)
    try:
        response, _ = world.call(caller, target, fields, stream=stream)
    finally:
        del world.answers[target], world.streams[target]
    return response


def _is_in_answer(caller: str, document: JSON, place: Place, wanted: Any) -> bool:
    """Return whether a feature stands at a place of an answer."""
    if isinstance(place, tuple) and place[0] == "cited":
        return place[1] in _CITED_TEXTS[caller](document)
    return stands_at(document, place, wanted)


def _pieces(text: str, spans: list[JSON], start: str, end: str) -> list[str]:
    """Return the pieces of a text between positions."""
    return [text[span[start] : span[end]] for span in spans]


def _chat_spans(document: JSON) -> list[str]:
    message = document["choices"][0]["message"]
    annotations = message.get("annotations") or ()
    spans = [annotation["url_citation"] for annotation in annotations]
    return _pieces(message["content"], spans, "start_index", "end_index")


def _responses_spans(document: JSON) -> list[str]:
    pieces: list[str] = []
    for item in document["output"]:
        for part in item.get("content") or ():
            spans = part.get("annotations") or []
            pieces += _pieces(part["text"], spans, "start_index", "end_index")
    return pieces


def _anthropic_spans(document: JSON) -> list[str]:
    """Return the texts of blocks that cite something."""
    return [block["text"] for block in document["content"] if block.get("citations")]


def _cohere_spans(document: JSON) -> list[str]:
    content = document["message"]["content"]
    pieces: list[str] = []
    for citation in document["message"].get("citations") or ():
        text = content[citation.get("content_index", 0)]["text"]
        pieces += _pieces(text, [citation], "start", "end")
    return pieces


def _google_spans(document: JSON) -> list[str]:
    """Return the cited pieces of a Gemini answer, whose positions count bytes."""
    candidate = document["candidates"][0]
    text = "".join(part.get("text", "") for part in candidate["content"]["parts"])
    spans = list((candidate.get("citationMetadata") or {}).get("citations") or ())
    grounding = candidate.get("groundingMetadata") or {}
    spans += [each["segment"] for each in grounding.get("groundingSupports") or ()]
    data = text.encode()
    return [
        data[span.get("startIndex", 0) : span["endIndex"]].decode("utf-8", "replace")
        for span in spans
    ]


_CITED_TEXTS = {
    CHAT: _chat_spans,
    RESPONSES: _responses_spans,
    ANTHROPIC: _anthropic_spans,
    COHERE: _cohere_spans,
    GEMINI: _google_spans,
}
