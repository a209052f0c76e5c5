"""What a journal held and the ledger could not take: set aside beside it, so that it is neither lost nor in the way.

A file for each journal, in `rejected/`, a line of JSON for each record: why, and its bytes.
"""

import base64
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from modelyard.base.modes import private_folder

_FOLDER = "rejected"


def keep(folder: Path, name: str, records: Sequence[tuple[bytes, str]]) -> Path:
    """Write down the records of a journal, (bytes, reason) each. Doing so again writes the same file."""
    place = private_folder(folder / _FOLDER)
    path, unseen = place / f"{name}.jsonl", place / f".{name}.{os.getpid()}"
    lines = [_line(record, reason) for record, reason in records]
    descriptor = os.open(unseen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(b"\n".join(lines) + b"\n")
        out.flush()
        os.fsync(out.fileno())
    unseen.replace(path)
    return path


def _line(record: bytes, reason: str) -> bytes:
    return msgspec.json.encode({"reason": reason[:500], "record": base64.b64encode(record).decode()})


def count(folder: Path) -> int:
    """How many records lie there."""
    return sum(path.read_bytes().count(b"\n") for path in (folder / _FOLDER).glob("*.jsonl"))
