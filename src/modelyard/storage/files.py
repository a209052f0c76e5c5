"""Files uploaded by callers and plugins: stored per tenant below one folder, and served
by signed URLs."""

import hmac
import mimetypes
import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from modelyard.base.content_disposition import shortened
from modelyard.base.errors import NotFoundError
from modelyard.base.fields import whole_number
from modelyard.base.ids import new_id
from modelyard.base.private_files import private_folder, write_private

# Ids and tenants become path components, so their patterns exclude separators and dots.
_ID = re.compile(r"file_[A-Za-z0-9_-]{6,80}")
_PLAIN = re.compile(r"[^\w .()\[\]-]", re.UNICODE)
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata of a stored file."""

    id: str
    name: str
    size: int
    mime_type: str
    created_at: float
    owner: str = ""
    """The end user who uploaded it, if known."""
    app: str = ""
    """The app it was uploaded to, if any."""

    @property
    def extension(self) -> str:
        """Return the extension of the file name with its dot, or an empty string."""
        return Path(self.name).suffix


class FileStore:
    """The files of all tenants in a folder, and the signatures of their URLs."""

    def __init__(
        self,
        folder: Path,
        digest: Callable[[bytes], str],
        matches: Callable[[bytes, str], bool] | None = None,
        *,
        get_time: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._digest = digest
        # A digest whose key has been rotated needs `matches`; the default only compares
        # with the current key.
        self._matches = matches or self._matches_current_key
        self._get_time = get_time

    def add(
        self,
        tenant: str,
        name: str,
        data: bytes,
        mime_type: str = "",
        *,
        owner: str = "",
        app: str = "",
    ) -> StoredFile:
        """Store a file and return its metadata.

        Only the last component of the name is used, since browsers may send a full path
        of either operating system. Special characters are replaced.
        """
        plain = _PLAIN.sub("_", name.replace("\\", "/").rpartition("/")[2])
        name = shortened(plain, 200) or "file"
        resolved_type = (
            mime_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
        )
        file_record = StoredFile(
            id=new_id("file"),
            name=name,
            size=len(data),
            mime_type=resolved_type,
            created_at=self._get_time(),
            owner=owner,
            app=app,
        )
        folder = self._file_path(tenant, file_record.id)
        private_folder(folder.parent)
        # The content first: metadata never refers to a missing file.
        write_private(folder, data)
        write_private(folder.with_suffix(".json"), msgspec.json.encode(file_record))
        return file_record

    def metadata(self, tenant: str, id: str) -> StoredFile:
        """Return a file's metadata. Raises NotFoundError if this tenant has no such
        file."""
        try:
            return msgspec.json.decode(
                self._file_path(tenant, id).with_suffix(".json").read_bytes(),
                type=StoredFile,
            )
        except (OSError, msgspec.MsgspecError):
            raise NotFoundError(
                f"File {id[:80]!r} does not exist", code="file_not_found"
            ) from None

    def head(self, tenant: str, id: str, size: int) -> bytes:
        """Return the first bytes of a file, at most `size`. Raises NotFoundError."""
        try:
            with self._file_path(tenant, id).open("rb") as file:
                return file.read(size)
        except OSError:
            raise NotFoundError(
                f"File {id!r} does not exist", code="file_not_found"
            ) from None

    def get(self, tenant: str, id: str) -> tuple[StoredFile, bytes]:
        """Return a file's metadata and content. Raises NotFoundError if this tenant has
        no such file."""
        path = self._file_path(tenant, id)
        try:
            return (
                msgspec.json.decode(
                    path.with_suffix(".json").read_bytes(), type=StoredFile
                ),
                path.read_bytes(),
            )
        except (OSError, msgspec.MsgspecError):
            raise NotFoundError(
                f"File {id!r} does not exist", code="file_not_found"
            ) from None

    def remove(self, tenant: str, id: str) -> None:
        """Delete a file. A missing one is ignored; a malformed id raises NotFoundError."""
        path = self._file_path(tenant, id)
        for stored_path in (path, path.with_suffix(".json")):
            stored_path.unlink(missing_ok=True)

    def _file_path(self, tenant: str, id: str) -> Path:
        """Return the path of a file's content; its metadata lies next to it as `.json`.

        Raises NotFoundError if the id or the tenant is malformed. The file need not
        exist.
        """
        if not _ID.fullmatch(id) or not _TENANT.fullmatch(tenant):
            raise NotFoundError(
                f"File {id[:80]!r} does not exist", code="file_not_found"
            )
        # A subfolder per two characters of the id keeps the folders small.
        return self._folder / tenant / id[5:7] / id

    # Signed URLs.

    def sign(self, purpose: str, tenant: str, subject: str, *, seconds: float) -> str:
        """Return the query string of a signed URL that is valid for `seconds`.

        The signature covers the purpose, the tenant, the subject (such as a file id)
        and the expiry time. `is_signed` verifies it with the same values.
        """
        until = int(self._get_time() + seconds)
        return f"tenant={tenant}&until={until}&sign={self._signature(purpose, tenant, subject, until)}"  # noqa: E501

    def is_signed(
        self, purpose: str, tenant: str, subject: str, until: str, signature: str
    ) -> bool:
        """Return whether a signature is valid for these values and has not expired."""
        end = whole_number(until)
        if end is None or end < self._get_time():
            return False
        return self._matches(_signed_text(purpose, tenant, subject, end), signature)

    def _matches_current_key(self, text: bytes, signature: str) -> bool:
        return hmac.compare_digest(self._digest(text).encode(), signature.encode())

    def _signature(self, purpose: str, tenant: str, subject: str, until: int) -> str:
        return self._digest(_signed_text(purpose, tenant, subject, until))


def _signed_text(purpose: str, tenant: str, subject: str, until: int) -> bytes:
    return f"{purpose}\n{tenant}\n{subject}\n{until}".encode()
