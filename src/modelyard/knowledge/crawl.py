"""Loading documents from external sources: web pages and their links, sitemaps, feeds,
HTTP APIs and databases.

All requests go through the egress client, one page at a time and bounded; untrusted
content is parsed in the sandbox. Each document has a key. When it is loaded again, an
unchanged document is skipped and a changed one is reindexed.
"""

import asyncio
import re
import sqlite3
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.ids import new_uuid
from modelyard.base.json_types import is_object
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset
from modelyard.knowledge.page_urls import normalized_url, origin_of, resolve
from modelyard.knowledge.polite_fetch import (
    PageError,
    PageFetcher,
    validators_of,
)
from modelyard.knowledge.prepare import digest_of
from modelyard.knowledge.sources import SourceReader, json_at, name_with_extension
from modelyard.knowledge.web_pages import (
    MAX_STORED_LINKS,
    URLS_PER_SLICE,
    PageInfo,
    RememberedPage,
    conditions_of,
    is_unchanged,
    read_page_info,
)
from modelyard.storage.database import StorageUnavailableError, open_engine
from modelyard.transport.egress import EgressClient

_MAX_SITEMAPS = 50
# The most that a sitemap may have, according to sitemaps.org.
_MAX_SITEMAP_BYTES = 50 << 20
_MAX_ROWS = 1_000_000
_MAX_REASONS = 10
_PAGES = frozenset({".html", ".htm", ".xhtml"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDocument:
    """A loaded document. `key` identifies it across runs."""

    key: str
    name: str = ""
    text: str = ""
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    memory: RememberedPage | None = None
    """Stored with the document, to fetch it conditionally the next time."""
    is_same: bool = False
    """True if the document is known to be unchanged and was not fetched: name and text
    are then empty."""


class SkippedAddress(msgspec.Struct, frozen=True):
    """An address that yielded no document, and the reason."""

    url: str
    reason: str


@dataclass(slots=True)
class CrawlReport:
    """The addresses that a crawl skipped."""

    count: int = 0
    first: list[SkippedAddress] = field(default_factory=list[SkippedAddress])
    is_complete: bool = True
    """Whether missing documents no longer exist. False if some may be available again
    in a later run."""

    def skip(self, url: str, reason: str, *, is_for_good: bool) -> None:
        """Record a skipped address. `is_for_good` means that a later run would skip it
        as well."""
        self.count += 1
        self.is_complete = self.is_complete and is_for_good
        if len(self.first) < _MAX_REASONS:
            self.first.append(SkippedAddress(url[:1000], reason[:1000]))

    def skip_failed(self, url: str, error: ModelyardError) -> None:
        """Record an address that failed with an error."""
        is_for_good = isinstance(error, PageError) and error.is_for_good
        self.skip(url, str(error), is_for_good=is_for_good)


class _AlreadySeen(Exception):
    """A redirect leads to a page that this crawl has already visited. This is not a
    failure."""


@dataclass(slots=True)
class _Crawl:
    """The state of one crawl: visited pages, pages remembered from earlier runs, and
    the report."""

    report: CrawlReport
    memory: Mapping[str, RememberedPage]
    site: str = ""
    """The only origin that may be visited; empty if any may."""
    seen: set[str] = field(default_factory=set[str])
    copies: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def mark_seen(self, url: str) -> bool:
        """Mark a page as seen. Returns whether it is new."""
        page_identity = normalized_url(url)
        if page_identity in self.seen:
            return False
        self.seen.add(page_identity)
        return True

    def redirect_listener(self, start_url: str) -> Callable[[str], None]:
        """Return a listener for the redirects of one visit.

        The listener raises PageError for another site, and _AlreadySeen for a page that
        was visited before. Redirects between spellings of the same URL are allowed.
        """
        passed = {normalized_url(start_url)}

        def follow(target: str) -> None:
            """Check one redirect target."""
            if self.site and origin_of(target) != self.site:
                raise PageError(
                    f"Redirects to another site, {origin_of(target)}; start the crawl"
                    " there instead",
                    is_for_good=True,
                )
            target_identity = normalized_url(target)
            if target_identity not in passed and not self.mark_seen(target):
                raise _AlreadySeen(target)
            passed.add(target_identity)

        return follow

    def remembered_page(self, url: str) -> RememberedPage | None:
        """Return the fetch state of a page from earlier runs, or None."""
        return self.memory.get(normalized_url(url))

    def is_copy(self, address: str, digest: str) -> bool:
        """Return whether a page with the same text and the same canonical address was
        already loaded.

        Sites declare wrong canonical addresses, so the address alone does not prove a
        copy.
        """
        copy = (normalized_url(address), digest)
        if copy in self.copies:
            return True
        self.copies.add(copy)
        return False


@dataclass(frozen=True, slots=True)
class _Page:
    """The result of visiting a page: its document or None, and its links."""

    document: SourceDocument | None
    links: Sequence[str] = ()


class SourceLoader:
    """Loads documents from pages, sitemaps, feeds, HTTP APIs and databases."""

    def __init__(
        self, egress: EgressClient, reader: SourceReader, visitor: PageFetcher
    ) -> None:
        self._egress = egress
        self._reader = reader
        self._visitor = visitor

    async def pages(
        self,
        start: str,
        *,
        max_pages: int = 100,
        depth: int = 2,
        memory: Mapping[str, RememberedPage] | None = None,
        report: CrawlReport | None = None,
    ) -> AsyncGenerator[SourceDocument, None]:
        """Yield a page and the pages of the same site it links to, breadth first, up to
        `max_pages` pages and `depth` links away.

        Pages that fail are skipped and listed in `report`; only the failure of the
        first page is raised.
        """
        start_url = _valid_url(start)
        crawl = _Crawl(report or CrawlReport(), memory or {}, site=origin_of(start_url))
        crawl.mark_seen(start_url)
        # Breadth first: pages near the start matter most if the limit is reached.
        waiting = deque([(start_url, 0)])
        count = 0
        while waiting and count < max_pages:
            url, link_depth = waiting.popleft()
            needs_links = link_depth < depth
            page = await self._visit_or_skip(
                crawl, url, needs_links=needs_links, is_required=link_depth == 0
            )
            if page.document is not None:
                count += 1
                yield page.document
            if needs_links:
                # The number of known URLs is bounded too, since a single page can hold
                # endless links.
                new = await self._new_links(crawl, page.links, max_pages * 20)
                waiting.extend((link, link_depth + 1) for link in new)

    @staticmethod
    async def _new_links(
        crawl: _Crawl, links: Sequence[str], max_seen: int
    ) -> list[str]:
        """Return the links to the same site that were not seen before, marking them as
        seen."""
        new: list[str] = []
        for index, link in enumerate(links):
            # Resolving many links takes long: let other tasks of the event loop run in
            # between.
            if index % URLS_PER_SLICE == 0:
                await asyncio.sleep(0)
            if len(crawl.seen) >= max_seen:
                break
            if origin_of(link) == crawl.site and crawl.mark_seen(link):
                new.append(link)
        return new

    async def sitemap(
        self,
        url: str,
        *,
        max_pages: int = 1000,
        memory: Mapping[str, RememberedPage] | None = None,
        report: CrawlReport | None = None,
    ) -> AsyncGenerator[SourceDocument, None]:
        """Yield the pages listed by a sitemap and by the sitemaps it references.

        A page that has not changed since it was fetched, according to the sitemap, is
        not fetched again.
        """
        start_url = _valid_url(url)
        crawl = _Crawl(report or CrawlReport(), memory or {})
        crawl.mark_seen(start_url)
        # Collect the addresses first: an index may reference further sitemaps.
        pages = await self._listed_pages(crawl, start_url, max_pages)
        for address, lastmod in pages[:max_pages]:
            if (document := await self._load_page(crawl, address, lastmod)) is not None:
                yield document

    async def _listed_pages(
        self, crawl: _Crawl, start_url: str, max_pages: int
    ) -> list[tuple[str, str]]:
        """Return the pages that a sitemap and the sitemaps it references list, with
        their `lastmod`, until there are at least `max_pages`."""
        waiting, pages = deque([start_url]), list[tuple[str, str]]()
        read_count = 0
        # Loops are cut by the crawl's seen set.
        while waiting and len(pages) < max_pages and read_count < _MAX_SITEMAPS:
            is_index, entries = await self._read_sitemap_or_skip(
                crawl, waiting.popleft(), is_required=read_count == 0
            )
            read_count += 1
            if is_index:
                waiting.extend(address for address, _ in entries)
            else:
                pages += entries
        # A truncated list must not lead to deletions, so the report is marked as
        # incomplete.
        if waiting and len(pages) < max_pages:
            reason = (
                f"The limit of {_MAX_SITEMAPS} sitemaps is reached;"
                f" {len(waiting):,} more are listed"
            )
            crawl.report.skip(waiting[0], reason, is_for_good=False)
        return pages

    async def _read_sitemap_or_skip(
        self, crawl: _Crawl, sitemap_url: str, *, is_required: bool
    ) -> tuple[bool, list[tuple[str, str]]]:
        """Return the same as `_read_sitemap`; no addresses if the sitemap was read
        before or failed. The failure of a required sitemap is raised."""
        try:
            return await self._read_sitemap(crawl, sitemap_url)
        except _AlreadySeen:
            return False, []
        except ModelyardError as error:
            if is_required:
                raise
            crawl.report.skip_failed(sitemap_url, error)
            return False, []

    async def _read_sitemap(
        self, crawl: _Crawl, sitemap_url: str
    ) -> tuple[bool, list[tuple[str, str]]]:
        """Return whether a sitemap is an index of sitemaps, and its new addresses with
        their `lastmod`."""
        visit = await self._visitor.visit(
            sitemap_url,
            on_redirect=crawl.redirect_listener(sitemap_url),
            max_bytes=_MAX_SITEMAP_BYTES,
        )
        parsed = await self._visitor.read("sitemap", visit.page)
        if parsed["is_cut"]:
            reason = (
                f"The sitemap lists more than {len(parsed['entries']):,} addresses; the"
                " others are ignored"
            )
            crawl.report.skip(sitemap_url, reason, is_for_good=False)
        new: list[tuple[str, str]] = []
        for index, (reference, lastmod) in enumerate(parsed["entries"]):
            if index % URLS_PER_SLICE == 0:
                await asyncio.sleep(0)
            address = resolve(visit.page.url, reference)
            if not address:
                crawl.report.skip(reference, "Not an http(s) URL", is_for_good=True)
            elif crawl.mark_seen(address):
                new.append((address, lastmod))
        return parsed["is_index"], new

    async def feed(
        self,
        url: str,
        *,
        max_pages: int = 100,
        memory: Mapping[str, RememberedPage] | None = None,
        report: CrawlReport | None = None,
    ) -> AsyncGenerator[SourceDocument, None]:
        """Yield the pages that the entries of an RSS or Atom feed link to.

        At most the first `max_pages` entries are used; an entry without an http(s)
        link, or a page that fails, is listed in `report`. `memory` holds the fetch
        state of earlier runs. Raises InvokeBadRequestError for an invalid URL; a feed
        that cannot be fetched or read raises as well.
        """
        feed_url = _valid_url(url)
        crawl = _Crawl(report or CrawlReport(), memory or {})
        visit = await self._visitor.visit(feed_url)
        parsed = await self._visitor.read("feed", visit.page)
        for reference, bases in parsed["entries"][:max_pages]:
            address = _entry_address(visit.page.url, reference, bases)
            if not address:
                crawl.report.skip(
                    reference or feed_url,
                    "The feed entry has no http(s) link",
                    is_for_good=True,
                )
                continue
            if not crawl.mark_seen(address):
                continue
            if (document := await self._load_page(crawl, address)) is not None:
                yield document

    async def _load_page(
        self, crawl: _Crawl, url: str, lastmod: str = ""
    ) -> SourceDocument | None:
        """Return a page's document; None if it yields none, which is recorded in the
        report."""
        remembered_page = crawl.remembered_page(url)
        if remembered_page is not None and is_unchanged(remembered_page, lastmod):
            return _unchanged_document(crawl, url, remembered_page)
        return (await self._visit_or_skip(crawl, url, lastmod=lastmod)).document

    # Loading of one page

    async def _visit_or_skip(
        self,
        crawl: _Crawl,
        url: str,
        *,
        needs_links: bool = False,
        lastmod: str = "",
        is_required: bool = False,
    ) -> _Page:
        """Visit a page. Returns a page without document and links if it was visited
        before or failed.

        A failure is recorded in the report; that of a required page is raised.
        """
        try:
            return await self._visit(
                crawl, url, needs_links=needs_links, lastmod=lastmod
            )
        except _AlreadySeen:
            return _Page(None)
        except ModelyardError as error:
            if is_required:
                raise
            crawl.report.skip_failed(url, error)
            return _Page(None)

    async def _visit(
        self, crawl: _Crawl, url: str, *, needs_links: bool = False, lastmod: str = ""
    ) -> _Page:
        """Fetch a page, unless it is unchanged, and parse it. Raises ModelyardError."""
        remembered_page = crawl.remembered_page(url)
        conditions = conditions_of(remembered_page, needs_links=needs_links)
        visit = await self._visitor.visit(
            url, conditions=conditions, on_redirect=crawl.redirect_listener(url)
        )
        if visit.is_same and remembered_page is not None:
            return _Page(
                _unchanged_document(crawl, url, remembered_page),
                remembered_page.links or (),
            )
        # Untrusted content is parsed in the sandbox.
        page = visit.page
        reading = await self._reader.parse(name_with_extension(page), page.body)
        page_info = await read_page_info(
            self._visitor, page, is_html=reading.kind in _PAGES
        )
        text = "\n\n".join(part.text for part in reading.parts)
        # A page that yields no document may still be followed for its links.
        if reason := _skip_reason(page_info, text):
            crawl.report.skip(url, reason, is_for_good=True)
            return _Page(None, page_info.links)
        if crawl.is_copy(page_info.canonical or page.url, digest_of(text)):
            return _Page(None, page_info.links)
        # Store what makes the next fetch conditional.
        memory = RememberedPage(
            url=page.url,
            canonical=page_info.canonical,
            lastmod=lastmod,
            fetched=self._visitor.now(),
            **validators_of(page),
            links=(
                list(page_info.links)
                if needs_links and len(page_info.links) <= MAX_STORED_LINKS
                else None
            ),
        )
        document = SourceDocument(
            key=url,
            name=reading.title or url,
            text=text,
            metadata={"url": url},
            memory=memory,
        )
        return _Page(document, page_info.links)

    async def values(
        self,
        url: str,
        path: str,
        *,
        key: str = "id",
        name: str = "title",
        text: str = "",
        headers: Sequence[tuple[str, str]] = (),
    ) -> AsyncGenerator[SourceDocument, None]:
        """Yield a document for each value of an HTTP API's JSON response that `path`
        selects, as `$.items[*]`.

        `text` names the field with the document's text; if it is empty, all fields are
        used.
        """
        for index, value in enumerate(await json_at(self._egress, url, path, headers)):
            fields: dict[str, Any] = value if is_object(value) else {"value": value}
            text_value = fields.get(text) if text else None
            body = str(text_value) if text_value is not None else _as_text(fields)
            # Values without an id field are identified by their position.
            yield SourceDocument(
                key=f"{url}#{fields.get(key, index)}",
                name=str(fields.get(name) or fields.get(key, index)),
                text=body,
                metadata={"url": url},
            )

    async def rows(
        self,
        database: str,
        query: str,
        *,
        key: str,
        name: str = "",
        after_key: Any = None,
    ) -> AsyncGenerator[SourceDocument, None]:
        """Yield a document for each row of a query on a SQLite file or a PostgreSQL
        database.

        `query` may contain `:after`, the highest key of the previous run, so that only
        newer rows are returned.
        """
        rows = await asyncio.to_thread(_query_rows, database, query, after_key)
        for row in rows:
            if key not in row:
                raise InvokeBadRequestError(
                    f"The query returns no column {key!r}; its columns are"
                    f" {', '.join(row)}"
                )
            yield SourceDocument(
                key=str(row[key]),
                name=str(row.get(name) or row[key]),
                text=_as_text(
                    {
                        column: value
                        for column, value in row.items()
                        if value is not None
                    }
                ),
                metadata={"key": row[key]},
            )


def _valid_url(start: str) -> str:
    """Return the normalised start URL. Raises InvokeBadRequestError if it is not an
    http(s) URL."""
    if not (url := resolve(start, start)):
        raise InvokeBadRequestError(
            f"Invalid address {start[:200]!r}; expected an http(s) URL"
        )
    return url


def _entry_address(url: str, reference: str, bases: Sequence[str]) -> str:
    """Return the absolute URL of a feed entry's link; empty if it has none."""
    # Nested xml:base attributes apply from the outside in (RFC 4287, 2).
    base = url
    for xml_base in bases:
        base = resolve(base, xml_base) or base
    return resolve(base, reference) if reference else ""


def _unchanged_document(
    crawl: _Crawl, url: str, remembered_page: RememberedPage
) -> SourceDocument:
    """Return a document that says that a page is the same as when it was last loaded.

    The page's text and canonical address are registered with the crawl, so that a later
    copy of it is recognised.
    """
    # Register the page, so that a later copy of it is recognised.
    crawl.is_copy(
        remembered_page.canonical or remembered_page.url, remembered_page.digest
    )
    return SourceDocument(key=url, is_same=True)


def _skip_reason(page_info: PageInfo, text: str) -> str:
    """Return why a page yields no document; empty if it yields one."""
    if not page_info.may_index:
        return "The page excludes itself from indexing (noindex)"
    return "" if text.strip() else "The page has no text"


def _as_text(fields: Mapping[str, Any]) -> str:
    return "\n".join(f"{name}: {_value_text(value)}" for name, value in fields.items())


def _value_text(value: Any) -> str:
    """Return a value as text: strings as they are, everything else as JSON."""
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value, enc_hook=str).decode()


def _query_rows(database: str, query: str, after_key: Any) -> list[dict[str, Any]]:
    """Run a query and return its rows as dictionaries. Raises InvokeBadRequestError
    with the database's message."""
    # This only gives a clear message; the connection itself is opened read-only.
    if not re.match(r"(?:select|with)\b", query.lstrip(), re.IGNORECASE):
        raise InvokeBadRequestError("The query must be a SELECT statement")
    values = {"after": after_key} if ":after" in query else {}
    read = _query_server if "://" in database else _query_sqlite_file
    return read(database, query, values)


def _query_server(
    database: str, query: str, values: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Run a query on a PostgreSQL server in a read-only transaction.

    Returns at most a million rows. Raises InvokeBadRequestError with the server's
    message if the query fails or the server is not reachable.
    """
    engine = open_engine(database)
    try:
        connection = engine.connect()
        try:
            # A read-only transaction: the query comes from a user, and must not change
            # the database.
            connection.execute("BEGIN")
            connection.execute("SET TRANSACTION READ ONLY")
            return [dict(row) for row in connection.execute(query, values)[:_MAX_ROWS]]
        finally:
            connection.close()
    except (*engine.errors, StorageUnavailableError, ValueError) as error:
        raise InvokeBadRequestError(f"Database error: {error}") from error


def _query_sqlite_file(
    path: str, query: str, values: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Run a query on a SQLite file, opened read-only.

    Returns at most a million rows. Raises InvokeBadRequestError with SQLite's message,
    also if the file does not exist or the text has several statements.
    """
    # Read-only and with SQLite's defaults, since the file belongs to another
    # application.
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as file:
            file.row_factory = sqlite3.Row
            return [
                dict(row) for row in file.execute(query, values).fetchmany(_MAX_ROWS)
            ]
    # Multiple statements raise a Warning up to Python 3.11; numbers out of range raise
    # an OverflowError.
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        raise InvokeBadRequestError(f"Database error: {error}") from error


async def remembered_pages(
    datasets: Datasets, dataset: Dataset, source_type: str
) -> dict[str, RememberedPage]:
    """Return the fetch states of the pages that were loaded earlier by this source
    type, by page identity."""
    memory: dict[str, RememberedPage] = {}
    for key, row in (await _existing_rows(datasets, dataset, source_type)).items():
        stored_page = msgspec.json.decode(row["source"]).get("page")
        # A document that could not be indexed is fetched again, even if the server
        # reports no change.
        if stored_page and row["status"] != "error":
            page = msgspec.convert(stored_page, RememberedPage)
            memory[key] = msgspec.structs.replace(page, digest=row["digest"])
    return memory


async def _existing_rows(
    datasets: Datasets, dataset: Dataset, source_type: str
) -> dict[str, Mapping[str, Any]]:
    """Return the rows of the documents that were loaded earlier by this source type, by
    identity."""
    rows_by_identity: dict[str, Mapping[str, Any]] = {}
    for row in await datasets.store.documents.sources(dataset.tenant, dataset.id):
        source = msgspec.json.decode(row["source"])
        if source.get("gathered") == source_type:
            rows_by_identity[_identity_of(source["key"])] = row
    return rows_by_identity


def _identity_of(key: str) -> str:
    """Return the identity of a document's key: a page's normalised URL; other keys
    unchanged.

    Keys of API values contain a `#`, keys of database rows are no URLs.
    """
    if key.startswith(("http://", "https://")) and "#" not in key:
        return normalized_url(key)
    return key


async def sync_sources(
    datasets: Datasets,
    dataset: Dataset,
    source_type: str,
    documents: AsyncGenerator[SourceDocument, None],
    *,
    deletes: bool = False,
    report: CrawlReport | None = None,
) -> dict[str, int]:
    """Synchronise a dataset with loaded documents. Returns the counts of added,
    changed, deleted and unchanged documents.

    With `deletes`, documents that were not loaded again are deleted, unless the report
    says that the crawl was incomplete.
    """
    existing_rows = await _existing_rows(datasets, dataset, source_type)
    counts = {"added": 0, "changed": 0, "deleted": 0, "same": 0}
    seen_identities: set[str] = set()
    batch = new_uuid()
    async for source_document in documents:
        mark = _identity_of(source_document.key)
        is_empty = not source_document.text.strip() and not source_document.is_same
        if is_empty or mark in seen_identities:
            continue
        seen_identities.add(mark)
        counts[
            await _sync_document(
                datasets,
                dataset,
                source_type,
                source_document,
                existing_rows.get(mark),
                batch,
            )
        ] += 1
    # Documents whose fetch failed may still exist, so nothing is deleted
    # then.
    may_delete = deletes and (report is None or report.is_complete)
    deleted_ids = (
        [
            row["id"]
            for mark, row in existing_rows.items()
            if mark not in seen_identities
        ]
        if may_delete
        else []
    )
    if deleted_ids:
        await datasets.delete_documents(dataset, deleted_ids)
    counts["deleted"] = len(deleted_ids)
    return counts


async def _sync_document(
    datasets: Datasets,
    dataset: Dataset,
    source_type: str,
    source_document: SourceDocument,
    row: Mapping[str, Any] | None,
    batch: str,
) -> str:
    """Add or update one document. Returns `added`, `changed` or `same`."""
    if source_document.is_same:
        return "same"
    source: dict[str, Any] = {
        "kind": "text",
        "gathered": source_type,
        "key": source_document.key,
        "size": len(source_document.text),
    }
    if source_document.memory is not None:
        source["page"] = msgspec.to_builtins(source_document.memory)
    digest = digest_of(source_document.text)
    if row is None:
        texts = [(source_document.name, source_document.text, source_document.metadata)]
        await datasets.add_texts(
            dataset, texts, source=source, digest=digest, batch=batch
        )
        return "added"
    if row["digest"] == digest:
        return "same"
    document = await datasets.store.documents.get(dataset.tenant, dataset.id, row["id"])
    await datasets.update_text(
        dataset,
        document,
        name=source_document.name,
        text=source_document.text,
        source=source,
    )
    return "changed"
