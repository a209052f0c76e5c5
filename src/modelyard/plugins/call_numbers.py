"""Tells the tool calls of a plugin's answer apart, which have no numbers in the plugin
protocol. No I/O."""

import re
from collections.abc import Sequence

import msgspec

from modelyard.models.messages import ToolCall
from modelyard.models.tool_call_reader import JsonEnd


class _OpenCall:
    """A call whose fragments are read.

    Nothing says when it is complete; its arguments are, once their brackets are closed.
    """

    def __init__(self, number: int, fragment: ToolCall) -> None:
        self.number = number
        self.server_id = fragment.id
        self.name = fragment.function.name
        self.arguments = JsonEnd()
        self.has_arguments = False

    def feed(self, arguments: str) -> None:
        """Read a piece of the arguments."""
        self.has_arguments = self.has_arguments or bool(arguments)
        self.arguments.feed(arguments)


class CallNumbers:
    """Tells the calls of an answer apart, which have no numbers in the protocol.

    Several vendors have no ids, so plugins use the name of the function, the same text
    for all, or nothing. Two calls of one function are then alike.
    """

    def __init__(self, answer_id: str) -> None:
        """`answer_id` makes the ids that are made here different between answers."""
        self._answer_id = answer_id
        self._calls: list[_OpenCall] = []

    def read(self, fragments: Sequence[ToolCall]) -> list[ToolCall]:
        """Return the fragments of one chunk with the number of their call."""
        numbered: list[ToolCall] = []
        in_chunk: set[int] = set()
        for fragment in fragments:
            call = self._call_of(fragment, in_chunk)
            in_chunk.add(call.number)
            call.feed(fragment.function.arguments)
            call.name = call.name or fragment.function.name
            numbered.append(
                msgspec.structs.replace(
                    fragment, index=call.number, id=self._id_of(call)
                )
            )
        return numbered

    def _call_of(self, fragment: ToolCall, in_chunk: set[int]) -> _OpenCall:
        """Return the call that a fragment continues; a new one if it begins it."""
        call = self._known(fragment)
        if call is None or _is_another(call, fragment, call.number in in_chunk):
            call = _OpenCall(len(self._calls), fragment)
            self._calls.append(call)
        return call

    def _known(self, fragment: ToolCall) -> _OpenCall | None:
        """Return the latest call with the id of a fragment; the last call if it has
        none, or one that no call has and no name."""
        for call in reversed(self._calls):
            if fragment.id and call.server_id == fragment.id:
                return call
        if fragment.id and fragment.function.name:
            return None
        return self._calls[-1] if self._calls else None

    def _id_of(self, call: _OpenCall) -> str:
        """Return the id of a call as callers get it.

        The name of the function is no id: several calls would share it, in one answer
        and over the turns of a conversation.
        """
        if call.server_id and call.server_id == call.name:
            return f"{call.name}__{self._answer_id}_{call.number}"
        return call.server_id


def _is_another(call: _OpenCall, fragment: ToolCall, is_in_chunk: bool) -> bool:
    """Return whether a fragment with the id of a call, or without any, is of another.

    `is_in_chunk` says that the call has a fragment in the same chunk already: plugins
    send no call in two pieces there.
    """
    function = fragment.function
    if not function.name:
        return False
    if is_in_chunk or function.name != call.name:
        # Names in pieces come before all arguments, each with the id of its call.
        return is_in_chunk or call.has_arguments or not fragment.id
    starts_arguments = function.arguments.lstrip().startswith("{")
    if fragment.id:
        return call.arguments.is_complete and starts_arguments
    return call.arguments.is_complete or not call.has_arguments


_MADE_ID = re.compile(r"__[0-9a-zA-Z]{1,8}_\d{1,4}$")


def own_id(call_id: str, function: str) -> str:
    """Return the id of a call as its plugin sent it: some look functions up by it."""
    match = _MADE_ID.search(call_id)
    is_made = match is not None and call_id[: match.start()] == function
    return function if is_made else call_id
