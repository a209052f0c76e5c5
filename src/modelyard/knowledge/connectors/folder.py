"""A folder of this machine, or of a mounted drive, as a source. Permissions are those of
its files, if the folder is asked for them."""

import asyncio
import os
import stat
from collections.abc import AsyncGenerator
from itertools import islice
from pathlib import Path

from modelyard.knowledge.access import AccessList
from modelyard.knowledge.connectors.base import (
    AccessRules,
    ItemError,
    SourceError,
    SourceItem,
    SourcePage,
)

_FILES_PER_PAGE = 500


class FolderSource:
    """The files below a folder; hidden files and symbolic links are left out."""

    def __init__(
        self,
        folder: Path,
        rules: AccessRules | None = None,
        *,
        keeps_modes: bool = False,
        page_size: int = _FILES_PER_PAGE,
    ) -> None:
        """Create the source. With `keeps_modes` whoever may read a file by its owner,
        group and mode may read the document; otherwise `rules` say who may.
        """
        self._folder = folder.absolute()
        self._rules = rules or AccessRules()
        self._keeps_modes = keeps_modes
        self._page_size = page_size

    @property
    def name(self) -> str:
        """The folder's address."""
        return self._folder.as_uri()

    async def changes(
        self,
        cursor: str,
    ) -> AsyncGenerator[SourcePage, None]:
        """Yield all files in the order of their paths, after the one in the cursor.

        A file system cannot say what has changed, so each pass lists everything.
        Raises SourceError if the folder cannot be listed.
        """
        paths = iter(await asyncio.to_thread(self._sorted_paths))
        start = cursor
        # What was listed before an interruption is not listed again.
        remaining = (path for path in paths if path > start)
        while page := list(islice(remaining, self._page_size)):
            items = await asyncio.to_thread(self._items, page)
            is_last = len(page) < self._page_size
            end = None if is_last else page[-1]
            yield SourcePage(items=items, covers=(cursor, end), cursor=end or "")
            if is_last:
                return
            cursor = page[-1]
        # The last page was full, or there is no file: nothing follows.
        yield SourcePage(covers=(cursor, None), cursor="")

    def _sorted_paths(self) -> list[str]:
        """Return the relative paths of all files, sorted. Raises SourceError."""
        # An unmounted drive is an empty folder or none: nothing may be deleted then.
        if not self._folder.is_dir():
            raise SourceError(f"Folder {str(self._folder)!r} does not exist")
        paths: list[str] = []

        def fail(error: OSError) -> None:
            """A folder that cannot be listed is no folder without files."""
            raise SourceError(f"{error.filename}: {error.strerror}") from error

        for parent, folders, files in os.walk(self._folder, onerror=fail):
            folders[:] = [name for name in folders if not name.startswith(".")]
            base = Path(parent).relative_to(self._folder)
            names = (name for name in files if not name.startswith("."))
            paths += [(base / name).as_posix() for name in names]
        return sorted(paths)

    def _items(
        self,
        keys: list[str],
    ) -> list[SourceItem]:
        """Return the items of files; what is gone or no file is left out."""
        items: list[SourceItem] = []
        for key in keys:
            path = self._folder / key
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            # The size and the time tell a changed file without reading it.
            revision = f"{status.st_size}-{status.st_mtime_ns}"
            access = self._access(key, status)
            items.append(
                SourceItem(key=key, name=path.name, revision=revision, access=access)
            )
        return items

    def _access(
        self,
        key: str,
        status: os.stat_result,
    ) -> AccessList | None:
        """Return who may read a file."""
        if not self._keeps_modes:
            return self._rules.find(key)
        # Where nobody has the number, the number itself is nobody's name.
        mode = status.st_mode
        return AccessList(
            users=[_user_name(status.st_uid)] if mode & stat.S_IRUSR else [],
            groups=[_group_name(status.st_gid)] if mode & stat.S_IRGRP else [],
            everyone=bool(mode & stat.S_IROTH),
        )

    async def fetch(
        self,
        item: SourceItem,
    ) -> bytes:
        """Return the bytes of a file. Raises ItemError if it cannot be read."""
        try:
            return await asyncio.to_thread((self._folder / item.key).read_bytes)
        except OSError as error:
            raise ItemError(f"File {item.key!r}: {error.strerror}") from error


def _user_name(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group_name(number: int) -> str:
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
