"""Chat calls that are passed on as they came, where the model's server speaks the format that the caller speaks.

Most calls are plain: texts, a few numbers. For these nothing has to be understood that is not already said, and both
ways the bytes may stay what they are; what is needed for limits and the ledger is glimpsed beside. Whatever is not
plain, or goes to a server of another format, is read and written as ever: `parse` gives the request for that.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from modelyard.models.llm import LLMRequest, LLMResultChunk


class VerbatimRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    format: str
    asked: Any
    """What was glimpsed, in the format's own struct."""
    model_parameters: Mapping[str, Any]
    stream: bool
    user: str | None
    wants_usage: bool
    """Whether the caller's stream is to end with usage."""
    signs: int
    """Characters of all texts."""
    parse: Callable[[], LLMRequest]


class VerbatimChunk(LLMResultChunk, frozen=True, kw_only=True):
    """A piece of the answer as it came: bytes for the caller, and beside them what is to be known of it."""

    data: bytes
    said: str = ""

    @property
    def text(self) -> str:
        return self.said


class Glance(Protocol):
    """A stream's events, passed on as they are."""

    unread: bytes | None
    """The rest of the stream, from the first event on that has to be read in full."""
    has_finished: bool
    """Whether a finish reason was among what is passed on: whoever reads the rest need not wait for it."""

    def feed(self, piece: bytes) -> VerbatimChunk | None: ...

    def finish(self) -> None:
        """Raises InvokeServerUnavailableError where the stream broke off."""
        ...


class Passing(Protocol):
    """A wire format that can pass on."""

    def passes(self, request: VerbatimRequest, quirks: Mapping[str, Any]) -> bool:
        """Whether a server with these quirks takes the request as it is."""
        ...

    def dump(self, request: VerbatimRequest, model: str, quirks: Mapping[str, Any]) -> bytes: ...

    def result(self, body: bytes) -> VerbatimChunk | None:
        """A whole answer; None where it has to be read to be understood."""
        ...

    def glance(self, request: VerbatimRequest) -> Glance: ...


def plain(request: Any) -> Any:
    """The request as everybody understands it."""
    return request.parse() if isinstance(request, VerbatimRequest) else request
