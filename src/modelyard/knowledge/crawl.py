"""Documents from elsewhere, gathered: pages and what they link to, sitemaps, feeds, values of an HTTP API, rows of a
database. All that goes out goes out through the egress client, page by page, and bounded.

Each becomes a document under a key; gathered again, what did not change is left alone, and what did is indexed anew.
"""

import asyncio
import re
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urldefrag, urlsplit

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.ids import new_uuid
from modelyard.base.urls import join
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset
from modelyard.knowledge.prepare import digest_of
from modelyard.knowledge.sources import SourceReader, json_at, name_of
from modelyard.storage.database import open_engine
from modelyard.transport.egress import Egress

_LINK = re.compile(rb"<a\s[^<>]*?href\s*=\s*[\"']([^\"'#][^\"']*)[\"']", re.IGNORECASE)
_LOCATION = re.compile(rb"<loc>\s*([^<\s]+)\s*</loc>", re.IGNORECASE)
_ENTRY = re.compile(rb"<(?:item|entry)[\s>](?:(?!<(?:item|entry)[\s>]).)*?</(?:item|entry)>", re.IGNORECASE | re.DOTALL)
_ENTRY_LINK = re.compile(rb"<link>\s*([^<\s]+)\s*</link>|<link\s[^<>]*?href=[\"']([^\"']+)[\"']", re.IGNORECASE)
_MOST_SITEMAPS = 50
_MOST_ROWS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """One document to be. `key` says which it is when it comes again."""

    key: str
    name: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


class Gatherer:
    def __init__(self, egress: Egress, reader: SourceReader) -> None:
        self._egress = egress
        self._reader = reader

    async def pages(self, start: str, *, most: int = 100, depth: int = 2) -> AsyncGenerator[Gathered, None]:
        """A page and those of the same site that it leads to, nearest first. Pages that fail are left out; the first
        one's failure is raised."""
        try:
            site = urlsplit(start)[:2]
        except ValueError as error:
            raise InvokeBadRequestError(f"{start[:200]!r} is no address: {error}") from error
        waiting, seen = [(start, 0)], {urldefrag(start)[0]}
        given = 0
        while waiting and given < most:
            url, far = waiting.pop(0)
            try:
                page = await self._reader.fetch(url)
                if urlsplit(page.url)[:2] != site:
                    continue  # it led elsewhere
                reading = await self._reader.parse(name_of(page), page.body)
            except ModelyardError:
                if not given and far == 0:
                    raise
                continue
            given += 1
            yield self._gathered(url, reading.title, "\n\n".join(one.text for one in reading.parts))
            if far < depth:
                for link in _links(page.body, page.url):
                    if urlsplit(link)[:2] == site and link not in seen and len(seen) < most * 20:
                        seen.add(link)
                        waiting.append((link, far + 1))

    @staticmethod
    def _gathered(url: str, title: str, text: str) -> Gathered:
        return Gathered(key=url, name=title or url, text=text, metadata={"url": url})

    async def sitemap(self, url: str, *, most: int = 1000) -> AsyncGenerator[Gathered, None]:
        """The pages that a sitemap lists, and those that the sitemaps which it lists do."""
        maps, pages, seen = [url], list[str](), {url}
        while maps and len(seen) < _MOST_SITEMAPS + most:
            page = await self._reader.fetch(maps.pop(0))
            found = [join(page.url, one.decode("utf-8", "replace")) for one in _LOCATION.findall(page.body)]
            is_index = b"<sitemapindex" in page.body[:4096].lower()
            for one in found:
                if one and one not in seen:
                    seen.add(one)
                    (maps if is_index else pages).append(one)
        async for one in self._each(pages[:most]):
            yield one

    async def feed(self, url: str, *, most: int = 100) -> AsyncGenerator[Gathered, None]:
        """The pages that an RSS or Atom feed leads to."""
        page = await self._reader.fetch(url)
        links: list[str] = []
        for entry in _ENTRY.findall(page.body)[:most]:
            match = _ENTRY_LINK.search(entry)
            if match:
                links.append(join(page.url, (match[1] or match[2]).decode("utf-8", "replace")))
        if not links:
            raise InvokeBadRequestError(f"{url[:200]} is no RSS or Atom feed with entries")
        async for one in self._each(links):
            yield one

    async def _each(self, urls: Sequence[str]) -> AsyncGenerator[Gathered, None]:
        for url in urls:
            try:
                page = await self._reader.fetch(url)
                reading = await self._reader.parse(name_of(page), page.body)
            except ModelyardError:
                continue
            yield self._gathered(url, reading.title, "\n\n".join(one.text for one in reading.parts))

    async def values(
        self, url: str, path: str, *, key: str = "id", name: str = "title", text: str = "",
        headers: Sequence[tuple[str, str]] = (),
    ) -> AsyncGenerator[Gathered, None]:  # fmt: skip
        """What an HTTP API answers: a document a value that `path` names, as `$.items[*]`. `text` is the field that
        says it; where none is named, all of them do."""
        for place, value in enumerate(await json_at(self._egress, url, path, headers)):
            fields = value if isinstance(value, dict) else {"value": value}
            said = fields.get(text) if text else None
            body = str(said) if said is not None else _as_text(fields)
            yield Gathered(
                key=f"{url}#{fields.get(key, place)}", name=str(fields.get(name) or fields.get(key, place)), text=body,
                metadata={"url": url},
            )  # fmt: skip

    async def rows(
        self, database: str, query: str, *, key: str, name: str = "", after: Any = None
    ) -> AsyncGenerator[Gathered, None]:
        """Rows of a SQLite file or of PostgreSQL, a document each. `query` may hold `:after`: the highest key that was
        seen, so that only newer rows come."""
        found = await asyncio.to_thread(_selected, database, query, after)
        for row in found:
            if key not in row:
                raise InvokeBadRequestError(f"the query gives no column {key!r}; it gives {', '.join(row)}")
            yield Gathered(
                key=str(row[key]), name=str(row.get(name) or row[key]),
                text=_as_text({column: value for column, value in row.items() if value is not None}),
                metadata={"key": row[key]},
            )  # fmt: skip


def _links(body: bytes, base: str) -> list[str]:
    found: list[str] = []
    for one in _LINK.findall(body):
        url = urldefrag(join(base, one.decode("utf-8", "replace").strip()))[0]
        if url.startswith(("http://", "https://")):
            found.append(url)
    return found


def _as_text(fields: dict[str, Any]) -> str:
    shown = (value if isinstance(value, str) else msgspec.json.encode(value).decode() for value in fields.values())
    return "\n".join(f"{name}: {value}" for name, value in zip(fields, shown, strict=True))


def _selected(database: str, query: str, after: Any) -> list[dict[str, Any]]:
    """Raises InvokeBadRequestError with what the database says."""
    if not re.match(r"\s*+(?:select|with)\b", query, re.IGNORECASE):
        raise InvokeBadRequestError("the query must be a SELECT")
    values = {"after": after} if ":after" in query else {}
    try:
        if "://" in database:
            engine = open_engine(database)
            connection = engine.connect()
            try:
                connection.execute("BEGIN")
                connection.execute("SET TRANSACTION READ ONLY")
                return [dict(row) for row in connection.execute(query, values)[:_MOST_ROWS]]
            finally:
                connection.close()
        # Read-only, and none of our own settings: it is somebody else's file.
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as file:
            file.row_factory = sqlite3.Row
            return [dict(row) for row in file.execute(query, values).fetchmany(_MOST_ROWS)]
    except sqlite3.Error as error:
        raise InvokeBadRequestError(f"the database says: {error}") from error


async def gather(
    datasets: Datasets, dataset: Dataset, kind: str, found: AsyncGenerator[Gathered, None], *, deletes: bool = False
) -> dict[str, int]:
    """Have the dataset hold what was gathered: new documents are added, changed ones indexed anew, and with `deletes`
    those that did not come again are deleted."""
    known: dict[str, Any] = {}
    for row in await datasets.stored.documents.sources(dataset.tenant, dataset.id):
        source = msgspec.json.decode(row["source"])
        if source.get("gathered") == kind:
            known[source["key"]] = row
    told = {"added": 0, "changed": 0, "deleted": 0, "same": 0}
    seen: set[str] = set()
    batch = new_uuid()
    async for one in found:
        if not one.text.strip() or one.key in seen:
            continue
        seen.add(one.key)
        source = {"kind": "text", "gathered": kind, "key": one.key, "size": len(one.text)}
        digest = digest_of(one.text)
        row = known.get(one.key)
        if row is None:
            await datasets.add_texts(
                dataset, [(one.name, one.text, one.metadata)], source=source, digest=digest, batch=batch
            )
            told["added"] += 1
        elif row["digest"] != digest:
            document = await datasets.stored.documents.get(dataset.tenant, dataset.id, row["id"])
            await datasets.update_text(dataset, document, name=one.name, text=one.text, source=source)
            told["changed"] += 1
        else:
            told["same"] += 1
    gone = [row["id"] for key, row in known.items() if key not in seen] if deletes else []
    if gone:
        await datasets.delete_documents(dataset, gone)
    told["deleted"] = len(gone)
    return told
