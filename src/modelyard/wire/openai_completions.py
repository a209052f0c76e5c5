"""Translate between OpenAI's legacy Completions API (prompt in, continuation out) and
modelyard's chat types.

Pure functions: no network, no clock.
"""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import zip_longest
from typing import Any

from modelyard.base.errors import (
    InvokeBadRequestError,
    InvokeError,
    InvokeServerUnavailableError,
)
from modelyard.base.fields import (
    count,
    expect_type,
    in_range,
    invalid_field,
    nested_count,
    optional_field,
    passthrough_fields,
    unknown_fields,
)
from modelyard.base.provider_errors import provider_error, raise_error_in
from modelyard.base.reader_errors import reads_answer, reads_request
from modelyard.models.capabilities import Capabilities
from modelyard.models.llm import (
    LLMChoice,
    LLMRequest,
    LLMResult,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from modelyard.models.messages import (
    AssistantPromptMessage,
    SystemPromptMessage,
    UserPromptMessage,
)
from modelyard.models.streams import dump_chunks, parse_events
from modelyard.models.types import JSON

FORMAT = "openai_completions"

# Parameter -> (type, lower and upper bound).
_PARAMETER_RANGES: dict[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 2),
    "top_p": (float, 0, 1),
    "top_k": (int, -1, 1 << 31),
    "presence_penalty": (float, -2, 2),
    "frequency_penalty": (float, -2, 2),
    "max_tokens": (int, 0, 1 << 31),
    "seed": (int, -(1 << 63), 1 << 63),
    "n": (int, 1, 128),
}
# Other fields are passed on unchanged to a provider of this format.
_KNOWN_FIELDS = frozenset(_PARAMETER_RANGES) | {
    "model",
    "prompt",
    "stop",
    "stream",
    "stream_options",
    "user",
}
NATIVE_FIELDS = ("echo", "logprobs", "suffix", "best_of")
"""Fields that only a model with this very API understands, not a chat model."""
PARAMETERS = {"stop"} | frozenset(_PARAMETER_RANGES)


@reads_request
def parse_request(body: JSON) -> LLMRequest:
    """Parse the JSON body of a client's request. Raises InvokeBadRequestError that
    names the field."""
    prompt = _parse_prompt(body.get("prompt"))
    parameters: dict[str, Any] = {}
    for name, (value_type, low, high) in _PARAMETER_RANGES.items():
        if optional_field(body, name, value_type) is not None:
            in_range(body[name], low, high, name)
            parameters[name] = body[name]
    return LLMRequest(
        format=FORMAT,
        # The prompt becomes a single user message; `dump_request` sends a single
        # message unchanged.
        messages=[UserPromptMessage(content=prompt)],
        model_parameters=parameters,
        stop=_parse_stop(body.get("stop")),
        stream=optional_field(body, "stream", bool) or False,
        user=optional_field(body, "user", str),
        extra=passthrough_fields(
            FORMAT,
            {
                key: value
                for key, value in body.items()
                if key not in _KNOWN_FIELDS and value is not None
            },
        ),
    )


# Each prompt is a call of its own.
_MAX_PROMPTS = 128


def parse_requests(body: JSON) -> list[LLMRequest]:
    """Parse a request with one or several prompts into one request for each.

    Raises InvokeBadRequestError that names the field.
    """
    prompts: Any = body.get("prompt")
    is_several = isinstance(prompts, list) and len(prompts) > 1
    if not is_several or not all(isinstance(prompt, str) for prompt in prompts):
        return [parse_request(body)]
    if len(prompts) > _MAX_PROMPTS:
        raise InvokeBadRequestError(
            f"'prompt' has {len(prompts)} prompts; at most {_MAX_PROMPTS} are allowed",
            param="prompt",
        )
    return [parse_request({**body, "prompt": prompt}) for prompt in prompts]


def _parse_prompt(prompt: Any) -> str:
    """Return the `prompt` of a text completion.

    A list with one text counts as that text. Raises InvokeBadRequestError for several
    prompts, for token ids, and for any value that is not a string.
    """
    # A list with one prompt is the same as the prompt itself.
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if isinstance(prompt, list):
        # A list of numbers, or of lists of numbers, has token ids.
        ids = all(isinstance(prompt_part, int | list) for prompt_part in prompt)
        description = (
            "token ids, which depend on the tokenizer; send text"
            if ids
            else "something that is not text"
        )
        raise InvokeBadRequestError(f"'prompt' contains {description}", param="prompt")
    if not isinstance(prompt, str):
        raise invalid_field("prompt", prompt, "a string")
    return prompt


def _parse_stop(value: Any) -> list[str]:
    """Return `stop` as a list; null gives an empty list.

    Raises InvokeBadRequestError if it is neither a string nor a list of strings.
    """
    if value is None:
        return []
    stop_sequences = (
        [value] if isinstance(value, str) else expect_type(value, list, "stop")
    )
    return [
        expect_type(stop_sequence, str, f"stop[{index}]")
        for index, stop_sequence in enumerate(stop_sequences)
    ]


def dump_request(request: LLMRequest, model: str, capabilities: Capabilities) -> JSON:
    """Build the request body. A conversation becomes one text.

    `capabilities.drop` lists fields to omit; with `capabilities.no_stream_options`
    `stream_options` is left out.
    """
    body: JSON = {"model": model, "prompt": _prompt(request)}
    body |= {
        name: value
        for name, value in request.model_parameters.items()
        if name in _PARAMETER_RANGES
    }
    if request.stop:
        body["stop"] = request.stop
    if request.user is not None:
        body["user"] = request.user
    if request.stream:
        body["stream"] = True
        if not capabilities.no_stream_options:
            # Without this option a stream has no usage.
            body["stream_options"] = {"include_usage": True}
    # Vendor fields come after the translated ones, so that an explicit vendor setting
    # takes effect.
    body |= request.extra.get(FORMAT, {})
    for name in capabilities.drop:
        body.pop(name, None)
    return body


def _prompt(request: LLMRequest) -> str:
    """Return the messages of a request as one prompt text.

    A single message is sent unchanged. In a conversation every message but a system
    message starts with its role, and `Assistant:` at the end asks for the answer.
    """
    messages = request.messages
    if len(messages) == 1:
        return messages[0].text
    lines = [
        message.text
        if isinstance(message, SystemPromptMessage)
        else f"{message.role.value.capitalize()}: {message.text}"
        for message in messages
    ]
    # The open label at the end makes the model continue as the assistant.
    return "\n\n".join([*lines, "Assistant:"])


def parse_usage(body: Any) -> LLMUsage | None:
    """Parse a `usage` object, or return None if it has no prompt tokens. The original
    is stored in `extra`."""
    if not isinstance(body, dict) or count(body.get("prompt_tokens")) is None:
        return None
    return LLMUsage.of(
        nested_count(body, "prompt_tokens"),
        nested_count(body, "completion_tokens"),
        cached_tokens=nested_count(body, "prompt_tokens_details", "cached_tokens"),
        reasoning_tokens=nested_count(
            body, "completion_tokens_details", "reasoning_tokens"
        ),
        extra={FORMAT: body},
    )


def dump_usage(usage: LLMUsage) -> JSON:
    """Return a `usage` object: the original one if it came in this format, otherwise
    one built from the counts."""
    return usage.extra.get(FORMAT) or {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


# Other fields are kept, so that a client of this format gets them unchanged.
_KNOWN_RESULT_FIELDS = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"}
)
_KNOWN_CHOICE_FIELDS = frozenset({"text", "index", "finish_reason"})


def _parse_choice(choice: Any, position: int) -> LLMChoice:
    """Parse an entry of `choices`, of a response or of a stream event.

    `position` is the index if the choice states none. Raises
    InvokeServerUnavailableError if the choice is not an object or its `text` is not a
    string.
    """
    if not isinstance(choice, dict) or not isinstance(choice.get("text") or "", str):
        raise InvokeServerUnavailableError(
            f"Upstream response: choices[{position}] has no 'text'"
        )
    # Some servers send null for fields that they do not support; those are not
    # preserved.
    extra_fields = {
        name: value
        for name, value in unknown_fields(choice, _KNOWN_CHOICE_FIELDS).items()
        if value is not None
    }
    return LLMChoice(
        index=count(choice.get("index")) or position,
        message=AssistantPromptMessage(content=choice.get("text") or ""),
        finish_reason=choice.get("finish_reason"),
        logprobs=_parse_logprobs(choice.get("logprobs")),
        extra=passthrough_fields(FORMAT, extra_fields),
    )


def _parse_logprobs(body: Any) -> dict[str, Any] | None:
    """Return log probabilities in the form of the chat format; None if there are none.
    The original is kept in the choice's `extra`."""
    if not isinstance(body, dict) or not isinstance(body.get("tokens"), list):
        return None
    tokens = body["tokens"]
    chosen, tops = body.get("token_logprobs") or (), body.get("top_logprobs") or ()
    # A server may leave the lists out.
    rows = list(zip_longest(tokens, chosen, tops))[: len(tokens)]
    content = [_token(*row) for row in rows]
    return {"content": content} if content else None


def _token(token: Any, logprob: Any, top: Any) -> JSON:
    """Return a token and the most likely ones in its place, in the form of the chat
    format. The first token of an echoed prompt has no probability."""
    alternatives = top.items() if isinstance(top, dict) else ()
    likely = [_logprob(name, value) for name, value in alternatives]
    return {**_logprob(token, logprob), "top_logprobs": likely}


def _logprob(token: Any, logprob: Any) -> JSON:
    """Return a token with its probability, in the form of the chat format."""
    text = str(token)
    value = logprob if isinstance(logprob, int | float) else 0.0
    return {"token": text, "logprob": value, "bytes": list(text.encode())}


@reads_answer
def parse_result(body: JSON) -> LLMResult:
    """Parse a complete `text_completion` response.

    Usage is marked as estimated if there are no token counts. Raises
    InvokeServerUnavailableError if there are no choices or one is invalid, and the
    error's own class for an `error` object (some servers send it with status 200).
    """
    # Some servers report errors with status 200.
    raise_error_in(body)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise InvokeServerUnavailableError("Upstream response has no 'choices'")
    return LLMResult(
        id=body.get("id") or "",
        model=body.get("model") or "",
        created=count(body.get("created")) or 0,
        system_fingerprint=body.get("system_fingerprint"),
        choices=[
            _parse_choice(choice, position) for position, choice in enumerate(choices)
        ],
        usage=parse_usage(body.get("usage")) or LLMUsage(estimated=True),
        extra=passthrough_fields(FORMAT, unknown_fields(body, _KNOWN_RESULT_FIELDS)),
    )


def _dump_choice(
    index: int,
    message: AssistantPromptMessage,
    reason: str | None,
    extra: dict[str, Any],
) -> JSON:
    """Build an entry of `choices`, for a response or a stream event.

    A refusal is appended to the text. The finish reasons `tool_calls` and `pause`,
    which this format does not have, become `stop`. Vendor fields in `extra` take
    precedence.
    """
    text = message.text + (message.refusal or "")
    # The format has no tool calls and no pauses.
    reason = {"tool_calls": "stop", "pause": "stop"}.get(reason or "", reason)
    return {
        "text": text,
        "index": index,
        "logprobs": None,
        "finish_reason": reason,
        **extra.get(FORMAT, {}),
    }


def dump_result(result: LLMResult) -> JSON:
    """Build a complete response body."""
    return {
        "id": result.id,
        "object": "text_completion",
        "created": result.created,
        "model": result.model,
        "choices": [
            _dump_choice(
                choice.index, choice.message, choice.finish_reason, choice.extra
            )
            for choice in result.choices
        ],
        "usage": dump_usage(result.usage),
        **result.extra.get(FORMAT, {}),
    }


class StreamParser:
    """Converts the events of a stream into chunks, one event at a time."""

    def __init__(self) -> None:
        self._has_finished = False

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        """Return one chunk per choice of a stream event.

        An event with usage and without choices gives one chunk that has only the usage.
        Raises an InvokeError for an `error` object, and InvokeServerUnavailableError
        for an invalid choice.
        """
        raise_error_in(event)
        usage = parse_usage(event.get("usage"))
        deltas: list[LLMResultChunkDelta] = []
        for position, wire_choice in enumerate(event.get("choices") or ()):
            choice = _parse_choice(wire_choice, position)
            self._has_finished = self._has_finished or choice.finish_reason is not None
            deltas.append(
                LLMResultChunkDelta(
                    index=choice.index,
                    message=choice.message,
                    finish_reason=choice.finish_reason,
                    logprobs=choice.logprobs,
                    usage=usage,
                    extra=choice.extra,
                )
            )
        # The last event of a stream has usage and no choices.
        if usage is not None and not deltas:
            deltas.append(LLMResultChunkDelta(usage=usage))
        head: JSON = {
            "id": event.get("id") or "",
            "model": event.get("model") or "",
            "created": count(event.get("created")) or 0,
        }
        return [LLMResultChunk(delta=delta, **head) for delta in deltas]

    def finish(self, *, end_marker_seen: bool) -> list[LLMResultChunk]:
        """Check the end of the stream. Raises InvokeServerUnavailableError if it was
        cut off.

        `end_marker_seen` is True if `[DONE]` was received.
        """
        if not end_marker_seen and not self._has_finished:
            raise InvokeServerUnavailableError(
                "Upstream stream ended without a finish reason or [DONE]"
            )
        return []


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    """Yield the chunks of a whole event stream. Raises InvokeServerUnavailableError if
    it is cut off."""
    return parse_events(StreamParser(), events)


class StreamDumper:
    """Converts chunks into stream events, one chunk at a time. Usage comes last, and
    only if `include_usage` is set."""

    def __init__(
        self, *, response_id: str, created: int, model: str, include_usage: bool = True
    ) -> None:
        self._head: JSON = {
            "id": response_id,
            "object": "text_completion",
            "created": created,
            "model": model,
        }
        self._include_usage = include_usage
        self._usage: LLMUsage | None = None

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        """Return the event for one chunk, or nothing if it has neither text nor a
        finish reason."""
        delta = chunk.delta
        self._usage = delta.usage or self._usage
        reason = delta.finish_reason
        choice = _dump_choice(delta.index, delta.message, reason, delta.extra)
        if not choice["text"] and reason is None:
            return []
        return [{**self._head, "choices": [choice]}]

    def finish(self) -> list[JSON]:
        """Return the event with the usage, or nothing if it was not requested or is
        unknown."""
        if not self._include_usage or self._usage is None:
            return []
        return [{**self._head, "choices": [], "usage": dump_usage(self._usage)}]


def dump_stream(
    chunks: Iterable[LLMResultChunk], *, include_usage: bool = True
) -> Iterator[JSON]:
    """Yield the event stream for a stream of chunks."""
    return dump_chunks(chunks, partial(StreamDumper, include_usage=include_usage))


def error_of(error: Mapping[str, Any]) -> InvokeError:
    """Return the exception for OpenAI's error object. The caller raises it."""
    return provider_error(error)
