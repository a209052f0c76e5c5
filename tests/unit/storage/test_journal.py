import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import ConfigError
from modelyard.storage.database import StorageUnavailableError
from modelyard.storage.journal import Journal, abandoned


def left(folder: Path) -> list[bytes]:
    return [record for one in abandoned(folder) for record in one.records()]


def test_nobody_takes_what_a_living_process_holds(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.append(b"mine")
    assert left(tmp_path) == []
    journal.close()


def test_what_is_needed_stays_and_what_is_not_goes(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.append(b"needed")
    journal.close()
    assert left(tmp_path) == [b"needed"]
    other = Journal(tmp_path / "other")
    other.forget([other.append(b"done")])
    other.close()
    assert list((tmp_path / "other").iterdir()) == []


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.booleans()), max_size=80))
def test_no_record_that_is_needed_is_ever_lost(records: list[tuple[bytes, bool]]):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), segment_bytes=1000)
        held = []
        for record, is_needed in records:
            segment = journal.append(record)
            if is_needed:
                held.append(record)
            else:
                journal.forget([segment])
        is_any = bool(held)
        journal.close()
        found = left(Path(folder))
        assert not is_any or all(found.count(one) >= held.count(one) for one in held)
        assert len(list(Path(folder).glob("*.journal"))) <= len(records) + 2


def test_progress_is_known_of_those_it_was_written_for(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.append(b"open")
    slot, other = journal.take_slot(), journal.take_slot()
    assert slot is not None
    assert other is not None
    journal.progress(slot, 41)
    journal.give_back(other)
    again = journal.take_slot()
    assert again is not None
    journal.close()
    for one in abandoned(tmp_path):
        assert (one.progress(slot), one.progress(other), one.progress(again)) == (41, None, 0)
        one.close()


def test_a_killed_process_loses_nothing(tmp_path: Path):
    code = (
        "import os, signal, sys; from pathlib import Path; from modelyard.storage.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for n in range(1000): journal.append(b'record %d' % n)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    (one,) = abandoned(tmp_path)
    assert list(one.records()) == [b"record %d" % n for n in range(1000)]
    assert list(abandoned(tmp_path)) == []  # one takes it over, and nobody else meanwhile
    one.remove()
    one.close()
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_is_too_large_and_a_folder_that_cannot_be_written_are_refused(tmp_path: Path):
    journal = Journal(tmp_path, segment_bytes=1000)
    with pytest.raises(StorageUnavailableError, match="larger than"):
        journal.append(b"x" * 1000)
    journal.close()
    with pytest.raises(ConfigError, match="cannot be written"):
        Journal(Path("/proc/nowhere"))
