"""Passthrough of chat calls whose caller and model server use the same wire format.

Most calls are simple: texts and a few numbers. Their bytes can be forwarded unchanged
in both directions, while only the fields needed for limits and the ledger are
inspected. Anything else, or a call to a server with another format, is parsed and
written normally; `parse` returns the request for that.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from modelyard.base.call_headers import NO_HEADERS, CallHeaders
from modelyard.models.capabilities import Capabilities
from modelyard.models.llm import LLMRequest, LLMResultChunk


class PassthroughRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request in its original bytes with the inspected fields."""

    format: str
    asked: Any
    """The inspected fields, in a struct of the wire format."""
    model_parameters: Mapping[str, Any]
    stream: bool
    user: str | None
    wants_usage: bool
    """Whether the caller's stream should end with a usage chunk."""
    signs: int
    """Number of characters of all texts."""
    parse: Callable[[], LLMRequest]
    headers: CallHeaders = NO_HEADERS
    """Headers that the caller sent with the request."""


class PassthroughChunk(LLMResultChunk, frozen=True, kw_only=True):
    """A chunk forwarded unchanged: the bytes for the caller, and the inspected fields."""

    data: bytes
    said: str = ""
    """Its texts, thoughts and arguments of tool calls, in their order."""
    is_whole: bool = False
    """Whether this is a complete answer and not a part of a stream."""

    @property
    def text(self) -> str:
        """Return the text of this chunk."""
        return self.said


class StreamInspector(Protocol):
    """Inspects the events of a stream that is forwarded unchanged."""

    unread: bytes | None
    """The rest of the stream, from the first event that must be parsed completely; None
    until then."""
    has_finished: bool
    """Whether a forwarded event had a finish reason, so that a parser of the rest need
    not expect one."""

    @property
    def openings(self) -> bytes:
        """The forwarded events that began what the rest of the stream may continue,
        such as tool calls. A parser of the rest reads them first."""
        ...

    def feed(self, body_chunk: bytes) -> PassthroughChunk | None:
        """Inspect a chunk of bytes; return it for forwarding, or None if there is
        nothing to forward yet."""
        ...

    def finish(self) -> None:
        """Raise InvokeServerUnavailableError if the stream was truncated."""
        ...


class PassthroughFormat(Protocol):
    """A wire format that supports passthrough."""

    def can_pass_through(
        self, request: PassthroughRequest, capabilities: Capabilities
    ) -> bool:
        """Return whether a server with these capabilities accepts the request
        unchanged."""
        ...

    def dump(
        self, request: PassthroughRequest, model: str, capabilities: Capabilities
    ) -> bytes:
        """Return the bytes of the request, with its model name replaced."""
        ...

    def result(self, body: bytes) -> PassthroughChunk | None:
        """Return a complete response for forwarding, or None if it must be parsed."""
        ...

    def inspect_stream(self, request: PassthroughRequest) -> StreamInspector:
        """Return the inspector for a response stream."""
        ...


def to_parsed_request(request: Any) -> Any:
    """Return the parsed form of a request, which all formats understand."""
    if not isinstance(request, PassthroughRequest):
        return request
    parsed = request.parse()
    if request.headers.is_empty:
        return parsed
    return msgspec.structs.replace(parsed, headers=request.headers)
