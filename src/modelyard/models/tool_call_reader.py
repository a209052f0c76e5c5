"""Tells the tool calls of a streamed answer apart, whatever numbers and ids its server
sends. No I/O.

Servers number all calls 0, begin at 1, omit the number, repeat the id or the name in
every fragment, send them late or never. What comes out has one form: calls are numbered
0, 1, 2 in the order of their beginnings, and the first fragment of each has its id and
its name.
"""

import hashlib
import re
from collections.abc import Iterable

import msgspec

from modelyard.models.messages import (
    AssistantPromptMessage,
    ToolCall,
    ToolCallFunction,
)

# Only these characters can begin or end a value, so the search skips all others.
_NESTING = re.compile(r'["{}\[\]]')
_STRING_END = re.compile(r'["\\]')


class JsonEnd:
    """Finds the end of an object or a list in a JSON text that arrives in pieces."""

    __slots__ = ("_depth", "_in_string", "_is_escaped", "is_complete")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self.is_complete = False
        """Whether every bracket so far is closed, and there was one."""

    def feed(self, text: str) -> None:
        """Read the next piece."""
        position = 0
        while position < len(text):
            if self._is_escaped:
                self._is_escaped = False
                position += 1
                continue
            pattern = _STRING_END if self._in_string else _NESTING
            match = pattern.search(text, position)
            if match is None:
                return
            self._on_mark(match[0])
            position = match.end()

    def _on_mark(self, mark: str) -> None:
        """Count a bracket, a quotation mark, or the backslash of an escape."""
        if mark == "\\":
            self._is_escaped = True
        elif mark == '"':
            self._in_string = not self._in_string
        elif mark in "{[":
            self._depth += 1
            self.is_complete = False
        else:
            self._depth -= 1
            self.is_complete = self._depth <= 0


class _Call:
    """What is known of one call so far."""

    __slots__ = (
        "arguments",
        "has_arguments",
        "has_begun",
        "id",
        "index",
        "is_custom",
        "name",
        "repeats_name",
        "server_id",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = ""
        """The id that was passed on."""
        self.server_id = ""
        self.name = ""
        self.is_custom = False
        self.arguments = JsonEnd()
        self.has_arguments = False
        self.has_begun = False
        """Whether a fragment was passed on."""
        self.repeats_name = False
        """Whether the name came again after complete arguments: either the server
        repeats it, or another call of the same function follows."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing more can follow."""
        return self.has_arguments if self.is_custom else self.arguments.is_complete


class ToolCallReader:
    """Reads the fragments of the tool calls of one answer, in their order.

    A new id begins a call, and so does a new name after complete arguments.
    """

    __slots__ = ("_by_id", "_by_number", "_calls", "_last")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_number: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}
        self._last: _Call | None = None

    def read(
        self, message: AssistantPromptMessage, response_id: str
    ) -> AssistantPromptMessage:
        """Return a chunk's message with its fragments in the common form.

        `response_id` is part of the ids that calls without one get.
        """
        if not message.tool_calls:
            return message
        fragments: list[ToolCall] = []
        for fragment in message.tool_calls:
            fragments += self._read(fragment, response_id)
        return msgspec.structs.replace(message, tool_calls=fragments)

    def _read(self, fragment: ToolCall, response_id: str) -> list[ToolCall]:
        """Return a fragment in the common form; nothing if it is held back."""
        call = self._call_of(fragment)
        self._last = call
        # A number stands for the latest call that had it.
        if fragment.index is not None:
            self._by_number[fragment.index] = call
        if fragment.id:
            call.server_id = call.server_id or fragment.id
            self._by_id[fragment.id] = call
        call.is_custom = call.is_custom or fragment.type == "custom"
        name = _new_part_of_name(call, fragment.function.name)
        call.name += name
        arguments = fragment.function.arguments
        if arguments:
            call.has_arguments = True
            call.arguments.feed(arguments)
        # Some formats need the name at the beginning of a call.
        if not call.has_begun and not call.name and not arguments:
            return []
        changes: dict[str, str] = {"id": ""}
        if not call.has_begun:
            call.has_begun = True
            call.id = self._unique_id(call, response_id)
            changes["id"] = call.id
            name = call.name
        elif not name and not arguments and not fragment.extra:
            return []
        function = ToolCallFunction(name=name, arguments=arguments)
        return [
            msgspec.structs.replace(
                fragment,
                **changes,
                type="custom" if call.is_custom else fragment.type,
                index=call.index,
                function=function,
            )
        ]

    def _call_of(self, fragment: ToolCall) -> _Call:
        """Return the call that a fragment belongs to; a new one if it begins it."""
        known_call = self._known_call(fragment)
        if known_call is not None and not _begins_call(known_call, fragment):
            return known_call
        call = _Call(len(self._calls))
        # A second call of a function may come without its name.
        if known_call is not None and known_call.repeats_name:
            call.name = "" if fragment.function.name else known_call.name
        self._calls.append(call)
        return call

    def _known_call(self, fragment: ToolCall) -> _Call | None:
        """Return the call that the number or the id of a fragment stands for; the last
        one if it has neither, and None if there is none yet."""
        if fragment.index is not None:
            return self._by_number.get(fragment.index)
        if fragment.id and fragment.id in self._by_id:
            return self._by_id[fragment.id]
        return self._last

    def _unique_id(self, call: _Call, response_id: str) -> str:
        """Return the server's id of a call, or another one if it has none, or that of
        an earlier call."""
        is_taken = any(
            other.has_begun and other.id == call.server_id
            for other in self._calls
            if other is not call
        )
        # Some servers give all calls of an answer the same id.
        if call.server_id and not is_taken:
            return call.server_id
        return generated_call_id(response_id, call.index)


def generated_call_id(response_id: str, position: int) -> str:
    """Return an id for a call that came without one.

    It is the same for the same response and position, and has only letters, digits and
    underscores, which every vendor accepts.
    """
    digest = hashlib.sha256(response_id.encode()).hexdigest()[:16]
    return f"call_{digest}_{position}"


def with_call_ids(
    message: AssistantPromptMessage, response_id: str
) -> AssistantPromptMessage:
    """Return a complete message whose calls all have an id of their own."""
    calls = message.tool_calls
    ids = {call.id for call in calls}
    if not calls or (len(ids) == len(calls) and "" not in ids):
        return message
    return msgspec.structs.replace(
        message, tool_calls=list(_with_ids(calls, response_id))
    )


def _with_ids(calls: Iterable[ToolCall], response_id: str) -> Iterable[ToolCall]:
    """Yield calls; those without an id, or with that of another, get a new one."""
    seen_ids: set[str] = set()
    for position, call in enumerate(calls):
        if not call.id or call.id in seen_ids:
            new_id = generated_call_id(response_id, position)
            call = msgspec.structs.replace(call, id=new_id)
        seen_ids.add(call.id)
        yield call


def _new_part_of_name(call: _Call, name: str) -> str:
    """Return what a fragment adds to the name of its call.

    Some servers repeat the name in every fragment, others send it in pieces or grow it.
    All pieces come before the arguments.
    """
    if not name or name == call.name or call.has_arguments:
        return ""
    return name.removeprefix(call.name) if name.startswith(call.name) else name


def _begins_call(call: _Call, fragment: ToolCall) -> bool:
    """Return whether a fragment with the number or the id of `call` begins another."""
    name = fragment.function.name
    is_numbered = fragment.index is not None
    # Without numbers, a name after any arguments is that of the next call.
    has_ended = call.is_complete or (not is_numbered and call.has_arguments)
    if fragment.id and call.server_id and fragment.id != call.server_id:
        # Some servers invent an id for every fragment of a call.
        is_continued = not name and fragment.function.arguments and not has_ended
        return not (is_numbered and is_continued)
    if fragment.id and fragment.id == call.server_id:
        return bool(name) and name != call.name and has_ended
    # A name after complete arguments is that of the next call.
    if name:
        return has_ended and not _only_repeats_name(call, fragment)
    follows = fragment.function.arguments.lstrip().startswith("{")
    return call.repeats_name and follows and not fragment.id


def _only_repeats_name(call: _Call, fragment: ToolCall) -> bool:
    """Return whether a numbered fragment has the name of its complete call and nothing
    else. Arguments that follow are those of another call of the same function."""
    if fragment.function.name != call.name or fragment.function.arguments:
        return False
    if fragment.id:
        return False
    call.repeats_name = True
    return fragment.index is not None
