"""Documents from elsewhere, gathered: pages and what they link to, sitemaps, feeds, values of an HTTP API, rows of a
database. All that goes out goes out through the egress client, page by page, and bounded; what strangers wrote is read
in the jail.

Each becomes a document under a key; gathered again, what did not change is left alone, and what did is indexed anew.
"""

import asyncio
import re
import sqlite3
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.ids import new_uuid
from modelyard.knowledge.addresses import identity, resolve, site_of
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset
from modelyard.knowledge.prepare import digest_of
from modelyard.knowledge.sources import SourceReader, json_at, name_of
from modelyard.knowledge.visits import AGENT, Conditions, PageError, Visitor, conditions_of
from modelyard.storage.database import StorageUnavailableError, open_engine
from modelyard.transport.egress import Egress, Fetched

_MOST_SITEMAPS = 50
_MOST_SITEMAP_BYTES = 50 << 20
_MOST_ROWS = 1_000_000
_MOST_REASONS = 10
_MOST_KEPT_LINKS = 500
"""Of a page, with its document. One that has more is fetched whole each time."""
_AT_A_TIME = 200
"""Addresses that are worked out before others get their turn."""
_PAGES = frozenset({".html", ".htm", ".xhtml"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """One document to be. `key` says which it is when it comes again."""

    key: str
    name: str = ""
    text: str = ""
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    memory: "Remembered | None" = None
    """What helps to fetch it again."""
    is_same: bool = False
    """It is known to be what it was, and was not fetched: name and text are empty."""


class Remembered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of a page, kept with its document."""

    url: str = ""
    """Where it came from in the end."""
    etag: str = ""
    modified: str = ""
    lastmod: str = ""
    """What the sitemap said of it."""
    fetched: float = 0.0
    links: list[str] | None = None
    """Where it leads; None where that was not looked at, or is too much to keep."""
    canonical: str = ""
    """The address that it says is its own."""
    digest: str = ""
    """Of its text."""


class LeftOut(msgspec.Struct, frozen=True):
    """An address that gave no document."""

    url: str
    reason: str


@dataclass(slots=True)
class Report:
    """What a crawl left out."""

    count: int = 0
    first: list[LeftOut] = field(default_factory=list[LeftOut])
    is_whole: bool = True
    """Whether what did not come is gone. Otherwise some of it may come another time."""

    def leave_out(self, url: str, reason: str, *, is_for_good: bool) -> None:
        self.count += 1
        self.is_whole = self.is_whole and is_for_good
        if len(self.first) < _MOST_REASONS:
            self.first.append(LeftOut(url[:1000], reason[:1000]))

    def fail(self, url: str, error: ModelyardError) -> None:
        is_for_good = isinstance(error, PageError) and error.is_for_good
        self.leave_out(url, str(error), is_for_good=is_for_good)


class _AlreadySeen(Exception):
    """A redirect leads to a page that this crawl knows. Nothing is wrong."""


@dataclass(slots=True)
class _Crawl:
    """One walk: what it has seen, what is known from before, what it leaves out."""

    report: Report
    memory: Mapping[str, Remembered]
    site: str = ""
    """The only one that is gone to; empty where any may be."""
    seen: set[str] = field(default_factory=set[str])
    copies: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def see(self, url: str) -> bool:
        """Whether it is new."""
        known = identity(url)
        if known in self.seen:
            return False
        self.seen.add(known)
        return True

    def trail(self, begin: str) -> Callable[[str], None]:
        """To be told where the redirects of a visit lead. Raises PageError for another site, _AlreadySeen for a page
        that this crawl came by before; one that is led from one spelling of its address to another goes on."""
        passed = {identity(begin)}

        def follow(target: str) -> None:
            if self.site and site_of(target) != self.site:
                raise PageError(f"it leads to another site, {site_of(target)}; begin there instead", is_for_good=True)
            known = identity(target)
            if known not in passed and not self.see(target):
                raise _AlreadySeen(target)
            passed.add(known)

        return follow

    def known(self, url: str) -> Remembered | None:
        return self.memory.get(identity(url))

    def is_copy(self, address: str, digest: str) -> bool:
        """Whether a page of that text came from there before. Sites name wrong canonical addresses: the same text
        under the same address is the same page, and nothing less is."""
        copy = (identity(address), digest)
        if copy in self.copies:
            return True
        self.copies.add(copy)
        return False


@dataclass(frozen=True, slots=True)
class _Page:
    """What a visit gave: a document, or none, and where it leads."""

    found: Gathered | None
    links: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Said:
    """What a page says about itself."""

    links: Sequence[str] = ()
    canonical: str = ""
    may_index: bool = True


class Gatherer:
    def __init__(self, egress: Egress, reader: SourceReader, visitor: Visitor) -> None:
        self._egress = egress
        self._reader = reader
        self._visitor = visitor

    async def pages(
        self, start: str, *, most: int = 100, depth: int = 2, memory: Mapping[str, Remembered] | None = None,
        report: Report | None = None,
    ) -> AsyncGenerator[Gathered, None]:  # fmt: skip
        """A page and those of the same site that it leads to, nearest first. Pages that fail are left out, and stand in
        `report`; the first one's failure is raised."""
        begin = _checked(start)
        crawl = _Crawl(report or Report(), memory or {}, site=site_of(begin))
        crawl.see(begin)
        waiting = deque([(begin, 0)])
        count = 0
        while waiting and count < most:
            url, far = waiting.popleft()
            try:
                page = await self._visit(crawl, url, needs_links=far < depth)
            except _AlreadySeen:
                continue
            except ModelyardError as error:
                if far == 0:
                    raise
                crawl.report.fail(url, error)
                continue
            if page.found is not None:
                count += 1
                yield page.found
            if far < depth:
                new = await self._new_links(crawl, page.links, most * 20)
                waiting.extend((link, far + 1) for link in new)

    @staticmethod
    async def _new_links(crawl: _Crawl, links: Sequence[str], most_seen: int) -> list[str]:
        """Those of the same site that were not seen."""
        new: list[str] = []
        for at, link in enumerate(links):
            if at % _AT_A_TIME == 0:
                await asyncio.sleep(0)
            if len(crawl.seen) >= most_seen:
                break
            if site_of(link) == crawl.site and crawl.see(link):
                new.append(link)
        return new

    async def sitemap(
        self, url: str, *, most: int = 1000, memory: Mapping[str, Remembered] | None = None,
        report: Report | None = None,
    ) -> AsyncGenerator[Gathered, None]:  # fmt: skip
        """The pages that a sitemap lists, and those that the sitemaps which it lists do. A page that did not change
        since it was fetched, by what the sitemap says, is not fetched again."""
        begin = _checked(url)
        crawl = _Crawl(report or Report(), memory or {})
        crawl.see(begin)
        maps, pages = deque([begin]), list[tuple[str, str]]()
        read = 0
        while maps and len(pages) < most and read < _MOST_SITEMAPS:
            place = maps.popleft()
            read += 1
            try:
                is_index, entries = await self._entries(crawl, place)
            except _AlreadySeen:
                continue
            except ModelyardError as error:
                if read == 1:
                    raise
                crawl.report.fail(place, error)
                continue
            if is_index:
                maps.extend(address for address, _ in entries)
            else:
                pages += entries
        if maps and len(pages) < most:
            reason = f"only {_MOST_SITEMAPS} sitemaps are read; {len(maps):,} more are listed"
            crawl.report.leave_out(maps[0], reason, is_for_good=False)
        for address, lastmod in pages[:most]:
            if (one := await self._tried(crawl, address, lastmod)) is not None:
                yield one

    async def _entries(self, crawl: _Crawl, place: str) -> tuple[bool, list[tuple[str, str]]]:
        """(whether it lists sitemaps, the addresses that are new with what it says when they changed)."""
        visit = await self._visitor.visit(place, on_redirect=crawl.trail(place), most_bytes=_MOST_SITEMAP_BYTES)
        told = await self._visitor.read("sitemap", visit.page)
        if told["is_cut"]:
            reason = f"the sitemap lists more than {len(told['entries']):,} addresses; the others are left out"
            crawl.report.leave_out(place, reason, is_for_good=False)
        new: list[tuple[str, str]] = []
        for at, (written, lastmod) in enumerate(told["entries"]):
            if at % _AT_A_TIME == 0:
                await asyncio.sleep(0)
            address = resolve(visit.page.url, written)
            if not address:
                crawl.report.leave_out(written, "it is no address of the web", is_for_good=True)
            elif crawl.see(address):
                new.append((address, lastmod))
        return told["is_index"], new

    async def feed(
        self, url: str, *, most: int = 100, memory: Mapping[str, Remembered] | None = None,
        report: Report | None = None,
    ) -> AsyncGenerator[Gathered, None]:  # fmt: skip
        """The pages that an RSS or Atom feed leads to."""
        begin = _checked(url)
        crawl = _Crawl(report or Report(), memory or {})
        visit = await self._visitor.visit(begin)
        told = await self._visitor.read("feed", visit.page)
        for written, bases in told["entries"][:most]:
            base = visit.page.url
            for one in bases:
                base = resolve(base, one) or base
            address = resolve(base, written) if written else ""
            if not address:
                crawl.report.leave_out(written or begin, "an entry leads to no page", is_for_good=True)
            elif crawl.see(address) and (one := await self._tried(crawl, address)) is not None:
                yield one

    async def _tried(self, crawl: _Crawl, url: str, lastmod: str = "") -> Gathered | None:
        """A page's document; None where it gives none, which the report says."""
        known = crawl.known(url)
        if known is not None and _is_unchanged(known, lastmod):
            return _same(crawl, url, known)
        try:
            return (await self._visit(crawl, url, lastmod=lastmod)).found
        except _AlreadySeen:
            return None
        except ModelyardError as error:
            crawl.report.fail(url, error)
            return None

    # one page

    async def _visit(self, crawl: _Crawl, url: str, *, needs_links: bool = False, lastmod: str = "") -> _Page:
        """Raises ModelyardError."""
        known = crawl.known(url)
        conditions = _conditions(known, needs_links=needs_links)
        visit = await self._visitor.visit(url, conditions=conditions, on_redirect=crawl.trail(url))
        if visit.is_same and known is not None:
            return _Page(_same(crawl, url, known), known.links or ())
        page = visit.page
        reading = await self._reader.parse(name_of(page), page.body)
        said = await self._said(page, is_html=reading.kind in _PAGES)
        text = "\n\n".join(one.text for one in reading.parts)
        if reason := _why_not(said, text):
            crawl.report.leave_out(url, reason, is_for_good=True)
            return _Page(None, said.links)
        if crawl.is_copy(said.canonical or page.url, digest_of(text)):
            return _Page(None, said.links)
        memory = Remembered(
            url=page.url, canonical=said.canonical, lastmod=lastmod, fetched=self._visitor.now(), **conditions_of(page),
            links=list(said.links) if needs_links and len(said.links) <= _MOST_KEPT_LINKS else None,
        )  # fmt: skip
        found = Gathered(key=url, name=reading.title or url, text=text, metadata={"url": url}, memory=memory)
        return _Page(found, said.links)

    async def _said(self, page: Fetched, *, is_html: bool) -> _Said:
        words = _robot_words(page.headers.get("x-robots-tag", ""))
        told: Mapping[str, Any] = {}
        if is_html:
            told = await self._visitor.read("page", page)
            words |= {one for content in told["robots"] for one in _robot_words(content)}
        follows_all = self._visitor.manners.follows_nofollow
        may_follow = follows_all or not words & {"nofollow", "none"}
        links = await _led_to(page.url, told, follows_all=follows_all) if told and may_follow else ()
        canonical = resolve(page.url, told["canonical"], told["encoding"]) if told and told["canonical"] else ""
        return _Said(links, canonical, may_index=not words & {"noindex", "none"})

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


def _checked(start: str) -> str:
    """Raises InvokeBadRequestError for what is no address of the web."""
    if not (url := resolve(start, start)):
        raise InvokeBadRequestError(f"{start[:200]!r} is no address of a page")
    return url


def _conditions(known: Remembered | None, *, needs_links: bool) -> Conditions | None:
    """None where a page must come whole: nothing is known of it, or not where it leads."""
    if known is None or not known.url or (needs_links and known.links is None):
        return None
    return Conditions(url=known.url, etag=known.etag, modified=known.modified)


def _same(crawl: _Crawl, url: str, known: Remembered) -> Gathered:
    crawl.is_copy(known.canonical or known.url, known.digest)
    return Gathered(key=url, is_same=True)


def _why_not(said: _Said, text: str) -> str:
    """Why a page gives no document; empty where it gives one."""
    if not said.may_index:
        return "it says that it is not to be taken up (noindex)"
    return "" if text.strip() else "it has no text"


def _robot_words(content: str) -> set[str]:
    """What a robots rule holds, as `noindex`. A header may begin with the crawler that it is for."""
    words: set[str] = set()
    is_for_us = True
    for part in content.lower().split(","):
        agent, colon, word = part.strip().partition(":")
        if colon and agent.strip() not in _VALUED_RULES:
            is_for_us = agent.strip() == AGENT
            part = word
        if is_for_us:
            words.add(part.strip())
    return words


_VALUED_RULES = frozenset({"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"})
"""Rules with a colon in them."""


async def _led_to(url: str, told: Mapping[str, Any], *, follows_all: bool) -> list[str]:
    """Where a page's links lead, each once."""
    encoding = told["encoding"]
    base = resolve(url, told["base"], encoding) or url
    found: dict[str, None] = {}
    for at, (written, relations) in enumerate(told["links"]):
        if at % _AT_A_TIME == 0:
            await asyncio.sleep(0)
        if follows_all or "nofollow" not in relations:
            found[resolve(base, written, encoding)] = None
    found.pop("", None)
    return list(found)


def _is_unchanged(known: Remembered, lastmod: str) -> bool:
    """Whether a sitemap says of a page what it said when it was fetched, and that was after its last change."""
    if not lastmod or lastmod != known.lastmod:
        return False
    latest = _latest(lastmod)
    return latest is not None and latest <= known.fetched


def _latest(lastmod: str) -> float | None:
    """The last moment that a W3C date can mean; None for what is none."""
    try:
        moment = datetime.fromisoformat(lastmod)
    except ValueError:
        return None
    if moment.tzinfo is not None:
        return moment.timestamp()
    # A day, or a time of nobody knows where: it is over everywhere half a day after it is over in Greenwich.
    return (moment.replace(tzinfo=UTC) + timedelta(days=1, hours=12)).timestamp()


def _as_text(fields: Mapping[str, Any]) -> str:
    return "\n".join(f"{name}: {_shown(value)}" for name, value in fields.items())


def _shown(value: Any) -> str:
    """As JSON; what JSON does not know, as it shows itself."""
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value, enc_hook=str).decode()


def _selected(database: str, query: str, after: Any) -> list[dict[str, Any]]:
    """Raises InvokeBadRequestError with what the database says."""
    if not re.match(r"(?:select|with)\b", query.lstrip(), re.IGNORECASE):
        raise InvokeBadRequestError("the query must be a SELECT")
    values = {"after": after} if ":after" in query else {}
    read = _selected_there if "://" in database else _selected_in_file
    return read(database, query, values)


def _selected_there(database: str, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    engine = open_engine(database)
    try:
        connection = engine.connect()
        try:
            connection.execute("BEGIN")
            connection.execute("SET TRANSACTION READ ONLY")
            return [dict(row) for row in connection.execute(query, values)[:_MOST_ROWS]]
        finally:
            connection.close()
    except (*engine.errors, StorageUnavailableError, ValueError) as error:
        raise InvokeBadRequestError(f"the database says: {error}") from error


def _selected_in_file(path: str, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    # Read-only, and none of our own settings: it is somebody else's file.
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as file:
            file.row_factory = sqlite3.Row
            return [dict(row) for row in file.execute(query, values).fetchmany(_MOST_ROWS)]
    # Several statements at once are a Warning up to Python 3.11, and numbers that are too large an OverflowError.
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        raise InvokeBadRequestError(f"the database says: {error}") from error


async def remembered(datasets: Datasets, dataset: Dataset, kind: str) -> dict[str, Remembered]:
    """What is known of the pages that were gathered before as this kind, by the identity of their addresses."""
    memory: dict[str, Remembered] = {}
    for key, row in (await _known(datasets, dataset, kind)).items():
        kept = msgspec.json.decode(row["source"]).get("page")
        # A document that could not be indexed comes anew, whatever its server says.
        if kept and row["status"] != "error":
            page = msgspec.convert(kept, Remembered)
            memory[key] = msgspec.structs.replace(page, digest=row["digest"])
    return memory


async def _known(datasets: Datasets, dataset: Dataset, kind: str) -> dict[str, Mapping[str, Any]]:
    """The rows of documents that were gathered before as this kind, by what they are."""
    known: dict[str, Mapping[str, Any]] = {}
    for row in await datasets.stored.documents.sources(dataset.tenant, dataset.id):
        source = msgspec.json.decode(row["source"])
        if source.get("gathered") == kind:
            known[_identity_of(source["key"])] = row
    return known


def _identity_of(key: str) -> str:
    """A page's address by what it shares with its other spellings; other keys, as those of rows and of values that
    stand behind a `#`, as they are."""
    if key.startswith(("http://", "https://")) and "#" not in key:
        return identity(key)
    return key


async def gather(
    datasets: Datasets, dataset: Dataset, kind: str, found: AsyncGenerator[Gathered, None], *, deletes: bool = False,
    report: Report | None = None,
) -> dict[str, int]:  # fmt: skip
    """Have the dataset hold what was gathered: new documents are added, changed ones indexed anew, and with `deletes`
    those that did not come again are deleted, unless the `report` says that some may come another time."""
    known = await _known(datasets, dataset, kind)
    told = {"added": 0, "changed": 0, "deleted": 0, "same": 0}
    seen: set[str] = set()
    batch = new_uuid()
    async for one in found:
        mark = _identity_of(one.key)
        is_empty = not one.text.strip() and not one.is_same
        if is_empty or mark in seen:
            continue
        seen.add(mark)
        told[await _taken(datasets, dataset, kind, one, known.get(mark), batch)] += 1
    may_delete = deletes and (report is None or report.is_whole)
    gone = [row["id"] for mark, row in known.items() if mark not in seen] if may_delete else []
    if gone:
        await datasets.delete_documents(dataset, gone)
    told["deleted"] = len(gone)
    return told


async def _taken(
    datasets: Datasets, dataset: Dataset, kind: str, one: Gathered, row: Mapping[str, Any] | None, batch: str
) -> str:
    """One document is as it was gathered: `added`, `changed` or `same`."""
    if one.is_same:
        return "same"
    source: dict[str, Any] = {"kind": "text", "gathered": kind, "key": one.key, "size": len(one.text)}
    if one.memory is not None:
        source["page"] = msgspec.to_builtins(one.memory)
    digest = digest_of(one.text)
    if row is None:
        texts = [(one.name, one.text, one.metadata)]
        await datasets.add_texts(dataset, texts, source=source, digest=digest, batch=batch)
        return "added"
    if row["digest"] == digest:
        return "same"
    document = await datasets.stored.documents.get(dataset.tenant, dataset.id, row["id"])
    await datasets.update_text(dataset, document, name=one.name, text=one.text, source=source)
    return "changed"
