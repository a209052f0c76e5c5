"""Reading the sources of documents: uploaded files, local paths, web pages and values
of an HTTP API."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.fields import whole_number
from modelyard.base.json_types import is_array, is_mapping
from modelyard.knowledge.entities import Document
from modelyard.knowledge.ingest import ParsedDocument
from modelyard.knowledge.rows import DocumentPart
from modelyard.sandbox.runner import Sandbox, SandboxError
from modelyard.storage.files import FileStore
from modelyard.transport.egress import EgressClient, FetchedResponse

logger = logging.getLogger("modelyard.knowledge")

_MAX_PAGE_BYTES = 20 << 20
_EXTENSION_BY_TYPE = {
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "application/pdf": ".pdf",
    "text/plain": ".txt",
    "text/markdown": ".md",
    "application/json": ".json",
    "text/xml": ".xml",
    "application/xml": ".xml",
    "text/csv": ".csv",
}
_IMAGE_EXTENSIONS = frozenset({".png", ".jpg", ".gif", ".tiff"})
# Number of scanned pages rendered at a time.
_PAGES_PER_BATCH = 4
Ocr = Callable[[bytes], Awaitable[str]]
"""Returns the text in an image. Raises ModelyardError if images cannot be recognised.
"""


class FileTooLargeError(InvokeBadRequestError):
    """The document exceeds the maximum size."""

    code = "file_too_large"


class SourceReader:
    """Reads and parses the sources of documents. Parsing takes place in the sandbox."""

    def __init__(
        self,
        files: FileStore,
        sandbox: Sandbox,
        egress: EgressClient,
        *,
        max_mb: int = 256,
        ocr: Ocr | None = None,
    ) -> None:
        self._files = files
        self._sandbox = sandbox
        self._egress = egress
        self._max_bytes = max_mb << 20
        self._ocr = ocr

    async def read(self, document: Document) -> ParsedDocument:
        """Read and parse a document's source. Raises ModelyardError with a message for
        the uploader."""
        source = document.source
        match source.get("kind"):
            case "file":
                _, data = await self._files.get(
                    document.tenant, str(source.get("file"))
                )
                return await self.parse(document.name, data, tenant=document.tenant)
            case "path":
                data = await asyncio.to_thread(self._read_path, str(source.get("path")))
                return await self.parse(document.name, data, tenant=document.tenant)
            case "url":
                page = await self.fetch(str(source.get("url")))
                return await self.parse(
                    name_with_extension(page), page.body, tenant=document.tenant
                )
            case kind:
                raise InvokeBadRequestError(
                    f"Unknown document source {kind!r}; expected file, path or url"
                )

    def _read_path(self, path: str) -> bytes:
        """Return the bytes of a local file.

        Raises FileTooLargeError before reading if it exceeds the maximum size,
        InvokeBadRequestError if it cannot be read.
        """
        from pathlib import Path

        try:
            # Check the size first, so that a huge file is never loaded.
            size = Path(path).stat().st_size
            self.check_size(path, size)
            return Path(path).read_bytes()
        except OSError as error:
            raise InvokeBadRequestError(
                f"File {path!r} cannot be read: {error.strerror}"
            ) from error

    def check_size(self, name: str, size: int) -> None:
        """Raise FileTooLargeError if a document exceeds the maximum size."""
        if size > self._max_bytes:
            raise FileTooLargeError(
                f"File {name!r} has {size >> 20:,} MB; the maximum is"
                f" {self._max_bytes >> 20:,} MB (knowledge.most_mb)"
            )

    async def parse(
        self, name: str, data: bytes, *, tenant: str = ""
    ) -> ParsedDocument:
        """Parse a document's bytes in the sandbox; scanned pages are read by OCR.

        `name` tells the format by its extension. Pages that OCR cannot read are left
        out if other pages have text. Raises FileTooLargeError, or InvokeBadRequestError
        if the document cannot be parsed.
        """
        self.check_size(name, len(data))
        try:
            parsed = await self._sandbox.read(name, data, tenant=tenant)
            parts = msgspec.convert(parsed["parts"], list[DocumentPart])
            # Pages without text are images: recognise their text, if possible.
            if parsed["scanned"]:
                parts = await self._with_scans(parsed, data, parts, tenant)
        except SandboxError as error:
            raise InvokeBadRequestError(f"{name}: {error}") from error
        return ParsedDocument(
            parts=parts,
            title=str(parsed["title"])[:200],
            kind=parsed["kind"],
            notes=[str(note)[:500] for note in parsed["notes"]],
        )

    async def _with_scans(
        self,
        parsed: Mapping[str, Any],
        data: bytes,
        parts: Sequence[DocumentPart],
        tenant: str,
    ) -> list[DocumentPart]:
        """Add the text of scanned pages by OCR. If OCR is unavailable, the other pages
        suffice, provided there are any."""
        is_image = parsed["kind"] in _IMAGE_EXTENSIONS
        try:
            scanned_parts = await self._recognise_pages(
                parsed["scanned"], data, tenant, is_image=is_image
            )
        except SandboxError:
            raise
        except ModelyardError as error:
            # A document with some text is usable without its scanned pages.
            if parts:
                logger.warning(
                    "scanned pages skipped: no OCR",
                    extra={"fields": {"error": str(error)}},
                )
                return list(parts)
            description = (
                "The text of the image"
                if is_image
                else "The PDF contains only scanned pages, whose text"
            )
            raise InvokeBadRequestError(
                f"{description} cannot be read: {error}"
            ) from error
        parts_by_page = {part.page: part for part in [*parts, *scanned_parts]}
        return [parts_by_page[page] for page in sorted(parts_by_page)]

    async def _recognise_pages(
        self, pages: Sequence[int], data: bytes, tenant: str, *, is_image: bool
    ) -> list[DocumentPart]:
        """Return the text of scanned pages by OCR; `data` is a PDF or an image."""
        if self._ocr is None:
            raise InvokeBadRequestError("OCR is not available")
        scanned_parts: list[DocumentPart] = []
        # A few pages at a time, since rendered pages need much memory.
        for start in range(0, len(pages), _PAGES_PER_BATCH):
            page_batch = pages[start : start + _PAGES_PER_BATCH]
            pictures = [data]
            if not is_image:
                pictures = await self._sandbox.render_pages(
                    data, page_batch, tenant=tenant
                )
            for page, picture in zip(page_batch, pictures, strict=True):
                text = await self._ocr(picture)
                scanned_parts.append(DocumentPart(text=text, page=page))
        return scanned_parts

    async def fetch(self, url: str) -> FetchedResponse:
        """Fetch a URL through the egress client. Raises EgressError, or
        InvokeBadRequestError for an error status."""
        page = await self._egress.fetch("GET", url, max_bytes=_MAX_PAGE_BYTES)
        if not 200 <= page.status < 300:
            raise InvokeBadRequestError(f"{url[:200]} returned status {page.status}")
        return page


def name_with_extension(page: FetchedResponse) -> str:
    """Return a file name with an extension for a fetched page: from its URL, otherwise
    from its media type."""
    path = urlsplit(page.url).path.rstrip("/").rpartition("/")[2] or "index"
    media_type = page.headers.get("content-type", "").partition(";")[0].strip().lower()
    ending = _EXTENSION_BY_TYPE.get(media_type, "")
    # The URL's extension is trusted unless the server declares a more specific type
    # than plain text.
    return (
        path
        if re.search(r"\.\w{1,5}$", path) and ending in ("", ".txt")
        else f"{path}{ending or '.html'}"
    )


def values_at(value: Any, path: str) -> list[Any]:
    """Return the values that a JSON path selects, as `$.items[*].body`. Supports names,
    `[n]`, `[*]` and `*`.

    Raises InvokeBadRequestError if the path contains anything else.
    """
    steps = re.findall(r"\[(\d+|\*|'[^']*'|\"[^\"]*\")\]|([^.\[\]$]+)", path.strip())
    unparsed = re.sub(
        r"\[(\d+|\*|'[^']*'|\"[^\"]*\")\]|([^.\[\]$]+)", "", path.strip()
    ).strip(".$")
    # Anything that the steps do not cover is a syntax error.
    if unparsed:
        raise InvokeBadRequestError(
            f"Invalid path {path!r}; expected names, [n] and [*], as in $.items[*].body"
        )
    matches = [value]
    for inner, name in steps:
        step = (inner or name).strip("'\"")
        # Apply one step to all values selected so far; values without such a member are
        # dropped.
        matches = [member for match in matches for member in _members(match, step)]
    return matches


def _members(value: Any, step: str) -> Sequence[Any]:
    """Return the members of a value that one step of a JSON path selects."""
    if is_mapping(value):
        if step == "*":
            return list(value.values())
        return [value[step]] if step in value else []
    if not is_array(value):
        return []
    if step == "*":
        return value
    index = whole_number(step)
    return value[index : index + 1] if index is not None else []


async def json_at(
    egress: EgressClient, url: str, path: str, headers: Sequence[tuple[str, str]] = ()
) -> list[Any]:
    """Return the values that a JSON path selects in the response of an HTTP API.

    The path is as in `values_at`. Raises InvokeBadRequestError for an error status, a
    response that is not JSON or an invalid path, EgressError if the request fails.
    """
    page = await egress.fetch("GET", url, headers=headers, max_bytes=_MAX_PAGE_BYTES)
    if not 200 <= page.status < 300:
        raise InvokeBadRequestError(f"{url[:200]} returned status {page.status}")
    try:
        return values_at(decode_body(page.body), path)
    except BodyError as error:
        raise InvokeBadRequestError(
            f"{url[:200]} did not return valid JSON: {error}"
        ) from error
