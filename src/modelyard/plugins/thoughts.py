"""Reasoning of plugins' models: where it is in an answer, and how it gets back to the
plugin with the next request. No I/O.

Plugins write reasoning into the text, `<think>…</think>`, some with a marker that makes
it theirs, and some keep the vendor's own blocks in an `opaque_body`. Callers get the
readable reasoning as their format has it. What a plugin needs unchanged travels as a
signature, which clients send back.
"""

import base64
import binascii
import html
import re
import zlib
from typing import Any

import msgspec

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.json_types import is_object
from modelyard.models.messages import (
    AssistantPromptMessage,
    ThinkingPromptMessageContent,
)
from modelyard.models.thinking import CLOSE, OPEN, ThinkSplitter

FORMAT = "plugin"
"""The format that issues these signatures."""
_MAX_STATE_BYTES = 1 << 20
"""Longest state that a client may send back, unpacked."""
_MAX_MARKER = 200
_OPEN_ENTITY = re.compile(r"&[#a-zA-Z0-9]{0,8}$")


class PluginState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a plugin has to get back unchanged with an answer."""

    provider: str = ""
    """The provider that wrote it; others must not get it."""
    thoughts: str = ""
    """The reasoning exactly as it was in the text, with its tags."""
    opaque: Any = None
    """The `opaque_body` of the message."""

    def sign(self) -> ThinkingPromptMessageContent:
        """Return the state as the signature of a thought."""
        packed = zlib.compress(msgspec.json.encode(self), 9)
        signature = base64.b64encode(packed).decode()
        return ThinkingPromptMessageContent(signature=signature, origin=FORMAT)


def state_of(message: AssistantPromptMessage, provider: str) -> PluginState:
    """Return the state in the signatures of a message; empty if there is none of this
    provider, or it was changed."""
    for part in message.parts:
        if isinstance(part, ThinkingPromptMessageContent) and part.signature:
            state = _unpacked(part.signature)
            if state is not None and state.provider == provider:
                return state
    return PluginState()


def _unpacked(signature: str) -> PluginState | None:
    """Return the state in a signature, which a client may have invented; None if it is
    none."""
    try:
        packed = base64.b64decode(signature, validate=True)
        text = zlib.decompressobj().decompress(packed, _MAX_STATE_BYTES)
        document = decode_body(text)
    except (binascii.Error, zlib.error, BodyError, ValueError):
        return None
    if not is_object(document):
        return None
    try:
        return msgspec.convert(document, PluginState)
    except msgspec.ValidationError:
        return None


class ThoughtReader:
    """Takes the reasoning out of one streamed text.

    The readable reasoning is passed on at once; the original is kept for the plugin.
    """

    def __init__(self) -> None:
        self._splitter = ThinkSplitter()
        self._raw: list[str] = []
        self._held = ""
        # None until the beginning of the reasoning has shown whether there is one.
        self._marker: str | None = None

    @property
    def has_marker(self) -> bool:
        """Whether the plugin recognises its reasoning by a marker."""
        return bool(self._marker)

    @property
    def raw(self) -> str:
        """The reasoning with its tags, exactly as the plugin wrote it."""
        text = "".join(self._raw)
        return f"{OPEN}{text}{CLOSE}" if text else ""

    def feed(self, text: str) -> tuple[str, str]:
        """Return the (reasoning, answer) that a piece of text adds."""
        return self._read(*self._splitter.feed(text))

    def finish(self) -> tuple[str, str]:
        """Return what was held back, at the end of the text."""
        thought, answer = self._read(*self._splitter.finish())
        return thought + self._rest(), answer

    def _read(self, thought: str, answer: str) -> tuple[str, str]:
        """Return (readable reasoning, answer) for what the splitter has separated.

        Nothing of the reasoning is held back once the answer has begun.
        """
        readable = ""
        if thought:
            self._raw.append(thought)
            readable = self._readable(thought)
        return (readable + self._rest() if answer else readable), answer

    def _readable(self, thought: str) -> str:
        """Return the reasoning without marker, entities and the lines around it."""
        self._held += thought
        if self._marker is None:
            text = self._held.lstrip("\n")
            if not text or _may_be_marker(text):
                return ""
            self._marker, self._held = _split_marker(text)
        ready = self._held.rstrip("\n")
        if self._marker and (match := _OPEN_ENTITY.search(ready)):
            ready = ready[: match.start()]
        self._held = self._held[len(ready) :]
        # A plugin with a marker escapes what could end its block.
        return html.unescape(ready) if self._marker else ready

    def _rest(self) -> str:
        """Return what was held back of the reasoning; its last line ends are none of
        it."""
        rest, self._held = self._held.strip("\n"), ""
        return html.unescape(rest) if self._marker else rest


def _may_be_marker(text: str) -> bool:
    """Return whether a text begins with a marker that has not ended yet."""
    if len(text) < 4:
        return "<!--".startswith(text)
    return text.startswith("<!--") and "-->" not in text and len(text) < _MAX_MARKER


def _split_marker(text: str) -> tuple[str, str]:
    """Return (marker, reasoning); the marker is empty if there is none."""
    if not text.startswith("<!--") or "-->" not in text:
        return "", text
    marker, end, rest = text.partition("-->")
    return marker + end, rest
