"""Answers that satisfy a JSON schema, whatever the model can: natively, by a forced tool call, or asked for in words.

A model that has structured output is asked as the caller asked. One that has tools gets a tool that takes the answer,
and must call it. Any other is told the schema. What comes is held to the schema in the end; where it does not fit, a
model that was not asked natively is told so and asked once more.
"""

import json
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.bodies import check_amount
from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.schemas import SchemaError, TooMuchWorkError, compiled
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

TOOL = "give_answer"
_CUT = ("length", "content_filter")
"""Ends after which nobody can expect a whole answer."""


@dataclass(frozen=True, slots=True)
class Structured:
    features: Callable[[Invocation], Collection[ModelFeature] | None]
    """What the model can do; None where nobody knows, and then it is asked natively."""

    def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        request = invocation.request
        if invocation.model_type is not ModelType.LLM or "response_format" not in request.model_parameters:
            return call_next(invocation)
        form = request.model_parameters["response_format"]
        if not isinstance(form, dict) or form.get("type") != "json_schema":
            return call_next(invocation)
        schema = form["json_schema"]["schema"]
        check = _Check(schema)
        features = self.features(invocation)
        if features is None or ModelFeature.STRUCTURED_OUTPUT in features:
            return _native(invocation, call_next, check)
        by_tool = ModelFeature.TOOL_CALL in features and not request.tools
        return _asked(invocation, call_next, check, by_tool=by_tool)


class _Check:
    """Whether a text is JSON that satisfies the schema. Raises InvokeBadRequestError where the schema is none.

    References to other documents are never followed, and patterns that cannot be matched in linear time are left out.
    """

    def __init__(self, schema: JSON) -> None:
        try:
            self._compiled = compiled(schema, is_lenient=True)
        except SchemaError as error:
            where = "response_format.json_schema.schema"
            raise InvokeBadRequestError(f"{where!r} is no JSON schema: {error}", param=where) from error
        self.schema = schema

    async def problem(self, text: str) -> str | None:
        """What is wrong with it, in words for a model; None where it fits."""
        try:
            check_amount(text)
            document = json.loads(text)
        except ValueError as error:
            return f"it is not JSON: {error}"
        except RecursionError:
            return "it is nested too deeply"
        return await self.problem_of(document)

    async def problem_of(self, document: Any) -> str | None:
        try:
            mismatch = await self._compiled.mismatch_apart(document)
        except TooMuchWorkError as error:
            return str(error)
        except SchemaError as error:
            raise InvokeBadRequestError(f"the schema of 'response_format' cannot be followed: {error}") from error
        return None if mismatch is None else f"{mismatch.where('/', 'the answer')}: {mismatch.message}"


async def _native(invocation: Invocation, call_next: Call, check: _Check) -> AsyncGenerator[LLMResultChunk, None]:
    """As the model gives it; an answer that does not fit is an error in the end."""
    seen: list[LLMResultChunk] = []
    async with aclosing(call_next(invocation)) as chunks:
        async for chunk in chunks:
            seen.append(chunk)
            yield chunk
    result = fold(seen)
    if result.tool_calls or result.message.refusal or result.finish_reason in _CUT:
        return
    if problem := await check.problem(result.text):
        raise _unfit(invocation, problem)


def _unfit(invocation: Invocation, problem: str) -> InvokeServerUnavailableError:
    return InvokeServerUnavailableError(
        f"the answer does not satisfy the schema: {problem}", provider=invocation.provider
    )


async def _asked(
    invocation: Invocation, call_next: Call, check: _Check, *, by_tool: bool
) -> AsyncGenerator[LLMResultChunk, None]:
    request = _with_tool(invocation.request, check.schema) if by_tool else _in_words(invocation.request, check.schema)
    result = await _whole(invocation, call_next, request)
    text = _answer_of(result, by_tool=by_tool)
    if result.finish_reason not in _CUT and not result.message.refusal and (problem := await check.problem(text)):
        first = result.usage
        result = await _whole(invocation, call_next, _repair(request, text, problem))
        # Both calls were made and are paid for.
        result = msgspec.structs.replace(result, usage=first.plus(result.usage))
        text = _answer_of(result, by_tool=by_tool)
        if result.finish_reason not in _CUT and (problem := await check.problem(text)):
            raise _unfit(invocation, problem)
    for chunk in _as_text(result, text).as_chunks():
        yield chunk


async def _whole(invocation: Invocation, call_next: Call, request: LLMRequest) -> LLMResult:
    this = msgspec.structs.replace(invocation, request=msgspec.structs.replace(request, stream=False))
    async with aclosing(call_next(this)) as chunks:
        return await LLMResult.collect(chunks)


def _without_format(request: LLMRequest) -> LLMRequest:
    parameters = {name: value for name, value in request.model_parameters.items() if name != "response_format"}
    return msgspec.structs.replace(request, model_parameters=parameters)


def _with_tool(request: LLMRequest, schema: JSON) -> LLMRequest:
    tool = PromptMessageTool(name=TOOL, description="Give the answer here, and nowhere else.", parameters=schema)
    return msgspec.structs.replace(_without_format(request), tools=[tool], tool_choice={"name": TOOL})


def _in_words(request: LLMRequest, schema: JSON) -> LLMRequest:
    told = (
        "Answer with one JSON document that satisfies this JSON schema, and with nothing else: no explanation, "
        f"no code fence.\n{json.dumps(schema, ensure_ascii=False)}"
    )
    return msgspec.structs.replace(
        _without_format(request), messages=[SystemPromptMessage(content=told), *request.messages]
    )


def _repair(request: LLMRequest, text: str, problem: str) -> LLMRequest:
    again = f"This does not satisfy the schema: {problem}. Give the whole answer again, mended."
    history = [*request.messages, AssistantPromptMessage(content=text or "{}"), UserPromptMessage(content=again)]
    return msgspec.structs.replace(request, messages=history)


def _answer_of(result: LLMResult, *, by_tool: bool) -> str:
    if by_tool and result.tool_calls:
        return result.tool_calls[0].function.arguments
    return bare_json(result.text)


def bare_json(text: str) -> str:
    """The JSON in a text that says more than it: out of a code fence, or from its first bracket to its last."""
    text = text.strip()
    if "```" in text:
        inside = text.split("```")[1]
        text = inside.removeprefix("json").strip()
    starts = [place for place in (text.find("{"), text.find("[")) if place >= 0]
    if starts and text[0] not in '{["':
        end = max(text.rfind("}"), text.rfind("]"))
        text = text[min(starts) : end + 1] if end > min(starts) else text
    return text


def _as_text(result: LLMResult, text: str) -> LLMResult:
    """The answer as if it had been said: no tool that the caller does not know of."""
    choice = result.choices[0]
    thought = choice.message.thinking or None
    message = AssistantPromptMessage(content=text, reasoning_content=thought, refusal=choice.message.refusal)
    reason = "stop" if choice.finish_reason == "tool_calls" else choice.finish_reason
    made = msgspec.structs.replace(choice, message=message, finish_reason=reason, extra={})
    return msgspec.structs.replace(result, choices=[made])
