"""Files as objects of an S3 bucket, or of a server that speaks its protocol.

Sources: PutObject, GetObject, CreateMultipartUpload, UploadPart,
CompleteMultipartUpload, AbortMultipartUpload and ListMultipartUploads,
docs.aws.amazon.com/AmazonS3/latest/API.
"""

import asyncio
import datetime
import hashlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from contextlib import aclosing, suppress
from html import unescape
from urllib.parse import urlsplit

from modelyard.base.errors import ConfigError, InvokeError, NotFoundError
from modelyard.base.fields import whole_number
from modelyard.storage.engine import StorageUnavailableError
from modelyard.storage.file_storage import (
    SERVER_SCOPE,
    FileExistsInStorageError,
    FileInfo,
    check_name,
    missing_file,
    one_chunk,
    read_all,
    regrouped,
)
from modelyard.transport.http import HttpClient, Response, Timeouts
from modelyard.transport.s3 import (
    S3Credentials,
    element_text,
    elements,
    encoded_path,
    encoded_query,
    error_code,
    signed_headers,
)

_PART_BYTES = 5 << 20
"""Size of a part of a large object. S3 allows no smaller ones, and 10,000 of them."""
_MAX_OBJECT_BYTES = 5 << 40
_MAX_ANSWER_BYTES = 4 << 20
_TIMEOUTS = Timeouts(connect=5.0, first_byte=30.0, between_bytes=30.0)
_RETRY_SECONDS = (0.1, 0.4, 1.2)
"""Pauses before a request is sent again. A server that is away longer is reported."""
_BUSY = (429, 500, 502, 503, 504)
_GONE = frozenset({"NoSuchKey", "NoSuchVersion"})
_CHECK_BYTES = b"modelyard"


class _RefusedError(StorageUnavailableError):
    """The server answered, and its answer will not change: a wrong key, a missing
    bucket, a wrong region."""


class S3FileStorage:
    """Objects below a prefix of a bucket. The key is prefix, scope and name.

    Small files are one request. Larger ones are uploaded in parts, of which at most one
    is in memory; S3 shows the object only when the upload is complete.
    """

    is_shared = True

    def __init__(
        self,
        client: HttpClient,
        bucket: str,
        *,
        credentials: S3Credentials,
        get_time: Callable[[], float],
        endpoint: str = "",
        prefix: str = "",
        uses_path_style: bool = True,
        part_bytes: int = _PART_BYTES,
    ) -> None:
        """`endpoint` is the server's URL; empty for AWS. With `uses_path_style` the
        bucket is the first component of the path, otherwise part of the host name."""
        server = endpoint or f"https://s3.{credentials.region}.amazonaws.com"
        self._client = client
        self._bucket = bucket
        self._credentials = credentials
        self._now = get_time
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._part_bytes = part_bytes
        self._origin = server.rstrip("/")
        self._root = encoded_path(bucket)
        if not uses_path_style:
            scheme, _, host = self._origin.partition("://")
            self._origin, self._root = f"{scheme}://{bucket}.{host}", ""

    @property
    def where(self) -> str:
        """Return server, bucket and prefix."""
        return f"s3://{urlsplit(self._origin).netloc}/{self._bucket}/{self._prefix}"

    async def check(self) -> None:
        """Write, read and delete an object.

        Raises ConfigError if the bucket does not exist or the key may not use it, and
        StorageUnavailableError if the server does not answer.
        """
        # Several servers may start at once, and check at the same time.
        name = f"checks/{uuid.uuid4().hex}"
        try:
            await self.write(SERVER_SCOPE, name, one_chunk(_CHECK_BYTES))
            data = await read_all(self, SERVER_SCOPE, name)
            await self.delete(SERVER_SCOPE, name)
        except (_RefusedError, NotFoundError) as error:
            raise ConfigError(f"Files cannot be stored: {error}") from error
        finally:
            # Programs check on a loop that ends before the one of the server begins.
            await self.aclose()
        if data != _CHECK_BYTES:
            raise ConfigError(f"{self.where} returned other bytes than were written")

    async def write(
        self,
        scope: str,
        name: str,
        chunks: AsyncIterable[bytes],
        *,
        is_new: bool = False,
    ) -> FileInfo:
        """Store a file; see FileStorage."""
        # A malformed name must not reach the server.
        key = self._key(scope, name)
        condition = {"if-none-match": "*"} if is_new else {}
        async with aclosing(regrouped(chunks, self._part_bytes)) as parts:
            first = await anext(parts, b"")
            second = await anext(parts, None)
            if second is None:
                return await self._put(name, key, first, condition)
            begun = [first, second]
            # Nothing but the list refers to the parts, so that each is freed when sent.
            del first, second
            return await _Upload(self, name, key).write(begun, parts, condition)

    async def _put(
        self, name: str, key: str, data: bytes, condition: Mapping[str, str]
    ) -> FileInfo:
        """Store a small file with one request."""
        # S3 keeps it beside the object, so that `info` need not read it.
        digest = hashlib.sha256(data).hexdigest()
        extra = {**condition, "x-amz-meta-sha256": digest}
        await self.request("PUT", key, body=data, extra=extra, name=name)
        return FileInfo(name=name, size=len(data), sha256=digest)

    async def info(self, scope: str, name: str) -> FileInfo:
        """Return the size of a file; see FileStorage. Its SHA-256 is known if it was
        stored with one request."""
        # A GET of one byte instead of HEAD, whose 404 cannot say whether the object or
        # the bucket is missing.
        reply = await self._get(self._key(scope, name), name, "bytes=0-0")
        reply.close()
        # Only an empty object has no first byte.
        if reply.status == 416:
            return FileInfo(name=name, size=0)
        total = reply.headers.get("content-range", "").rpartition("/")[2]
        # Servers that ignore ranges answer with the whole object.
        size = whole_number(total or reply.headers.get("content-length", ""))
        return FileInfo(
            name=name,
            size=size or 0,
            sha256=reply.headers.get("x-amz-meta-sha256", ""),
        )

    async def read(
        self, scope: str, name: str, *, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield bytes of a file; see FileStorage."""
        key = self._key(scope, name)
        if length is not None and length <= 0:
            await self.info(scope, name)
            return
        end = "" if length is None else str(start + length - 1)
        is_range = bool(start) or length is not None
        reply = await self._get(key, name, f"bytes={start}-{end}" if is_range else "")
        try:
            # The range begins behind the end of the file.
            if reply.status == 416:
                return
            # A server that ignores the range sends everything from the beginning.
            skipped = start if is_range and reply.status == 200 else 0
            async for chunk in _cut(self._chunks(reply), skipped, length):
                yield chunk
        finally:
            reply.close()

    async def _chunks(self, reply: Response) -> AsyncGenerator[bytes, None]:
        """Yield the body of an answer. Raises StorageUnavailableError if it breaks
        off."""
        try:
            async for chunk in reply.chunks(max_bytes=_MAX_OBJECT_BYTES):
                yield chunk
        except InvokeError as error:
            raise self._unreachable(error) from error

    async def delete(self, scope: str, name: str) -> None:
        """Delete a file; see FileStorage."""
        key = self._key(scope, name)
        # S3 answers 204 for an object that does not exist; some servers say 404.
        with suppress(NotFoundError):
            await self.request("DELETE", key, name=name)

    async def aclose(self) -> None:
        """Close the connections to the server."""
        await self._client.aclose()

    async def clean(self, before: float) -> int:
        """Abort old uploads that were never completed; see FileStorage."""
        query = {"prefix": self._prefix, "uploads": ""}
        listing = (await self.request("GET", "", query=query)).decode()
        count = 0
        for entry in elements(listing, "Upload"):
            if _moment(element_text(entry, "Initiated")) < before:
                key = unescape(element_text(entry, "Key"))
                await self.abort(key, unescape(element_text(entry, "UploadId")))
                count += 1
        return count

    async def abort(self, key: str, upload_id: str) -> None:
        """Delete the parts of an upload. One that is over already is ignored."""
        with suppress(NotFoundError):
            await self.request("DELETE", key, query={"uploadId": upload_id})

    def _key(self, scope: str, name: str) -> str:
        check_name(scope, name)
        return f"{self._prefix}{scope}/{name}"

    # Requests.

    async def request(
        self,
        method: str,
        key: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        extra: Mapping[str, str] | None = None,
        name: str = "",
    ) -> bytes:
        """Send a request and return the body of its answer.

        Raises NotFoundError, FileExistsInStorageError if a condition in `extra` does not
        hold, and StorageUnavailableError.
        """
        reply = await self._send(method, key, query or {}, body, extra or {})
        data = await self._body(reply)
        # An upload can fail after the status was sent.
        if reply.status >= 300 or b"<Error>" in data[:200]:
            raise self._refused(reply.status, data, name or key)
        return data

    async def etag(self, key: str, query: Mapping[str, str], body: bytes) -> str:
        """Upload a part and return its entity tag. Raises StorageUnavailableError."""
        reply = await self._send("PUT", key, query, body, {})
        data = await self._body(reply)
        if reply.status >= 300:
            raise self._refused(reply.status, data, key)
        return reply.headers.get("etag", "")

    async def _get(self, key: str, name: str, byte_range: str) -> Response:
        """Send a GET and return the answer once its status is known to be good: 200,
        206, or 416 for a range behind the end."""
        extra = {"range": byte_range} if byte_range else {}
        reply = await self._send("GET", key, {}, b"", extra)
        if reply.status in (200, 206, 416):
            return reply
        raise self._refused(reply.status, await self._body(reply), name)

    async def _send(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        body: bytes,
        extra: Mapping[str, str],
    ) -> Response:
        """Send a signed request, again after a transient failure. Raises
        StorageUnavailableError."""
        path = encoded_path("", key)[1:] if key else ""
        text = encoded_query(query)
        url = f"{self._origin}{self._root}{path or '/' * (not self._root)}"
        url = f"{url}?{text}" if text else url
        # The answer of a conditional write that succeeded, and was lost, would differ.
        pauses = [] if "if-none-match" in extra else list(_RETRY_SECONDS)
        while True:
            # Signed for each attempt: servers refuse signatures of another time.
            headers = signed_headers(
                method, url, self._credentials, now=self._now(), body=body, extra=extra
            )
            try:
                reply = await self._client.send(
                    method, url, headers=headers, body=[body], timeouts=_TIMEOUTS
                )
            except InvokeError as error:
                if not pauses:
                    raise self._unreachable(error) from error
            else:
                if reply.status not in _BUSY or not pauses:
                    return reply
                reply.close()
            await asyncio.sleep(pauses.pop(0))

    async def _body(self, reply: Response) -> bytes:
        """Return the body of an answer that is no file."""
        try:
            return await reply.read(max_bytes=_MAX_ANSWER_BYTES)
        except InvokeError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: InvokeError) -> StorageUnavailableError:
        return StorageUnavailableError(
            f"File storage unavailable: {self.where}: {error}"
        )

    def _refused(self, status: int, body: bytes, name: str) -> Exception:
        """Return the error for an answer that is no success."""
        code = error_code(body)
        if status == 404 and code in _GONE | {"NoSuchUpload"}:
            return missing_file(name)
        # 409: another conditional write of the same key is under way.
        if status == 412 or (status == 409 and code == "ConditionalRequestConflict"):
            return FileExistsInStorageError(f"File {name!r} exists already")
        problem = f"{self.where} answered {status} {code}".rstrip()
        if status in _BUSY:
            return StorageUnavailableError(f"File storage unavailable: {problem}")
        return _RefusedError(
            f"File storage unavailable: {problem}; {_advice(status, code)}"
        )


class _Upload:
    """One file that is uploaded in parts."""

    def __init__(self, storage: S3FileStorage, name: str, key: str) -> None:
        self._storage = storage
        self._name = name
        self._key = key
        self._id = ""
        self._tags: list[str] = []
        self._size = 0
        self._digest = hashlib.sha256()

    async def write(
        self,
        begun: list[bytes],
        others: AsyncIterable[bytes],
        condition: Mapping[str, str],
    ) -> FileInfo:
        """Upload all parts and complete the object. If anything fails, the parts are
        deleted."""
        answer = await self._storage.request("POST", self._key, query={"uploads": ""})
        self._id = unescape(element_text(answer.decode(), "UploadId"))
        try:
            while begun:
                await self._add(begun.pop(0))
            async for part in others:
                await self._add(part)
            await self._complete(condition)
        except BaseException:
            # Also for a cancelled caller; `clean` finds what a server that is away
            # keeps.
            with suppress(StorageUnavailableError):
                await asyncio.shield(self._storage.abort(self._key, self._id))
            raise
        return FileInfo(
            name=self._name, size=self._size, sha256=self._digest.hexdigest()
        )

    async def _add(self, part: bytes) -> None:
        """Upload one part."""
        # Hashing a part takes some milliseconds, in which other calls go on.
        await asyncio.to_thread(self._digest.update, part)
        query = {"partNumber": str(len(self._tags) + 1), "uploadId": self._id}
        self._tags.append(await self._storage.etag(self._key, query, part))
        self._size += len(part)

    async def _complete(self, condition: Mapping[str, str]) -> None:
        """Let the parts become the object."""
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"
            for number, tag in enumerate(self._tags, 1)
        )
        await self._storage.request(
            "POST",
            self._key,
            query={"uploadId": self._id},
            body=f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode(),
            extra=condition,
            name=self._name,
        )


async def _cut(
    chunks: AsyncGenerator[bytes, None], skipped: int, length: int | None
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a stream without the first `skipped`, at most `length`."""
    async with aclosing(chunks):
        async for chunk in chunks:
            rest = chunk[skipped:]
            skipped = max(0, skipped - len(chunk))
            if length is not None:
                rest = rest[:length]
                length -= len(rest)
            if rest:
                yield rest
            if length == 0:
                return


def _advice(status: int, code: str) -> str:
    """Return what an operator should look at after a refusal."""
    # A 404 alone could be a missing object.
    if code == "NoSuchBucket":
        return "create the bucket, or correct files.bucket"
    if status in (301, 307, 400) and code in (
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
    ):
        return "correct files.region and files.endpoint"
    if status in (401, 403):
        return (
            "check files.access_key and files.secret_key, that the key may get, put,"
            " delete and list objects of the bucket, and the clock of this machine"
        )
    return "check files.endpoint and files.bucket"


def _moment(text: str) -> float:
    """Return a time of S3, as 2026-11-30T12:00:00.000Z, in seconds since 1970; infinite
    for any other text."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return float("inf")
