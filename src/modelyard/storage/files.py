"""Files that callers and plugins hand in: below a folder, one place a tenant, reached by addresses that are signed."""

import hmac
import mimetypes
import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from modelyard.base.errors import NotFoundError
from modelyard.base.fields import whole_number
from modelyard.base.ids import new_id
from modelyard.base.modes import private_folder, write_private

_ID = re.compile(r"file_[A-Za-z0-9_-]{6,80}")
_PLAIN = re.compile(r"[^\w .()\[\]-]", re.UNICODE)
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    size: int
    mime_type: str
    created_at: float
    owner: str = ""
    """The end user who handed it in, where that is known."""
    app: str = ""
    """The app that it was handed to, where it was handed to one."""

    @property
    def extension(self) -> str:
        return Path(self.name).suffix


class FileStore:
    def __init__(
        self,
        folder: Path,
        digest: Callable[[bytes], str],
        matches: Callable[[bytes, str], bool] | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._digest = digest
        self._matches = matches or (lambda text, said: hmac.compare_digest(digest(text).encode(), said.encode()))
        self._now = now

    def add(
        self, tenant: str, name: str, data: bytes, mime_type: str = "", *, owner: str = "", app: str = ""
    ) -> StoredFile:
        name = _PLAIN.sub("_", name.replace("\\", "/").rpartition("/")[2])[:200] or "file"
        kind = mime_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
        stored = StoredFile(
            id=new_id("file"), name=name, size=len(data), mime_type=kind, created_at=self._now(), owner=owner,
            app=app,
        )  # fmt: skip
        folder = self._place(tenant, stored.id)
        private_folder(folder.parent)
        write_private(folder, data)
        write_private(folder.with_suffix(".json"), msgspec.json.encode(stored))
        return stored

    def about(self, tenant: str, id: str) -> StoredFile:  # noqa: A002  the field's word
        """Without its bytes. Raises NotFoundError where this tenant has no such file."""
        try:
            return msgspec.json.decode(self._place(tenant, id).with_suffix(".json").read_bytes(), type=StoredFile)
        except (OSError, msgspec.MsgspecError):
            raise NotFoundError(f"file {id[:80]!r} does not exist", code="file_not_found") from None

    def get(self, tenant: str, id: str) -> tuple[StoredFile, bytes]:  # noqa: A002  the field's word
        """Raises NotFoundError where this tenant has no such file."""
        path = self._place(tenant, id)
        try:
            return msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=StoredFile), path.read_bytes()
        except (OSError, msgspec.MsgspecError):
            raise NotFoundError(f"file {id!r} does not exist", code="file_not_found") from None

    def remove(self, tenant: str, id: str) -> None:  # noqa: A002
        path = self._place(tenant, id)
        for one in (path, path.with_suffix(".json")):
            one.unlink(missing_ok=True)

    def _place(self, tenant: str, id: str) -> Path:  # noqa: A002
        if not _ID.fullmatch(id) or not _TENANT.fullmatch(tenant):
            raise NotFoundError(f"file {id[:80]!r} does not exist", code="file_not_found")
        return self._folder / tenant / id[5:7] / id

    # signed addresses

    def sign(self, what: str, tenant: str, rest: str, *, seconds: float) -> str:
        """The query of an address that may be used for so long: for `what`, of this tenant, for `rest`."""
        until = int(self._now() + seconds)
        return f"tenant={tenant}&until={until}&sign={self._signature(what, tenant, rest, until)}"

    def is_signed(self, what: str, tenant: str, rest: str, until: str, sign: str) -> bool:
        end = whole_number(until)
        if end is None or end < self._now():
            return False
        return self._matches(_signed(what, tenant, rest, end), sign)

    def _signature(self, what: str, tenant: str, rest: str, until: int) -> str:
        return self._digest(_signed(what, tenant, rest, until))


def _signed(what: str, tenant: str, rest: str, until: int) -> bytes:
    return f"{what}\n{tenant}\n{rest}\n{until}".encode()
