"""Journal records that the ledger could not accept, moved to separate files so that
they are neither lost nor block others.

One file per journal in `rejected/`, with one line of JSON per record: the reason and
the bytes.
"""

import base64
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from modelyard.base.private_files import private_folder

_FOLDER = "rejected"


def save_rejected(
    folder: Path, name: str, records: Sequence[tuple[bytes, str]]
) -> Path:
    """Write the (bytes, reason) records of a journal to its file and return the path.
    Repeating it writes the same file."""
    rejected_folder = private_folder(folder / _FOLDER)
    path, unseen = (
        rejected_folder / f"{name}.jsonl",
        # Not counted by `count_rejected` while it is incomplete.
        rejected_folder / f".{name}.{os.getpid()}",
    )
    lines = [_line(record, reason) for record, reason in records]
    descriptor = os.open(unseen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"\n".join(lines) + b"\n")
        # Flushed to disk before the rename, since the journal is deleted afterwards.
        file.flush()
        os.fsync(file.fileno())
    unseen.replace(path)
    return path


def _line(record: bytes, reason: str) -> bytes:
    """Return a record that could not be stored as a line of the file."""
    return msgspec.json.encode(
        {"reason": reason[:500], "record": base64.b64encode(record).decode()}
    )


def count_rejected(folder: Path) -> int:
    """Return the number of rejected records."""
    return sum(
        path.read_bytes().count(b"\n") for path in (folder / _FOLDER).glob("*.jsonl")
    )
