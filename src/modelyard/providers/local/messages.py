"""Messages between the server and a model's process: MessagePack, each preceded by its
length in four bytes."""

import struct
from typing import Any

import msgspec

from modelyard.base.errors import TokenCounts

HEADER = struct.Struct(">I")
# Largest message in bytes. A larger length means that the stream is out of step.
MAX_MESSAGE = 512 * 1024 * 1024


class Load(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """The first message to a process: the engine to load, its files and options."""

    engine: str
    files: dict[str, str]
    options: dict[str, Any]


class CallRequest(msgspec.Struct, frozen=True, kw_only=True, tag="ask"):
    """Starts a call in the process; `id` identifies its responses."""

    id: int
    method: str
    payload: Any


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag="cancel"):
    """Cancels a call. The process stops it at the next opportunity."""

    id: int


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The engine is loaded; `seconds` is the time that it took."""

    seconds: float


class ResultChunk(msgspec.Struct, frozen=True, kw_only=True, tag="piece"):
    """One part of a call's result."""

    id: int
    data: Any


class CallEnd(msgspec.Struct, frozen=True, kw_only=True, tag="end"):
    """The call is complete."""

    id: int


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag="failure"):
    """An error. `kind` is the name of an error class in `base.errors`; `id` 0 means
    that loading failed."""

    id: int
    kind: str
    message: str
    tokens: TokenCounts | None = None
    """Those of a request that is too long."""


# The process decodes the first union, the server the second; `tag` selects the class.
ToProcess = Load | CallRequest | Cancel
FromProcess = Ready | ResultChunk | CallEnd | Failure

_encoder = msgspec.msgpack.Encoder()


def pack(message: ToProcess | FromProcess) -> bytes:
    """Encode a message with its length prefix."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body
