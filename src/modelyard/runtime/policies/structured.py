"""Policy for structured output: the answer satisfies a JSON schema, whatever the model
supports.

A model with structured output gets the request unchanged. A model with tools gets a
tool that takes the answer and has to call it. Any other model gets the schema in the
prompt. Every answer is validated; if it does not fit, a model without native support is
asked once more with the error.
"""

import json
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.bounded_json import check_value_count
from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.schemas import SchemaError, TooMuchWorkError, compile_schema
from modelyard.models.answer_formats import AnswerModes
from modelyard.models.entities import ModelFeature
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk, fold
from modelyard.models.messages import (
    AssistantPromptMessage,
    PromptMessageTool,
    SystemPromptMessage,
    UserPromptMessage,
)
from modelyard.models.types import JSON, Chunks, ModelType
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.pipeline import Call

ANSWER_TOOL = "give_answer"
_ANY_OBJECT: JSON = {"type": "object"}
"""The schema of JSON mode."""
_INCOMPLETE_REASONS = ("length", "content_filter")
"""Finish reasons after which the answer cannot be complete."""


class AnswerSchemaError(InvokeServerUnavailableError):
    """A model's answer does not match the schema. It was streamed completely before."""


@dataclass(frozen=True, slots=True)
class Structured:
    """The structured output policy."""

    features: Callable[[Invocation], Collection[ModelFeature] | None]
    """Returns the features of the model; None if they are unknown, in which case native
    support is assumed."""
    modes: Callable[[Invocation], AnswerModes] = lambda _: AnswerModes()
    """Returns what the model's server offers."""

    def applies_to(self, invocation: Invocation) -> bool:
        """Return whether the call may ask for an answer of a given form."""
        return (
            invocation.model_type is ModelType.LLM
            and "response_format" in invocation.request.model_parameters
        )

    def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        request = invocation.request
        if not self.applies_to(invocation):
            return call_next(invocation)
        response_format: dict[str, Any] | str | None = request.model_parameters[
            "response_format"
        ]
        if not isinstance(response_format, dict):
            return call_next(invocation)
        if response_format.get("type") == "json_object":
            if self.modes(invocation).json_object:
                return call_next(invocation)
            return _prompted(invocation, call_next, _Check(_ANY_OBJECT), by_tool=False)
        if response_format.get("type") != "json_schema":
            return call_next(invocation)
        schema = response_format["json_schema"]["schema"]
        check = _Check(schema)
        modes, features = self.modes(invocation), self.features(invocation)
        is_native = modes.json_schema
        if is_native is None:
            is_native = features is None or ModelFeature.STRUCTURED_OUTPUT in features
        if is_native:
            return _native(invocation, call_next, check)
        # If the request has its own tools, forcing ours would prevent the model from
        # calling them.
        has_tools = ModelFeature.TOOL_CALL in (features or ())
        by_tool = has_tools and modes.forced_tool and not request.tools
        return _prompted(invocation, call_next, check, by_tool=by_tool)


class _Check:
    """Validates answers against the schema. Raises InvokeBadRequestError if the schema
    is invalid.

    References to other documents are not followed, and patterns that cannot be matched
    in linear time are ignored.
    """

    def __init__(self, schema: JSON) -> None:
        try:
            self._compiled = compile_schema(schema, is_lenient=True)
        except SchemaError as error:
            where = "response_format.json_schema.schema"
            raise InvokeBadRequestError(
                f"{where!r} is not a valid JSON schema: {error}", param=where
            ) from error
        self.schema = schema

    async def problem(self, text: str) -> str | None:
        """Return what is wrong with a text, as an explanation for a model; None if it
        is valid."""
        try:
            # Check the size before parsing: nested input of a model could use up memory
            # or time.
            check_value_count(text)
            document = json.loads(text)
        except ValueError as error:
            return f"it is not JSON: {error}"
        except RecursionError:
            return "it is nested too deeply"
        return await self.problem_of(document)

    async def problem_of(self, document: Any) -> str | None:
        """Return what is wrong with a parsed document; None if it satisfies the schema."""
        try:
            mismatch = await self._compiled.mismatch_async(document)
        except TooMuchWorkError as error:
            return str(error)
        except SchemaError as error:
            raise InvokeBadRequestError(
                f"The schema of 'response_format' cannot be resolved: {error}"
            ) from error
        return (
            None
            if mismatch is None
            else f"{mismatch.where('/', 'the answer')}: {mismatch.message}"
        )


async def _native(
    invocation: Invocation, call_next: Call, check: _Check
) -> AsyncGenerator[LLMResultChunk, None]:
    """Pass the model's stream through and raise at the end if the answer does not
    match the schema."""
    collected: list[LLMResultChunk] = []
    async with aclosing(call_next(invocation)) as chunks:
        async for chunk in chunks:
            collected.append(chunk)
            yield chunk
    result = fold(collected)
    # Tool calls, refusals and truncated answers are not held to the schema.
    if (
        result.tool_calls
        or result.message.refusal
        or result.finish_reason in _INCOMPLETE_REASONS
    ):
        return
    if problem := await check.problem(result.text):
        raise _schema_error(invocation, problem)


def _schema_error(invocation: Invocation, problem: str) -> AnswerSchemaError:
    """Return the error for an answer that does not match the schema."""
    return AnswerSchemaError(
        f"Response does not match the JSON schema: {problem}",
        provider=invocation.provider,
    )


async def _prompted(
    invocation: Invocation, call_next: Call, check: _Check, *, by_tool: bool
) -> AsyncGenerator[LLMResultChunk, None]:
    """Ask a model without native support, once more if needed, and yield the answer as
    text chunks."""
    request = (
        _with_tool(invocation.request, check.schema)
        if by_tool
        else _prompted_schema(invocation.request, check.schema)
    )
    result = await _complete_result(invocation, call_next, request)
    text = _answer_of(result, by_tool=by_tool)
    # A truncated or refused answer would not improve with a second request.
    # A call of the caller's own tools is an answer of another kind.
    if result.tool_calls and not by_tool:
        for chunk in result.as_chunks():
            yield chunk
        return
    if (
        result.finish_reason not in _INCOMPLETE_REASONS
        and not result.message.refusal
        and (problem := await check.problem(text))
    ):
        first = result.usage
        result = await _complete_result(
            invocation, call_next, _repair(request, text, problem)
        )
        # Both calls were made and have to be paid for.
        result = msgspec.structs.replace(result, usage=first.plus(result.usage))
        text = _answer_of(result, by_tool=by_tool)
        if result.finish_reason not in _INCOMPLETE_REASONS and (
            problem := await check.problem(text)
        ):
            raise _schema_error(invocation, problem)
    for chunk in _as_text(result, text).as_chunks():
        yield chunk


async def _complete_result(
    invocation: Invocation, call_next: Call, request: LLMRequest
) -> LLMResult:
    """Make the call without streaming: the answer has to be validated before the caller
    sees any of it."""
    inner_invocation = msgspec.structs.replace(
        invocation, request=msgspec.structs.replace(request, stream=False)
    )
    async with aclosing(call_next(inner_invocation)) as chunks:
        return await LLMResult.collect(chunks)


def _without_format(request: LLMRequest) -> LLMRequest:
    """Return the request without `response_format`, which the model does not support."""
    parameters = {
        name: value
        for name, value in request.model_parameters.items()
        if name != "response_format"
    }
    return msgspec.structs.replace(request, model_parameters=parameters)


def _with_tool(request: LLMRequest, schema: JSON) -> LLMRequest:
    """Return the request with the answer tool, which the model is forced to call."""
    tool = PromptMessageTool(
        name=ANSWER_TOOL,
        description="Give the answer here, and nowhere else.",
        parameters=schema,
    )
    return msgspec.structs.replace(
        _without_format(request), tools=[tool], tool_choice={"name": ANSWER_TOOL}
    )


def _prompted_schema(request: LLMRequest, schema: JSON) -> LLMRequest:
    """Return the request with the schema in a system message."""
    instructions = (
        "Answer with one JSON document that satisfies this JSON schema, and with"
        " nothing else: no explanation, no code"
        f" fence.\n{json.dumps(schema, ensure_ascii=False)}"
    )
    return msgspec.structs.replace(
        _without_format(request),
        messages=[SystemPromptMessage(content=instructions), *request.messages],
    )


def _repair(request: LLMRequest, text: str, problem: str) -> LLMRequest:
    """Return the request extended by the invalid answer and a correction."""
    correction = (
        f"This does not satisfy the schema: {problem}. Give the whole answer again,"
        " mended."
    )
    # Providers refuse an empty assistant message.
    history = [
        *request.messages,
        AssistantPromptMessage(content=text or "{}"),
        UserPromptMessage(content=correction),
    ]
    return msgspec.structs.replace(request, messages=history)


def _answer_of(result: LLMResult, *, by_tool: bool) -> str:
    """Return the answer's JSON text: the arguments of the tool call, or the JSON inside
    the text."""
    if by_tool and result.tool_calls:
        return result.tool_calls[0].function.arguments
    return extract_json(result.text)


def extract_json(text: str) -> str:
    """Extract the JSON from a text: the content of a code fence, or the part from the
    first to the last bracket."""
    text = text.strip()
    if "```" in text:
        fenced = text.split("```")[1]
        text = fenced.removeprefix("json").strip()
    starts = [index for index in (text.find("{"), text.find("[")) if index >= 0]
    # Text that already starts with JSON is left alone, so that brackets inside a string
    # do no harm.
    if starts and text[0] not in '{["':
        end = max(text.rfind("}"), text.rfind("]"))
        text = text[min(starts) : end + 1] if end > min(starts) else text
    return text


def _as_text(result: LLMResult, text: str) -> LLMResult:
    """Return the result as plain text, so that the caller does not see a tool it has
    not defined."""
    choice = result.choices[0]
    thought = choice.message.thinking or None
    message = AssistantPromptMessage(
        content=text, reasoning_content=thought, refusal=choice.message.refusal
    )
    reason = "stop" if choice.finish_reason == "tool_calls" else choice.finish_reason
    text_choice = msgspec.structs.replace(
        choice, message=message, finish_reason=reason, extra={}
    )
    return msgspec.structs.replace(result, choices=[text_choice])
