"""What servers have shown by their refusals: formats that they do not speak, and optional
fields that they do not know.

A server that is added by its address alone is taken for one that speaks all of its kind's
formats. What it refuses is left out of the next calls, and asked for again after a time,
since servers are updated.
"""

import re
import time
from collections.abc import Callable, Collection, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, InvokeError
from modelyard.base.json_types import is_array, is_object
from modelyard.models.types import JSON

REMEMBERED_SECONDS = 1800.0
"""After this time a refused format or field is tried again."""
# Model names come from callers: forgetting one costs one refused call more.
_MAX_ENTRIES = 1000

OPTIONAL_FIELDS = frozenset(
    {
        "dimensions",
        "encoding_format",
        "stream_options",
        "response_format",
        "parallel_tool_calls",
        "strict",
        "user",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "seed",
        "service_tier",
        "metadata",
        "store",
        "reasoning_effort",
        "reasoning",
        "verbosity",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "prediction",
        "web_search_options",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "include",
        "truncation",
        "enable_thinking",
        "chat_template_kwargs",
        "extra_body",
        "input_type",
    }
)
"""Fields without which a call still has its meaning. A refused one is left out and
named; any other refusal is the caller's to know."""
AUDIO_FIELDS = frozenset(
    {
        "speed",
        "instructions",
        "stream_format",
        "temperature",
        "user",
        "timestamp_granularities",
        "chunking_strategy",
        "include",
    }
)
"""The same for speech and transcriptions. Their `response_format` is what the caller has
to read."""

_STRICT = "strict"
_REFUSAL_CODES = frozenset(
    {
        "unsupported_parameter",
        "unknown_parameter",
        "unrecognized_parameter",
        "extra_forbidden",
        "invalid_parameter",
        "unexpected_parameter",
    }
)
# Wordings for a field that a server does not know. A refused value is none of them.
_REFUSAL = re.compile(
    r"(?:unsupported|unknown|unrecogni[sz]ed|unexpected|unpermitted|extra)"
    r" (?:request )?(?:parameter|argument|field|key(?:word)?|name|propert|input)"
    r"|extra inputs are not permitted|extra fields? not permitted"
    r"|(?:is|are) (?:not supported|unsupported|not allowed|not permitted|unexpected)"
    r"|does not support|not (?:yet )?supported|was unexpected|no such (?:field|parameter)",
    re.IGNORECASE,
)
_REFUSED_VALUE = re.compile(
    r"unsupported value|supported values are|only the default", re.IGNORECASE
)
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Wordings that do not name the field itself.
_NAMED_OTHERWISE = {
    "matryoshka": "dimensions",
    "reasoningEffort": "reasoning_effort",
}


def refused_field(
    error: InvokeError, optional_fields: Collection[str] = OPTIONAL_FIELDS
) -> str | None:
    """Return the optional field that an error refuses as unknown or unsupported; None
    if it does not refuse one."""
    # A more exact class has a cause of its own.
    if type(error) is not InvokeBadRequestError or error.answer is None:
        return None
    reason = error.reason
    if _REFUSED_VALUE.search(reason) or error.answer.code == "unsupported_value":
        return None
    is_refusal = error.answer.code in _REFUSAL_CODES or _REFUSAL.search(reason)
    if not is_refusal:
        return None
    # The parameter may be a path, such as `tools[0].function.strict`.
    identifiers = _WORD.findall(f"{error.param or ''} {reason}")
    names = (_NAMED_OTHERWISE.get(identifier, identifier) for identifier in identifiers)
    return next((name for name in names if name in optional_fields), None)


def without_fields(body: MutableMapping[str, Any], names: Collection[str]) -> list[str]:
    """Remove fields of a request's body in place, and return those that it had.
    `strict` is a field of its tools."""
    return [name for name in names if _remove_field(body, name)]


def _remove_field(body: MutableMapping[str, Any], name: str) -> bool:
    """Remove one field; return whether the body had it."""
    if name == _STRICT:
        return _remove_strict(body)
    return body.pop(name, None) is not None


def _remove_strict(body: MutableMapping[str, Any]) -> bool:
    """Remove `strict` of all tools; return whether one had it."""
    tools = body.get("tools")
    if not is_array(tools):
        return False
    has_removed = False
    for tool in tools:
        if not is_object(tool):
            continue
        function = tool.get("function")
        # The Responses API has it in the tool, chat completions in the function.
        for holder in (tool, function if is_object(function) else {}):
            has_removed = holder.pop(_STRICT, None) is not None or has_removed
    return has_removed


def has_field(body: bytes, name: str) -> bool:
    """Return whether a request's body, as JSON, has a field."""
    try:
        document: JSON = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return False
    # The document is a decoded copy, so removing the field changes no request.
    return is_object(document) and _remove_field(document, name)


@dataclass(slots=True)
class LearntServers:
    """What the servers of one provider have refused, by their address.

    Holds no more than 1,000 entries of each kind.
    """

    now: Callable[[], float] = time.monotonic
    version: int = 0
    """Changes whenever something was learnt."""
    # (server, format) → until when the format is not used.
    _formats: dict[tuple[str, str], float] = field(
        default_factory=dict[tuple[str, str], float]
    )
    # (server, model) → field → until when it is left out.
    _fields: dict[tuple[str, str], dict[str, float]] = field(
        default_factory=dict[tuple[str, str], dict[str, float]]
    )

    @property
    def is_empty(self) -> bool:
        """Whether nothing was learnt, which is the usual case."""
        return not (self._formats or self._fields)

    def refuse_format(self, server: str, name: str) -> None:
        """Remember that a server does not speak a format."""
        _make_room(self._formats)
        self._formats[server, name] = self.now() + REMEMBERED_SECONDS
        self.version += 1

    def forget_formats(self, server: str) -> None:
        """Forget what formats a server does not speak: it seems to speak none, so its
        address may be wrong, or it is just starting."""
        for key in [key for key in self._formats if key[0] == server]:
            del self._formats[key]
        self.version += 1

    def speaks(self, server: str, name: str) -> bool:
        """Return whether a format may be used with a server."""
        until = self._formats.get((server, name))
        if until is None:
            return True
        if until > self.now():
            return False
        # It is asked again.
        del self._formats[server, name]
        self.version += 1
        return True

    def refuse_field(self, server: str, model: str, name: str) -> None:
        """Remember that a server does not know a field for a model."""
        _make_room(self._fields)
        fields = self._fields.setdefault((server, model), {})
        fields[name] = self.now() + REMEMBERED_SECONDS
        self.version += 1

    def refused_fields(self, server: str, model: str) -> tuple[str, ...]:
        """Return the fields that are left out of requests for a model."""
        fields = self._fields.get((server, model))
        if not fields:
            return ()
        current_time = self.now()
        return tuple(name for name, until in fields.items() if until > current_time)


def _make_room(entries: dict[Any, Any]) -> None:
    """Remove the oldest entry if there are too many."""
    if len(entries) >= _MAX_ENTRIES:
        # Dictionaries keep the order of insertion, so the first key is the oldest.
        del entries[next(iter(entries))]
