"""What each tenant's plugins have for themselves: a user, where the server is root, and folders to write to."""

import fcntl
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec

FIRST_USER = 0x70000000
"""Above what systems and containers give out (systemd's list of user numbers)."""
_MOST_USERS = 0x0FFFFFFF
_MOST_LOOKED_AT = 20_000


@dataclass(frozen=True, slots=True)
class Quarter:
    """One plugin's, for one tenant."""

    work: Path
    """Its home: what it writes here is there at its next start."""
    tmp: Path
    """Beside it, for plugins of this process of the server; emptied when it starts first."""
    shared: Path
    """What lies at /tmp for all plugins of the tenant."""

    @property
    def folders(self) -> tuple[Path, Path]:
        """They lie in a folder that the plugin may not write to, so that neither can be replaced by a link."""
        return self.work, self.tmp


class Quarters:
    """Below a folder that nobody but the server may write to."""

    def __init__(self, folder: Path, *, first_user: int = FIRST_USER) -> None:
        self._folder = folder
        self._first = first_user
        self._users: dict[str, int] = {}

    def of(self, tenant: str, plugin: str) -> Quarter:
        """Its folders, made where they are not there."""
        whole = self._tenant(tenant) / quote(plugin, safe="")
        quarter = Quarter(whole / "home", self._temporary(whole / "tmp"), self.shared_tmp(tenant))
        for path in quarter.folders:
            path.mkdir(parents=True, exist_ok=True)
        return quarter

    def shared_tmp(self, tenant: str) -> Path:
        """What lies at /tmp for all plugins of a tenant."""
        path = self._temporary(self._tenant(tenant) / ".tmp")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _temporary(self, folder: Path) -> Path:
        """This process's part of a folder; those of processes that are gone are removed."""
        for path in folder.iterdir() if folder.is_dir() else ():
            if not Path(f"/proc/{path.name}").is_dir():
                shutil.rmtree(path, ignore_errors=True)
        return folder / str(os.getpid())

    def _tenant(self, tenant: str) -> Path:
        return self._folder.resolve() / quote(tenant, safe="").replace(".", "%2E")

    def remove(self, tenant: str, plugin: str) -> None:
        """Take away what a plugin wrote for a tenant."""
        shutil.rmtree(self._tenant(tenant) / quote(plugin, safe=""), ignore_errors=True)

    def user(self, tenant: str) -> int | None:
        """The tenant's number as a user of this machine; None where the server may not become other users."""
        if os.geteuid() != 0:
            return None
        if tenant not in self._users:
            self._users = self._registered(tenant)
        return self._first + self._users[tenant]

    def _registered(self, tenant: str) -> dict[str, int]:
        """Numbers by tenant; one that has none gets the next, which nobody had before."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder / "users.json", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            known = msgspec.json.decode(file.read() or b"{}", type=dict[str, int])
            if tenant not in known:
                known[tenant] = max(known.values(), default=0) + 1
                if known[tenant] >= _MOST_USERS:
                    raise OverflowError("there are no more user numbers for tenants' plugins")
                file.seek(0)
                file.write(msgspec.json.encode(known))
                file.truncate()
            return known


def hand_over(folder: Path, user: int | None) -> None:
    """Make a folder, and what is in it, a user's. Links are taken for what they are, and not followed."""
    if os.geteuid() != 0:
        folder.chmod(0o700)
        return
    owner = user or 0
    if folder.lstat().st_uid == owner:
        return
    for path, folders, files in os.walk(folder, followlinks=False):
        for name in (*folders, *files):
            with suppress(OSError):
                os.lchown(Path(path) / name, owner, owner)
    os.lchown(folder, owner, owner)
    folder.chmod(0o700)


def emptied(folder: Path) -> None:
    """Leave nothing in a folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def size(folder: Path, most: int) -> int:
    """Bytes in a folder, as far as more than `most`; a folder with very many files counts as too large."""
    total, seen, waiting = 0, 0, [str(folder)]
    while waiting and total <= most:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    seen += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue
        if seen > _MOST_LOOKED_AT:
            return most + 1
    return total
