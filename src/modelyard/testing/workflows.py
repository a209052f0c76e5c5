"""Doubles of what workflow nodes work with. None of them is used by the product itself.

- `scripted_models`: a provider whose one model answers what a node needs: a class that there is, values for declared
  parameters, JSON that fits a schema, else a text that names its question. Texts can be set beforehand.
- `StubHttp`, `StubDatasets`, `StubTools`, `StubAgents`, `StubForms`: answer from what they were given, and
  remember who asked.
- `MemoryFiles`: files that are nowhere but here.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelyard.models.base import AnyModel, LargeLanguageModel
from modelyard.models.entities import AIModelEntity, I18nObject, ModelFeature, ModelPropertyKey
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMResultChunkDelta, LLMUsage
from modelyard.models.messages import AssistantPromptMessage, ToolCall, ToolCallFunction, ToolPromptMessage
from modelyard.models.provider import ConfigurateMethod, ProviderEntity
from modelyard.models.types import Credentials, ModelType
from modelyard.providers.definition import ProviderDefinition
from modelyard.transport.egress import Fetched
from modelyard.workflow.variables import File

Answerer = Callable[[LLMRequest], str | None]


@dataclass(slots=True)
class ScriptedModel(LargeLanguageModel):
    """`answers` are tried first, in order: pattern of the last question → text. `delay` is between words."""

    answers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    delay: float = 0.0
    requests: list[LLMRequest] = field(default_factory=list[LLMRequest])

    async def invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        self.requests.append(request)
        question = request.messages[-1].text
        words = sum(len(message.text.split()) for message in request.messages)
        if request.tools and not isinstance(request.messages[-1], ToolPromptMessage):
            tool = request.tools[0]
            arguments = json.dumps(sample_of(tool.parameters), ensure_ascii=False)
            call = ToolCall(id="call_1", function=ToolCallFunction(name=tool.name, arguments=arguments), index=0)
            message = AssistantPromptMessage(tool_calls=[call])
            delta = LLMResultChunkDelta(message=message, finish_reason="tool_calls", usage=LLMUsage.of(words, 5))
            yield LLMResultChunk(model=model, delta=delta)
            return
        text = self._text(request, question)
        pieces = re.findall(r"\s*\S+|\s+", text) or [text]
        for piece in pieces:
            if self.delay:
                await asyncio.sleep(self.delay)
            yield LLMResultChunk(model=model, delta=LLMResultChunkDelta(message=AssistantPromptMessage(content=piece)))
        delta = LLMResultChunkDelta(finish_reason="stop", usage=LLMUsage.of(words, len(pieces)))
        yield LLMResultChunk(model=model, delta=delta)

    def _text(self, request: LLMRequest, question: str) -> str:
        for pattern, text in self.answers:
            if re.search(pattern, question):
                return text
        form = request.model_parameters.get("response_format")
        if isinstance(form, dict) and form.get("type") == "json_schema":
            return json.dumps(sample_of(form["json_schema"]["schema"]), ensure_ascii=False)
        try:
            asked = json.loads(question)
        except ValueError:
            asked = None
        if isinstance(asked, dict) and asked.get("categories"):
            first = asked["categories"][0]
            return json.dumps({"keywords": [], **first}, ensure_ascii=False)
        told = request.messages[0].text
        if "as a JSON schema:\n" in told:
            schema = json.JSONDecoder().raw_decode(told.partition("as a JSON schema:\n")[2])[0]
            return json.dumps(sample_of(schema), ensure_ascii=False)
        return f"Answer to: {' '.join(question.split())[:60]}"


def sample_of(schema: Mapping[str, Any]) -> Any:
    """A small document that fits a JSON schema."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "object":
            return {name: sample_of(one) for name, one in (schema.get("properties") or {}).items()}
        case "array":
            return [sample_of(schema.get("items") or {})]
        case "number":
            return 1.5
        case "integer":
            return 1
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "sample"


def scripted_models(
    model: ScriptedModel | None = None, *, name: str = "scripted"
) -> tuple[ProviderDefinition, Callable[[ProviderDefinition], Mapping[ModelType, AnyModel]]]:
    """(definition, builder) for `Modelyard(definitions=[…], builders={"scripted": …})`; its model is `NAME/model`."""
    label = I18nObject(en_us=name)
    features = [ModelFeature.VISION, ModelFeature.TOOL_CALL, ModelFeature.STRUCTURED_OUTPUT, ModelFeature.DOCUMENT]
    entity = ProviderEntity(
        provider=name,
        label=label,
        supported_model_types=[ModelType.LLM],
        configurate_methods=[ConfigurateMethod.PREDEFINED_MODEL],
        models=[AIModelEntity(
            model="model", label=label, model_type=ModelType.LLM, features=features,
            model_properties={ModelPropertyKey.CONTEXT_SIZE: 32_768},
        )],
    )  # fmt: skip
    callee = model or ScriptedModel()
    return ProviderDefinition(entity=entity, wire="scripted"), lambda definition: {ModelType.LLM: callee}


@dataclass(slots=True)
class StubHttp:
    """Answers every request with what fits first: pattern of the address → (status, headers, body)."""

    answers: list[tuple[str, int, Mapping[str, str], bytes]] = field(
        default_factory=list[tuple[str, int, Mapping[str, str], bytes]]
    )
    seen: list[tuple[str, str, Sequence[tuple[str, str]], bytes]] = field(
        default_factory=list[tuple[str, str, Sequence[tuple[str, str]], bytes]]
    )
    seconds: float = 0.0

    async def fetch(
        self, method: str, url: str, *, headers: Sequence[tuple[str, str]] = (), body: bytes = b"", **how: Any
    ) -> Fetched:
        self.seen.append((method, url, headers, body))
        if self.seconds:
            await asyncio.sleep(self.seconds)
        for pattern, status, given, content in self.answers:
            if re.search(pattern, url):
                return Fetched(status=status, headers=given, body=content, url=url)
        return Fetched(status=200, headers={"content-type": "application/json"}, body=b'{"ok": true}', url=url)


@dataclass(slots=True)
class StubDatasets:
    segments: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    seen: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])

    async def retrieve(self, query: str, data: Any, *, files: Sequence[File] = ()) -> list[dict[str, Any]]:
        self.seen.append((query, data))
        return self.segments or [{
            "title": "stub", "content": f"What is known about: {query[:60]}",
            "metadata": {"_source": "knowledge", "position": 1, "dataset_id": "stub", "dataset_name": "stub",
                         "document_id": "stub", "document_name": "stub", "segment_id": "stub", "score": 1.0,
                         "retriever_from": "workflow"},
        }]  # fmt: skip

    async def index(self, segments: Any, data: Any, target: Any = None) -> dict[str, Any]:
        del data, target
        self.seen.append(("index", segments))
        return {"indexed": len(segments) if isinstance(segments, list) else 1}


@dataclass(slots=True)
class StubForms:
    """Node → what somebody sent in, or `{"expired": seconds}`; a form of a node that is not named waits."""

    answers: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    asked: dict[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])

    async def answer(self, key: str) -> Mapping[str, Any] | None:
        return self.answers.get(key)

    async def ask(self, key: str, form: Mapping[str, Any], expires_at: float) -> Mapping[str, Any]:
        self.asked[key] = form
        return {"form_token": "stub", "expiration_time": expires_at}


@dataclass(slots=True)
class StubTools:
    """Name of a tool → its messages; one that is not named says what it was given."""

    messages: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])
    seen: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list[tuple[str, str, dict[str, Any]]])

    async def invoke(
        self, kind: str, provider: str, tool: str, parameters: Mapping[str, Any], *, credential: str = "", key: str = ""
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        self.seen.append((provider, tool, dict(parameters)))
        told = [{"type": "text", "message": {"text": f"{tool} did it"}}]
        for message in self.messages.get(tool, told):
            yield message


@dataclass(slots=True)
class StubAgents:
    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    seen: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = field(
        default_factory=list[tuple[Mapping[str, Any], Mapping[str, Any]]]
    )

    def serves(self, provider: str, strategy: str) -> bool:
        return True

    async def run(
        self, strategy: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        self.seen.append((strategy, parameters))
        for message in self.messages or [{"type": "text", "message": {"text": f"agent on {parameters.get('query')}"}}]:
            yield message


@dataclass(slots=True)
class MemoryFiles:
    contents: dict[str, bytes] = field(default_factory=dict[str, bytes])

    async def read(self, file: File) -> bytes:
        return self.contents[file.related_id or file.remote_url]

    async def save(self, name: str, data: bytes, mime_type: str = "") -> File:
        row = f"file_{len(self.contents):06d}"
        self.contents[row] = data
        suffix = f".{name.rpartition('.')[2]}" if "." in name else ""
        kind = mime_type.partition("/")[0]
        return File(
            type=kind if kind in ("image", "audio", "video") else "document", transfer_method="tool_file",
            related_id=row, filename=name, extension=suffix, mime_type=mime_type, size=len(data),
            url=f"memory://{row}",
        )  # fmt: skip

    def address(self, file: File) -> str:
        return file.address
