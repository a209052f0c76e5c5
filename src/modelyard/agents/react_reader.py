"""Reads what a model writes in the ReAct manner, as it comes: thoughts, one action, or the final answer. Pure.

Takes what models really write: labels in any case, bold or not; the action as JSON in a fence or bare, in a list, with
other names for its keys, as two lines (`Action:` and `Action Input:`), cut off, broken, or doubled; a final answer as
an action or behind its label, streamed while it is written. How the text is cut into pieces changes nothing.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from modelyard.base.bodies import BodyError, check_amount
from modelyard.base.mending import NotMendedError, mended

_LABELS = {
    "thought:": "thought", "action:": "action", "action input:": "input", "final answer:": "answer",
    "observation:": "observation",
}  # fmt: skip
_MARKS = {
    variant: kind
    for label, kind in _LABELS.items()
    for variant in (label, f"**{label}**", f"**{label[:-1]}**:", f"### {label}", f"## {label}")
}
_STARTS = frozenset(variant[:size] for variant in _MARKS for size in range(1, len(variant) + 1))
_INPUT_KEYS = ("action_input", "arguments", "parameters", "args", "params")
_NAME_KEYS = ("action", "action_name", "name", "tool", "tool_name", "function")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\", "/": "/"}
_LANGUAGE = re.compile(r"\w{0,12}")
_FENCE = re.compile(r"^```\w*\s*")
_MOST_HELD = 512
"""Characters that are held back, or looked at again with each that follows."""
_TOOL_LINE = re.compile(r"^[\w.\-/ ]{1,128}$")


@dataclass(frozen=True, slots=True)
class Action:
    name: str
    input: Any
    """An object, a text, or whatever else the model wrote."""

    @property
    def arguments(self) -> str:
        return self.input if isinstance(self.input, str) else json.dumps(self.input, ensure_ascii=False)


def is_final(name: str) -> bool:
    low = name.lower()
    return "final" in low and "answer" in low


class ReactReader:
    """`feed` gives (kind, text) pieces in order: kind is `thought` or `answer`. `finish` gives the rest; after it
    `action` is what the model wants done, and `answer` its final answer, None where there is none yet."""

    def __init__(self, names: Collection[str] = ()) -> None:
        self._names = frozenset(names)
        self._out: list[tuple[str, str]] = []
        self._mode = "prose"  # prose, ticks, fence, code, json, line, input, answer, done
        self._held = ""
        self._at_start = True
        self._json = _JsonReader()
        self._before_json = ""
        self._line = ""
        self._is_line = False
        """Whether ticks began behind `Action:`."""
        self._given: list[str] = []
        self._line_action: Action | None = None
        self.action: Action | None = None
        self._answered: list[str] = []
        self._has_answer = False
        self.thoughts: list[str] = []

    @property
    def answer(self) -> str | None:
        return "".join(self._answered) if self._has_answer else None

    @property
    def thought(self) -> str:
        return "".join(self.thoughts).strip()

    def feed(self, text: str) -> list[tuple[str, str]]:
        for sign in text:
            self._sign(sign)
        return self._taken()

    def _taken(self) -> list[tuple[str, str]]:
        """What was found, neighbours of one kind joined."""
        joined = [
            (kind, "".join(text for _, text in pieces)) for kind, pieces in groupby(self._out, key=lambda one: one[0])
        ]
        self._out = []
        return joined

    def finish(self) -> list[tuple[str, str]]:
        match self._mode:
            case "json":
                self._json_over(is_whole=False)
            case "ticks" if self._is_line:
                self._line += self._held
                self._line_over()
            case "fence" | "ticks" | "prose" | "code":
                self._think(self._held)
            case "answer":
                self._tell(self._held.rstrip())
            case "line":
                self._line_over()
            case "input":
                self._input_over()
            case _:
                pass
        self._held, self._mode = "", "done"
        if self.action is None and self._line_action is not None and not self._has_answer:
            self._act(self._line_action)
        return self._taken()

    # one sign after the other

    def _sign(self, sign: str) -> None:  # noqa: C901  one case a mode
        match self._mode:
            case "prose":
                self._prose(sign)
            case "ticks":
                self._ticks(sign)
            case "fence":
                self._fence(sign)
            case "code":
                self._held += sign
                if self._held.endswith("```"):
                    self._think(self._held)
                    self._held, self._mode = "", "prose"
                elif len(self._held) > _MOST_HELD:
                    self._think(self._held[:-2])
                    self._held = self._held[-2:]
            case "json":
                for piece in self._json.feed(sign):
                    self._tell(piece)
                if self._json.is_over:
                    self._json_over(is_whole=True)
            case "line":
                self._in_line(sign)
            case "input":
                self._given.append(sign)
                if sign == ":" and "".join(self._given[-13:]).lower() == "\nobservation:":
                    del self._given[-13:]
                    self._input_over()
                    self._mode = "done"
            case "answer":
                self._in_answer(sign)
            case _:
                pass

    def _prose(self, sign: str) -> None:
        if self._held or (self._at_start and sign.lower() in _STARTS):
            self._held += sign
            low = self._held.lower()
            if (kind := _MARKS.get(low)) is not None:
                self._held = ""
                self._labelled(kind)
            elif low not in _STARTS:
                held, self._held = self._held, ""
                self._plain(held[0])
                for one in held[1:]:
                    self._sign(one)
            return
        self._plain(sign)

    def _plain(self, sign: str) -> None:
        self._at_start = sign.isspace()
        if sign == "`":
            self._mode, self._held = "ticks", sign
        elif sign in "{[":
            self._begin_json(sign, before="")
        else:
            self._think(sign)

    def _ticks(self, sign: str) -> None:
        if sign == "`":
            self._held += sign
            if self._held == "```":
                self._mode, self._is_line = "fence", False
            return
        held, self._held = self._held, ""
        if self._is_line:  # the name itself stands between them
            self._mode, self._is_line = "line", False
            self._line += held
            self._in_line(sign)
            return
        self._mode, self._at_start = "prose", False
        self._think(held)
        self._sign(sign)

    def _fence(self, sign: str) -> None:
        """Behind ```: a word for the language, then what is in it."""
        if sign in "{[":
            before, self._held = self._held, ""
            self._begin_json(sign, before=before)
            return
        self._held += sign
        told = self._held[3:]
        if len(told) > _MOST_HELD or not _LANGUAGE.fullmatch(told.strip()):
            self._mode = "code"

    def _begin_json(self, sign: str, *, before: str) -> None:
        self._json, self._before_json, self._mode = _JsonReader(), before, "json"
        self._json.feed(sign)

    def _labelled(self, kind: str) -> None:
        self._at_start = True
        match kind:
            case "thought":
                pass
            case "action":
                self._mode, self._line = "line", ""
            case "input":
                self._mode, self._given = "input", []
            case "answer":
                self._mode, self._held = "answer", ""
                self._has_answer = True
            case _:
                self._mode = "done"  # an observation that the model made up: what follows it rests on nothing

    def _in_line(self, sign: str) -> None:
        """Behind `Action:`: a name on this line, or JSON somewhere after it."""
        if not self._line or self._line.isspace():
            self._line = ""
            if sign == "`":
                self._mode, self._held, self._is_line = "ticks", sign, True
                return
            if sign in "{[":
                self._begin_json(sign, before="")
                return
        self._line += sign
        if (sign == "\n" or len(self._line) > _MOST_HELD) and self._line.strip():
            self._line_over()

    def _line_over(self) -> None:
        name = self._line.strip().strip("`*\"' ")
        self._mode, self._at_start = "prose", True
        if name in self._names or is_final(name) or (_TOOL_LINE.match(name) and " " not in name):
            self._line_action = Action(name, {})
        elif name:
            self._think(self._line)
        self._line = ""

    def _input_over(self) -> None:
        written = "".join(self._given)
        given = written.strip()
        name = self._line_action.name if self._line_action else ""
        if given.startswith("```"):
            given = _FENCE.sub("", given).removesuffix("```").rstrip()
        value: Any = given
        if given[:1] in ("{", "["):
            value = _first_json(given)
            value = given if value is None else value
        elif len(given) > 1 and given[0] == given[-1] and given[0] in "\"'":
            value = given[1:-1]
        if name:
            self._act(Action(name, value))
        else:
            self._think(written)

    def _in_answer(self, sign: str) -> None:
        """Everything but an observation that the model makes up behind its answer."""
        self._held += sign
        mark = "\nobservation:"
        low = self._held.lower()
        if not self._answered:
            stripped = self._held.lstrip()
            if not stripped:
                self._held = ""
                return
            self._held, low = stripped, stripped.lower()
        if low.endswith(mark):
            self._tell(self._held[: -len(mark)])
            self._held, self._mode = "", "done"
            return
        keep = next((size for size in range(min(len(mark), len(low)), 0, -1) if mark.startswith(low[-size:])), 0)
        keep = max(keep, len(self._held) - len(self._held.rstrip()))
        if keep > _MOST_HELD:
            keep = 0
        if len(self._held) > keep:
            self._tell(self._held[: len(self._held) - keep])
            self._held = self._held[len(self._held) - keep :]

    # what was found

    def _think(self, text: str) -> None:
        if text:
            self.thoughts.append(text)
            self._out.append(("thought", text))

    def _tell(self, text: str) -> None:
        if text:
            self._has_answer = True
            self._answered.append(text)
            self._out.append(("answer", text))

    def _act(self, action: Action) -> None:
        if is_final(action.name):
            if not self._answered:
                self._has_answer = True
                value = action.input
                self._tell(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        else:
            self.action = action
        self._mode = "done"

    def _json_over(self, *, is_whole: bool) -> None:
        raw = self._json.raw
        value = _decoded(raw, is_whole=is_whole)
        action = action_of(value, self._names)
        if self._json.has_answered:
            self._has_answer, self._mode = True, "done"
            return
        if action is not None:
            self._act(action)
            return
        self._think(self._before_json + raw)
        self._mode, self._held, self._at_start = ("code", "", False) if self._before_json else ("prose", "", False)


def action_of(value: Any, names: Collection[str] = ()) -> Action | None:
    """The action that a JSON value is, by any of the usual names for its keys; None where it is something else."""
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        value = value[0]
    if not isinstance(value, Mapping):
        return None
    lower = {str(key).strip().lower(): one for key, one in value.items()}
    name = next((lower[key] for key in _NAME_KEYS if isinstance(lower.get(key), str)), None)
    given = next((lower[key] for key in _INPUT_KEYS if key in lower), None)
    key = next((one for one in lower if "input" in one), None)
    if given is None and key is not None:
        given = lower[key]
    has_input = given is not None or any(one in lower for one in _INPUT_KEYS) or key is not None
    if name is None and has_input:
        others = [
            one for each, one in lower.items() if isinstance(one, str) and each != key and each not in _INPUT_KEYS
        ]
        name = others[0] if len(others) == 1 else None
    if name is None or not name.strip():
        return None
    name = name.strip()
    if not has_input and name not in names and not is_final(name) and "action" not in lower:
        return None
    return Action(name, {} if given is None else given)


class _JsonReader:
    """Follows a JSON value sign by sign to its end; gives out the text of a final answer while it is written."""

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
        self.is_over = False

    @property
    def raw(self) -> str:
        return "".join(self._raw)

    def feed(self, text: str) -> list[str]:
        told: list[str] = []
        for sign in text:
            if self.is_over:
                break
            self._raw.append(sign)
            piece = self._inside(sign) if self._in_string else self._outside(sign)
            if piece:
                told.append(piece)
        return told

    def _outside(self, sign: str) -> str:
        match sign:
            case "{" | "[":
                self._depth.append(sign)
                self._is_key = sign == "{"
            case "}" | "]":
                if self._depth:
                    self._depth.pop()
                self.is_over = not self._depth
            case '"':
                self._in_string, self._string = True, []
                is_top = self._depth.count("{") == 1 and self._depth[-1] == "{"
                self._is_answer = is_top and not self._is_key and self._is_final and "input" in self._key
                self.has_answered = self.has_answered or self._is_answer
            case ":":
                self._is_key = False
            case ",":
                self._is_key = bool(self._depth) and self._depth[-1] == "{"
            case _:
                pass
        return ""

    def _inside(self, sign: str) -> str:
        if self._escape:
            return self._escaped(sign)
        if sign == "\\":
            self._escape = sign
            return ""
        if sign == '"':
            self._in_string = False
            if self._depth.count("{") == 1 and self._depth[-1] == "{":
                text = "".join(self._string)
                if self._is_key:
                    self._key = text.lower()
                elif self._key in _NAME_KEYS and is_final(text):
                    self._is_final = True
            self._is_answer = False
            return ""
        return self._kept(sign)

    def _escaped(self, sign: str) -> str:
        self._escape += sign
        if self._escape[1] != "u":
            told = _ESCAPES.get(sign, sign)
            self._escape = ""
            return self._kept(told)
        if len(self._escape) < 6:
            return ""
        try:
            code = int(self._escape[2:6], 16)
        except ValueError:
            told, self._escape = self._escape, ""
            return self._kept(told)
        if 0xD800 <= code < 0xDC00:  # half of a sign: its other half follows
            if len(self._escape) < 12:
                return ""
            try:
                low = int(self._escape[8:12], 16)
                told = chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00))
            except ValueError:
                told = "\N{REPLACEMENT CHARACTER}"
            self._escape = ""
            return self._kept(told)
        self._escape = ""
        return self._kept(chr(code) if not 0xDC00 <= code < 0xE000 else "\N{REPLACEMENT CHARACTER}")

    def _kept(self, text: str) -> str:
        self._string.append(text)
        return text if self._is_answer else ""


def _decoded(raw: str, *, is_whole: bool) -> Any:
    try:
        check_amount(raw)
        return json.loads(raw, strict=False)
    except BodyError:
        return None
    except (json.JSONDecodeError, RecursionError):
        pass
    if not is_whole and ":" not in raw:
        return None
    try:
        found = mended(raw)
    except (ImportError, NotMendedError):
        return None
    return found if isinstance(found, dict | list) else None


def _first_json(text: str) -> Any:
    """The value that a text begins with, whatever follows it."""
    try:
        return json.JSONDecoder(strict=False).raw_decode(text)[0]
    except (json.JSONDecodeError, RecursionError):
        return _decoded(text, is_whole=True)
