import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import ConfigError
from modelyard.storage.database import StorageUnavailableError
from modelyard.storage.journal import Journal, orphaned_journals


def orphaned_records(folder: Path) -> list[bytes]:
    return [
        record for orphan in orphaned_journals(folder) for record in orphan.records()
    ]


def test_the_journal_of_a_running_process_is_not_taken_over(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.append(b"mine")
    assert orphaned_records(tmp_path) == []
    journal.close()


def test_only_needed_records_stay(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.append(b"needed")
    journal.close()
    assert orphaned_records(tmp_path) == [b"needed"]
    other_journal = Journal(tmp_path / "other")
    other_journal.forget([other_journal.append(b"done")])
    other_journal.close()
    assert list((tmp_path / "other").iterdir()) == []


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.booleans()), max_size=80)
)
def test_no_needed_record_is_lost(records: list[tuple[bytes, bool]]):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), segment_bytes=1000)
        needed_records = []
        for record, is_needed in records:
            segment = journal.append(record)
            if is_needed:
                needed_records.append(record)
            else:
                journal.forget([segment])
        is_any = bool(needed_records)
        journal.close()
        recovered_records = orphaned_records(Path(folder))
        assert not is_any or all(
            recovered_records.count(needed_record)
            >= needed_records.count(needed_record)
            for needed_record in needed_records
        )
        assert len(list(Path(folder).glob("*.journal"))) <= len(records) + 2


def test_progress_is_kept_for_the_slots_in_use(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.append(b"open")
    slot, other_slot = journal.take_slot(), journal.take_slot()
    assert slot is not None
    assert other_slot is not None
    journal.progress(slot, 41)
    journal.give_back(other_slot)
    reused_slot = journal.take_slot()
    assert reused_slot is not None
    journal.close()
    for orphan in orphaned_journals(tmp_path):
        assert (
            orphan.progress(slot),
            orphan.progress(other_slot),
            orphan.progress(reused_slot),
        ) == (41, None, 0)
        orphan.close()


def test_a_killed_process_loses_nothing(tmp_path: Path):
    code = (
        "import os, signal, sys; from pathlib import Path; from modelyard.storage.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for n in range(1000): journal.append(b'record %d' % n)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], check=False
        ).returncode
        == -9
    )
    (orphan,) = orphaned_journals(tmp_path)
    assert list(orphan.records()) == [b"record %d" % n for n in range(1000)]
    # Only one process takes over a journal; nobody else finds it meanwhile.
    assert list(orphaned_journals(tmp_path)) == []
    orphan.remove()
    orphan.close()
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_is_too_large_and_a_folder_that_cannot_be_written_are_refused(
    tmp_path: Path,
):
    journal = Journal(tmp_path, segment_bytes=1000)
    with pytest.raises(StorageUnavailableError, match="exceeds the record limit"):
        journal.append(b"x" * 1000)
    journal.close()
    with pytest.raises(ConfigError, match="cannot be written"):
        Journal(Path("/proc/nowhere"))
