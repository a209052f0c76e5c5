"""Per-tenant resources of plugins: a user id, if the server runs as root, and writable
folders."""

import fcntl
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec

FIRST_USER = 0x70000000
"""Above the ranges that systems and containers assign (see systemd's list of user ids).
"""
# The last user id is then 0x7FFFFFFF, which still fits into a signed number.
_MAX_USERS = 0x0FFFFFFF
_MAX_ENTRIES = 20_000


@dataclass(frozen=True, slots=True)
class WorkFolders:
    """The writable folders of one plugin for one tenant."""

    work: Path
    """Home directory; its content survives restarts."""
    tmp: Path
    """Temporary directory for this server process; emptied when the plugin is first
    started."""
    shared: Path
    """The folder that is mounted as /tmp for all plugins of the tenant."""

    @property
    def folders(self) -> tuple[Path, Path]:
        """The folders that the plugin may write to. Their parent is not writable, so
        they cannot be replaced by links."""
        return self.work, self.tmp


class WorkFolderStore:
    """Manages the folders and user ids below a folder that only the server may write
    to."""

    def __init__(self, folder: Path, *, first_user: int = FIRST_USER) -> None:
        self._folder = folder
        self._first = first_user
        self._users: dict[str, int] = {}

    def get(self, tenant: str, plugin: str) -> WorkFolders:
        """Return a plugin's folders, creating them if necessary."""
        plugin_folder = self._tenant(tenant) / quote(plugin, safe="")
        quarter = WorkFolders(
            plugin_folder / "home",
            self._temporary(plugin_folder / "tmp"),
            self.shared_tmp(tenant),
        )
        for path in quarter.folders:
            path.mkdir(parents=True, exist_ok=True)
        return quarter

    def shared_tmp(self, tenant: str) -> Path:
        """Return the folder that is mounted as /tmp for all plugins of a tenant."""
        path = self._temporary(self._tenant(tenant) / ".tmp")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _temporary(self, folder: Path) -> Path:
        """Return this process's subfolder, and delete those of processes that no longer
        exist."""
        for path in folder.iterdir() if folder.is_dir() else ():
            if not Path(f"/proc/{path.name}").is_dir():
                shutil.rmtree(path, ignore_errors=True)
        return folder / str(os.getpid())

    def _tenant(self, tenant: str) -> Path:
        # Dots are escaped too, so that a tenant's name cannot be `.` or `..`.
        return self._folder.resolve() / quote(tenant, safe="").replace(".", "%2E")

    def remove(self, tenant: str, plugin: str) -> None:
        """Delete the files that a plugin wrote for a tenant."""
        shutil.rmtree(self._tenant(tenant) / quote(plugin, safe=""), ignore_errors=True)

    def user(self, tenant: str) -> int | None:
        """Return the tenant's user id; None if the server is not root and cannot change
        users."""
        if os.geteuid() != 0:
            return None
        if tenant not in self._users:
            self._users = self._user_numbers(tenant)
        return self._first + self._users[tenant]

    def _user_numbers(self, tenant: str) -> dict[str, int]:
        """Return the stored numbers by tenant. A new tenant gets the next number;
        numbers are never reused."""
        self._folder.mkdir(parents=True, exist_ok=True)
        # Not following links: the file decides about user ids.
        descriptor = os.open(
            self._folder / "users.json",
            os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
        )
        with os.fdopen(descriptor, "r+b") as file:
            # The lock protects against other server processes on this machine.
            fcntl.flock(file, fcntl.LOCK_EX)
            numbers = msgspec.json.decode(file.read() or b"{}", type=dict[str, int])
            if tenant not in numbers:
                numbers[tenant] = max(numbers.values(), default=0) + 1
                if numbers[tenant] >= _MAX_USERS:
                    raise OverflowError("No user ids are left for tenants' plugins")
                file.seek(0)
                file.write(msgspec.json.encode(numbers))
                file.truncate()
            return numbers


def change_owner(folder: Path, user: int | None) -> None:
    """Change the owner of a folder and its content. Links themselves are changed, not
    their targets."""
    if os.geteuid() != 0:
        folder.chmod(0o700)
        return
    owner = user or 0
    # Walking the tree is slow, so it is skipped if the owner is right already.
    if folder.lstat().st_uid == owner:
        return
    for path, folders, files in os.walk(folder, followlinks=False):
        for name in (*folders, *files):
            # Files may disappear while the tree is walked.
            with suppress(OSError):
                os.lchown(Path(path) / name, owner, owner)
    os.lchown(folder, owner, owner)
    folder.chmod(0o700)


def empty_folder(folder: Path) -> None:
    """Delete everything in a folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def folder_size(folder: Path, max_bytes: int) -> int:
    """Return the size of a folder in bytes, counting only until `max_bytes` is
    exceeded.

    A folder with very many files counts as too large.
    """
    total, entry_count, waiting = 0, 0, [str(folder)]
    while waiting and total <= max_bytes:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    entry_count += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        # Allocated blocks rather than the length, since sparse files
                        # take little space.
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue
        if entry_count > _MAX_ENTRIES:
            return max_bytes + 1
    return total
