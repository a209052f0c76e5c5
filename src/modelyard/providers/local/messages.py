"""What the server and a model's process say to each other: MessagePack, each message behind its length."""

import struct
from typing import Any

import msgspec

HEADER = struct.Struct(">I")
MAX_MESSAGE = 512 * 1024 * 1024


class Load(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """First message to a process: which engine, with which files."""

    engine: str
    files: dict[str, str]
    options: dict[str, Any]


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag="ask"):
    id: int
    method: str
    payload: Any


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag="cancel"):
    id: int


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    seconds: float


class Piece(msgspec.Struct, frozen=True, kw_only=True, tag="piece"):
    id: int
    data: Any


class End(msgspec.Struct, frozen=True, kw_only=True, tag="end"):
    id: int


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag="failure"):
    """`kind` is the name of one of our error classes; `id` 0 is the loading itself."""

    id: int
    kind: str
    message: str


ToProcess = Load | Ask | Cancel
FromProcess = Ready | Piece | End | Failure

_encoder = msgspec.msgpack.Encoder()


def pack(message: ToProcess | FromProcess) -> bytes:
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body
