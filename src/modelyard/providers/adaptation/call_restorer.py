"""Gives the calls of an answer the names and kinds under which the caller declared their
tools."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from modelyard.models.call_indexes import CallIndexes
from modelyard.models.llm import LLMResultChunk, LLMResultChunkDelta
from modelyard.models.messages import (
    AssistantPromptMessage,
    Extra,
    ToolCall,
    ToolCallFunction,
    merge_extra,
)
from modelyard.providers.adaptation.text_input import TextInput


@dataclass(frozen=True, slots=True)
class CallForm:
    """How the caller knows a tool that the target knows under another name or kind."""

    name: str
    type: str = "function"
    """The type of its calls, as in `ToolCall.type`."""
    extra: Extra = field(default_factory=dict[str, object])
    """Fields of its calls, such as the namespace."""


class CallRestorer:
    """Restores the calls of one answer, complete or streamed."""

    __slots__ = ("_forms", "_indexes", "_open_texts", "_seen")

    def __init__(self, forms: Mapping[str, CallForm]) -> None:
        """`forms`: the target's name of a tool → how the caller knows it."""
        self._forms = forms
        # Choice → numbers of calls without one.
        self._indexes: dict[int, CallIndexes] = {}
        # (choice, call) → its form; None if it is restored unchanged.
        self._seen: dict[tuple[int, int], CallForm | None] = {}
        # (choice, call) → decoder of its text.
        self._open_texts: dict[tuple[int, int], TextInput] = {}

    def feed(self, chunk: LLMResultChunk) -> LLMResultChunk:
        """Return the chunk with its calls as the caller expects them."""
        delta = chunk.delta
        calls: list[ToolCall] = []
        # A fragment may be preceded by the rest of the call before it.
        for call in delta.message.tool_calls:
            calls += self._restored(delta.index, call)
        if delta.finish_reason is not None:
            calls += self._rest(delta.index)
        if not calls and not delta.message.tool_calls:
            return chunk
        message = msgspec.structs.replace(delta.message, tool_calls=calls)
        delta = msgspec.structs.replace(delta, message=message)
        return msgspec.structs.replace(chunk, delta=delta)

    def finish(self) -> Iterable[LLMResultChunk]:
        """Yield the texts that were held back, if no finish reason came."""
        for choice in {choice for choice, _ in self._open_texts}:
            message = AssistantPromptMessage(tool_calls=self._rest(choice))
            yield LLMResultChunk(
                delta=LLMResultChunkDelta(index=choice, message=message)
            )

    def _restored(self, choice: int, call: ToolCall) -> list[ToolCall]:
        """Return a fragment as the caller expects it, after the rest of the call before
        it."""
        indexes = self._indexes.setdefault(choice, CallIndexes())
        key = (choice, indexes.index_of(call))
        earlier: list[ToolCall] = []
        if is_first := key not in self._seen:
            earlier = self._rest(choice)
            self._seen[key] = self._forms.get(call.function.name)
        form = self._seen[key]
        if form is None:
            return [*earlier, msgspec.structs.replace(call, index=key[1])]
        arguments = call.function.arguments
        # The text is taken out of the JSON that the model writes.
        if form.type == "custom":
            text = self._open_texts.get(key)
            if is_first:
                text = self._open_texts[key] = TextInput()
            arguments = text.feed(arguments) if text is not None else ""
        # Clients join the names of all fragments.
        name = form.name if is_first else ""
        restored_call = msgspec.structs.replace(
            call,
            index=key[1],
            type=form.type,
            function=ToolCallFunction(name=name, arguments=arguments),
            extra=merge_extra(call.extra, form.extra) if is_first else call.extra,
        )
        return [*earlier, restored_call]

    def _rest(self, choice: int) -> list[ToolCall]:
        """Return fragments with the texts of open calls that were held back."""
        fragments: list[ToolCall] = []
        for key in [key for key in self._open_texts if key[0] == choice]:
            text = self._open_texts.pop(key).finish()
            if text:
                function = ToolCallFunction(arguments=text)
                call = ToolCall(type="custom", index=key[1], function=function)
                fragments.append(call)
        return fragments
