"""Files uploaded by callers and plugins: their metadata next to their bytes, per tenant,
and the signatures of their URLs."""

import hashlib
import hmac
import mimetypes
import re
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from modelyard.base.content_disposition import shortened
from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.base.fields import whole_number
from modelyard.base.ids import new_id
from modelyard.storage.engine import StorageUnavailableError
from modelyard.storage.file_storage import FileStorage, one_chunk, read_all

# Ids become path components, so their pattern excludes separators and dots.
_ID = re.compile(r"file_[A-Za-z0-9_-]{6,80}")
_PLAIN = re.compile(r"[^\w .()\[\]-]", re.UNICODE)


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
    sha256: str = ""
    """Of the content, hexadecimal; empty for files of earlier versions."""

    @property
    def extension(self) -> str:
        """Return the extension of the file name with its dot, or an empty string."""
        return Path(self.name).suffix


class DamagedFileError(ModelyardError):
    """The stored bytes of a file are not those that were stored."""

    # Nothing that the caller sends differently would help.
    status = 503
    code = "file_damaged"


class FileStore:
    """The files of all tenants in a storage, and the signatures of their URLs.

    All methods but those for signatures raise StorageUnavailableError while the storage
    cannot be reached.
    """

    def __init__(
        self,
        storage: FileStorage,
        digest: Callable[[bytes], str],
        matches: Callable[[bytes, str], bool] | None = None,
        *,
        get_time: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._digest = digest
        # A digest whose key has been rotated needs `matches`; the default only compares
        # with the current key.
        self._matches = matches or self._matches_current_key
        self._get_time = get_time

    async def add(
        self,
        tenant: str,
        name: str,
        data: bytes | AsyncIterable[bytes],
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
        file_id = new_id("file")
        path = _path(file_id)
        chunks = one_chunk(data) if isinstance(data, bytes) else data
        # The content first: metadata never refers to a missing file.
        content = await self._storage.write(tenant, path, chunks)
        file_record = StoredFile(
            id=file_id,
            name=name,
            size=content.size,
            mime_type=resolved_type,
            created_at=self._get_time(),
            owner=owner,
            app=app,
            sha256=content.sha256,
        )
        metadata = one_chunk(msgspec.json.encode(file_record))
        try:
            await self._storage.write(tenant, f"{path}.json", metadata)
        except BaseException:
            # Nothing refers to the content, so nothing would ever delete it.
            with suppress(StorageUnavailableError):
                await self._storage.delete(tenant, path)
            raise
        return file_record

    async def metadata(self, tenant: str, id: str) -> StoredFile:
        """Return a file's metadata. Raises NotFoundError if this tenant has no such
        file."""
        data = await read_all(self._storage, tenant, f"{_path(id)}.json")
        try:
            return msgspec.json.decode(data, type=StoredFile)
        except msgspec.MsgspecError:
            raise _missing(id) from None

    async def head(self, tenant: str, id: str, size: int) -> bytes:
        """Return the first bytes of a file, at most `size`. Raises NotFoundError."""
        return await read_all(self._storage, tenant, _path(id), length=size)

    async def get(self, tenant: str, id: str) -> tuple[StoredFile, bytes]:
        """Return a file's metadata and content.

        Raises NotFoundError if this tenant has no such file, and DamagedFileError if its
        bytes have changed.
        """
        file_record = await self.metadata(tenant, id)
        data = await read_all(self._storage, tenant, _path(id))
        digest = hashlib.sha256(data).hexdigest()
        # A storage that was restored in part, or written to by hand.
        if file_record.sha256 not in ("", digest):
            raise DamagedFileError(
                f"File {id!r} is damaged: its SHA-256 is not the one it was stored with"
            )
        return file_record, data

    def chunks(self, tenant: str, id: str) -> AsyncGenerator[bytes, None]:
        """Yield a file's content. Raises NotFoundError."""
        return self._storage.read(tenant, _path(id))

    async def remove(self, tenant: str, id: str) -> None:
        """Delete a file. A missing one is ignored; a malformed id raises NotFoundError."""
        path = _path(id)
        # The metadata first, so that nobody finds a file whose content is gone.
        for name in (f"{path}.json", path):
            await self._storage.delete(tenant, name)

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


def _path(id: str) -> str:
    """Return the name of a file's content in the storage; its metadata lies next to it as
    `.json`. Raises NotFoundError if the id is malformed."""
    if not _ID.fullmatch(id):
        raise _missing(id)
    # A subfolder per two characters of the id keeps the folders small.
    return f"{id[5:7]}/{id}"


def _missing(id: str) -> NotFoundError:
    return NotFoundError(f"File {id[:80]!r} does not exist", code="file_not_found")


def _signed_text(purpose: str, tenant: str, subject: str, until: int) -> bytes:
    return f"{purpose}\n{tenant}\n{subject}\n{until}".encode()
