"""Question classifier node: a model assigns a text to one of several classes, which
selects the branch."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.json_types import is_array, is_mapping, is_object
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    SystemPromptMessage,
    TextPromptMessageContent,
    UserPromptMessage,
)
from modelyard.runtime.policies.structured import extract_json
from modelyard.workflow.memory import load_history, memory_text
from modelyard.workflow.node import (
    Node,
    NodeContext,
    NodeData,
    NodeError,
    NodeKind,
    NodeResult,
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
    metadata_of,
    parameters_of,
    prepare_messages,
    with_files,
)
from modelyard.workflow.structured_output import StructuredOutputError, parsed_json
from modelyard.workflow.template import render
from modelyard.workflow.thinking import split_thinking
from modelyard.workflow.variables import MISSING, to_text

_SYSTEM_PROMPT = """You sort texts. You are given a text, a list of categories and perhaps further instructions. Choose the one \
category that the text belongs to.
Answer with one JSON object and nothing else:
{"keywords": [the words of the text that decided], "category_id": "the id", "category_name": "the name"}
The id and the name are copied from the list. There is always one answer: where nothing fits well, take the nearest."""  # noqa: E501
# Examples from different domains, so that the model learns the format and not the
# categories.
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
        {
            "keywords": ["late", "torn", "parcel"],
            "category_id": "a1",
            "category_name": "Delivery",
        },
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
        {
            "keywords": ["plan", "seats", "cost"],
            "category_id": "q",
            "category_name": "Sales",
        },
    ),
)


class Class(msgspec.Struct, kw_only=True):
    """A class; its id is the handle of its branch."""

    id: str
    name: str = ""
    label: str = ""


class ClassifierData(NodeData, kw_only=True):
    """Data of a question classifier node in a DSL file."""

    query_variable_selector: list[str] = []
    model: ModelConfig
    classes: list[Class] = []
    instruction: str = ""
    memory: MemoryConfig | None = None
    vision: Vision = msgspec.field(default_factory=Vision)


class QuestionClassifierNode(Node):
    """Selects a branch by the class of a text."""

    type = "question-classifier"
    kind = NodeKind.BRANCH
    Data = ClassifierData

    async def run(self, context: NodeContext) -> NodeResult:
        """Return the class of the text. Raises NodeError if the model fails or its
        answer is not JSON."""
        data: ClassifierData = self.data
        query = self._query(context)
        inputs: dict[str, Any] = {"query": query}
        model = find_model(context, data.model)
        messages = await self._messages(query, context, model)
        parameters, stop = parameters_of(data.model, context)
        request = LLMRequest(
            messages=messages,
            model_parameters=parameters,
            stop=stop,
            user=context.run.user or None,
        )
        # Logged even if the model call fails.
        process = {
            "model_mode": data.model.mode,
            "prompts": dump_prompts(messages),
            "model_provider": model.provider,
            "model_name": model.model,
        }
        try:
            result = await model.invoke_llm(request)
        except ModelyardError as error:
            raise NodeError(
                str(error),
                error_type=type(error).__name__,
                inputs=inputs,
                process_data=process,
            ) from error
        usage = dump_usage(result.usage)
        process.update(usage=usage, finish_reason=result.finish_reason)
        try:
            selected_class = self._parse_class(result.text)
        except ValueError as error:
            raise NodeError(
                str(error),
                error_type="OutputParserError",
                inputs=inputs,
                process_data=process,
                metadata=metadata_of(result.usage),
            ) from error
        # The class id is also the handle that selects the branch.
        outputs = {
            "class_name": selected_class.name,
            "class_id": selected_class.id,
            "class_label": selected_class.label,
            "usage": usage,
        }
        return NodeResult(
            inputs=inputs,
            process_data=process,
            outputs=outputs,
            handle=selected_class.id,
            metadata=metadata_of(result.usage),
        )

    def _query(self, context: NodeContext) -> str:
        """Return the text to classify. Raises NodeError if the variable is missing."""
        selector = self.data.query_variable_selector
        value = context.pool.get(selector) if selector else ""
        if value is MISSING:
            problem = f"Variable {'.'.join(selector)} not found"
            raise NodeError(problem, error_type="VariableNotFoundError")
        # Other values than texts are converted.
        return to_text(value)

    async def _messages(
        self, query: str, context: NodeContext, model: Any
    ) -> list[AnyPromptMessage]:
        """Return the prompt: instructions with the memory, examples, then the text and
        the files."""
        data: ClassifierData = self.data
        # Class names may contain selectors.
        classes = [
            {
                "category_id": category.id,
                "category_name": render(category.name, context.pool),
            }
            for category in data.classes
        ]
        instruction = render(data.instruction, context.pool)
        classification_input = {
            "input_text": [query],
            "categories": classes,
            "classification_instructions": [instruction] if instruction else [],
        }
        system_prompt = _SYSTEM_PROMPT
        if data.memory is not None:
            # The answer is short: 512 tokens are reserved for it.
            history = await load_history(
                data.memory,
                context,
                model,
                [UserPromptMessage(content=_dump(classification_input))],
                512,
            )
            if history.turns:
                system_prompt += (
                    f"\nWhat was said before:\n{memory_text(history, None)}"
                )
        messages: list[AnyPromptMessage] = [SystemPromptMessage(content=system_prompt)]
        # The examples are turns of a conversation before the real question.
        for question, answer in _EXAMPLES:
            messages += [
                UserPromptMessage(content=_dump(question)),
                AssistantPromptMessage(content=_dump(answer)),
            ]
        messages.append(
            UserPromptMessage(
                content=[TextPromptMessageContent(data=_dump(classification_input))]
            )
        )
        if data.vision.enabled:
            files = files_in(context.value(data.vision.configs.variable_selector))
            parts = [
                await content_of(file, context, data.vision.configs.detail)
                for file in files
            ]
            messages = with_files(messages, parts)
        return prepare_messages(messages, model)

    def _parse_class(self, text: str) -> Class:
        """Return the class in the model's answer; the first class if it names none of
        them.

        Raises ValueError if the answer is not JSON or there are no classes.
        """
        classes: Sequence[Class] = self.data.classes
        if not classes:
            raise ValueError("The classifier has no classes")
        answer = split_thinking(text)[1].strip()
        # Some models name only the class, without the JSON around it.
        if (named := _named(classes, answer)) is not None:
            return named
        try:
            parsed = parsed_json(extract_json(answer))[0]
        except StructuredOutputError as error:
            raise ValueError(f"got invalid json object. error: {error}") from error
        # Some models wrap the object in a list.
        if is_array(parsed):
            objects = (element for element in parsed if is_object(element))
            parsed = next(objects, None)
        # An answer without the expected fields counts as no answer.
        if (
            not is_mapping(parsed)
            or "category_name" not in parsed
            or "category_id" not in parsed
        ):
            return classes[0]
        return _named(classes, str(parsed["category_id"])) or classes[0]

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selector of the text."""
        return (
            [tuple(self.data.query_variable_selector)]
            if self.data.query_variable_selector
            else []
        )


def _named(classes: Sequence[Class], text: str) -> Class | None:
    """Return the class that a text names by its id, or else by its name; None if there
    is none."""
    text = text.strip("\"'`. \n")
    by_id = (category for category in classes if category.id == text)
    by_name = (category for category in classes if category.name == text)
    return next(by_id, None) or next(by_name, None)


def _dump(value: Any) -> str:
    """Return the value as JSON without escaped characters, which cost tokens."""
    return json.dumps(value, ensure_ascii=False)


NODES = {"question-classifier": QuestionClassifierNode}
