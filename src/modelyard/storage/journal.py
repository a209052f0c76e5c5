"""Files that a process appends to and that outlive it, however it ends: what the ledger writes before it may forget.

The files are mapped into memory: a record is a copy of its bytes, without a call to the operating system, and what was
copied belongs to the system's page cache, so that a killed process loses none of it. The space is taken beforehand: a
full disk is met when a file is made, and never in the middle of a record. How far an answer has come lies beside it.
The lock on a process's files goes when the process does; whoever gets it afterwards may read what was left and take it
over. Why so: docs/design/0005-ledger.md.
"""

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.base.errors import ConfigError
from modelyard.base.ids import new_id
from modelyard.base.modes import private_folder
from modelyard.storage.engine import StorageUnavailableError

_SEGMENT_BYTES = 4 << 20
_LENGTH = struct.Struct("<I")
_SLOT = struct.Struct("<QQ")  # whose it is, how far it has come
_SLOTS = 65_536
_SPARE = 1


@dataclass(slots=True, eq=False)
class Segment:
    """One file of records, each with its length before it; a length of 0 ends them. It goes when nothing in it is
    still needed."""

    path: Path
    memory: mmap.mmap
    size: int = 0
    needed: int = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one answer's progress is kept: `number` in the mapped file, `mark` says whose it is."""

    number: int
    mark: int


@dataclass(slots=True)
class Journal:
    """One process's files in `folder`. Records are appended by one thread; `forget` may be called by another."""

    folder: Path
    segment_bytes: int = _SEGMENT_BYTES
    _segments: list[Segment] = field(default_factory=list[Segment])
    _lock: threading.Lock = field(default_factory=threading.Lock)
    name: str = field(init=False)
    _owner: int = field(init=False)
    _progress: mmap.mmap = field(init=False)
    _free: list[int] = field(init=False)
    _marks: int = field(init=False)
    _opened: int = 0

    def __post_init__(self) -> None:
        self.name = new_id("by")
        try:
            private_folder(self.folder)
            # Locked before it is seen under its name: nobody may take us for gone.
            unseen = self.folder / f"{self.name}.new"
            self._owner = os.open(unseen, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unseen.rename(self.folder / f"{self.name}.lock")
            self._progress = _mapped(self.folder / f"{self.name}.progress", _SLOTS * _SLOT.size)
            self._open_segment()
        except OSError as error:
            raise ConfigError(f"folder {str(self.folder)!r} cannot be written: {error.strerror}") from error
        self._free = list(range(_SLOTS - 1, -1, -1))
        self._marks = 0

    def _open_segment(self) -> Segment:
        number = self._opened
        self._opened += 1
        path = self.folder / f"{self.name}.{number:06d}.journal"
        segment = Segment(path, _mapped(path, self.segment_bytes))
        self._segments.append(segment)
        return segment

    def append(self, record: bytes) -> Segment:
        """Write a record, and say where it lies. Raises StorageUnavailableError where there is no room for it."""
        segment = self._segments[-1]
        length = len(record)
        end = segment.size + _LENGTH.size + length
        if end + _LENGTH.size > self.segment_bytes:
            segment = self._turned(length)
            end = segment.size + _LENGTH.size + length
        memory = segment.memory
        _LENGTH.pack_into(memory, end, 0)  # what lay here before is not to be read after this record
        memory[segment.size + _LENGTH.size : end] = record
        # The length last: a record whose length is there is whole.
        _LENGTH.pack_into(memory, segment.size, length)
        segment.size = end
        with self._lock:
            segment.needed += 1
        return segment

    def _turned(self, length: int) -> Segment:
        """Another segment: the last one is full."""
        if length + 2 * _LENGTH.size > self.segment_bytes:
            raise StorageUnavailableError(f"a record of {length:,} bytes is larger than the ledger's journal takes")
        try:
            with self._lock:
                segment = self._recycled() or self._open_segment()
                self._drop_unneeded()
        except OSError as error:
            raise StorageUnavailableError(f"the ledger's journal cannot be written: {error.strerror}") from error
        return segment

    def _recycled(self) -> Segment | None:
        """One that nobody needs any more, empty again: cheaper than a file whose pages are all new."""
        found = next((one for one in self._segments[:-1] if one.needed <= 0), None)
        if found is not None:
            _LENGTH.pack_into(found.memory, 0, 0)
            found.size = 0
            self._segments.remove(found)
            self._segments.append(found)
        return found

    def forget(self, segments: Sequence[Segment]) -> None:
        """These records are safe elsewhere."""
        with self._lock:
            for segment in segments:
                segment.needed -= 1
            self._drop_unneeded()

    def _drop_unneeded(self) -> None:
        for segment in [one for one in self._segments[:-1] if one.needed <= 0][_SPARE:]:
            segment.memory.close()
            segment.path.unlink(missing_ok=True)
            self._segments.remove(segment)

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
                segment.memory.close()
            self._progress.close()
            if not is_needed:
                _remove(self.folder, self.name)
            os.close(self._owner)
            self._segments.clear()


def _mapped(path: Path, size: int) -> mmap.mmap:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        # Space is taken now: a full disk would otherwise be met as a signal, in the middle of an answer.
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Abandoned:
    """What a process that is gone has left, locked for us until `close`."""

    folder: Path
    name: str
    owner: int

    def records(
        self, beginnings: Sequence[bytes] = (), is_whole: Callable[[bytes], bool] = lambda record: True
    ) -> Iterator[bytes]:
        """What was appended, in order. With the `beginnings` that records have, and what says whether one is whole,
        reading goes on behind a damaged one, which comes as the bytes that it takes."""
        for path in sorted(self.folder.glob(f"{self.name}.*.journal")):
            yield from _records(path.read_bytes(), tuple(beginnings), is_whole)

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


def _records(data: bytes, beginnings: tuple[bytes, ...], is_whole: Callable[[bytes], bool]) -> Iterator[bytes]:
    place = 0
    while place + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, place)
        if not length:
            return
        record = _record_at(data, place)
        if record is not None and is_whole(record):
            yield record
            place += _LENGTH.size + length
            continue
        if not beginnings:
            return
        following = _next_record(data, place + 1, beginnings, is_whole)
        yield data[place + _LENGTH.size : len(data) if following is None else following].rstrip(b"\0")
        if following is None:
            return
        place = following


def _record_at(data: bytes, place: int) -> bytes | None:
    """None where it would go beyond the file."""
    begin = place + _LENGTH.size
    end = begin + _LENGTH.unpack_from(data, place)[0]
    return data[begin:end] if end <= len(data) else None


def _next_record(
    data: bytes, place: int, beginnings: tuple[bytes, ...], is_whole: Callable[[bytes], bool]
) -> int | None:
    """Where the next whole record lies; None where there is none."""
    while True:
        hits = [at for beginning in beginnings if (at := data.find(beginning, place + _LENGTH.size)) >= 0]
        if not hits:
            return None
        start = min(hits) - _LENGTH.size
        record = _record_at(data, start)
        if record is not None and is_whole(record):
            return start
        place = start + 1


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
