"""OpenAI's legacy Completions <-> our types: a prompt in, its continuation out. Pure: no network, no clock."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from modelyard.base.errors import InvokeBadRequestError, InvokeError, InvokeServerUnavailableError, kind_of_error
from modelyard.base.fields import beyond, count, counted, in_range, kept, may, typed, wrong
from modelyard.base.shapes import reads_answer, reads_request
from modelyard.models.llm import LLMChoice, LLMRequest, LLMResult, LLMResultChunk, LLMResultChunkDelta, LLMUsage
from modelyard.models.messages import AssistantPromptMessage, SystemPromptMessage, UserPromptMessage
from modelyard.models.streams import dumped, parsed
from modelyard.models.types import JSON

FORMAT = "openai_completions"

_NUMBERS: dict[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 2),
    "top_p": (float, 0, 1),
    "top_k": (int, -1, 1 << 31),
    "presence_penalty": (float, -2, 2),
    "frequency_penalty": (float, -2, 2),
    "max_tokens": (int, 0, 1 << 31),
    "seed": (int, -(1 << 63), 1 << 63),
    "n": (int, 1, 128),
}
_KNOWN = frozenset(_NUMBERS) | {"model", "prompt", "stop", "stream", "stream_options", "user"}
PARAMETERS = {"stop"} | frozenset(_NUMBERS)


@reads_request
def parse_request(body: JSON) -> LLMRequest:
    """A request as a client sends it. Raises InvokeBadRequestError that names the field."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if isinstance(prompt, list):
        ids = all(isinstance(one, int | list) for one in prompt)
        what = (
            "token ids; send text, since they fit one tokenizer alone" if ids else "several prompts; send one at a time"
        )
        raise InvokeBadRequestError(f"'prompt' holds {what}", param="prompt")
    if not isinstance(prompt, str):
        raise wrong("prompt", prompt, "a string")
    parameters: dict[str, Any] = {}
    for name, (kind, low, high) in _NUMBERS.items():
        if may(body, name, kind) is not None:
            in_range(body[name], low, high, name)
            parameters[name] = body[name]
    stop = body.get("stop")
    words = [] if stop is None else [stop] if isinstance(stop, str) else typed(stop, list, "stop")
    return LLMRequest(
        format=FORMAT,
        messages=[UserPromptMessage(content=prompt)],
        model_parameters=parameters,
        stop=[typed(word, str, f"stop[{place}]") for place, word in enumerate(words)],
        stream=may(body, "stream", bool) or False,
        user=may(body, "user", str),
        extra=kept(FORMAT, {key: value for key, value in body.items() if key not in _KNOWN and value is not None}),
    )


def dump_request(request: LLMRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    """The request as a server of this format wants it: a conversation becomes one text. Quirks: `drop`."""
    body: JSON = {"model": model, "prompt": _prompt(request)}
    body |= {name: value for name, value in request.model_parameters.items() if name in _NUMBERS}
    if request.stop:
        body["stop"] = request.stop
    if request.user is not None:
        body["user"] = request.user
    if request.stream:
        body["stream"] = True
        if not quirks.get("no_stream_options"):
            body["stream_options"] = {"include_usage": True}
    body |= request.extra.get(FORMAT, {})
    for name in quirks.get("drop", ()):
        body.pop(name, None)
    return body


def _prompt(request: LLMRequest) -> str:
    messages = request.messages
    if len(messages) == 1:
        return messages[0].text
    lines = [
        message.text
        if isinstance(message, SystemPromptMessage)
        else f"{message.role.value.capitalize()}: {message.text}"
        for message in messages
    ]
    return "\n\n".join([*lines, "Assistant:"])


def parse_usage(body: Any) -> LLMUsage | None:
    if not isinstance(body, dict) or count(body.get("prompt_tokens")) is None:
        return None
    return LLMUsage.of(
        counted(body, "prompt_tokens"),
        counted(body, "completion_tokens"),
        cached_tokens=counted(body, "prompt_tokens_details", "cached_tokens"),
        reasoning_tokens=counted(body, "completion_tokens_details", "reasoning_tokens"),
        extra={FORMAT: body},
    )


def dump_usage(usage: LLMUsage) -> JSON:
    return usage.extra.get(FORMAT) or {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


_RESULT_KNOWN = frozenset({"id", "object", "created", "model", "choices", "usage", "system_fingerprint"})
_CHOICE_KNOWN = frozenset({"text", "index", "finish_reason"})


def _parse_choice(choice: Any, place: int) -> LLMChoice:
    if not isinstance(choice, dict) or not isinstance(choice.get("text") or "", str):
        raise InvokeServerUnavailableError("a choice of the answer holds no text")
    rest = {name: value for name, value in beyond(choice, _CHOICE_KNOWN).items() if value is not None}
    return LLMChoice(
        index=count(choice.get("index")) or place,
        message=AssistantPromptMessage(content=choice.get("text") or ""),
        finish_reason=choice.get("finish_reason"),
        extra=kept(FORMAT, rest),
    )


@reads_answer
def parse_result(body: JSON, quirks: Mapping[str, Any] | None = None) -> LLMResult:
    """A whole answer. Raises InvokeError where it is none."""
    del quirks
    if isinstance(body.get("error"), dict):
        raise error_of(body["error"])
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise InvokeServerUnavailableError("the answer holds no choices")
    return LLMResult(
        id=body.get("id") or "",
        model=body.get("model") or "",
        created=count(body.get("created")) or 0,
        system_fingerprint=body.get("system_fingerprint"),
        choices=[_parse_choice(choice, place) for place, choice in enumerate(choices)],
        usage=parse_usage(body.get("usage")) or LLMUsage(estimated=True),
        extra=kept(FORMAT, beyond(body, _RESULT_KNOWN)),
    )


def _dump_choice(index: int, message: AssistantPromptMessage, reason: str | None, extra: dict[str, Any]) -> JSON:
    text = message.text + (message.refusal or "")
    reason = {"tool_calls": "stop", "pause": "stop"}.get(reason or "", reason)
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason, **extra.get(FORMAT, {})}


def dump_result(result: LLMResult) -> JSON:
    return {
        "id": result.id,
        "object": "text_completion",
        "created": result.created,
        "model": result.model,
        "choices": [_dump_choice(one.index, one.message, one.finish_reason, one.extra) for one in result.choices],
        "usage": dump_usage(result.usage),
        **result.extra.get(FORMAT, {}),
    }


class StreamParser:
    """Events of a stream, one at a time, into chunks."""

    def __init__(self, quirks: Mapping[str, Any] | None = None) -> None:
        del quirks
        self._has_finished = False

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        if isinstance(event.get("error"), dict):
            raise error_of(event["error"])
        usage = parse_usage(event.get("usage"))
        deltas: list[LLMResultChunkDelta] = []
        for place, one in enumerate(event.get("choices") or ()):
            choice = _parse_choice(one, place)
            self._has_finished = self._has_finished or choice.finish_reason is not None
            deltas.append(
                LLMResultChunkDelta(
                    index=choice.index,
                    message=choice.message,
                    finish_reason=choice.finish_reason,
                    usage=usage,
                    extra=choice.extra,
                )
            )
        if usage is not None and not deltas:
            deltas.append(LLMResultChunkDelta(usage=usage))
        head: JSON = {
            "id": event.get("id") or "",
            "model": event.get("model") or "",
            "created": count(event.get("created")) or 0,
        }
        return [LLMResultChunk(delta=delta, **head) for delta in deltas]

    def finish(self, *, done: bool) -> list[LLMResultChunk]:
        """The body has ended; `done` where `[DONE]` was seen."""
        if not done and not self._has_finished:
            raise InvokeServerUnavailableError("the stream broke off: neither a finish reason nor [DONE] came")
        return []


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    return parsed(StreamParser(), events)


class StreamDumper:
    """Chunks, one at a time, into events; usage last and only if it was asked for."""

    def __init__(self, *, response_id: str, created: int, model: str, include_usage: bool = True) -> None:
        self._head: JSON = {"id": response_id, "object": "text_completion", "created": created, "model": model}
        self._include_usage = include_usage
        self._usage: LLMUsage | None = None

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        delta = chunk.delta
        self._usage = delta.usage or self._usage
        choice = _dump_choice(delta.index, delta.message, delta.finish_reason, delta.extra)
        if not choice["text"] and delta.finish_reason is None:
            return []
        return [{**self._head, "choices": [choice]}]

    def finish(self) -> list[JSON]:
        if not self._include_usage or self._usage is None:
            return []
        return [{**self._head, "choices": [], "usage": dump_usage(self._usage)}]


def dump_stream(chunks: Iterable[LLMResultChunk], *, include_usage: bool = True) -> Iterator[JSON]:
    return dumped(chunks, partial(StreamDumper, include_usage=include_usage))


def error_of(error: Mapping[str, Any]) -> InvokeError:
    kind = kind_of_error(None, error.get("code"), error.get("type"))
    return kind(str(error.get("message") or "the provider reports an error"))
