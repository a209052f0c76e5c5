"""Append-only files that survive their process, for ledger records that must not be
lost.

The files are memory-mapped: appending a record is a memory copy without a system call,
and the data belongs to the system's page cache, so a killed process loses nothing. Disk
space is allocated in advance: a full disk is reported when a file is created, never in
the middle of a record. The progress of running answers is stored in a separate file.
The lock on a process's files is released when the process exits; another process that
acquires it may take the records over. Rationale: docs/design/0005-ledger.md.
"""

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from modelyard.base.errors import ConfigError
from modelyard.base.ids import new_id
from modelyard.base.private_files import private_folder
from modelyard.storage.engine import StorageUnavailableError

# A segment is a file of this size; each record has a 4-byte little-endian length.
_SEGMENT_BYTES = 4 << 20
_LENGTH = struct.Struct("<I")
# Owner and progress of a slot.
_SLOT = struct.Struct("<QQ")
_SLOTS = 65_536
# Number of empty segments that are retained for reuse.
_SPARE = 1


@dataclass(slots=True, eq=False)
class Segment:
    """One file of length-prefixed records; a length of 0 marks the end. It is deleted
    when no record in it is needed any more."""

    path: Path
    memory: mmap.mmap
    size: int = 0
    # Each is changed by one thread only, so that neither needs a lock.
    appended: int = 0
    """Number of records that were appended to it."""
    forgotten: int = 0
    """Number of those that are stored elsewhere."""

    @property
    def needed(self) -> int:
        """The number of records in it that are not yet stored elsewhere."""
        return self.appended - self.forgotten


class Slot(msgspec.Struct, frozen=True):
    """Where the progress of one answer is stored.

    `number` is the index in the progress file. `mark` identifies the answer, so that a
    slot that was reused is not taken for it.
    """

    number: int
    mark: int


@dataclass(slots=True)
class Journal:
    """The journal files of one process in `folder`. Records are appended by one thread;
    `forget` may run in another."""

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
            # Lock the file before renaming it to its final name, so that no process can
            # take this one for exited.
            unseen = self.folder / f"{self.name}.new"
            self._owner = os.open(unseen, os.O_CREAT | os.O_RDWR, 0o600)
            # Not `lockf`: a POSIX lock is lost when the process closes any descriptor
            # of the file, as `orphaned_journals` does.
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unseen.rename(self.folder / f"{self.name}.lock")
            self._progress = _map_file(
                self.folder / f"{self.name}.progress", _SLOTS * _SLOT.size
            )
            self._open_segment()
        except OSError as error:
            raise ConfigError(
                f"Folder {str(self.folder)!r} cannot be written: {error.strerror}"
            ) from error
        # Reversed, because slots are taken from the end of the list.
        self._free = list(range(_SLOTS - 1, -1, -1))
        self._marks = 0

    def _open_segment(self) -> Segment:
        """Create the next journal file, with its space allocated, and return it.

        Raises OSError if the file cannot be created or the disk is full.
        """
        number = self._opened
        self._opened += 1
        path = self.folder / f"{self.name}.{number:06d}.journal"
        segment = Segment(path, _map_file(path, self.segment_bytes))
        self._segments.append(segment)
        return segment

    def append(self, record: bytes) -> Segment:
        """Append a record and return the segment that holds it.

        The record survives the process at once, without a system call. Pass the segment
        to `forget` when the record is stored elsewhere. Raises StorageUnavailableError
        if there is no space for it.
        """
        segment = self._segments[-1]
        length = len(record)
        end = segment.size + _LENGTH.size + length
        # A terminating length of 0 must fit behind the record.
        if end + _LENGTH.size > self.segment_bytes:
            segment = self._next_segment(length)
            end = segment.size + _LENGTH.size + length
        memory = segment.memory
        # Old content after this record must not be read.
        _LENGTH.pack_into(memory, end, 0)
        memory[segment.size + _LENGTH.size : end] = record
        # The length is written last: a record with a length is complete.
        _LENGTH.pack_into(memory, segment.size, length)
        segment.size = end
        segment.appended += 1
        return segment

    def _next_segment(self, length: int) -> Segment:
        """Switch to another segment because the current one is full."""
        if length + 2 * _LENGTH.size > self.segment_bytes:
            raise StorageUnavailableError(
                f"A record of {length:,} bytes exceeds the record limit of the ledger's journal"
            )
        try:
            with self._lock:
                segment = self._reuse_segment() or self._open_segment()
                self._drop_unneeded()
        except OSError as error:
            raise StorageUnavailableError(
                f"The ledger's journal cannot be written: {error.strerror}"
            ) from error
        return segment

    def _reuse_segment(self) -> Segment | None:
        """Return an unneeded segment emptied for reuse, or None. Cheaper than a new
        file, whose pages must be allocated."""
        reusable = next(
            (segment for segment in self._segments[:-1] if segment.needed <= 0), None
        )
        if reusable is not None:
            # A length of 0 at the start marks the segment as empty, whatever follows
            # it.
            _LENGTH.pack_into(reusable.memory, 0, 0)
            reusable.size = 0
            self._segments.remove(reusable)
            self._segments.append(reusable)
        return reusable

    def forget(self, segments: Sequence[Segment]) -> None:
        """Mark one record of each listed segment as stored elsewhere."""
        with self._lock:
            for segment in segments:
                segment.forgotten += 1
            self._drop_unneeded()

    def _drop_unneeded(self) -> None:
        """Delete segments that hold no needed record, except for one kept for reuse.

        The segment being written is never deleted. The caller holds the lock.
        """
        # The last segment is never dropped: it is the one being written.
        for segment in [
            candidate for candidate in self._segments[:-1] if candidate.needed <= 0
        ][_SPARE:]:
            segment.memory.close()
            segment.path.unlink(missing_ok=True)
            self._segments.remove(segment)

    # Progress of running answers.

    def take_slot(self) -> Slot | None:
        """Return a progress slot, or None if all are in use; then the progress of this
        answer is unknown after a crash."""
        if not self._free:
            return None
        # A new mark per use distinguishes this answer from an earlier one in the same
        # slot.
        self._marks += 1
        slot = Slot(self._free.pop(), self._marks)
        _SLOT.pack_into(self._progress, slot.number * _SLOT.size, slot.mark, 0)
        return slot

    def progress(self, slot: Slot, amount: int) -> None:
        """Store the progress of an answer."""
        _SLOT.pack_into(self._progress, slot.number * _SLOT.size, slot.mark, amount)

    def give_back(self, slot: Slot) -> None:
        """Return a slot for reuse."""
        self._free.append(slot.number)

    def close(self) -> None:
        """Close the journal. Files with needed records remain for a later process."""
        with self._lock:
            is_needed = any(segment.needed > 0 for segment in self._segments)
            for segment in self._segments:
                segment.memory.close()
            self._progress.close()
            if not is_needed:
                _remove(self.folder, self.name)
            # Last: as soon as the lock is free, another process may take the files
            # over.
            os.close(self._owner)
            self._segments.clear()


def _map_file(path: Path, size: int) -> mmap.mmap:
    """Map a file of `size` bytes into memory, creating it with its space allocated.

    It is readable by its owner only. Raises OSError, after deleting the file, if the
    disk is full.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        # Allocate the space now. Otherwise a full disk would raise SIGBUS in the middle
        # of an answer.
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    # The mapping has a descriptor of its own.
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class OrphanedJournal:
    """The journal files of an exited process, locked by this one until `close`."""

    folder: Path
    name: str
    owner: int

    def records(
        self,
        beginnings: Sequence[bytes] = (),
        is_complete: Callable[[bytes], bool] = lambda record: True,
    ) -> Iterator[bytes]:
        """Yield the appended records in order.

        `beginnings` are the possible first bytes of a record, and `is_complete`
        recognises an intact one. With them, reading continues after a damaged record,
        which is yielded as the raw bytes it occupies.
        """
        for path in sorted(self.folder.glob(f"{self.name}.*.journal")):
            yield from _records(path.read_bytes(), tuple(beginnings), is_complete)

    def progress(self, slot: Slot) -> int | None:
        """Return the recorded progress of an answer, or None if it is unknown."""
        try:
            with (self.folder / f"{self.name}.progress").open("rb") as file:
                file.seek(slot.number * _SLOT.size)
                mark, amount = _SLOT.unpack(file.read(_SLOT.size))
        except (OSError, struct.error):
            return None
        # Another mark means that the slot was reused by a different answer.
        return amount if mark == slot.mark else None

    def remove(self) -> None:
        """Delete the files, after all records were stored elsewhere."""
        _remove(self.folder, self.name)

    def close(self) -> None:
        """Release the lock."""
        os.close(self.owner)


def _records(
    data: bytes, beginnings: tuple[bytes, ...], is_complete: Callable[[bytes], bool]
) -> Iterator[bytes]:
    """Yield the records in a journal file's content.

    Reading ends at a length of 0 or at the end. Behind a damaged record it goes on at
    the next intact one, if the possible `beginnings` are known; the damaged bytes are
    yielded as one record.
    """
    position = 0
    while position + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        if not length:
            return
        record = _record_at(data, position)
        if record is not None and is_complete(record):
            yield record
            position += _LENGTH.size + length
            continue
        # Without known beginnings there is no way to find the next intact record.
        if not beginnings:
            return
        following = _next_record(data, position + 1, beginnings, is_complete)
        yield data[
            position + _LENGTH.size : len(data) if following is None else following
        ].rstrip(b"\0")
        if following is None:
            return
        position = following


def _record_at(data: bytes, position: int) -> bytes | None:
    """Return the record at a position, or None if it would extend beyond the file."""
    start = position + _LENGTH.size
    end = start + _LENGTH.unpack_from(data, position)[0]
    return data[start:end] if end <= len(data) else None


def _next_record(
    data: bytes,
    position: int,
    beginnings: tuple[bytes, ...],
    is_complete: Callable[[bytes], bool],
) -> int | None:
    """Return the position of the next intact record, or None if there is none."""
    while True:
        # A record starts with its length, directly before one of the known beginnings.
        hits = [
            hit
            for beginning in beginnings
            if (hit := data.find(beginning, position + _LENGTH.size)) >= 0
        ]
        if not hits:
            return None
        start = min(hits) - _LENGTH.size
        record = _record_at(data, start)
        if record is not None and is_complete(record):
            return start
        position = start + 1


def _remove(folder: Path, name: str) -> None:
    """Delete all files of a journal; missing ones are ignored.

    The lock file goes last, so that an interrupted deletion can be repeated.
    """
    for path in [
        *folder.glob(f"{name}.*.journal"),
        folder / f"{name}.progress",
        folder / f"{name}.lock",
    ]:
        path.unlink(missing_ok=True)


def orphaned_journals(folder: Path) -> Iterator[OrphanedJournal]:
    """Yield the journals of exited processes, one at a time. Each must be closed by the
    caller."""
    for path in sorted(folder.glob("*.lock")):
        try:
            owner = os.open(path, os.O_RDWR)
        except OSError:
            # Another process has already deleted the journal.
            continue
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # The lock is held by a running process: skip its journal.
            os.close(owner)
            continue
        # Another process may have taken over and deleted the journal before the lock
        # was acquired.
        if path.exists():
            yield OrphanedJournal(folder, path.stem, owner)
        else:
            os.close(owner)
