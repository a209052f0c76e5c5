"""Numbers for the tool calls of a stream whose fragments have no index."""

import msgspec

from modelyard.models.messages import AssistantPromptMessage, ToolCall


class CallIndexes:
    """Assigns an index to each tool call of one answer, from its fragments in order.

    A fragment with an index keeps it. Without one, a new id starts a call, and a
    fragment without an id continues the last call. Servers that send neither start a
    call by its name: one that comes after arguments belongs to the next call.
    """

    def __init__(self) -> None:
        self._used: set[int] = set()
        self._by_id: dict[str, int] = {}
        self._last: int | None = None
        self._has_arguments = False
        """Whether the last call has arguments already."""

    def index_of(self, fragment: ToolCall) -> int:
        """Return the index of the call to which a fragment belongs. Each fragment must
        be passed once."""
        index = fragment.index
        if index is None:
            index = self._index_without_number(fragment)
        elif fragment.id:
            # Later fragments may have only the id.
            self._by_id.setdefault(fragment.id, index)
        # Arguments count for one call at a time.
        if index != self._last:
            self._has_arguments = False
        self._last = index
        self._has_arguments = self._has_arguments or bool(fragment.function.arguments)
        self._used.add(index)
        return index

    def _index_without_number(self, fragment: ToolCall) -> int:
        """Return the index of a fragment whose server numbers no calls."""
        # Some servers repeat the id in every fragment of a call.
        if fragment.id:
            return self._by_id.setdefault(fragment.id, self._unused())
        # A name may come in pieces too, but all of them come before the arguments.
        starts_call = bool(fragment.function.name) and self._has_arguments
        if self._last is None or starts_call:
            return self._unused()
        return self._last

    def _unused(self) -> int:
        """Return an index that no call has."""
        # Behind all numbers so far, so that it is not one that the server uses.
        return max(self._used, default=-1) + 1

    def fill(self, message: AssistantPromptMessage) -> AssistantPromptMessage:
        """Return a chunk's message with an index in each fragment of a call."""
        if not message.tool_calls:
            return message
        calls = [
            msgspec.structs.replace(call, index=self.index_of(call))
            for call in message.tool_calls
        ]
        return msgspec.structs.replace(message, tool_calls=calls)
