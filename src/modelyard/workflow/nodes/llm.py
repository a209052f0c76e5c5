"""LLM node: a prompt from templates, variables, context, files and memory; the answer
is streamed."""

import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.errors import ModelyardError
from modelyard.base.json_types import is_array, is_mapping
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk, fold
from modelyard.models.messages import (
    AnyPromptMessage,
    ImagePromptMessageContent,
    PromptMessageContent,
    TextPromptMessageContent,
    UserPromptMessage,
)
from modelyard.runtime.policies.structured import AnswerSchemaError
from modelyard.workflow.events import NodeRunRetrieverResource
from modelyard.workflow.memory import load_history, memory_messages, memory_text
from modelyard.workflow.node import (
    Node,
    NodeContext,
    NodeData,
    NodeError,
    NodeResult,
    VariableSelector,
)
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
    prepare_messages,
    streamed,
    with_files,
)
from modelyard.workflow.structured_output import (
    StructuredOutputError,
    structured_output,
)
from modelyard.workflow.template import parts_of, render, selectors_in
from modelyard.workflow.thinking import ThinkFilter, split_thinking
from modelyard.workflow.variables import MISSING, SYSTEM, File, to_object, to_text

# Minimum temperature for a regenerated answer, so that it differs from the first one.
_MIN_REGENERATE_TEMPERATURE = 0.9
_CONTEXT, _QUERY, _HISTORIES = "{{#context#}}", "{{#sys.query#}}", "{{#histories#}}"
_PLACEHOLDER = re.compile(r"\{\{#(?:context|histories)#\}\}")


class PromptMessageTemplate(msgspec.Struct, kw_only=True):
    """Template of one prompt message, with selectors or in Jinja."""

    role: str = "user"
    text: str = ""
    edition_type: str = "basic"
    jinja2_text: str = ""

    @property
    def is_jinja(self) -> bool:
        """Whether the template is in Jinja."""
        return self.edition_type == "jinja2"


class PromptConfig(msgspec.Struct, kw_only=True):
    """Variables of Jinja templates."""

    jinja2_variables: list[VariableSelector] = []


class ContextConfig(msgspec.Struct, kw_only=True):
    """The variable that `{{#context#}}` stands for."""

    enabled: bool = False
    variable_selector: list[str] = []


class LLMData(NodeData, kw_only=True):
    """Data of an LLM node in a DSL file."""

    model: ModelConfig
    prompt_template: list[PromptMessageTemplate] | PromptMessageTemplate = []
    prompt_config: PromptConfig = msgspec.field(default_factory=PromptConfig)
    memory: MemoryConfig | None = None
    context: ContextConfig = msgspec.field(default_factory=ContextConfig)
    vision: Vision = msgspec.field(default_factory=Vision)
    structured_output_enabled: bool = False
    structured_output_switch_on: bool = False
    """Name of `structured_output_enabled` in exports before 0.3.1."""
    structured_output: dict[str, Any] | None = None
    reasoning_format: str = "tagged"

    @property
    def templates(self) -> list[PromptMessageTemplate]:
        """The templates as a list; a completion prompt has one."""
        return (
            self.prompt_template
            if isinstance(self.prompt_template, list)
            else [self.prompt_template]
        )

    @property
    def is_completion(self) -> bool:
        """Whether the prompt is for a completion model: one template instead of a list."""
        return not isinstance(self.prompt_template, list)

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON schema of the answer; None if structured output is off. Raises
        NodeError if it is empty."""
        # Some exports store a schema although the switch is off.
        if not (self.structured_output_enabled or self.structured_output_switch_on):
            return None
        schema = (self.structured_output or {}).get("schema")
        # In some exports the schema is a text.
        if isinstance(schema, str):
            schema = msgspec.json.decode(schema)
        if not is_mapping(schema) or not schema:
            raise NodeError(
                "Please provide a valid structured output schema",
                error_type="LLMNodeError",
            )
        return schema


class LLMNode(Node):
    """Asks a model and streams its answer."""

    type = "llm"
    Data = LLMData

    async def run(self, context: NodeContext) -> NodeResult:
        """Return the answer, its reasoning, usage and files. Raises NodeError."""
        data: LLMData = self.data
        inputs = self._inputs(context)
        process: dict[str, Any] = {}
        try:
            # Model and prompt are resolved before the call, so that an error shows
            # them.
            model = find_model(context, data.model)
            request = await self._request(context, model, inputs)
            model_fields = {"model_provider": model.provider, "model_name": model.model}
            inputs.update(model_fields)
            process = {
                "model_mode": data.model.mode,
                "prompts": dump_prompts(request.messages),
                **model_fields,
            }
            result, text, reasoning = await self._ask(context, model, request)
        except NodeError as error:
            # What is known so far is shown with the failed node.
            error.inputs, error.process_data = (
                error.inputs or inputs,
                error.process_data or process,
            )
            raise
        except ModelyardError as error:
            error_type = type(error).__name__
            raise NodeError(
                str(error), error_type=error_type, inputs=inputs, process_data=process
            ) from error
        # Usage is an output, so that later nodes can read it.
        usage = dump_usage(result.usage)
        outputs: dict[str, Any] = {
            "text": text,
            "reasoning_content": reasoning,
            "usage": usage,
            "finish_reason": result.finish_reason,
        }
        if data.schema is not None:
            outputs["structured_output"] = await _structured(
                result, text, data.schema, inputs, process
            )
        if files := await _images(result, context):
            outputs["files"] = files
            # Clients of the chat show generated images where the text refers to them.
            outputs["text"] = text + "".join(f"![]({file.address})" for file in files)
        process.update(usage=usage, finish_reason=result.finish_reason)
        return NodeResult(
            inputs=inputs,
            process_data=process,
            outputs=outputs,
            metadata=metadata_of(result.usage),
        )

    # The request

    def _inputs(self, context: NodeContext) -> dict[str, Any]:
        """Return the value of every selector in the templates. Raises NodeError if one
        is missing."""
        # Only plain templates are scanned; Jinja templates declare their variables.
        data: LLMData = self.data
        texts = [template.text for template in data.templates if not template.is_jinja]
        if data.memory is not None:
            texts.append(data.memory.query_prompt_template)
        inputs: dict[str, Any] = {}
        for text in texts:
            for selector in selectors_in(text):
                value = _template_value(selector, context)
                inputs[f"#{'.'.join(selector)}#"] = to_object(value)
        return inputs

    async def _request(
        self, context: NodeContext, model: Any, inputs: dict[str, Any]
    ) -> LLMRequest:
        """Return the model request. Raises NodeError if the prompt is empty."""
        data: LLMData = self.data
        # Vision decides whether files are sent at all.
        files = (
            files_in(context.value(data.vision.configs.variable_selector))
            if data.vision.enabled
            else []
        )
        if files:
            inputs["#files#"] = [file.to_object() for file in files]
        context_text = self._context(context)
        if context_text is not None:
            inputs["#context#"] = context_text
        # Templates in the model parameters are rendered.
        parameters, stop = parameters_of(data.model, context)
        schema = data.schema
        # The runtime translates the format for models without native schema support.
        if schema is not None:
            parameters["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "llm_response", "schema": dict(schema)},
            }
        parts = [
            await content_of(file, context, data.vision.configs.detail)
            for file in files
        ]
        # The memory must leave this much of the context to the answer.
        max_tokens = int(parameters.get("max_tokens") or 0)
        if data.is_completion:
            messages = await self._completion(
                context, model, context_text or "", parts, max_tokens
            )
        else:
            messages = await self._chat(
                context, model, context_text or "", parts, max_tokens
            )
        # Unsupported and empty parts are removed last, when all messages exist.
        messages = prepare_messages(messages, model)
        if not messages:
            raise NodeError(
                "No prompt found in the LLM configuration. Please ensure a prompt is"
                " properly configured before proceeding.",
                error_type="NoPromptFoundError",
            )
        return LLMRequest(
            messages=messages,
            model_parameters=_with_variation(parameters, context),
            stop=stop,
            stream=True,
            user=context.run.user or None,
        )

    async def _text(
        self,
        template: PromptMessageTemplate,
        context: NodeContext,
        insertions: Mapping[str, str],
    ) -> str:
        """Return a rendered template, without the files that its selectors lead to.

        `insertions` has the texts for the placeholders that are no selectors.
        """
        if not template.is_jinja:
            return render(
                template.text,
                context.pool,
                fill=lambda part: _PLACEHOLDER.sub(
                    lambda match: insertions.get(match[0], ""), part
                ),
            )
        if (sandbox := context.services.sandbox) is None:
            raise NodeError(
                "Jinja templates require a sandbox, which is not available",
                error_type="SandboxUnavailable",
            )
        variables = self.data.prompt_config.jinja2_variables
        values = {
            variable.variable: _jinja(context.value(variable.value_selector))
            for variable in variables
        }
        max_bytes = context.run.limits.template_characters
        source = template.jinja2_text or template.text
        # Simple templates are rendered in this process; the sandbox is much slower.
        text = sandbox.render_in_process(source, values, max_chars=max_bytes)
        return (
            await sandbox.render(source, values, max_chars=max_bytes)
            if text is None
            else text
        )

    async def _chat(
        self,
        context: NodeContext,
        model: Any,
        context_text: str,
        parts: Sequence[PromptMessageContent],
        max_tokens: int,
    ) -> list[AnyPromptMessage]:
        """Return the messages of a chat prompt: templates, memory, then the query with
        the files."""
        data: LLMData = self.data
        messages: list[AnyPromptMessage] = []
        for template in data.templates:
            insertions = {_CONTEXT: context_text}
            if text := await self._text(template, context, insertions):
                messages.append(
                    message_of(template.role, [TextPromptMessageContent(data=text)])
                )
            # Files cannot be rendered into a text; they follow as a message of the same
            # role.
            if not template.is_jinja and (
                file_contents := await self._files_inside(template.text, context)
            ):
                messages.append(message_of(template.role, file_contents))
        if data.memory is not None:
            # By default the query is the user's message.
            query = data.memory.query_prompt_template or _QUERY
            question = UserPromptMessage(
                content=[TextPromptMessageContent(data=render(query, context.pool))]
            )
            # The history gets what these messages leave of the context.
            prompt_messages = [*messages, question]
            prompt_history = await load_history(
                data.memory, context, model, prompt_messages, max_tokens, sums_up=True
            )
            messages += await memory_messages(
                prompt_history, context, data.vision.configs.detail
            )
            messages.append(question)
        return with_files(messages, parts)

    async def _files_inside(
        self, text: str, context: NodeContext
    ) -> list[PromptMessageContent]:
        """Return the files that the template's selectors lead to, as message content."""
        files = [
            file
            for part in parts_of(text)
            if isinstance(part, tuple)
            for file in files_in(context.value(part))
        ]
        return [
            await content_of(file, context, self.data.vision.configs.detail)
            for file in files
        ]

    async def _completion(
        self,
        context: NodeContext,
        model: Any,
        context_text: str,
        parts: Sequence[PromptMessageContent],
        max_tokens: int,
    ) -> list[AnyPromptMessage]:
        """Return the single message of a completion prompt, with the memory in its
        text."""
        data: LLMData = self.data
        template, insertions = data.templates[0], {_CONTEXT: context_text}
        text = await self._text(template, context, insertions)
        # A completion prompt has no roles: their names must be configured.
        if data.memory is not None:
            if data.memory.role_prefix is None:
                raise NodeError(
                    "Memory role prefix is required for completion model.",
                    error_type="MemoryRolePrefixRequiredError",
                )
            prompt_messages = [UserPromptMessage(content=text)]
            prompt_history = await load_history(
                data.memory, context, model, prompt_messages, max_tokens, sums_up=True
            )
            history = memory_text(prompt_history, data.memory.role_prefix)
            # Without a placeholder the history comes before the prompt.
            if _HISTORIES in template.text and not template.is_jinja:
                # The first text was needed to learn how much history fits beside it.
                insertions[_HISTORIES] = history
                text = await self._text(template, context, insertions)
            else:
                text = f"{history}\n{text}".lstrip()
        return [
            UserPromptMessage(content=[*parts, TextPromptMessageContent(data=text)])
        ]

    def _context(self, context: NodeContext) -> str | None:
        """Return the text for `{{#context#}}` and emit its sources; None if the context
        is not used."""
        config = self.data.context
        if not config.enabled or not config.variable_selector:
            return None
        value = context.pool.get(config.variable_selector)
        # A branch that was not taken leaves no context, and the prompt works without.
        if value is MISSING or value is None:
            return None
        if not is_array(value):
            return to_text(value)
        text, resources = _context_text(value)
        if resources:
            context.emit(
                NodeRunRetrieverResource(
                    id=context.execution_id,
                    node_id=self.id,
                    node_type=self.type,
                    title=self.title,
                    at=context.run.now(),
                    retriever_resources=resources,
                    context=text,
                )
            )
        return text

    # The answer

    async def _ask(
        self, context: NodeContext, model: Any, request: LLMRequest
    ) -> tuple[LLMResult, str, str]:
        """Return (result, text, reasoning), and stream the answer while it arrives."""
        voice = _AnswerStream(
            context, is_separated=self.data.reasoning_format == "separated"
        )
        chunks: list[LLMResultChunk] = []
        # Closing the stream cancels the model call if this node is cancelled.
        async with aclosing(streamed(model, request)) as stream:
            try:
                async for chunk in stream:
                    chunks.append(chunk)
                    voice.feed(chunk)
            # The answer is complete, and is mended before it is held to the schema.
            except AnswerSchemaError:
                if not chunks:
                    raise
        text, reasoning = voice.finish()
        return fold(chunks), text, reasoning

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors in templates, context and memory."""
        data: LLMData = self.data
        selectors = [
            selector
            for template in data.templates
            if not template.is_jinja
            for selector in selectors_in(template.text)
        ]
        selectors += [
            tuple(variable.value_selector)
            for variable in data.prompt_config.jinja2_variables
            if variable.value_selector
        ]
        if data.context.enabled and data.context.variable_selector:
            selectors.append(tuple(data.context.variable_selector))
        if data.memory is not None:
            selectors += selectors_in(data.memory.query_prompt_template)
        return selectors


class _AnswerStream:
    """Streams an answer. Its reasoning is separate or marked by tags, as the node
    configures."""

    def __init__(self, context: NodeContext, *, is_separated: bool) -> None:
        self._context = context
        self._filter = ThinkFilter() if is_separated else None
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._is_thinking = False

    def feed(self, chunk: LLMResultChunk) -> None:
        """Stream a chunk of the model's answer."""
        message = chunk.delta.message
        if thought := message.thinking:
            self._think(thought)
        if text := message.text:
            # The first text after the reasoning closes the tag.
            if self._is_thinking:
                self._is_thinking = False
                self._say("\n</think>\n\n")
            if self._filter is None:
                self._say(text)
            else:
                self._emit_both(*self._filter.feed(text))

    def _think(self, thought: str) -> None:
        """Stream reasoning that the model sent separately."""
        if self._filter is not None:
            # With separated reasoning nothing is mixed into the text.
            self._emit_both(thought, "")
            return
        if not self._is_thinking:
            self._is_thinking = True
            self._say("<think>\n")
        self._say(thought)

    def _emit_both(self, thought: str, text: str) -> None:
        """Stream reasoning and text to their own channels."""
        if thought:
            self._thoughts.append(thought)
            self._context.reason(thought, False)
        if text:
            self._say(text)

    def _say(self, text: str) -> None:
        """Append to the answer and stream it."""
        self._text.append(text)
        self._context.stream("text", text, False)

    def finish(self) -> tuple[str, str]:
        """Stream the remaining text and return (text, reasoning)."""
        # The answer may end while the model still reasons.
        if self._is_thinking:
            self._say("\n</think>")
        if self._filter is not None:
            self._emit_both(*self._filter.finish())
            # Without a thought there is no stream of reasoning that has to end.
            if self._thoughts:
                self._context.reason("", True)
            # Reasoning that never ended has the answer in it.
            if self._filter.is_open and not "".join(self._text).strip():
                self._say("".join(self._thoughts).strip())
        self._context.stream("text", "", True)
        text = "".join(self._text)
        if self._filter is None:
            return text, ""
        # Some models send think tags within the text in spite of a reasoning channel.
        return split_thinking(text)[1], "".join(self._thoughts).strip()


def _template_value(selector: Sequence[str], context: NodeContext) -> Any:
    """Return the value of a template's selector. Raises NodeError if it is missing;
    missing system variables are None."""
    value = context.pool.get(selector)
    if value is not MISSING:
        return value
    # Workflows without a conversation have no `sys.query`, for example.
    if selector[0] == "sys":
        return None
    problem = f"Variable {'.'.join(selector)} not found"
    raise NodeError(problem, error_type="VariableNotFoundError")


def _context_text(items: Sequence[Any]) -> tuple[str, list[dict[str, Any]]]:
    """Return the text of a list of segments, and the sources among them. Raises
    NodeError if an element has another structure.

    The list is the output of a knowledge retrieval node, or has the same structure.
    """
    texts: list[str] = []
    resources: list[dict[str, Any]] = []
    for item in items:
        if isinstance(item, str):
            texts.append(item)
            continue
        if not is_mapping(item) or "content" not in item:
            raise NodeError(
                f"Invalid context structure: {str(item)[:200]}",
                error_type="InvalidContextStructureError",
            )
        # A summary comes before the segment that it describes.
        if item.get("summary"):
            texts.append(str(item["summary"]))
        texts.append(str(item["content"]))
        metadata = item.get("metadata")
        # Only segments of a dataset are shown as sources.
        if is_mapping(metadata) and metadata.get("_source") == "knowledge":
            resources.append(_resource(item, metadata))
    return "\n".join(texts).strip(), resources


def _jinja(value: Any) -> Any:
    """Return a value for a Jinja template; an empty text for None."""
    return "" if value is None else to_object(value)


async def _structured(
    result: LLMResult,
    text: str,
    schema: Mapping[str, Any],
    inputs: Mapping[str, Any],
    process: dict[str, Any],
) -> Any:
    """Return the answer as JSON, mended if necessary; `process` then says how. Raises
    NodeError if it does not match the schema."""
    try:
        # A mended answer that was cut off would lack what the model had left to say.
        if result.finish_reason in ("length", "content_filter"):
            return decode_body(text)
        value, repairs = await structured_output(text, schema)
    except (BodyError, StructuredOutputError) as error:
        raise NodeError(
            f"Failed to parse structured output: {error}",
            error_type="OutputParserError",
            inputs=inputs,
            process_data=process,
        ) from error
    if repairs:
        process["structured_output_repairs"] = repairs
    return value


async def _images(result: LLMResult, context: NodeContext) -> list[File]:
    """Store images that the model generated as the tenant's files."""
    import base64

    files: list[File] = []
    if context.services.files is None:
        return files
    # Text and reasoning have been streamed; only the files are left.
    for part in result.message.files:
        if isinstance(part, ImagePromptMessageContent) and part.base64_data:
            mime_type = part.mime_type or "image/png"
            name = part.filename or f"image.{mime_type.partition('/')[2] or 'png'}"
            files.append(
                await context.services.files.save(
                    name, base64.b64decode(part.base64_data), mime_type
                )
            )
    return files


def _resource(item: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a segment as a source in the format of Dify's API."""
    # Two fields have other names in Dify's API than in the outputs of its nodes.
    renamed = {"segment_hit_count": "hit_count", "segment_word_count": "word_count"}
    copied_fields = (
        "position",
        "dataset_id",
        "dataset_name",
        "document_id",
        "document_name",
        "data_source_type",
        "segment_id",
        "retriever_from",
        "score",
        "segment_hit_count",
        "segment_word_count",
        "segment_position",
        "segment_index_node_hash",
        "doc_metadata",
        "page",
    )
    resource = {renamed.get(name, name): metadata.get(name) for name in copied_fields}
    resource["index_node_hash"] = resource.pop("segment_index_node_hash")
    return {
        **resource,
        "content": item.get("content"),
        "title": item.get("title"),
        "files": item.get("files"),
        "summary": item.get("summary"),
    }


def _with_variation(
    parameters: Mapping[str, Any], context: NodeContext
) -> dict[str, Any]:
    """Return the parameters; with a higher temperature if the run regenerates an
    answer."""
    if not context.value((SYSTEM, "varied")):
        return dict(parameters)
    configured = float(parameters.get("temperature") or 0.0)
    # At a low temperature the same answer would come again.
    temperature = max(_MIN_REGENERATE_TEMPERATURE, configured)
    return {**parameters, "temperature": temperature}


NODES = {"llm": LLMNode}
