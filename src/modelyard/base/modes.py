"""Files and folders that their owner alone may read: keys, what callers said, what they handed in."""

import logging
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

logger = logging.getLogger("modelyard.modes")

_OTHERS = 0o077


def private_folder(path: Path) -> Path:
    """The folder; where it had to be made, others cannot look into it."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
    return path


def write_private(path: Path, data: bytes) -> None:
    """Write a file that its owner alone may read, from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)


def make_private(path: Path) -> bool:
    """Take everybody else's rights to a file or folder away; whether there were any. What is not ours stays."""
    try:
        seen = path.lstat()
        if stat.S_ISLNK(seen.st_mode) or not seen.st_mode & _OTHERS or seen.st_uid != os.geteuid():
            return False
        path.chmod(stat.S_IMODE(seen.st_mode) & ~_OTHERS)
    except OSError:
        return False
    return True


def repair(paths: Iterable[Path]) -> None:
    """Make them private, and say in the log which were not."""
    repaired = [str(path) for path in paths if make_private(path)]
    if repaired:
        fields = {"files": len(repaired), "first": repaired[:5]}
        logger.warning("files that others could read are private now", extra={"fields": fields})


def open_to_others(path: Path) -> Iterator[str]:
    """In words, what others may do with a file or folder."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & 0o070:
        yield "its group"
    if mode & 0o007:
        yield "everybody"
