"""Files that a process appends to and that outlive it, however it ends: what the ledger writes before it may forget.

A line is one `write` into the operating system's page cache: a killed process loses none, and no commit is waited for.
How far an answer has come lies beside it, in memory that is mapped to a file. The lock on a process's files goes when
the process does; whoever gets it afterwards may read what was left and take it over (docs/design/0005-ledger.md).
"""

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.base.errors import ConfigError
from modelyard.base.ids import new_id
from modelyard.storage.database import StorageUnavailableError

_SEGMENT_BYTES = 8 << 20
_SLOT = struct.Struct("<QQ")  # whose it is, how far it has come
_SLOTS = 65_536


@dataclass(slots=True, eq=False)
class Segment:
    """One file of lines. It goes when nothing in it is still needed."""

    path: Path
    descriptor: int
    size: int = 0
    needed: int = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one answer's progress is kept: `number` in the mapped file, `mark` says whose it is."""

    number: int
    mark: int


@dataclass(slots=True)
class Journal:
    """One process's files in `folder`. Lines are appended by one thread; `forget` may be called by another."""

    folder: Path
    segment_bytes: int = _SEGMENT_BYTES
    _segments: list[Segment] = field(default_factory=list[Segment])
    _lock: threading.Lock = field(default_factory=threading.Lock)
    name: str = field(init=False)
    _owner: int = field(init=False)
    _progress: mmap.mmap = field(init=False)
    _free: list[int] = field(init=False)
    _marks: int = field(init=False)

    def __post_init__(self) -> None:
        self.name = new_id("by")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Locked before it is seen under its name: nobody may take us for gone.
            unseen = self.folder / f"{self.name}.new"
            self._owner = os.open(unseen, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unseen.rename(self.folder / f"{self.name}.lock")
            self._progress = _mapped(self.folder / f"{self.name}.progress")
        except OSError as error:
            raise ConfigError(f"folder {str(self.folder)!r} cannot be written: {error.strerror}") from error
        self._free = list(range(_SLOTS - 1, -1, -1))
        self._marks = 0
        self._open_segment()

    def _open_segment(self) -> Segment:
        number = len(self._segments) and int(self._segments[-1].path.suffixes[0][1:]) + 1
        path = self.folder / f"{self.name}.{number:06d}.journal"
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        segment = Segment(path, descriptor)
        self._segments.append(segment)
        return segment

    def append(self, line: bytes) -> Segment:
        """Write a line, without its end, and say where it lies. Raises StorageUnavailableError where that fails."""
        segment = self._segments[-1]
        if segment.size > self.segment_bytes:
            segment = self._turned()
        data = line + b"\n"
        try:
            written = os.write(segment.descriptor, data)
        except OSError as error:
            raise StorageUnavailableError(f"the ledger's journal cannot be written: {error.strerror}") from error
        if written < len(data):  # the disk is full to the byte: half a line helps nobody
            with suppress(OSError):
                os.ftruncate(segment.descriptor, segment.size)
            raise StorageUnavailableError("the ledger's journal cannot be written: the disk is full")
        segment.size += written
        with self._lock:
            segment.needed += 1
        return segment

    def _turned(self) -> Segment:
        try:
            with self._lock:
                segment = self._open_segment()
                self._drop_unneeded()
        except OSError as error:
            raise StorageUnavailableError(f"the ledger's journal cannot be written: {error.strerror}") from error
        return segment

    def forget(self, segments: Sequence[Segment]) -> None:
        """These lines are safe elsewhere."""
        with self._lock:
            for segment in segments:
                segment.needed -= 1
            self._drop_unneeded()

    def _drop_unneeded(self) -> None:
        for segment in [one for one in self._segments[:-1] if one.needed <= 0]:
            os.close(segment.descriptor)
            segment.path.unlink(missing_ok=True)
            self._segments.remove(segment)
        last = self._segments[-1]
        if last.needed <= 0 and last.size > self.segment_bytes // 4:
            os.ftruncate(last.descriptor, 0)
            last.size = 0

    # progress

    def take_slot(self) -> Slot | None:
        """None where all are taken: such an answer's progress is not known after a crash, nothing worse."""
        if not self._free:
            return None
        self._marks += 1
        slot = Slot(self._free.pop(), self._marks)
        _SLOT.pack_into(self._progress, slot.number * _SLOT.size, slot.mark, 0)
        return slot

    def progress(self, slot: Slot, amount: int) -> None:
        _SLOT.pack_into(self._progress, slot.number * _SLOT.size, slot.mark, amount)

    def give_back(self, slot: Slot) -> None:
        self._free.append(slot.number)

    def close(self) -> None:
        """Let go. What is still needed stays for whoever comes next."""
        with self._lock:
            is_needed = any(segment.needed > 0 for segment in self._segments)
            for segment in self._segments:
                os.close(segment.descriptor)
            self._progress.close()
            if not is_needed:
                _remove(self.folder, self.name)
            os.close(self._owner)
            self._segments.clear()


def _mapped(path: Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        # Space is taken now: a full disk would otherwise be met as a signal, in the middle of an answer.
        os.posix_fallocate(descriptor, 0, _SLOTS * _SLOT.size)
        return mmap.mmap(descriptor, _SLOTS * _SLOT.size)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Abandoned:
    """What a process that is gone has left, locked for us until `close`."""

    folder: Path
    name: str
    owner: int

    def lines(self) -> Iterator[bytes]:
        for path in sorted(self.folder.glob(f"{self.name}.*.journal")):
            *whole, _torn = path.read_bytes().split(b"\n")
            yield from whole

    def progress(self, slot: Slot) -> int | None:
        """How far the answer had come; None where nobody knows."""
        try:
            with (self.folder / f"{self.name}.progress").open("rb") as file:
                file.seek(slot.number * _SLOT.size)
                mark, amount = _SLOT.unpack(file.read(_SLOT.size))
        except (OSError, struct.error):
            return None
        return amount if mark == slot.mark else None

    def remove(self) -> None:
        """All of it is safe elsewhere."""
        _remove(self.folder, self.name)

    def close(self) -> None:
        os.close(self.owner)


def _remove(folder: Path, name: str) -> None:
    for path in [*folder.glob(f"{name}.*.journal"), folder / f"{name}.progress", folder / f"{name}.lock"]:
        path.unlink(missing_ok=True)


def abandoned(folder: Path) -> Iterator[Abandoned]:
    """What processes that are gone have left here, one after the other; each is to be closed."""
    for path in sorted(folder.glob("*.lock")):
        try:
            owner = os.open(path, os.O_RDWR)
        except OSError:  # somebody else was quicker
            continue
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(owner)
            continue
        if path.exists():
            yield Abandoned(folder, path.stem, owner)
        else:
            os.close(owner)
