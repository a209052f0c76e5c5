"""Files and folders that only their owner may access: keys, recorded calls, uploaded
files."""

import logging
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

logger = logging.getLogger("modelyard.modes")

# All permission bits of the group and of other users.
_OTHER_USERS_MASK = 0o077


def private_folder(path: Path) -> Path:
    """Create a folder with its parents if missing, accessible to the owner only, and
    return it.

    Existing folders keep their mode.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    # `mkdir(parents=True)` would create the parents with the default mode.
    for folder in reversed(missing):
        # Another process may create it at the same moment.
        folder.mkdir(mode=0o700, exist_ok=True)
    return path


def write_private(path: Path, data: bytes) -> None:
    """Write a file that is readable by its owner only from the moment it exists."""
    # The mode is for new files only; `repair` mends that of older ones at the start.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def make_private(path: Path) -> bool:
    """Remove all access of other users to a file or folder; return whether there was
    any.

    Symbolic links and files of other users are left alone.
    """
    try:
        file_status = path.lstat()
        if (
            stat.S_ISLNK(file_status.st_mode)
            or not file_status.st_mode & _OTHER_USERS_MASK
            or file_status.st_uid != os.geteuid()
        ):
            return False
        path.chmod(stat.S_IMODE(file_status.st_mode) & ~_OTHER_USERS_MASK)
    except OSError:
        return False
    return True


def repair(paths: Iterable[Path]) -> None:
    """Make the paths private, and log a warning with those that were not."""
    repaired = [str(path) for path in paths if make_private(path)]
    if repaired:
        fields = {"files": len(repaired), "first": repaired[:5]}
        logger.warning(
            "removed other users' access to private files", extra={"fields": fields}
        )


def open_to_others(path: Path) -> Iterator[str]:
    """Yield a description of each group of users that may access a file or folder."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & 0o070:
        yield "its group"
    if mode & 0o007:
        yield "everybody"
