"""Where documents come from, read: files that were handed in, pages on the network, values of an HTTP API, rows."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from modelyard.base.bodies import BodyError, decode_body
from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.fields import whole_number
from modelyard.jail.sandbox import Jail, JailError
from modelyard.knowledge.entities import Document
from modelyard.knowledge.ingest import Reading
from modelyard.knowledge.rows import DocumentPart
from modelyard.storage.files import FileStore
from modelyard.transport.egress import Egress, Fetched

logger = logging.getLogger("modelyard.knowledge")

_MOST_PAGE = 20 << 20
_TYPES = {
    "text/html": ".html", "application/xhtml+xml": ".html", "application/pdf": ".pdf", "text/plain": ".txt",
    "text/markdown": ".md", "application/json": ".json", "text/xml": ".xml", "application/xml": ".xml",
    "text/csv": ".csv",
}  # fmt: skip
_PICTURES = frozenset({".png", ".jpg", ".gif", ".tiff"})
_PAGES = 4  # of a scan, drawn at a time
Ocr = Callable[[bytes], Awaitable[str]]
"""The text in a picture. Raises ModelyardError where pictures cannot be read."""


class FileTooLargeError(InvokeBadRequestError):
    """A document has more bytes than documents may have."""

    code = "file_too_large"


class SourceReader:
    def __init__(
        self, files: FileStore, jail: Jail, egress: Egress, *, most_mb: int = 256, ocr: Ocr | None = None
    ) -> None:
        self._files = files
        self._jail = jail
        self._egress = egress
        self._most = most_mb << 20
        self._ocr = ocr

    async def read(self, document: Document) -> Reading:
        """Raises ModelyardError in words for whoever handed it in."""
        source = document.source
        match source.get("kind"):
            case "file":
                _, data = await asyncio.to_thread(self._files.get, document.tenant, str(source.get("file")))
                return await self.parse(document.name, data, tenant=document.tenant)
            case "path":
                data = await asyncio.to_thread(self._path, str(source.get("path")))
                return await self.parse(document.name, data, tenant=document.tenant)
            case "url":
                page = await self.fetch(str(source.get("url")))
                return await self.parse(name_of(page), page.body, tenant=document.tenant)
            case kind:
                raise InvokeBadRequestError(f"documents do not come from {kind!r}")

    def _path(self, path: str) -> bytes:
        from pathlib import Path

        try:
            size = Path(path).stat().st_size
            self.check_size(path, size)
            return Path(path).read_bytes()
        except OSError as error:
            raise InvokeBadRequestError(f"file {path!r} cannot be read: {error.strerror}") from error

    def check_size(self, name: str, size: int) -> None:
        """Raises InvokeBadRequestError."""
        if size > self._most:
            raise FileTooLargeError(
                f"file {name!r} has {size >> 20:,} MB; a document has at most {self._most >> 20:,} (knowledge.most_mb)"
            )

    async def parse(self, name: str, data: bytes, *, tenant: str = "") -> Reading:
        """A document's text, read in the jail."""
        self.check_size(name, len(data))
        try:
            told = await self._jail.read(name, data, tenant=tenant)
            parts = msgspec.convert(told["parts"], list[DocumentPart])
            if told["scanned"]:
                parts = await self._with_scans(told, data, parts, tenant)
        except JailError as error:
            raise InvokeBadRequestError(f"{name}: {error}") from error
        return Reading(parts=parts, title=str(told["title"])[:200], kind=told["kind"])

    async def _with_scans(
        self, told: Mapping[str, Any], data: bytes, parts: Sequence[DocumentPart], tenant: str
    ) -> list[DocumentPart]:
        """What OCR finds on the pages that are pictures, among the others. Without OCR those others are enough, if
        there are any."""
        found = {one.page: one for one in parts}
        pages: list[int] = told["scanned"]
        what = "the picture" if told["kind"] in _PICTURES else "the PDF holds pictures of pages and no text: they"
        try:
            if self._ocr is None:
                raise InvokeBadRequestError("no OCR is set up")
            for at in range(0, len(pages), _PAGES):
                some = pages[at : at + _PAGES]
                drawn = [data]
                if told["kind"] not in _PICTURES:
                    drawn = await self._jail.pictures(data, some, tenant=tenant)
                for page, picture in zip(some, drawn, strict=True):
                    found[page] = DocumentPart(text=await self._ocr(picture), page=page)
        except JailError:
            raise
        except ModelyardError as error:
            if parts:
                logger.warning("pages that are pictures stay unread", extra={"fields": {"error": str(error)}})
                return list(parts)
            raise InvokeBadRequestError(f"{what} cannot be read: {error}") from error
        return [found[page] for page in sorted(found)]

    async def fetch(self, url: str) -> Fetched:
        """Through the one way out. Raises EgressError, InvokeBadRequestError."""
        page = await self._egress.fetch("GET", url, most_bytes=_MOST_PAGE)
        if not 200 <= page.status < 300:
            raise InvokeBadRequestError(f"{url[:200]} answers with status {page.status}")
        return page


def name_of(page: Fetched) -> str:
    """A name whose ending says what the page is: its address's own, else that of its media type."""
    path = urlsplit(page.url).path.rstrip("/").rpartition("/")[2] or "index"
    kind = page.headers.get("content-type", "").partition(";")[0].strip().lower()
    ending = _TYPES.get(kind, "")
    return path if re.search(r"\.\w{1,5}$", path) and ending in ("", ".txt") else f"{path}{ending or '.html'}"


def values_at(value: Any, path: str) -> list[Any]:
    """What a JSON path names, as `$.items[*].body`: names, `[n]`, `[*]`, `*`. Raises InvokeBadRequestError."""
    steps = re.findall(r"\[(\d+|\*|'[^']*'|\"[^\"]*\")\]|([^.\[\]$]+)", path.strip())
    rest = re.sub(r"\[(\d+|\*|'[^']*'|\"[^\"]*\")\]|([^.\[\]$]+)", "", path.strip()).strip(".$")
    if rest:
        raise InvokeBadRequestError(f"{path!r} is no path of names, [n] and [*], as $.items[*].body")
    found = [value]
    for inner, name in steps:
        step = (inner or name).strip("'\"")
        following: list[Any] = []
        for one in found:
            if step == "*":
                following += (
                    list(one.values()) if isinstance(one, Mapping) else list(one) if isinstance(one, list) else []
                )
            elif isinstance(one, list) and (index := whole_number(step)) is not None:
                following += one[index : index + 1]
            elif isinstance(one, Mapping) and step in one:
                following.append(one[step])
        found = following
    return found


async def json_at(egress: Egress, url: str, path: str, headers: Sequence[tuple[str, str]] = ()) -> list[Any]:
    """The values that a path names in what an HTTP API answers."""
    page = await egress.fetch("GET", url, headers=headers, most_bytes=_MOST_PAGE)
    if not 200 <= page.status < 300:
        raise InvokeBadRequestError(f"{url[:200]} answers with status {page.status}")
    try:
        return values_at(decode_body(page.body), path)
    except BodyError as error:
        raise InvokeBadRequestError(f"{url[:200]} answers with no JSON: {error}") from error
