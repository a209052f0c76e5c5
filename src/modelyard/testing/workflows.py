"""Test doubles for the services that workflow nodes use. The product itself uses none
of them.

- `scripted_models`: a provider whose model answers what a node needs: a valid class,
    values for declared parameters, JSON that matches a schema, otherwise a text that
    repeats the question. Texts can be set in advance.
- `StubHttp`, `StubDatasets`, `StubTools`, `StubAgents`, `StubForms`: return configured
    answers and record their calls.
- `MemoryFiles`: files in memory.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelyard.base.json_types import EMPTY_OBJECT, is_array, is_object
from modelyard.models.base import AnyModel, LargeLanguageModel
from modelyard.models.entities import (
    AIModelEntity,
    I18nObject,
    ModelFeature,
    ModelPropertyKey,
)
from modelyard.models.llm import (
    LLMRequest,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from modelyard.models.messages import (
    AssistantPromptMessage,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
)
from modelyard.models.provider import ConfigurateMethod, ProviderEntity
from modelyard.models.types import Credentials, ModelType
from modelyard.providers.definition import ProviderDefinition
from modelyard.transport.egress import FetchedResponse
from modelyard.workflow.variables import File

Answerer = Callable[[LLMRequest], str | None]


@dataclass(slots=True)
class ScriptedModel(LargeLanguageModel):
    """Chat model for workflow nodes. `answers` (pattern of the last question → text)
    are tried first, in order. `delay` is in seconds between words."""

    answers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    delay: float = 0.0
    requests: list[LLMRequest] = field(default_factory=list[LLMRequest])

    async def invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Yield a tool call if tools are offered, otherwise an answer in chunks."""
        self.requests.append(request)
        question = request.messages[-1].text
        prompt_tokens = sum(len(message.text.split()) for message in request.messages)
        # After a tool result the model answers with text, so that the loop ends.
        if request.tools and not isinstance(request.messages[-1], ToolPromptMessage):
            tool = request.tools[0]
            arguments = json.dumps(sample_of(tool.parameters), ensure_ascii=False)
            call = ToolCall(
                id="call_1",
                function=ToolCallFunction(name=tool.name, arguments=arguments),
                index=0,
            )
            message = AssistantPromptMessage(tool_calls=[call])
            delta = LLMResultChunkDelta(
                message=message,
                finish_reason="tool_calls",
                usage=LLMUsage.of(prompt_tokens, 5),
            )
            yield LLMResultChunk(model=model, delta=delta)
            return
        text = self._text(request, question)
        fragments = re.findall(r"\s*\S+|\s+", text) or [text]
        for fragment in fragments:
            # Tests of streaming need time between the chunks; all others must not wait.
            if self.delay:
                await asyncio.sleep(self.delay)
            yield LLMResultChunk(
                model=model,
                delta=LLMResultChunkDelta(
                    message=AssistantPromptMessage(content=fragment)
                ),
            )
        delta = LLMResultChunkDelta(
            finish_reason="stop", usage=LLMUsage.of(prompt_tokens, len(fragments))
        )
        yield LLMResultChunk(model=model, delta=delta)

    def _text(self, request: LLMRequest, question: str) -> str:
        """Return the answer for a request: a scripted one, or a document that fits what
        is asked for."""
        for pattern, text in self.answers:
            if re.search(pattern, question):
                return text
        # Structured output that is requested natively.
        response_format = request.model_parameters.get("response_format")
        if is_object(response_format) and response_format.get("type") == "json_schema":
            return json.dumps(
                sample_of(response_format["json_schema"]["schema"]), ensure_ascii=False
            )
        try:
            question_document = json.loads(question)
        except ValueError:
            question_document = None
        # The question classifier sends its categories as JSON; the first one is chosen.
        if is_object(question_document) and question_document.get("categories"):
            first = question_document["categories"][0]
            return json.dumps({"keywords": [], **first}, ensure_ascii=False)
        system_text = request.messages[0].text
        # Structured output that is requested by prompt.
        if "as a JSON schema:\n" in system_text:
            schema = json.JSONDecoder().raw_decode(
                system_text.partition("as a JSON schema:\n")[2]
            )[0]
            return json.dumps(sample_of(schema), ensure_ascii=False)
        return f"Answer to: {' '.join(question.split())[:60]}"


def sample_of(schema: Mapping[str, Any]) -> Any:
    """Return a small document that matches a JSON schema."""
    # First of all: another value of the type might not be in the list.
    if "enum" in schema:
        return schema["enum"][0]
    type_name: Any = schema.get("type")
    # A list of types means any of them; the first one is used.
    if is_array(type_name) and type_name:
        type_name = type_name[0]
    match type_name:
        case "object":
            return {
                name: sample_of(property_schema)
                for name, property_schema in (
                    schema.get("properties") or EMPTY_OBJECT
                ).items()
            }
        case "array":
            item_schema: dict[str, Any] = schema.get("items") or {}
            return [sample_of(item_schema)]
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
    model: LargeLanguageModel | None = None, *, name: str = "scripted"
) -> tuple[
    ProviderDefinition, Callable[[ProviderDefinition], Mapping[ModelType, AnyModel]]
]:
    """Return (definition, builder) for `Modelyard(definitions=[…],
    builders={"scripted": …})`. The model is `NAME/model`."""
    label = I18nObject(en_us=name)
    features = [
        ModelFeature.VISION,
        ModelFeature.TOOL_CALL,
        ModelFeature.STRUCTURED_OUTPUT,
        ModelFeature.DOCUMENT,
    ]
    entity = ProviderEntity(
        provider=name,
        label=label,
        supported_model_types=[ModelType.LLM],
        configurate_methods=[ConfigurateMethod.PREDEFINED_MODEL],
        models=[
            AIModelEntity(
                model="model",
                label=label,
                model_type=ModelType.LLM,
                features=features,
                model_properties={ModelPropertyKey.CONTEXT_SIZE: 32_768},
            )
        ],
    )
    callee = model or ScriptedModel()
    return ProviderDefinition(entity=entity, wire="scripted"), lambda definition: {
        ModelType.LLM: callee
    }


@dataclass(slots=True)
class StubHttp:
    """HTTP client that answers with the first entry whose pattern matches the URL:
    (pattern, status, headers, body)."""

    answers: list[tuple[str, int, Mapping[str, str], bytes]] = field(
        default_factory=list[tuple[str, int, Mapping[str, str], bytes]]
    )
    seen: list[tuple[str, str, Sequence[tuple[str, str]], bytes]] = field(
        default_factory=list[tuple[str, str, Sequence[tuple[str, str]], bytes]]
    )
    seconds: float = 0.0

    async def fetch(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        **options: Any,
    ) -> FetchedResponse:
        """Record the request and return the matching response, or 200 with a small JSON
        body."""
        self.seen.append((method, url, headers, body))
        if self.seconds:
            await asyncio.sleep(self.seconds)
        for pattern, status, response_headers, content in self.answers:
            if re.search(pattern, url):
                return FetchedResponse(
                    status=status,
                    headers=response_headers,
                    body=content,
                    url=url,
                )
        return FetchedResponse(
            status=200,
            headers={"content-type": "application/json"},
            body=b'{"ok": true}',
            url=url,
        )


@dataclass(slots=True)
class StubDatasets:
    """Datasets that return the configured segments and record their calls."""

    segments: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    seen: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])

    async def retrieve(
        self, query: str, data: Any, *, files: Sequence[File] = ()
    ) -> list[dict[str, Any]]:
        """Record the query and return the segments, or one default segment."""
        self.seen.append((query, data))
        return self.segments or [
            {
                "title": "stub",
                "content": f"What is known about: {query[:60]}",
                "metadata": {
                    "_source": "knowledge",
                    "position": 1,
                    "dataset_id": "stub",
                    "dataset_name": "stub",
                    "document_id": "stub",
                    "document_name": "stub",
                    "segment_id": "stub",
                    "score": 1.0,
                    "retriever_from": "workflow",
                },
            }
        ]

    async def index(
        self, segments: Any, data: Any, target: Any = None
    ) -> dict[str, Any]:
        """Record the segments and return how many there were."""
        # The protocol has these parameters, but a double needs neither.
        del data, target
        self.seen.append(("index", segments))
        return {"indexed": len(segments) if is_array(segments) else 1}


@dataclass(slots=True)
class StubForms:
    """Form service: node → submitted answer, or `{"expired": seconds}`. Forms of other
    nodes stay open."""

    answers: dict[str, dict[str, Any]] = field(
        default_factory=dict[str, dict[str, Any]]
    )
    asked: dict[str, Mapping[str, Any]] = field(
        default_factory=dict[str, Mapping[str, Any]]
    )

    async def answer(self, key: str) -> Mapping[str, Any] | None:
        """Return the answer to a node's form, or None while it is open."""
        return self.answers.get(key)

    mails: dict[str, Sequence[Any]] = field(default_factory=dict[str, Sequence[Any]])

    async def publish(
        self,
        key: str,
        form: Mapping[str, Any],
        expires_at: float,
        mails: Sequence[Any] = (),
    ) -> Mapping[str, Any]:
        """Record the form that a node shows, and its mails."""
        self.asked[key] = form
        self.mails[key] = mails
        return {"form_token": "stub", "expiration_time": expires_at}


@dataclass(slots=True)
class StubTools:
    """Tool service: tool name → its messages. Other tools return a default message."""

    messages: dict[str, list[dict[str, Any]]] = field(
        default_factory=dict[str, list[dict[str, Any]]]
    )
    seen: list[tuple[str, str, dict[str, Any]]] = field(
        default_factory=list[tuple[str, str, dict[str, Any]]]
    )

    async def invoke(
        self,
        provider_type: str,
        provider: str,
        tool: str,
        parameters: Mapping[str, Any],
        *,
        credential: str = "",
        key: str = "",
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Record the call and yield the tool's messages."""
        self.seen.append((provider, tool, dict(parameters)))
        default_messages = [{"type": "text", "message": {"text": f"{tool} did it"}}]
        for message in self.messages.get(tool, default_messages):
            yield message


@dataclass(slots=True)
class StubAgents:
    """Agent service that yields the configured messages and records its calls."""

    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    seen: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = field(
        default_factory=list[tuple[Mapping[str, Any], Mapping[str, Any]]]
    )

    def serves(self, provider: str, strategy: str) -> bool:
        """Tell whether a strategy is available; always true."""
        return True

    async def run(
        self, strategy: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Record the call and yield the messages, or a default one."""
        self.seen.append((strategy, parameters))
        for message in self.messages or [
            {"type": "text", "message": {"text": f"agent on {parameters.get('query')}"}}
        ]:
            yield message


@dataclass(slots=True)
class MemoryFiles:
    """File store in memory."""

    contents: dict[str, bytes] = field(default_factory=dict[str, bytes])

    async def read(self, file: File) -> bytes:
        """Return a file's content."""
        return self.contents[file.related_id or file.remote_url]

    async def save(self, name: str, data: bytes, mime_type: str = "") -> File:
        """Store a file and return its reference."""
        # Counted and not random, so that tests can name the id.
        row = f"file_{len(self.contents):06d}"
        self.contents[row] = data
        suffix = f".{name.rpartition('.')[2]}" if "." in name else ""
        file_type = mime_type.partition("/")[0]
        return File(
            # The kinds of files that workflows distinguish.
            type=file_type if file_type in ("image", "audio", "video") else "document",
            transfer_method="tool_file",
            related_id=row,
            filename=name,
            extension=suffix,
            mime_type=mime_type,
            size=len(data),
            url=f"memory://{row}",
        )

    def address(self, file: File) -> str:
        """Return the address of a file."""
        return file.address
