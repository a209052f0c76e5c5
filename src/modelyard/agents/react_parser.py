"""Streaming parser for ReAct output: thoughts, one action, or the final answer. No I/O.

It accepts what models really write: labels in any case, bold or not; the action as
fenced or bare JSON, in a list, with other key names, as two lines (`Action:` and
`Action Input:`), truncated, broken or doubled; a final answer as an action or after its
label, which is streamed while it is written. The result does not depend on the chunk
boundaries.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from modelyard.base.bounded_json import BodyError, check_value_count
from modelyard.base.json_repair import RepairError, repair_json
from modelyard.base.json_types import is_array, is_mapping, is_object

_LABELS = {
    "thought:": "thought",
    "action:": "action",
    "action input:": "input",
    "final answer:": "answer",
    "observation:": "observation",
}
# Every spelling of a label that models use, in lower case.
_LABEL_VARIANTS = {
    variant: label_type
    for label, label_type in _LABELS.items()
    for variant in (
        label,
        f"**{label}**",
        f"**{label[:-1]}**:",
        f"### {label}",
        f"## {label}",
    )
}
# All prefixes of the labels: text that matches one must be buffered until it is clear
# whether it is a label.
_LABEL_PREFIXES = frozenset(
    variant[:size] for variant in _LABEL_VARIANTS for size in range(1, len(variant) + 1)
)
# Models have learnt the names of several frameworks, and mix them.
_INPUT_KEYS = ("action_input", "arguments", "parameters", "args", "params")
_NAME_KEYS = ("action", "action_name", "name", "tool", "tool_name", "function")
_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "b": "\b",
    "f": "\f",
    '"': '"',
    "\\": "\\",
    "/": "/",
}
# After the backticks, a longer text is no language but content.
_LANGUAGE = re.compile(r"\w{0,12}")
_FENCE = re.compile(r"^```\w*\s*")
_MAX_BUFFERED = 512
"""Maximum number of characters that are buffered, and thus scanned again for each new
character."""
_TOOL_LINE = re.compile(r"^[\w.\-/ ]{1,128}$")


@dataclass(frozen=True, slots=True)
class Action:
    """A tool call that the model wrote."""

    name: str
    input: Any
    """An object, a text, or whatever else the model wrote."""

    @property
    def arguments(self) -> str:
        """The input as text: unchanged if it is text, otherwise as JSON."""
        return (
            self.input
            if isinstance(self.input, str)
            else json.dumps(self.input, ensure_ascii=False)
        )


def is_final(name: str) -> bool:
    """Return whether the action name stands for the final answer, as in "Final Answer"
    or "final_answer"."""
    low = name.lower()
    return "final" in low and "answer" in low


class ReactParser:
    """State machine that reads a reply character by character.

    `feed` and `finish` return (kind, text) deltas in order, where kind is `thought` or
    `answer`. After `finish`, `action` is the requested tool call, and `answer` the
    final answer; each is None if there is none.
    """

    def __init__(self, names: Collection[str] = ()) -> None:
        self._names = frozenset(names)
        self._pending_deltas: list[tuple[str, str]] = []
        self._mode = (  # prose, ticks, fence, code, json, line, input, answer, done
            "prose"
        )
        self._buffer = ""
        self._at_start = True
        self._json = _IncrementalJsonParser()
        self._before_json = ""
        self._line = ""
        self._is_line = False
        """True if the backticks started after `Action:`."""
        self._input_chars: list[str] = []
        self._line_action: Action | None = None
        self.action: Action | None = None
        self._answer_parts: list[str] = []
        self._has_answer = False
        self.thoughts: list[str] = []

    @property
    def answer(self) -> str | None:
        """The final answer so far; None if none has started."""
        return "".join(self._answer_parts) if self._has_answer else None

    @property
    def thought(self) -> str:
        """All thoughts so far, joined."""
        return "".join(self.thoughts).strip()

    def feed(self, text: str) -> list[tuple[str, str]]:
        """Parse more text of the reply and return the deltas that are certain now.

        Deltas are (kind, text) with the kind `thought` or `answer`. Text that may still
        become a label or a code fence is held back until more text, or `finish`,
        decides it.
        """
        for char in text:
            self._feed_char(char)
        return self._take_deltas()

    def _take_deltas(self) -> list[tuple[str, str]]:
        """Return and clear the pending deltas, with adjacent ones of the same kind
        joined."""
        pending, self._pending_deltas = self._pending_deltas, []
        return [
            (delta_type, "".join(text for _, text in group))
            for delta_type, group in groupby(pending, key=itemgetter(0))
        ]

    def finish(self) -> list[tuple[str, str]]:
        """Parse what is still buffered, at the end of the reply, and return the
        remaining deltas."""
        match self._mode:
            # The reply may end in any state: flush what each one has buffered.
            case "json":
                self._end_json(is_complete=False)
            case "ticks" if self._is_line:
                self._line += self._buffer
                self._end_line()
            case "fence" | "ticks" | "prose" | "code":
                self._emit_thought(self._buffer)
            case "answer":
                self._emit(self._buffer.rstrip())
            case "line":
                self._end_line()
            case "input":
                self._end_input()
            case _:
                pass
        self._buffer, self._mode = "", "done"
        # A tool name without input is an action too, unless the model also answered.
        if (
            self.action is None
            and self._line_action is not None
            and not self._has_answer
        ):
            self._set_action(self._line_action)
        return self._take_deltas()

    # one character after the other

    def _feed_char(self, char: str) -> None:  # noqa: C901
        """Parse one more character in the current mode.

        After an action, an answer's end or an invented observation (mode `done`),
        characters are discarded.
        """
        match self._mode:
            case "prose":
                self._parse_prose(char)
            case "ticks":
                self._parse_code_fence(char)
            case "fence":
                self._parse_fence_language(char)
            case "code":
                self._buffer += char
                # A code block that is not an action is part of the thoughts.
                if self._buffer.endswith("```"):
                    self._emit_thought(self._buffer)
                    self._buffer, self._mode = "", "prose"
                elif len(self._buffer) > _MAX_BUFFERED:
                    # Two characters stay buffered because they may belong to the
                    # closing fence.
                    self._emit_thought(self._buffer[:-2])
                    self._buffer = self._buffer[-2:]
            case "json":
                for fragment in self._json.feed(char):
                    self._emit(fragment)
                if self._json.is_complete:
                    self._end_json(is_complete=True)
            case "line":
                self._parse_action_line(char)
            case "input":
                self._input_chars.append(char)
                # Models that are not stopped invent the observation; everything from
                # there on is discarded.
                if (
                    char == ":"
                    and "".join(self._input_chars[-13:]).lower() == "\nobservation:"
                ):
                    del self._input_chars[-13:]
                    self._end_input()
                    self._mode = "done"
            case "answer":
                self._parse_answer(char)
            case _:
                pass

    def _parse_prose(self, char: str) -> None:
        """Handle a character outside of any block: a possible label, or plain text.

        At the start of a line, characters are buffered as long as they may become a
        label, such as `Action:`. If they do not, they are parsed again as ordinary
        text.
        """
        # Labels count only at the start of a line or of the text.
        if self._buffer or (self._at_start and char.lower() in _LABEL_PREFIXES):
            self._buffer += char
            low = self._buffer.lower()
            if (label_type := _LABEL_VARIANTS.get(low)) is not None:
                self._buffer = ""
                self._enter_label(label_type)
            # Not a label after all: replay the buffered characters as ordinary text.
            elif low not in _LABEL_PREFIXES:
                buffered, self._buffer = self._buffer, ""
                self._parse_plain(buffered[0])
                for replayed_char in buffered[1:]:
                    self._feed_char(replayed_char)
            return
        self._parse_plain(char)

    def _parse_plain(self, char: str) -> None:
        """Handle a character of ordinary text, which is a thought.

        A backtick may open a code fence; a brace or a bracket starts JSON.
        """
        # Only white space has been seen since the last label or line break.
        self._at_start = char.isspace()
        if char == "`":
            self._mode, self._buffer = "ticks", char
        elif char in "{[":
            self._start_json(char, prefix="")
        else:
            self._emit_thought(char)

    def _parse_code_fence(self, char: str) -> None:
        """Handle a character after a backtick.

        Three backticks open a code fence. Fewer are part of the text, or of the tool's
        name if they stand after `Action:`.
        """
        if char == "`":
            self._buffer += char
            if self._buffer == "```":
                self._mode, self._is_line = "fence", False
            return
        buffered, self._buffer = self._buffer, ""
        if self._is_line:  # the tool's name stands between backticks
            self._mode, self._is_line = "line", False
            self._line += buffered
            self._parse_action_line(char)
            return
        self._mode, self._at_start = "prose", False
        self._emit_thought(buffered)
        self._feed_char(char)

    def _parse_fence_language(self, char: str) -> None:
        """Handle a character after ```: first the language name, then the content of
        the block."""
        if char in "{[":
            prefix, self._buffer = self._buffer, ""
            self._start_json(char, prefix=prefix)
            return
        self._buffer += char
        language = self._buffer[3:]
        # Not a language name, so this is a block of code and not an action.
        if len(language) > _MAX_BUFFERED or not _LANGUAGE.fullmatch(language.strip()):
            self._mode = "code"

    def _start_json(self, char: str, *, prefix: str) -> None:
        """Start to read a JSON value with its first character.

        `prefix` is the text before it, such as a fence, which becomes a thought if the
        value is not an action.
        """
        self._json, self._before_json, self._mode = (
            _IncrementalJsonParser(),
            prefix,
            "json",
        )
        self._json.feed(char)

    def _enter_label(self, label_type: str) -> None:
        """Switch to the mode that a label announces.

        `answer` makes the reply an answer even if no text follows. After `observation`,
        which only the tool may write, everything is discarded.
        """
        self._at_start = True
        match label_type:
            case "thought":
                pass
            case "action":
                self._mode, self._line = "line", ""
            case "input":
                self._mode, self._input_chars = "input", []
            case "answer":
                self._mode, self._buffer = "answer", ""
                self._has_answer = True
            # A label without text still means that the model answers.
            case _:
                # An observation that the model invented: the text after it has no
                # basis and is discarded.
                self._mode = "done"

    def _parse_action_line(self, char: str) -> None:
        """Handle a character after `Action:`: a tool name on this line, or JSON after
        it."""
        if not self._line or self._line.isspace():
            self._line = ""
            if char == "`":
                self._mode, self._buffer, self._is_line = "ticks", char, True
                return
            if char in "{[":
                self._start_json(char, prefix="")
                return
        self._line += char
        # A very long line cannot be a tool name.
        if (char == "\n" or len(self._line) > _MAX_BUFFERED) and self._line.strip():
            self._end_line()

    def _end_line(self) -> None:
        """Handle the end of the line after `Action:`.

        A known tool, or a single word that looks like one, is noted as the action until
        its input follows; any other text is a thought.
        """
        name = self._line.strip().strip("`*\"' ")
        self._mode, self._at_start = "prose", True
        # Text after `Action:` is a tool name if it is known or looks like an
        # identifier.
        if (
            name in self._names
            or is_final(name)
            or (_TOOL_LINE.match(name) and " " not in name)
        ):
            self._line_action = Action(name, {})
        elif name:
            self._emit_thought(self._line)
        self._line = ""

    def _end_input(self) -> None:
        """Handle the end of the text after `Action Input:`.

        It is JSON, a quoted text or plain text, possibly in a code fence. Without a
        preceding `Action:` it is a thought.
        """
        raw_text = "".join(self._input_chars)
        text = raw_text.strip()
        name = self._line_action.name if self._line_action else ""
        if text.startswith("```"):
            text = _FENCE.sub("", text).removesuffix("```").rstrip()
        value: Any = text
        # The input may be JSON followed by other text.
        if text[:1] in ("{", "["):
            value = _first_json(text)
            value = text if value is None else value
        elif len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
            value = text[1:-1]
        if name:
            self._set_action(Action(name, value))
        else:
            self._emit_thought(raw_text)

    def _parse_answer(self, char: str) -> None:
        """Stream the answer, but stop at an `Observation:` that the model invents after
        it."""
        self._buffer += char
        mark = "\nobservation:"
        low = self._buffer.lower()
        # Leading white space of the answer is dropped.
        if not self._answer_parts:
            stripped = self._buffer.lstrip()
            if not stripped:
                self._buffer = ""
                return
            self._buffer, low = stripped, stripped.lower()
        if low.endswith(mark):
            self._emit(self._buffer[: -len(mark)])
            self._buffer, self._mode = "", "done"
            return
        # Keep back the longest suffix that may become the marker, and trailing white
        # space.
        keep = next(
            (
                size
                for size in range(min(len(mark), len(low)), 0, -1)
                if mark.startswith(low[-size:])
            ),
            0,
        )
        keep = max(keep, len(self._buffer) - len(self._buffer.rstrip()))
        if keep > _MAX_BUFFERED:
            keep = 0
        if len(self._buffer) > keep:
            self._emit(self._buffer[: len(self._buffer) - keep])
            self._buffer = self._buffer[len(self._buffer) - keep :]

    # what was found

    def _emit_thought(self, text: str) -> None:
        """Add a text to the thoughts, and to the deltas that are sent next."""
        if text:
            self.thoughts.append(text)
            self._pending_deltas.append(("thought", text))

    def _emit(self, text: str) -> None:
        """Add text to the answer and the pending deltas; nothing if it is empty."""
        if text:
            self._has_answer = True
            self._answer_parts.append(text)
            self._pending_deltas.append(("answer", text))

    def _set_action(self, action: Action) -> None:
        """Set the reply's action and ignore the rest of the reply.

        An action named like a final answer gives the answer instead, unless that was
        streamed already.
        """
        # The final answer as an action: its input is the answer, unless it was streamed
        # already.
        if is_final(action.name):
            if not self._answer_parts:
                self._has_answer = True
                value = action.input
                self._emit(
                    value
                    if isinstance(value, str)
                    else json.dumps(value, ensure_ascii=False)
                )
        else:
            self.action = action
        self._mode = "done"

    def _end_json(self, *, is_complete: bool) -> None:
        """Handle the end of a JSON value: an action, a final answer, or a thought.

        `is_complete` is False if the reply ended within the value, which is then
        repaired if possible.
        """
        raw = self._json.raw
        value = _decode(raw, is_complete=is_complete)
        action = parse_action(value, self._names)
        # The answer was streamed while its JSON was read, so the value itself is not
        # needed.
        if self._json.has_answered:
            self._has_answer, self._mode = True, "done"
            return
        if action is not None:
            self._set_action(action)
            return
        # JSON that is not an action belongs to the thoughts.
        self._emit_thought(self._before_json + raw)
        self._mode, self._buffer, self._at_start = (
            ("code", "", False) if self._before_json else ("prose", "", False)
        )


def parse_action(value: Any, names: Collection[str] = ()) -> Action | None:
    """Return the action that a JSON value describes; None if it is not an action.

    Common key names for the tool and its input are accepted; of a list the first object
    counts. `names` are the known tools: an object without any input is an action only
    if it names one of them.
    """
    if is_array(value) and value and is_mapping(value[0]):
        value = value[0]
    if not is_mapping(value):
        return None
    fields = {
        str(key).strip().lower(): field_value for key, field_value in value.items()
    }
    input_keys = _input_keys(fields)
    name = _action_name(fields, input_keys)
    if not name:
        return None
    # An object with just a `name` is an action only if that is a known tool.
    if not input_keys and not (name in names or is_final(name) or "action" in fields):
        return None
    inputs = (fields[key] for key in input_keys)
    action_input = next((item for item in inputs if item is not None), None)
    return Action(name, {} if action_input is None else action_input)


def _input_keys(fields: Mapping[str, Any]) -> list[str]:
    """Return the keys that hold the action's input, best first: the first common key,
    and the first that a model invented, such as `tool_input` or `actioninput`."""
    common_key = next((key for key in _INPUT_KEYS if key in fields), None)
    invented_key = next((key for key in fields if "input" in key), None)
    return [key for key in (common_key, invented_key) if key is not None]


def _action_name(fields: Mapping[str, Any], input_keys: Collection[str]) -> str:
    """Return the name of the tool; "" if there is none."""
    for key in _NAME_KEYS:
        if isinstance(name := fields.get(key), str):
            return name.strip()
    # With an unknown name key, the only other text value must be the name.
    if not input_keys:
        return ""
    name = _only_text(fields, ignored_keys={*_INPUT_KEYS, *input_keys})
    return (name or "").strip()


def _only_text(fields: Mapping[str, Any], ignored_keys: Collection[str]) -> str | None:
    """Return the text value of the other keys; None unless there is exactly one."""
    texts = [
        value
        for key, value in fields.items()
        if isinstance(value, str) and key not in ignored_keys
    ]
    return texts[0] if len(texts) == 1 else None


class _IncrementalJsonParser:
    """Incremental JSON scanner: finds the end of a value and emits the text of a final
    answer while it is being written."""

    def __init__(self) -> None:
        self._raw: list[str] = []
        self._depth: list[str] = []
        self._in_string = False
        self._escape = ""
        self._string: list[str] = []
        self._key = ""
        self._is_key = True
        self._is_final = False
        self._is_answer = False
        self.has_answered = False
        self.is_complete = False

    @property
    def raw(self) -> str:
        """All characters read so far."""
        return "".join(self._raw)

    def feed(self, text: str) -> list[str]:
        """Read more characters and return new fragments of the final answer. Characters
        after the value's end are ignored."""
        fragments: list[str] = []
        for char in text:
            if self.is_complete:
                break
            self._raw.append(char)
            fragment = (
                self._scan_string(char)
                if self._in_string
                else self._scan_structure(char)
            )
            if fragment:
                fragments.append(fragment)
        return fragments

    def _scan_structure(self, char: str) -> str:
        """Scan a character outside of any string; the result is always empty.

        The value is complete when its outermost bracket closes. An opening quote begins
        a key or a text; it begins the streamed answer if the action was named a final
        answer and this is its input.
        """
        match char:
            case "{" | "[":
                self._depth.append(char)
                self._is_key = char == "{"
            case "}" | "]":
                if self._depth:
                    self._depth.pop()
                # The value ends when its outermost bracket closes.
                self.is_complete = not self._depth
            case '"':
                self._in_string, self._string = True, []
                # Only a string at the top level of the object can be the answer.
                is_top = self._depth.count("{") == 1 and self._depth[-1] == "{"
                self._is_answer = (
                    is_top
                    and not self._is_key
                    and self._is_final
                    and "input" in self._key
                )
                self.has_answered = self.has_answered or self._is_answer
            case ":":
                self._is_key = False
            case ",":
                self._is_key = bool(self._depth) and self._depth[-1] == "{"
            case _:
                pass
        return ""

    def _scan_string(self, char: str) -> str:
        """Scan a character within a string and return the answer text it adds.

        A backslash starts an escape sequence, a quote ends the string. Keys, and the
        name of a final answer, are noted at the object's top level only.
        """
        if self._escape:
            return self._scan_escape(char)
        if char == "\\":
            self._escape = char
            return ""
        if char == '"':
            self._in_string = False
            if self._depth.count("{") == 1 and self._depth[-1] == "{":
                text = "".join(self._string)
                if self._is_key:
                    self._key = text.lower()
                elif self._key in _NAME_KEYS and is_final(text):
                    self._is_final = True
            self._is_answer = False
            return ""
        return self._append_to_string(char)

    def _scan_escape(self, char: str) -> str:
        """Scan a character of an escape sequence and return the answer text it adds.

        The text is empty until the sequence is complete; a surrogate pair takes two
        sequences. An invalid surrogate becomes U+FFFD, an invalid code stays as
        written.
        """
        self._escape += char
        # Simple escapes are two characters long; `\uXXXX` has six.
        if self._escape[1] != "u":
            decoded = _ESCAPES.get(char, char)
            self._escape = ""
            return self._append_to_string(decoded)
        if len(self._escape) < 6:
            return ""
        try:
            code = int(self._escape[2:6], 16)
        except ValueError:
            decoded, self._escape = self._escape, ""
            return self._append_to_string(decoded)
        if 0xD800 <= code < 0xDC00:  # first half of a surrogate pair
            if len(self._escape) < 12:
                return ""
            try:
                low = int(self._escape[8:12], 16)
                decoded = chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00))
            except ValueError:
                decoded = "\N{REPLACEMENT CHARACTER}"
            self._escape = ""
            return self._append_to_string(decoded)
        self._escape = ""
        return self._append_to_string(
            chr(code) if not 0xDC00 <= code < 0xE000 else "\N{REPLACEMENT CHARACTER}"
        )

    def _append_to_string(self, text: str) -> str:
        """Add text to the current string; return it if the user reads it."""
        self._string.append(text)
        return text if self._is_answer else ""


def _decode(raw: str, *, is_complete: bool) -> Any:
    """Return the JSON value of a text, repaired if necessary; None if that fails.

    `is_complete` says whether its brackets are closed. Only an object or a list counts
    as a repaired value.
    """
    try:
        check_value_count(raw)
        return json.loads(raw, strict=False)
    except BodyError:
        return None
    except (json.JSONDecodeError, RecursionError):
        pass
    # Truncated text without a key cannot be repaired to an action.
    if not is_complete and ":" not in raw:
        return None
    try:
        repaired = repair_json(raw)
    except (ImportError, RepairError):
        return None
    return repaired if is_object(repaired) or is_array(repaired) else None


def _first_json(text: str) -> Any:
    """Return the JSON value at the start of the text, ignoring what follows; None if
    there is none."""
    try:
        return json.JSONDecoder(strict=False).raw_decode(text)[0]
    except (json.JSONDecodeError, RecursionError):
        return _decode(text, is_complete=True)
