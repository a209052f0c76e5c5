"""llm: a prompt from templates, variables, context, files and memory; an answer that streams."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from modelyard.base.bodies import BodyError, decode_body
from modelyard.base.errors import ModelyardError
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk, fold
from modelyard.models.messages import (
    AnyPromptMessage,
    ImagePromptMessageContent,
    PromptMessageContent,
    TextPromptMessageContent,
    UserPromptMessage,
)
from modelyard.workflow.events import NodeRunRetrieverResource
from modelyard.workflow.memory import memory_messages, memory_text, remembered
from modelyard.workflow.node import Node, NodeContext, NodeData, NodeError, NodeResult, VariableSelector
from modelyard.workflow.prompts import (
    MemoryConfig,
    ModelConfig,
    Vision,
    content_of,
    dump_prompts,
    dump_usage,
    files_in,
    find_model,
    message_of,
    metadata_of,
    parameters_of,
    settled,
    streamed,
    with_files,
)
from modelyard.workflow.template import parts_of, render, selectors_in
from modelyard.workflow.thinking import ThinkFilter, separated
from modelyard.workflow.variables import MISSING, SYSTEM, File, to_object, to_text

_VARIED = 0.9
_CONTEXT, _QUERY, _HISTORIES = "{{#context#}}", "{{#sys.query#}}", "{{#histories#}}"


class PromptMessageTemplate(msgspec.Struct, kw_only=True):
    role: str = "user"
    text: str = ""
    edition_type: str = "basic"
    jinja2_text: str = ""

    @property
    def is_jinja(self) -> bool:
        return self.edition_type == "jinja2"


class PromptConfig(msgspec.Struct, kw_only=True):
    jinja2_variables: list[VariableSelector] = []


class ContextConfig(msgspec.Struct, kw_only=True):
    enabled: bool = False
    variable_selector: list[str] = []


class LLMData(NodeData, kw_only=True):
    model: ModelConfig
    prompt_template: list[PromptMessageTemplate] | PromptMessageTemplate = []
    prompt_config: PromptConfig = msgspec.field(default_factory=PromptConfig)
    memory: MemoryConfig | None = None
    context: ContextConfig = msgspec.field(default_factory=ContextConfig)
    vision: Vision = msgspec.field(default_factory=Vision)
    structured_output_enabled: bool = False
    structured_output_switch_on: bool = False
    """What exports before 0.3.1 call it."""
    structured_output: dict[str, Any] | None = None
    reasoning_format: str = "tagged"

    @property
    def templates(self) -> list[PromptMessageTemplate]:
        return self.prompt_template if isinstance(self.prompt_template, list) else [self.prompt_template]

    @property
    def is_completion(self) -> bool:
        return not isinstance(self.prompt_template, list)

    @property
    def schema(self) -> Mapping[str, Any] | None:
        if not (self.structured_output_enabled or self.structured_output_switch_on):
            return None
        schema = (self.structured_output or {}).get("schema")
        if isinstance(schema, str):
            schema = msgspec.json.decode(schema)
        if not isinstance(schema, Mapping) or not schema:
            raise NodeError("Please provide a valid structured output schema", kind="LLMNodeError")
        return schema


class LLMNode(Node):
    type = "llm"
    Data = LLMData

    async def run(self, context: NodeContext) -> NodeResult:
        data: LLMData = self.data
        inputs = self._inputs(context)
        process: dict[str, Any] = {}
        try:
            model = find_model(context, data.model)
            request = await self._request(context, model, inputs)
            shown = {"model_provider": model.provider, "model_name": model.model}
            inputs.update(shown)
            process = {"model_mode": data.model.mode, "prompts": dump_prompts(request.messages), **shown}
            result, text, reasoning = await self._ask(context, model, request)
        except NodeError as error:
            error.inputs, error.process_data = error.inputs or inputs, error.process_data or process
            raise
        except ModelyardError as error:
            kind = type(error).__name__
            raise NodeError(str(error), kind=kind, inputs=inputs, process_data=process) from error
        usage = dump_usage(result.usage)
        outputs: dict[str, Any] = {
            "text": text,
            "reasoning_content": reasoning,
            "usage": usage,
            "finish_reason": result.finish_reason,
        }
        if data.schema is not None:
            outputs["structured_output"] = _structured(text, inputs, process)
        if files := await _images(result, context):
            outputs["files"] = files
            outputs["text"] = text + "".join(f"![]({one.address})" for one in files)
        process.update(usage=usage, finish_reason=result.finish_reason)
        return NodeResult(inputs=inputs, process_data=process, outputs=outputs, metadata=metadata_of(result.usage))

    # what goes in

    def _inputs(self, context: NodeContext) -> dict[str, Any]:
        """Every variable that the prompt names. Raises NodeError where one is missing."""
        data: LLMData = self.data
        texts = [one.text for one in data.templates if not one.is_jinja]
        if data.memory is not None:
            texts.append(data.memory.query_prompt_template)
        inputs: dict[str, Any] = {}
        for text in texts:
            for selector in selectors_in(text):
                value = context.pool.get(selector)
                name = ".".join(selector)
                if value is MISSING:
                    if selector[0] == "sys":  # what a workflow without a conversation does not have
                        value = None
                    else:
                        raise NodeError(f"Variable {name} not found", kind="VariableNotFoundError")
                inputs[f"#{name}#"] = to_object(value)
        return inputs

    async def _request(self, context: NodeContext, model: Any, inputs: dict[str, Any]) -> LLMRequest:
        data: LLMData = self.data
        files = files_in(context.value(data.vision.configs.variable_selector)) if data.vision.enabled else []
        if files:
            inputs["#files#"] = [one.to_object() for one in files]
        told = self._context(context)
        if told is not None:
            inputs["#context#"] = told
        parameters, stop = parameters_of(data.model, context)
        schema = data.schema
        if schema is not None:
            parameters["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "llm_response", "schema": dict(schema)},
            }
        parts = [await content_of(one, context, data.vision.configs.detail) for one in files]
        most = int(parameters.get("max_tokens") or 0)
        if data.is_completion:
            messages = await self._completion(context, model, told or "", parts, most)
        else:
            messages = await self._chat(context, model, told or "", parts, most)
        messages = settled(messages, model)
        if not messages:
            raise NodeError(
                "No prompt found in the LLM configuration. Please ensure a prompt is properly configured before "
                "proceeding.",
                kind="NoPromptFoundError",
            )
        return LLMRequest(
            messages=messages,
            model_parameters=_varied(parameters, context),
            stop=stop,
            stream=True,
            user=context.run.user or None,
        )

    async def _text(self, template: PromptMessageTemplate, context: NodeContext, told: str) -> str:
        """A template without files in it."""
        if not template.is_jinja:
            return render(template.text.replace(_CONTEXT, told), context.pool)
        if (sandbox := context.services.sandbox) is None:
            raise NodeError("there is no sandbox to render templates in", kind="SandboxUnavailable")
        chosen = self.data.prompt_config.jinja2_variables
        values = {one.variable: _jinja(context.value(one.value_selector)) for one in chosen}
        most = context.run.limits.output_bytes
        source = template.jinja2_text or template.text
        text = sandbox.render_now(source, values, most=most)
        return await sandbox.render(source, values, most=most) if text is None else text

    async def _chat(
        self, context: NodeContext, model: Any, told: str, parts: Sequence[PromptMessageContent], most: int
    ) -> list[AnyPromptMessage]:
        data: LLMData = self.data
        messages: list[AnyPromptMessage] = []
        for template in data.templates:
            if text := await self._text(template, context, told):
                messages.append(message_of(template.role, [TextPromptMessageContent(data=text)]))
            if not template.is_jinja and (inside := await self._files_inside(template.text, context)):
                messages.append(message_of(template.role, inside))
        if data.memory is not None:
            query = data.memory.query_prompt_template or _QUERY
            question = UserPromptMessage(content=[TextPromptMessageContent(data=render(query, context.pool))])
            asked = [*messages, question]
            found = await remembered(data.memory, context, model, asked, most, sums_up=True)
            messages += await memory_messages(found, context, data.vision.configs.detail)
            messages.append(question)
        return with_files(messages, parts)

    async def _files_inside(self, text: str, context: NodeContext) -> list[PromptMessageContent]:
        files = [
            file for part in parts_of(text) if isinstance(part, tuple) for file in files_in(context.value(part))
        ]  # fmt: skip
        return [await content_of(one, context, self.data.vision.configs.detail) for one in files]

    async def _completion(
        self, context: NodeContext, model: Any, told: str, parts: Sequence[PromptMessageContent], most: int
    ) -> list[AnyPromptMessage]:
        data: LLMData = self.data
        text = await self._text(data.templates[0], context, told)
        if data.memory is not None:
            if data.memory.role_prefix is None:
                raise NodeError(
                    "Memory role prefix is required for completion model.", kind="MemoryRolePrefixRequiredError"
                )
            asked = [UserPromptMessage(content=text)]
            found = await remembered(data.memory, context, model, asked, most, sums_up=True)
            history = memory_text(found, data.memory.role_prefix)
            text = text.replace(_HISTORIES, history) if _HISTORIES in text else f"{history}\n{text}".lstrip()
        return [UserPromptMessage(content=[*parts, TextPromptMessageContent(data=text)])]

    def _context(self, context: NodeContext) -> str | None:
        """The text that stands in for `{{#context#}}`, and an event that says where it is from."""
        config = self.data.context
        if not config.enabled or not config.variable_selector:
            return None
        value = context.pool.get(config.variable_selector)
        if value is MISSING or value is None:
            return None
        if not isinstance(value, list):
            return to_text(value)
        pieces: list[str] = []
        resources: list[dict[str, Any]] = []
        for item in value:
            if isinstance(item, str):
                pieces.append(item)
                continue
            if not isinstance(item, Mapping) or "content" not in item:
                raise NodeError(f"Invalid context structure: {str(item)[:200]}", kind="InvalidContextStructureError")
            if item.get("summary"):
                pieces.append(str(item["summary"]))
            pieces.append(str(item["content"]))
            metadata = item.get("metadata")
            if isinstance(metadata, Mapping) and metadata.get("_source") == "knowledge":
                resources.append(_resource(item, metadata))
        text = "\n".join(pieces).strip()
        if resources:
            context.emit(NodeRunRetrieverResource(
                id=context.execution_id, node_id=self.id, node_type=self.type, title=self.title, at=context.run.now(),
                retriever_resources=resources, context=text,
            ))  # fmt: skip
        return text

    # what comes out

    async def _ask(self, context: NodeContext, model: Any, request: LLMRequest) -> tuple[LLMResult, str, str]:
        """(the answer, its text, its thoughts), streamed as it comes."""
        voice = _Voice(context, is_separated=self.data.reasoning_format == "separated")
        chunks: list[LLMResultChunk] = []
        async with aclosing(streamed(model, request)) as stream:
            async for chunk in stream:
                chunks.append(chunk)
                voice.feed(chunk)
        text, reasoning = voice.finish()
        return fold(chunks), text, reasoning

    def references(self) -> Sequence[tuple[str, ...]]:
        data: LLMData = self.data
        found = [one for template in data.templates if not template.is_jinja for one in selectors_in(template.text)]
        found += [tuple(one.value_selector) for one in data.prompt_config.jinja2_variables if one.value_selector]
        if data.context.enabled and data.context.variable_selector:
            found.append(tuple(data.context.variable_selector))
        if data.memory is not None:
            found += selectors_in(data.memory.query_prompt_template)
        return found


class _Voice:
    """Sends an answer on, its thoughts apart or between tags, as the node wants them."""

    def __init__(self, context: NodeContext, *, is_separated: bool) -> None:
        self._context = context
        self._filter = ThinkFilter() if is_separated else None
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._is_thinking = False

    def feed(self, chunk: LLMResultChunk) -> None:
        message = chunk.delta.message
        if thought := message.thinking:
            self._think(thought)
        if text := message.text:
            if self._is_thinking:
                self._is_thinking = False
                self._say("\n</think>\n\n")
            if self._filter is None:
                self._say(text)
            else:
                self._both(*self._filter.feed(text))

    def _think(self, thought: str) -> None:
        if self._filter is not None:
            self._both(thought, "")
            return
        if not self._is_thinking:
            self._is_thinking = True
            self._say("<think>\n")
        self._say(thought)

    def _both(self, thought: str, said: str) -> None:
        if thought:
            self._thoughts.append(thought)
            self._context.reason(thought, False)
        if said:
            self._say(said)

    def _say(self, text: str) -> None:
        self._text.append(text)
        self._context.stream("text", text, False)

    def finish(self) -> tuple[str, str]:
        if self._is_thinking:
            self._say("\n</think>")
        if self._filter is not None:
            self._both(*self._filter.finish())
            if self._thoughts:
                self._context.reason("", True)
        self._context.stream("text", "", True)
        text = "".join(self._text)
        if self._filter is None:
            return text, ""
        return separated(text)[1], "".join(self._thoughts).strip()


def _jinja(value: Any) -> Any:
    return "" if value is None else to_object(value)


def _structured(text: str, inputs: Mapping[str, Any], process: Mapping[str, Any]) -> Any:
    """The answer as an object: the runtime has held it to its schema."""
    from modelyard.runtime.policies.structured import bare_json

    try:
        found = decode_body(bare_json(separated(text)[1]))
    except BodyError as error:
        raise NodeError(
            f"Failed to parse structured output: {error}", kind="OutputParserError", inputs=inputs, process_data=process
        ) from error
    if isinstance(found, list):
        found = next((one for one in found if isinstance(one, dict)), found)
    return found


async def _images(result: LLMResult, context: NodeContext) -> list[File]:
    """Pictures that the model made, kept as the tenant's files."""
    import base64

    files: list[File] = []
    if context.services.files is None:
        return files
    for part in result.message.files:
        if isinstance(part, ImagePromptMessageContent) and part.base64_data:
            kind = part.mime_type or "image/png"
            name = part.filename or f"image.{kind.partition('/')[2] or 'png'}"
            files.append(await context.services.files.save(name, base64.b64decode(part.base64_data), kind))
    return files


def _resource(item: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {"segment_hit_count": "hit_count", "segment_word_count": "word_count"}
    kept = (
        "position", "dataset_id", "dataset_name", "document_id", "document_name", "data_source_type", "segment_id",
        "retriever_from", "score", "segment_hit_count", "segment_word_count", "segment_position",
        "segment_index_node_hash", "doc_metadata", "page",
    )  # fmt: skip
    resource = {renamed.get(name, name): metadata.get(name) for name in kept}
    resource["index_node_hash"] = resource.pop("segment_index_node_hash")
    return {**resource, "content": item.get("content"), "title": item.get("title"), "files": item.get("files"),
            "summary": item.get("summary")}  # fmt: skip


def _varied(parameters: Mapping[str, Any], context: NodeContext) -> dict[str, Any]:
    """With more chance in them, where the run is to answer what was answered already."""
    if not context.value((SYSTEM, "varied")):
        return dict(parameters)
    return {**parameters, "temperature": max(_VARIED, float(parameters.get("temperature") or 0.0))}


NODES = {"llm": LLMNode}
