"""The files of the ledger's journal: their sizes and ends, reuse, damage, takeover."""

import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import ConfigError
from modelyard.storage import journal as journal_module
from modelyard.storage.engine import StorageUnavailableError
from modelyard.storage.journal import (
    Journal,
    OrphanedJournal,
    Slot,
    orphaned_journals,
)

LENGTH = 4
SEGMENT = 100


def framed(*records: bytes) -> bytes:
    """Records as they are in a file: each behind its length."""
    return b"".join(struct.pack("<I", len(record)) + record for record in records)


def segments_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Journal]:
    """A journal whose segments have 100 bytes."""
    journal = Journal(tmp_path, segment_bytes=SEGMENT)
    yield journal
    journal.close()


def open_files() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def orphan_of(
    folder: Path, data: bytes, name: str = "by_x", number: int = 0
) -> OrphanedJournal:
    """The journal of an exited process with this content."""
    (folder / f"{name}.{number:06d}.journal").write_bytes(data)
    (folder / f"{name}.lock").touch()
    owner = os.open(folder / f"{name}.lock", os.O_RDWR)
    return OrphanedJournal(folder, name, owner)


# Files.


def test_a_journal_has_its_files_from_the_start(tmp_path: Path):
    with closing(Journal(tmp_path / "ledger")) as journal:
        assert journal.name.startswith("by_")
        files = {path.name: path for path in (tmp_path / "ledger").iterdir()}
        assert set(files) == {
            f"{journal.name}.lock",
            f"{journal.name}.progress",
            f"{journal.name}.000000.journal",
        }
        sizes = [path.stat().st_size for path in files.values()]
        assert sorted(sizes) == [0, 65_536 * 16, 4 << 20]
        modes = {path.stat().st_mode & 0o777 for path in files.values()}
        assert modes == {0o600}
        assert (tmp_path / "ledger").stat().st_mode & 0o777 == 0o700


def test_a_record_has_its_length_before_it_and_a_zero_behind_it(small: Journal):
    segment = small.append(b"first")
    assert small.append(b"second") is segment
    (file,) = segments_of(small.folder)
    content = file.read_bytes()
    assert content == framed(b"first", b"second").ljust(SEGMENT, b"\0")
    assert (segment.path, segment.size, segment.needed) == (file, 19, 2)


@pytest.mark.parametrize(
    ("length", "count"), [(SEGMENT - 2 * LENGTH, 1), (SEGMENT - 2 * LENGTH + 1, 0)]
)
def test_a_record_and_its_end_have_to_fit(small: Journal, length: int, count: int):
    if count:
        segment = small.append(b"x" * length)
        assert segment.size == SEGMENT - LENGTH
        assert segments_of(small.folder) == [segment.path]
    else:
        with pytest.raises(StorageUnavailableError) as caught:
            small.append(b"x" * length)
        assert str(caught.value) == (
            "A record of 93 bytes exceeds the record limit of the ledger's journal"
        )
    # Others can still be appended.
    small.append(b"y")


def test_large_numbers_are_grouped(tmp_path: Path):
    with (
        closing(Journal(tmp_path)) as journal,
        pytest.raises(StorageUnavailableError, match="A record of 4,194,297 bytes"),
    ):
        journal.append(bytes((4 << 20) - 7))


def test_a_full_segment_is_followed_by_another(small: Journal):
    first = small.append(b"a" * 42)
    assert small.append(b"b" * 42) is first
    second = small.append(b"c" * 42)
    assert second is not first
    assert [path.name for path in segments_of(small.folder)] == [
        f"{small.name}.000000.journal",
        f"{small.name}.000001.journal",
    ]
    assert second.path.read_bytes() == framed(b"c" * 42).ljust(SEGMENT, b"\0")
    assert second.size == 46


def test_a_segment_without_needed_records_is_reused(small: Journal):
    first = small.append(b"a" * 92)
    second = small.append(b"b" * 92)
    small.forget([first])
    assert first.path.exists()
    assert small.append(b"c" * 20) is first
    assert (first.size, first.needed) == (24, 1)
    # What was there before is not read again.
    assert records_of(first.path.read_bytes()) == [b"c" * 20]
    assert segments_of(small.folder) == [first.path, second.path]


def test_one_spare_segment_is_retained(small: Journal):
    segments = [small.append(bytes([65 + number]) * 92) for number in range(4)]
    small.forget(segments[:1])
    assert segments_of(small.folder) == [segment.path for segment in segments]
    small.forget(segments[1:3])
    assert segments_of(small.folder) == [segments[0].path, segments[3].path]
    small.forget(segments[3:])
    # The last one is written to, and stays.
    assert segments_of(small.folder) == [segments[0].path, segments[3].path]


def test_a_segment_is_needed_until_its_last_record_is_stored(small: Journal):
    first = small.append(b"a" * 20)
    small.append(b"b" * 20)
    for _ in range(2):
        small.append(b"c" * 92)
    small.forget([first])
    assert first.needed == 1
    reused = small.append(b"d" * 92)
    assert reused is not first


def test_forgetting_waits_for_an_append(small: Journal):
    """Both change the list of segments, each in a thread of its own."""
    segment = small.append(b"a")
    forgetting = threading.Thread(target=small.forget, args=([segment],))
    with small._lock:  # pyright: ignore[reportPrivateUsage]
        forgetting.start()
        forgetting.join(0.01)
        assert segment.needed == 1
    forgetting.join()
    assert segment.needed == 0


def test_a_journal_without_needed_records_leaves_nothing(tmp_path: Path):
    journal = Journal(tmp_path, segment_bytes=SEGMENT)
    (tmp_path / "other.txt").touch()
    (tmp_path / "by_other.lock").touch()
    first, second = journal.append(b"a" * 92), journal.append(b"b" * 92)
    journal.forget([second, first])
    journal.close()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"other.txt", "by_other.lock"}


def test_a_journal_with_needed_records_leaves_all_of_them(tmp_path: Path):
    journal = Journal(tmp_path, segment_bytes=SEGMENT)
    first, second = journal.append(b"a" * 92), journal.append(b"b" * 92)
    journal.forget([second])
    journal.close()
    (orphan,) = orphaned_journals(tmp_path)
    assert orphan.name == journal.name
    assert next(iter(orphan.records())) == b"a" * 92
    assert first.memory.closed
    orphan.close()


@pytest.mark.parametrize("is_first", [True, False])
def test_a_full_disk_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_first: bool
):
    def fails(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    journal = None if is_first else Journal(tmp_path, segment_bytes=SEGMENT)
    monkeypatch.setattr(os, "posix_fallocate", fails)
    if journal is None:
        with pytest.raises(ConfigError) as caught:
            Journal(tmp_path)
        assert str(caught.value) == (
            f"Folder {str(tmp_path)!r} cannot be written: No space left on device"
        )
    else:
        journal.append(b"a" * 92)
        with pytest.raises(StorageUnavailableError) as refused:
            journal.append(b"b" * 92)
        assert str(refused.value) == (
            "The ledger's journal cannot be written: No space left on device"
        )
        # The file that could not be filled is gone.
        assert len(segments_of(tmp_path)) == 1
        monkeypatch.undo()
        journal.append(b"b" * 92)
        assert len(segments_of(tmp_path)) == 2
        journal.close()


# Progress.


def test_slots_are_taken_from_the_first_on_and_reused(small: Journal):
    slots = [small.take_slot() for _ in range(3)]
    assert slots == [Slot(0, 1), Slot(1, 2), Slot(2, 3)]
    small.give_back(Slot(1, 2))
    assert small.take_slot() == Slot(1, 4)
    assert small.take_slot() == Slot(3, 5)


def test_there_are_65536_slots(small: Journal):
    slots = [small.take_slot() for _ in range(65_536)]
    assert slots[-1] == Slot(65_535, 65_536)
    assert small.take_slot() is None
    assert slots[-1] is not None
    small.progress(slots[-1], 7)
    small.give_back(slots[-1])
    assert small.take_slot() == Slot(65_535, 65_537)


def test_progress_belongs_to_the_answer_that_has_the_slot(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.append(b"needed")
    first, second, third = (journal.take_slot() for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    journal.progress(first, 5)
    journal.progress(second, 7)
    journal.progress(second, 9)
    journal.give_back(third)
    again = journal.take_slot()
    assert again is not None
    journal.close()
    (orphan,) = orphaned_journals(tmp_path)
    assert [orphan.progress(slot) for slot in (first, second, third, again)] == [
        5,
        9,
        None,
        0,
    ]
    assert orphan.progress(Slot(-1, 0)) is None
    assert orphan.progress(Slot(70_000, 1)) is None
    orphan.remove()
    assert orphan.progress(first) is None
    orphan.close()


# Reading what a process left.


def records_of(
    data: bytes,
    beginnings: tuple[bytes, ...] = (),
    is_complete: Callable[[bytes], bool] = lambda record: True,
) -> list[bytes]:
    return list(journal_module._records(data, beginnings, is_complete))  # pyright: ignore[reportPrivateUsage]


def is_bracketed(record: bytes) -> bool:
    return record.startswith(b"[") and record.endswith(b"]")


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=10), st.integers(0, 20))
def test_what_was_appended_is_read(records: list[bytes], zeros: int):
    assert records_of(framed(*records) + bytes(zeros)) == records


def test_reading_ends_at_a_zero_length():
    data = framed(b"a") + bytes(LENGTH) + framed(b"b")
    assert records_of(data) == [b"a"]
    # Fewer bytes than a length has are no record.
    assert records_of(framed(b"a") + b"\1\0\0") == [b"a"]
    assert records_of(b"") == []


def test_a_record_that_was_cut_ends_the_reading():
    data = framed(b"[a]", b"[bcd]")
    assert records_of(data[:-1]) == [b"[a]"]
    assert records_of(data) == [b"[a]", b"[bcd]"]


def test_reading_goes_on_after_a_damaged_record():
    data = framed(b"[a]", b"?b]", b"[c]", b"[d]")
    assert records_of(data, (b"[",), is_bracketed) == [b"[a]", b"?b]", b"[c]", b"[d]"]
    # Without known beginnings, it ends there.
    assert records_of(data, (), is_bracketed) == [b"[a]"]


def test_reading_goes_on_after_a_damaged_length():
    good = framed(b"[c]")
    data = struct.pack("<I", 9999) + b"[b?" + good + bytes(9)
    assert records_of(data, (b"[",), is_bracketed) == [b"[b?", b"[c]"]


def test_the_nearest_record_of_any_kind_is_the_next():
    def is_complete(record: bytes) -> bool:
        return record in (b"[c]", b"{d}")

    for intact in ((b"[c]", b"{d}"), (b"{d}", b"[c]")):
        data = framed(b"?????", *intact)
        expected = [b"?????", *intact]
        assert records_of(data, (b"[", b"{"), is_complete) == expected


def test_beginnings_inside_of_damage_are_passed_over():
    data = framed(b"?[b", b"[[", b"[c]") + bytes(5)
    first, *later_records = records_of(data, (b"[",), is_bracketed)
    assert first.startswith(b"?[b")
    assert later_records == [b"[c]"]


def test_damage_to_the_end_is_a_record():
    data = framed(b"[a]", b"?b") + bytes(9)
    assert records_of(data, (b"[",), is_bracketed) == [b"[a]", b"?b"]


@given(
    st.lists(st.binary(max_size=12).map(lambda body: b"[" + body + b"]"), max_size=6),
    st.binary(max_size=30),
)
def test_intact_records_before_damage_are_read(records: list[bytes], damage: bytes):
    read = records_of(framed(*records) + damage, (b"[",), is_bracketed)
    assert read[: len(records)] == records


def test_the_files_of_a_journal_are_read_in_order(tmp_path: Path):
    for number, record in ((2, b"c"), (0, b"a"), (1, b"b")):
        orphan = orphan_of(tmp_path, framed(record), number=number)
        if number != 1:
            orphan.close()
    orphan_of(tmp_path, framed(b"other"), name="by_y").close()
    assert list(orphan.records()) == [b"a", b"b", b"c"]
    damaged = framed(b"?", b"[x]")
    (tmp_path / "by_x.000000.journal").write_bytes(damaged)
    assert list(orphan.records([b"["], is_bracketed))[:2] == [b"?", b"[x]"]
    orphan.remove()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["by_y.000000.journal", "by_y.lock"]
    orphan.close()


# Taking over.


def test_journals_are_taken_over_one_at_a_time(tmp_path: Path):
    for name in ("by_b", "by_a"):
        orphan_of(tmp_path, framed(name.encode()), name=name).close()
    with closing(Journal(tmp_path)) as running:
        orphans = orphaned_journals(tmp_path)
        first = next(orphans)
        assert (first.name, first.folder) == ("by_a", tmp_path)
        # Nobody else gets it meanwhile, nor that of the running process.
        assert [orphan.name for orphan in closed(orphaned_journals(tmp_path))] == [
            "by_b"
        ]
        first.close()
        second = next(orphans)
        assert second.name == "by_b"
        second.close()
        assert list(orphans) == []
        assert running.name not in (first.name, second.name)


def closed(orphans: Iterator[OrphanedJournal]) -> list[OrphanedJournal]:
    """Take all over and release them again."""
    result = list(orphans)
    for orphan in result:
        orphan.close()
    return result


def test_a_journal_that_another_process_has_removed_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("by_a", "by_b", "by_c"):
        orphan_of(tmp_path, b"", name=name).close()
    flock = journal_module.fcntl.flock

    def removed_meanwhile(descriptor: int, operation: int) -> None:
        (tmp_path / "by_b.lock").unlink(missing_ok=True)
        flock(descriptor, operation)

    orphans = orphaned_journals(tmp_path)
    first = next(orphans)
    monkeypatch.setattr(journal_module.fcntl, "flock", removed_meanwhile)
    (tmp_path / "by_c.lock").rename(tmp_path / "by_c.old")
    before = open_files()
    assert [orphan.name for orphan in orphans] == []
    # What was opened for them is closed again.
    assert open_files() == before
    first.close()


def test_the_lock_file_of_a_removed_journal_goes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    orphan = orphan_of(tmp_path, framed(b"a"))
    (tmp_path / "by_x.progress").touch()
    removed: list[str] = []
    unlink = Path.unlink

    def noted(path: Path, *, missing_ok: bool = False) -> None:
        removed.append(path.name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", noted)
    orphan.remove()
    assert removed == ["by_x.000000.journal", "by_x.progress", "by_x.lock"]
    orphan.remove()
    orphan.close()


def test_a_mapped_file_has_its_size(small: Journal):
    segment = small.append(b"a")
    assert isinstance(segment.memory, mmap.mmap)
    assert len(segment.memory) == SEGMENT
