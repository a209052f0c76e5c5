"""Parameter extractor node: a model extracts declared parameters from a text, by a tool
call or as plain JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.json_repair import RepairError, repair_json, run_in_thread_if_large
from modelyard.base.json_types import is_array, is_object
from modelyard.models.entities import ModelFeature
from modelyard.models.llm import LLMRequest, LLMResult
from modelyard.models.messages import (
    AnyPromptMessage,
    PromptMessageTool,
    SystemPromptMessage,
    TextPromptMessageContent,
    UserPromptMessage,
)
from modelyard.workflow.memory import load_history, memory_text
from modelyard.workflow.node import Node, NodeContext, NodeData, NodeError, NodeResult
from modelyard.workflow.prompts import (
    MemoryConfig,
    ModelConfig,
    Vision,
    content_of,
    dump_prompts,
    dump_usage,
    features_of,
    files_in,
    find_model,
    metadata_of,
    parameters_of,
    prepare_messages,
    with_files,
)
from modelyard.workflow.template import render, selectors_in
from modelyard.workflow.thinking import split_thinking
from modelyard.workflow.variables import MISSING, to_text

TOOL_NAME = "extract_parameters"
_SYSTEM_PROMPT = """You find the values of parameters in a text. The parameters, as a JSON schema:
{schema}
{instruction}Take values from the text as they stand there; make nothing up. Leave a parameter out where the text does \
not give it."""  # noqa: E501
_TOOL_INSTRUCTION = f"Call the function {TOOL_NAME} with what you found."
_JSON_INSTRUCTION = (
    "Answer with one JSON object that fits the schema, and nothing else."
)


class Parameter(msgspec.Struct, kw_only=True):
    """A parameter to extract."""

    name: str
    type: str = "string"
    options: list[Any] = []
    description: str = ""
    required: bool = False

    @property
    def kind(self) -> str:
        """The type in its current name; old exports have other names."""
        return {"bool": "boolean", "select": "string", "array": "array[string]"}.get(
            self.type, self.type
        )

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the parameter."""
        if self.kind.startswith("array["):
            inner = self.kind[6:-1]
            schema: dict[str, Any] = {
                "type": "array",
                "items": {"type": inner if inner != "any" else "string"},
            }
        else:
            schema = {
                "type": (
                    self.kind
                    if self.kind in ("string", "number", "boolean", "object")
                    else "string"
                )
            }
        # Only a selection limits its values.
        if self.type == "select" and self.options:
            schema["enum"] = [str(option) for option in self.options]
        return {**schema, "description": self.description}

    def default(self) -> Any:
        """Return the value of a parameter that was not found."""
        if self.kind.startswith("array"):
            return []
        defaults: dict[str, Any] = {"number": 0, "boolean": False, "object": {}}
        return defaults.get(self.kind, "")


class ExtractorData(NodeData, kw_only=True):
    """Data of a parameter extractor node in a DSL file."""

    model: ModelConfig
    query: list[str] = []
    parameters: list[Parameter] = []
    instruction: str = ""
    memory: MemoryConfig | None = None
    reasoning_mode: str = "function_call"
    vision: Vision = msgspec.field(default_factory=Vision)

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of all parameters."""
        parameters = self.parameters
        properties = {parameter.name: parameter.schema() for parameter in parameters}
        required = [parameter.name for parameter in parameters if parameter.required]
        return {"type": "object", "properties": properties, "required": required}


class ParameterExtractorNode(Node):
    """Extracts parameters from a text with a model."""

    type = "parameter-extractor"
    Data = ExtractorData

    async def run(self, context: NodeContext) -> NodeResult:
        """Return the parameters and `__is_success`. Missing values are no error. Raises
        NodeError if the model fails."""
        data: ExtractorData = self.data
        query = self._query(context)
        instruction = render(data.instruction, context.pool)
        # The parameters are logged as JSON.
        inputs: dict[str, Any] = {
            "query": query,
            "parameters": msgspec.to_builtins(data.parameters),
            "instruction": instruction,
        }
        model = find_model(context, data.model)
        # Models without tool calls get the schema in the prompt instead.
        by_tool = data.reasoning_mode == "function_call" and _has_tools(model)
        messages = await self._messages(
            query, instruction, context, model, by_tool=by_tool
        )
        parameters, stop = parameters_of(data.model, context)
        tools = [_extraction_tool(data)] if by_tool else []
        request = LLMRequest(
            messages=messages,
            model_parameters=parameters,
            stop=stop,
            tools=tools,
            tool_choice={"name": TOOL_NAME} if by_tool else None,
            user=context.run.user or None,
        )
        # Logged even if the model call fails.
        process: dict[str, Any] = {
            "model_mode": data.model.mode,
            "prompts": dump_prompts(messages),
            "model_provider": model.provider,
            "model_name": model.model,
            "function": msgspec.to_builtins(tools[0]) if by_tool else None,
        }
        try:
            result: LLMResult = await model.invoke_llm(request)
        except ModelyardError as error:
            raise NodeError(
                str(error),
                error_type=type(error).__name__,
                inputs=inputs,
                process_data=process,
            ) from error
        usage = dump_usage(result.usage)
        process.update(usage=usage, llm_text=result.text)
        extracted = await _arguments(result) if by_tool else None
        # Some models answer with text in spite of the required tool.
        if extracted is None:
            extracted = await _object_in_text(result)
        outputs = self._outputs(extracted)
        return NodeResult(
            inputs=inputs,
            process_data=process,
            outputs={**outputs, "__usage": usage},
            metadata=metadata_of(result.usage),
        )

    def _query(self, context: NodeContext) -> str:
        """Return the text to extract from. Raises NodeError if its variable is
        missing."""
        selector = self.data.query
        value = context.pool.get(selector) if selector else ""
        if value is MISSING:
            problem = f"Variable {'.'.join(selector)} not found"
            raise NodeError(problem, error_type="VariableNotFoundError")
        return to_text(value)

    async def _messages(
        self,
        query: str,
        instruction: str,
        context: NodeContext,
        model: Any,
        *,
        by_tool: bool,
    ) -> list[AnyPromptMessage]:
        """Return the prompt: instructions with the schema, then the text and the files."""
        data: ExtractorData = self.data
        system_prompt = _SYSTEM_PROMPT.format(
            schema=json.dumps(data.schema(), ensure_ascii=False),
            instruction=f"{instruction}\n" if instruction else "",
        )
        # The format instruction depends on how the answer is returned.
        system_prompt = (
            f"{system_prompt}\n{_TOOL_INSTRUCTION if by_tool else _JSON_INSTRUCTION}"
        )
        if data.memory is not None:
            history = await load_history(
                data.memory,
                context,
                model,
                [UserPromptMessage(content=system_prompt + query)],
                512,
            )
            if history.turns:
                system_prompt += (
                    f"\nWhat was said before:\n{memory_text(history, None)}"
                )
        question = UserPromptMessage(content=[TextPromptMessageContent(data=query)])
        messages: list[AnyPromptMessage] = [
            SystemPromptMessage(content=system_prompt),
            question,
        ]
        if data.vision.enabled:
            files = files_in(context.value(data.vision.configs.variable_selector))
            # Files are added only if the node uses vision.
            parts = [
                await content_of(file, context, data.vision.configs.detail)
                for file in files
            ]
            messages = with_files(messages, parts)
        return prepare_messages(messages, model)

    def _outputs(self, extracted: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the outputs; a problem with a value is reported and leaves its
        default."""
        # Every parameter has a value, even if it was not found.
        values = {
            parameter.name: parameter.default() for parameter in self.data.parameters
        }
        if extracted is None:
            return {
                "__is_success": 0,
                "__reason": (
                    "Failed to extract result from function call or text response, "
                    "using empty result."
                ),
                **values,
            }
        # The first problem is reported; the other parameters are still extracted.
        problems: list[str] = []
        for parameter in self.data.parameters:
            value = extracted.get(parameter.name)
            if value is None and parameter.required:
                problems.append(f"Parameter {parameter.name} is required")
            # An empty text counts as not found, but is not an error.
            if value is None or value == "":
                continue
            try:
                values[parameter.name] = _coerce(value, parameter)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            return {"__is_success": 0, "__reason": problems[0], **values}
        return {"__is_success": 1, "__reason": None, **values}

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors of the text and the instruction."""
        selectors = [tuple(self.data.query)] if self.data.query else []
        return [*selectors, *selectors_in(self.data.instruction)]


def _extraction_tool(data: ExtractorData) -> PromptMessageTool:
    """Return the tool whose arguments are the parameters."""
    return PromptMessageTool(
        name=TOOL_NAME,
        description="Take what was found.",
        parameters=data.schema(),
    )


def _has_tools(model: Any) -> bool:
    """Return whether the model supports tool calls; True if its features are unknown."""
    features = features_of(model)
    return features is None or bool(
        features & {ModelFeature.TOOL_CALL, ModelFeature.MULTI_TOOL_CALL}
    )


async def _arguments(result: LLMResult) -> Mapping[str, Any] | None:
    """Return the arguments of the first tool call; None if there is none."""
    if not result.tool_calls:
        return None
    text = result.tool_calls[0].function.arguments
    return await run_in_thread_if_large(len(text), first_object, text)


async def _object_in_text(result: LLMResult) -> Mapping[str, Any] | None:
    """Return the first JSON object in the model's answer; None if there is none."""
    text = split_thinking(result.text)[1]
    return await run_in_thread_if_large(len(text), first_object, text)


# Longer answers are not parsed.
_MAX_TEXT_LENGTH = 1 << 20


def first_object(text: str) -> Mapping[str, Any] | None:
    """Return the first JSON object in a text, repaired if it is slightly invalid; None
    if there is none."""
    # A very long answer is certainly not the expected object.
    if len(text) > _MAX_TEXT_LENGTH:
        return None
    decoder = json.JSONDecoder(strict=False)
    brace_index = text.find("{")
    tries = 0
    # Bounded, because each attempt may scan the remaining text.
    while brace_index >= 0 and tries < 50:
        try:
            parsed, _ = decoder.raw_decode(text, brace_index)
        except (ValueError, RecursionError):
            pass
        else:
            if is_object(parsed):
                return parsed
        brace_index = text.find("{", brace_index + 1)
        tries += 1
    return _repair_object(text)


def _repair_object(text: str) -> Mapping[str, Any] | None:
    """Return the repaired object that starts at the first brace; None if it cannot be
    repaired."""
    start = text.find("{")
    if start < 0:
        return None
    try:
        repaired = repair_json(text[start:])
    except (ImportError, RepairError):
        return None
    return repaired if is_object(repaired) and repaired else None


def _coerce(value: Any, parameter: Parameter) -> Any:
    """Convert a value to the parameter's type. Raises ValueError."""
    name, type_name = parameter.name, parameter.kind
    # None elements are dropped from arrays.
    if type_name.startswith("array"):
        inner = type_name[6:-1] or "any"
        if not is_array(value):
            raise ValueError(f"Invalid array value for parameter {name}")
        return [
            _scalar(element, inner, name) for element in value if element is not None
        ]
    value = _scalar(value, type_name, name)
    if (
        parameter.type == "select"
        and parameter.options
        and value not in [str(option) for option in parameter.options]
    ):
        raise ValueError(f"Invalid `select` value for parameter {name}")
    return value


def _scalar(value: Any, type_name: str, name: str) -> Any:
    """Convert a single value to a type. Raises ValueError."""
    match type_name:
        case "number":
            return _number(value, name)
        case "boolean":
            return _boolean(value, name)
        case "object":
            if not is_object(value):
                raise ValueError(f"Invalid object value for parameter {name}")
            return value
        case "string":
            if not isinstance(value, str):
                raise ValueError(f"Invalid string value for parameter {name}")
            return value
        case _:
            return value


def _number(value: Any, name: str) -> Any:
    """Return a number; texts are parsed. Raises ValueError."""
    if isinstance(value, str):
        try:
            return float(value) if "." in value else int(value)
        except ValueError:
            pass
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ValueError(f"Invalid number value for parameter {name}")


def _boolean(value: Any, name: str) -> bool:
    """Return a boolean; `true` and `false` as text and integers are accepted. Raises
    ValueError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError(f"Invalid boolean value for parameter {name}")


NODES = {"parameter-extractor": ParameterExtractorNode}
