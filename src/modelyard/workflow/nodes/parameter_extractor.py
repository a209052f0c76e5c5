"""parameter-extractor: a model finds the values of declared parameters in a text, by a tool call or in plain JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.mending import NotMendedError, apart, mended
from modelyard.models.entities import ModelFeature
from modelyard.models.llm import LLMRequest, LLMResult
from modelyard.models.messages import (
    AnyPromptMessage,
    PromptMessageTool,
    SystemPromptMessage,
    TextPromptMessageContent,
    UserPromptMessage,
)
from modelyard.workflow.memory import memory_text, remembered
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
    settled,
    with_files,
)
from modelyard.workflow.template import render, selectors_in
from modelyard.workflow.thinking import separated
from modelyard.workflow.variables import MISSING, to_text

TOOL = "extract_parameters"
_TOLD = """You find the values of parameters in a text. The parameters, as a JSON schema:
{schema}
{instruction}Take values from the text as they stand there; make nothing up. Leave a parameter out where the text does \
not give it."""
_BY_TOOL = f"Call the function {TOOL} with what you found."
_BY_TEXT = "Answer with one JSON object that fits the schema, and nothing else."


class Parameter(msgspec.Struct, kw_only=True):
    name: str
    type: str = "string"
    options: list[Any] = []
    description: str = ""
    required: bool = False

    @property
    def kind(self) -> str:
        return {"bool": "boolean", "select": "string", "array": "array[string]"}.get(self.type, self.type)

    def schema(self) -> dict[str, Any]:
        if self.kind.startswith("array["):
            inner = self.kind[6:-1]
            schema: dict[str, Any] = {"type": "array", "items": {"type": inner if inner != "any" else "string"}}
        else:
            schema = {"type": self.kind if self.kind in ("string", "number", "boolean", "object") else "string"}
        if self.type == "select" and self.options:
            schema["enum"] = [str(one) for one in self.options]
        return {**schema, "description": self.description}

    def default(self) -> Any:
        if self.kind.startswith("array"):
            return []
        return {"number": 0, "boolean": False, "object": {}}.get(self.kind, "")


class ExtractorData(NodeData, kw_only=True):
    model: ModelConfig
    query: list[str] = []
    parameters: list[Parameter] = []
    instruction: str = ""
    memory: MemoryConfig | None = None
    reasoning_mode: str = "function_call"
    vision: Vision = msgspec.field(default_factory=Vision)

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {one.name: one.schema() for one in self.parameters},
            "required": [one.name for one in self.parameters if one.required],
        }


class ParameterExtractorNode(Node):
    type = "parameter-extractor"
    Data = ExtractorData

    async def run(self, context: NodeContext) -> NodeResult:
        data: ExtractorData = self.data
        value = context.pool.get(data.query) if data.query else ""
        if value is MISSING:
            raise NodeError(f"Variable {'.'.join(data.query)} not found", kind="VariableNotFoundError")
        query = to_text(value)
        instruction = render(data.instruction, context.pool)
        inputs: dict[str, Any] = {
            "query": query,
            "parameters": msgspec.to_builtins(data.parameters),
            "instruction": instruction,
        }
        model = find_model(context, data.model)
        by_tool = data.reasoning_mode == "function_call" and _has_tools(model)
        messages = await self._messages(query, instruction, context, model, by_tool=by_tool)
        parameters, stop = parameters_of(data.model, context)
        tools = [PromptMessageTool(name=TOOL, description="Take what was found.", parameters=data.schema())]
        request = LLMRequest(
            messages=messages, model_parameters=parameters, stop=stop, tools=tools if by_tool else [],
            tool_choice={"name": TOOL} if by_tool else None, user=context.run.user or None,
        )  # fmt: skip
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
            raise NodeError(str(error), kind=type(error).__name__, inputs=inputs, process_data=process) from error
        usage = dump_usage(result.usage)
        process.update(usage=usage, llm_text=result.text)
        found = await _arguments(result) if by_tool else None
        if found is None:
            text = separated(result.text)[1]
            found = await apart(len(text), first_object, text)
        outputs = self._outputs(found)
        return NodeResult(
            inputs=inputs, process_data=process, outputs={**outputs, "__usage": usage},
            metadata=metadata_of(result.usage),
        )  # fmt: skip

    async def _messages(
        self, query: str, instruction: str, context: NodeContext, model: Any, *, by_tool: bool
    ) -> list[AnyPromptMessage]:
        data: ExtractorData = self.data
        told = _TOLD.format(
            schema=json.dumps(data.schema(), ensure_ascii=False), instruction=f"{instruction}\n" if instruction else ""
        )
        told = f"{told}\n{_BY_TOOL if by_tool else _BY_TEXT}"
        if data.memory is not None:
            before = await remembered(data.memory, context, model, [UserPromptMessage(content=told + query)], 512)
            if before.turns:
                told += f"\nWhat was said before:\n{memory_text(before, None)}"
        question = UserPromptMessage(content=[TextPromptMessageContent(data=query)])
        messages: list[AnyPromptMessage] = [SystemPromptMessage(content=told), question]
        if data.vision.enabled:
            files = files_in(context.value(data.vision.configs.variable_selector))
            parts = [await content_of(one, context, data.vision.configs.detail) for one in files]
            messages = with_files(messages, parts)
        return settled(messages, model)

    def _outputs(self, found: Mapping[str, Any] | None) -> dict[str, Any]:
        values = {one.name: one.default() for one in self.data.parameters}
        if found is None:
            return {"__is_success": 0, "__reason": "Failed to extract result from function call or text response, "
                    "using empty result.", **values}  # fmt: skip
        problem = None
        for one in self.data.parameters:
            value = found.get(one.name)
            if value is None or value == "":
                if one.required and value is None:
                    problem = problem or f"Parameter {one.name} is required"
                continue
            try:
                values[one.name] = _coerced(value, one)
            except ValueError as error:
                problem = problem or str(error)
        if problem is not None:
            return {"__is_success": 0, "__reason": problem, **values}
        return {"__is_success": 1, "__reason": None, **values}

    def references(self) -> Sequence[tuple[str, ...]]:
        found = [tuple(self.data.query)] if self.data.query else []
        return [*found, *selectors_in(self.data.instruction)]


def _has_tools(model: Any) -> bool:
    features = features_of(model)
    return features is None or bool(features & {ModelFeature.TOOL_CALL, ModelFeature.MULTI_TOOL_CALL})


async def _arguments(result: LLMResult) -> Mapping[str, Any] | None:
    if not result.tool_calls:
        return None
    text = result.tool_calls[0].function.arguments
    return await apart(len(text), first_object, text)


_MOST_TEXT = 1 << 20


def first_object(text: str) -> Mapping[str, Any] | None:
    """The first balanced `{…}` of a text that is JSON; mended a little where it nearly is."""
    if len(text) > _MOST_TEXT:
        return None
    decoder = json.JSONDecoder(strict=False)
    place = text.find("{")
    tries = 0
    while place >= 0 and tries < 50:
        try:
            found, _ = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            pass
        else:
            if isinstance(found, dict):
                return found
        place = text.find("{", place + 1)
        tries += 1
    return _mended(text)


def _mended(text: str) -> Mapping[str, Any] | None:
    start = text.find("{")
    if start < 0:
        return None
    try:
        found = mended(text[start:])
    except (ImportError, NotMendedError):
        return None
    return found if isinstance(found, dict) and found else None


def _coerced(value: Any, parameter: Parameter) -> Any:
    """Raises ValueError where the value cannot be what the parameter is."""
    name, kind = parameter.name, parameter.kind
    if kind.startswith("array"):
        inner = kind[6:-1] or "any"
        if not isinstance(value, list):
            raise ValueError(f"Invalid array value for parameter {name}")
        return [_scalar(one, inner, name) for one in value if one is not None]
    value = _scalar(value, kind, name)
    if parameter.type == "select" and parameter.options and value not in [str(one) for one in parameter.options]:
        raise ValueError(f"Invalid `select` value for parameter {name}")
    return value


def _scalar(value: Any, kind: str, name: str) -> Any:
    match kind:
        case "number":
            return _number(value, name)
        case "boolean":
            return _boolean(value, name)
        case "object":
            if not isinstance(value, dict):
                raise ValueError(f"Invalid object value for parameter {name}")
            return value
        case "string":
            if not isinstance(value, str):
                raise ValueError(f"Invalid string value for parameter {name}")
            return value
        case _:
            return value


def _number(value: Any, name: str) -> Any:
    if isinstance(value, str):
        try:
            return float(value) if "." in value else int(value)
        except ValueError:
            pass
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ValueError(f"Invalid number value for parameter {name}")


def _boolean(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError(f"Invalid boolean value for parameter {name}")


NODES = {"parameter-extractor": ParameterExtractorNode}
