"""question-classifier: a model says which of some classes a text belongs to, and the run goes that way."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.bodies import check_amount
from modelyard.base.errors import ModelyardError
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    SystemPromptMessage,
    TextPromptMessageContent,
    UserPromptMessage,
)
from modelyard.runtime.policies.structured import bare_json
from modelyard.workflow.memory import memory_text, remembered
from modelyard.workflow.node import Node, NodeContext, NodeData, NodeError, NodeKind, NodeResult
from modelyard.workflow.prompts import (
    MemoryConfig,
    ModelConfig,
    Vision,
    content_of,
    dump_prompts,
    dump_usage,
    files_in,
    find_model,
    metadata_of,
    parameters_of,
    settled,
    with_files,
)
from modelyard.workflow.template import render
from modelyard.workflow.thinking import separated
from modelyard.workflow.variables import MISSING, to_text

_TOLD = """You sort texts. You are given a text, a list of categories and perhaps further instructions. Choose the one \
category that the text belongs to.
Answer with one JSON object and nothing else:
{"keywords": [the words of the text that decided], "category_id": "the id", "category_name": "the name"}
The id and the name are copied from the list. There is always one answer: where nothing fits well, take the nearest."""
_EXAMPLES = (
    (
        {
            "input_text": ["The parcel came two weeks late and the box was torn."],
            "categories": [
                {"category_id": "a1", "category_name": "Delivery"},
                {"category_id": "b2", "category_name": "Price"},
            ],
            "classification_instructions": ["sort what customers write"],
        },
        {"keywords": ["late", "torn", "parcel"], "category_id": "a1", "category_name": "Delivery"},
    ),
    (
        {
            "input_text": ["Which plan has more seats, and what does it cost?"],
            "categories": [
                {"category_id": "s", "category_name": "Support"},
                {"category_id": "q", "category_name": "Sales"},
            ],
            "classification_instructions": [],
        },
        {"keywords": ["plan", "seats", "cost"], "category_id": "q", "category_name": "Sales"},
    ),
)


class Class(msgspec.Struct, kw_only=True):
    id: str
    name: str = ""
    label: str = ""


class ClassifierData(NodeData, kw_only=True):
    query_variable_selector: list[str] = []
    model: ModelConfig
    classes: list[Class] = []
    instruction: str = ""
    memory: MemoryConfig | None = None
    vision: Vision = msgspec.field(default_factory=Vision)


class QuestionClassifierNode(Node):
    type = "question-classifier"
    kind = NodeKind.BRANCH
    Data = ClassifierData

    async def run(self, context: NodeContext) -> NodeResult:
        data: ClassifierData = self.data
        value = context.pool.get(data.query_variable_selector) if data.query_variable_selector else ""
        if value is MISSING:
            raise NodeError(
                f"Variable {'.'.join(data.query_variable_selector)} not found", kind="VariableNotFoundError"
            )
        query = to_text(value)
        inputs: dict[str, Any] = {"query": query}
        model = find_model(context, data.model)
        messages = await self._messages(query, context, model)
        parameters, stop = parameters_of(data.model, context)
        request = LLMRequest(messages=messages, model_parameters=parameters, stop=stop, user=context.run.user or None)
        process = {"model_mode": data.model.mode, "prompts": dump_prompts(messages), "model_provider": model.provider,
                   "model_name": model.model}  # fmt: skip
        try:
            result = await model.invoke_llm(request)
        except ModelyardError as error:
            raise NodeError(str(error), kind=type(error).__name__, inputs=inputs, process_data=process) from error
        usage = dump_usage(result.usage)
        process.update(usage=usage, finish_reason=result.finish_reason)
        try:
            chosen = self._chosen(result.text)
        except ValueError as error:
            raise NodeError(
                str(error), kind="OutputParserError", inputs=inputs, process_data=process,
                metadata=metadata_of(result.usage),
            ) from error  # fmt: skip
        outputs = {"class_name": chosen.name, "class_id": chosen.id, "class_label": chosen.label, "usage": usage}
        return NodeResult(
            inputs=inputs, process_data=process, outputs=outputs, handle=chosen.id, metadata=metadata_of(result.usage)
        )

    async def _messages(self, query: str, context: NodeContext, model: Any) -> list[AnyPromptMessage]:
        data: ClassifierData = self.data
        classes = [{"category_id": one.id, "category_name": render(one.name, context.pool)} for one in data.classes]
        instruction = render(data.instruction, context.pool)
        asked = {
            "input_text": [query],
            "categories": classes,
            "classification_instructions": [instruction] if instruction else [],
        }
        told = _TOLD
        if data.memory is not None:
            before = await remembered(data.memory, context, model, [UserPromptMessage(content=_dump(asked))], 512)
            if before.turns:
                told += f"\nWhat was said before:\n{memory_text(before, None)}"
        messages: list[AnyPromptMessage] = [SystemPromptMessage(content=told)]
        for question, answer in _EXAMPLES:
            messages += [UserPromptMessage(content=_dump(question)), AssistantPromptMessage(content=_dump(answer))]
        messages.append(UserPromptMessage(content=[TextPromptMessageContent(data=_dump(asked))]))
        if data.vision.enabled:
            files = files_in(context.value(data.vision.configs.variable_selector))
            parts = [await content_of(one, context, data.vision.configs.detail) for one in files]
            messages = with_files(messages, parts)
        return settled(messages, model)

    def _chosen(self, text: str) -> Class:
        """The first class where the model named none that there is. Raises ValueError for what is no JSON."""
        classes: Sequence[Class] = self.data.classes
        if not classes:
            raise ValueError("the classifier has no classes")
        try:
            answer = bare_json(separated(text)[1])
            check_amount(answer)
            found = json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"got invalid json object. error: {error}") from error
        if isinstance(found, list):
            found = next((one for one in found if isinstance(one, dict)), {})
        if not isinstance(found, Mapping) or "category_name" not in found or "category_id" not in found:
            return classes[0]
        return next((one for one in classes if one.id == str(found["category_id"])), classes[0])

    def references(self) -> Sequence[tuple[str, ...]]:
        return [tuple(self.data.query_variable_selector)] if self.data.query_variable_selector else []


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


NODES = {"question-classifier": QuestionClassifierNode}
