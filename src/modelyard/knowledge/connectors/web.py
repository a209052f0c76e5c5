"""A site on the web as a source: pages found by links from start URLs and by a sitemap.

Pages are requested politely and conditionally. A page's revision is what was stored about
it as JSON, so that the next pass knows its validators, its links and its digest.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import msgspec

from modelyard.base.errors import ConfigError, ModelyardError
from modelyard.knowledge.access import AccessList
from modelyard.knowledge.connectors.base import (
    AccessRules,
    ItemError,
    SourceError,
    SourceItem,
    SourcePage,
)
from modelyard.knowledge.connectors.web_progress import (
    PassProgress,
    cursor_of,
    progress_of,
)
from modelyard.knowledge.connectors.web_sitemaps import read_sitemaps
from modelyard.knowledge.page_urls import normalized_url, origin_of, resolve
from modelyard.knowledge.polite_fetch import (
    FetchedPage,
    PageError,
    PageFetcher,
    validators_of,
)
from modelyard.knowledge.prepare import digest_of
from modelyard.knowledge.sources import SourceReader, name_with_extension
from modelyard.knowledge.web_pages import (
    MAX_STORED_LINKS,
    URLS_PER_SLICE,
    PageInfo,
    RememberedPage,
    conditions_of,
    is_unchanged,
    read_page_info,
)
from modelyard.transport.egress import (
    EgressTooLargeError,
    FetchedResponse,
)

MAX_PAGES = 20_000
"""Maximum number of pages that a source may visit in one pass."""
_MAX_FAILURES = 3
"""Failures in a row after which the site itself is requested."""
_FAILED = "failed"
"""Revision of a page that cannot be read: it never equals a stored one."""
_HTML = (".html", ".htm", ".xhtml")
_IGNORED_TYPES = frozenset({"image", "audio", "video", "font"})
_IGNORED_MEDIA_TYPES = frozenset(
    {"text/css", "text/javascript", "application/javascript"}
)
_IGNORED_EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".ico", ".css", ".js", ".mjs"),
    *(".woff", ".woff2", ".ttf", ".mp3", ".mp4", ".webm", ".zip", ".gz", ".exe"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebAccess:
    """What sources on the web are read with; shared by all, so that the delays between
    requests to a host are kept together."""

    fetcher: PageFetcher
    reader: SourceReader


class _Seen(Exception):
    """A redirect leads to a page that was visited in this pass."""


@dataclass(frozen=True, slots=True)
class _Result:
    """What a visit has found."""

    item: SourceItem | None = None
    links: Sequence[str] = ()


class WebSource:
    """The pages of a site. A site has no permissions of people, so rules say who may
    read, by the beginnings of paths or of URLs."""

    def __init__(
        self,
        web: WebAccess,
        urls: Sequence[str],
        *,
        sitemap: str = "",
        prefixes: Sequence[str] = (),
        max_pages: int = 1000,
        rules: AccessRules | None = None,
        page_size: int = 10,
    ) -> None:
        """Create the source. Links are followed from `urls` within their sites;
        `prefixes` are beginnings of the paths of documents. Without `urls` the pages of
        the sitemap are read, and links are not followed. Raises ConfigError."""
        if not urls and not sitemap:
            raise ConfigError("A site needs a start URL in 'urls', or a 'sitemap'")
        if not 1 <= max_pages <= MAX_PAGES:
            raise ConfigError(
                f"'max_pages' must be from 1 to {MAX_PAGES:,}, not {max_pages}"
            )
        self._web = web
        self._starts = [_valid_url(url, "urls") for url in urls]
        self._sitemap = _valid_url(sitemap, "sitemap") if sitemap else ""
        self._prefixes = _valid_prefixes(prefixes)
        # A sitemap lists pages of its own site, which may be another one.
        self._sites = {origin_of(url) for url in self._starts or [self._sitemap]}
        self._max_pages = max_pages
        self._rules = rules or AccessRules()
        self._page_size = page_size
        self._known: Mapping[str, str] = {}
        self._bodies: dict[str, bytes] = {}
        self._problems: dict[str, str] = {}
        self._failure_count = 0

    @property
    def name(self) -> str:
        """The first start URL, or the sitemap."""
        return self._starts[0] if self._starts else self._sitemap

    def remember(self, revisions: Mapping[str, str]) -> None:
        """Take the stored revisions of known pages, by key."""
        self._known = revisions

    async def changes(self, cursor: str) -> AsyncGenerator[SourcePage, None]:
        """Visit the pages of the site, and yield them in small groups.

        Pages that were not found are removed at the end, if nothing was cut or failed.
        Otherwise those known from earlier passes are requested, and removed if they are
        gone. Raises SourceError.
        """
        progress = progress_of(cursor) or await self._begin()
        self._failure_count = 0
        is_last = False
        while not is_last:
            items, gone = await self._visit_group(progress)
            self._end_search(progress, gone)
            is_last = not progress.waiting
            gone |= self._not_found(progress)
            following = "" if is_last else cursor_of(progress)
            yield SourcePage(items=items, removed=sorted(gone), cursor=following)
            # What was removed need not be requested again later in this pass.
            self._known = {k: v for k, v in self._known.items() if k not in gone}

    async def fetch(self, item: SourceItem) -> bytes:
        """Return the body of a page that was just listed. Raises ItemError if it could
        not be read."""
        # It was requested for its links already; a second request would be impolite.
        body = self._bodies.pop(item.key, None)
        if body is None:
            reason = self._problems.get(item.key, "The page was not listed")
            raise ItemError(reason)
        return body

    # A pass

    async def _begin(self) -> PassProgress:
        """Return the beginning of a pass. Raises SourceError."""
        # Mutable defaults of structs are copied.
        progress = PassProgress()
        for url in self._starts:
            progress.add(url)
        if self._sitemap:
            pages, progress.is_complete = await read_sitemaps(
                self._web.fetcher, self._sitemap
            )
            for url, lastmod in pages:
                if self._is_in_scope(url):
                    progress.add(url, lastmod)
        return progress

    def _is_cut(self, progress: PassProgress) -> bool:
        return not progress.is_checking and progress.visits >= self._max_pages

    def _end_search(self, progress: PassProgress, gone: Collection[str]) -> None:
        """End the search for pages, if none waits or the limit is reached.

        If it was not complete, known pages that it has not found remain to be requested.
        """
        if progress.is_checking or (progress.waiting and not self._is_cut(progress)):
            return
        # Pages that still wait were not visited: the limit has cut the search.
        progress.is_complete = progress.is_complete and not progress.waiting
        progress.waiting = []
        if not progress.is_complete:
            progress.is_checking = True
            missing = sorted(self._known.keys() - progress.found - set(gone))
            progress.waiting = [(key, "") for key in missing]

    def _not_found(self, progress: PassProgress) -> set[str]:
        """Return the keys of known pages that a complete pass has not found."""
        if progress.waiting or not progress.is_complete:
            return set()
        return self._known.keys() - progress.found

    async def _visit_group(
        self, progress: PassProgress
    ) -> tuple[list[SourceItem], set[str]]:
        """Visit some of the waiting pages. Returns the documents, and the keys of known
        ones that are gone. Raises SourceError."""
        self._bodies.clear()
        self._problems.clear()
        items: list[SourceItem] = []
        gone = set[str]()
        for _ in range(self._page_size):
            if not progress.waiting or self._is_cut(progress):
                break
            url, lastmod = progress.waiting.pop(0)
            progress.visits += 1
            result = await self._visit_or_report(progress, url, lastmod)
            if result.item is not None:
                progress.found.add(result.item.key)
                items.append(result.item)
            # A page that leads to another one is no document itself.
            if normalized_url(url) not in progress.found:
                gone.add(normalized_url(url))
            await self._follow(progress, result.links)
        return items, (gone & self._known.keys()) - progress.found

    async def _follow(self, progress: PassProgress, links: Sequence[str]) -> None:
        """Have the links of a page visited."""
        if not self._starts or progress.is_checking:
            return
        for index, link in enumerate(links):
            # Comparing many URLs takes long: let other tasks run in between.
            if index % URLS_PER_SLICE == 0:
                await asyncio.sleep(0)
            # More could not be visited in this pass; it counts as cut then.
            if len(progress.waiting) > self._max_pages:
                return
            if self._is_in_scope(link):
                progress.add(link)

    def _is_in_scope(self, url: str) -> bool:
        """Return whether a URL may be a document of this source."""
        path = unquote(urlsplit(normalized_url(url)).path)
        if origin_of(url) not in self._sites:
            return False
        if path.lower().endswith(_IGNORED_EXTENSIONS):
            return False
        return not self._prefixes or path.startswith(self._prefixes)

    # One page

    async def _visit_or_report(
        self, progress: PassProgress, url: str, lastmod: str
    ) -> _Result:
        """Visit a page. One that fails for now becomes an item that cannot be fetched,
        one that is gone none. Raises SourceError."""
        try:
            result = await self._visit(progress, url, lastmod)
        except _Seen:
            result = _Result()
        except ModelyardError as error:
            await self._check_reachable(url, error)
            if isinstance(error, PageError) and error.is_for_good:
                return _Result()
            # What it links to is unknown, so nothing may be missed for it. A page that is
            # too large stays so, and would have no page deleted ever again.
            if not isinstance(error, EgressTooLargeError):
                progress.is_complete = False
            return _Result(self._failed_item(url, str(error)))
        self._failure_count = 0
        return result

    async def _check_reachable(self, url: str, error: ModelyardError) -> None:
        """Raise SourceError if the site itself cannot be reached, and not one page."""
        if url in self._starts:
            raise SourceError(f"{self.name} cannot be read: {error}") from error
        is_gone = isinstance(error, PageError) and error.is_for_good
        self._failure_count = 0 if is_gone else self._failure_count + 1
        if self._failure_count < _MAX_FAILURES:
            return
        # Some pages fail for good while the others are there: the pass has to end.
        try:
            await self._web.fetcher.visit(self.name)
        except ModelyardError as reason:
            raise SourceError(f"{self.name} cannot be read: {reason}") from error
        self._failure_count = 0

    def _failed_item(self, url: str, reason: str) -> SourceItem:
        key = normalized_url(url)
        self._problems[key] = reason
        return self._item(key, url, revision=_FAILED)

    def _item(self, key: str, name: str, *, revision: str) -> SourceItem:
        return SourceItem(
            key=key,
            name=name,
            revision=revision,
            url=key,
            access=_access(self._rules, key),
        )

    async def _visit(self, progress: PassProgress, url: str, lastmod: str) -> _Result:
        """Request a page unless it is unchanged. Raises ModelyardError, _Seen."""
        remembered = self._remembered(url)
        if remembered is not None and self._needs_no_visit(remembered, lastmod):
            return self._unchanged(progress, url, remembered)
        if progress.is_checking and not self._is_in_scope(url):
            return _Result()
        visit = await self._request(progress, url, remembered)
        if visit.is_same and remembered is not None:
            return self._unchanged(progress, url, remembered)
        if _is_ignored(visit.page):
            return _Result()
        return await self._read(progress, visit.page, lastmod)

    def _remembered(self, url: str) -> RememberedPage | None:
        """Return what an earlier pass has stored about a page, or None."""
        revision = self._known.get(normalized_url(url), "")
        try:
            return msgspec.json.decode(revision, type=RememberedPage)
        except msgspec.DecodeError:
            # Its document could not be indexed: it is read completely.
            return None

    def _needs_no_visit(self, remembered: RememberedPage, lastmod: str) -> bool:
        has_links = remembered.links is not None or not self._starts
        return has_links and is_unchanged(remembered, lastmod)

    async def _request(
        self, progress: PassProgress, url: str, remembered: RememberedPage | None
    ) -> FetchedPage:
        """Request a page. Raises ModelyardError, _Seen."""
        return await self._web.fetcher.visit(
            url,
            conditions=conditions_of(remembered, needs_links=bool(self._starts)),
            on_redirect=self._redirect_listener(progress, url),
        )

    def _redirect_listener(
        self, progress: PassProgress, url: str
    ) -> Callable[[str], None]:
        """Return what checks the redirects of one visit."""
        passed = {normalized_url(url)}

        def follow(target: str) -> None:
            """Raise PageError if a target is not of this source, _Seen if it is known."""
            # A start URL may lead to where the documents are, but to no other site.
            is_allowed = (
                origin_of(target) in self._sites
                if url in self._starts
                else self._is_in_scope(target)
            )
            if not is_allowed:
                raise PageError(
                    "Redirects to a page that does not belong to the source,"
                    f" {target.partition('?')[0][:200]}",
                    is_for_good=True,
                )
            identity = normalized_url(target)
            if identity not in passed and not progress.mark_seen(target):
                # It may still wait: then it is visited in its turn.
                raise _Seen(target)
            passed.add(identity)

        return follow

    def _unchanged(
        self, progress: PassProgress, url: str, remembered: RememberedPage
    ) -> _Result:
        """Return a page as it was."""
        links, key = remembered.links or (), normalized_url(url)
        canonical = remembered.canonical or remembered.url
        if not self._is_in_scope(url) or progress.is_copy(canonical, remembered.digest):
            return _Result(None, links)
        return _Result(self._item(key, url, revision=self._known[key]), links)

    async def _read(
        self, progress: PassProgress, page: FetchedResponse, lastmod: str
    ) -> _Result:
        """Return a page that was fetched. Raises ModelyardError."""
        name, info, text = name_with_extension(page), PageInfo(), ""
        is_html = name.lower().endswith(_HTML)
        if is_html:
            # Untrusted content is parsed in the sandbox.
            parsed = await self._web.reader.parse(name, page.body)
            text = "\n\n".join(segment.text for segment in parsed.parts)
            name = f"{parsed.title or name.rpartition('.')[0]}.html"
        info = await read_page_info(self._web.fetcher, page, is_html=is_html)
        # Only a page without text and one that forbids it yield no document.
        has_content = bool(text.strip()) if is_html else bool(page.body)
        if not has_content or not info.may_index or not self._is_in_scope(page.url):
            return _Result(None, info.links)
        # Markup changes with each request on many sites, while the text stays.
        digest = digest_of(text) if is_html else hashlib.sha256(page.body).hexdigest()
        if progress.is_copy(info.canonical or page.url, digest):
            return _Result(None, info.links)
        key = normalized_url(page.url)
        self._bodies[key] = page.body
        revision = self._revision(page, info, digest, lastmod)
        return _Result(self._item(key, name, revision=revision), info.links)

    def _revision(
        self, page: FetchedResponse, info: PageInfo, digest: str, lastmod: str
    ) -> str:
        """Return the revision of a page; the stored one if its content is the same."""
        key = normalized_url(page.url)
        remembered = self._remembered(page.url)
        if remembered is not None and remembered.digest == digest:
            return self._known[key]
        links = list(info.links) if len(info.links) <= MAX_STORED_LINKS else None
        stored = RememberedPage(
            url=page.url,
            canonical=info.canonical,
            lastmod=lastmod,
            fetched=self._web.fetcher.now(),
            digest=digest,
            links=links,
            **validators_of(page),
        )
        return msgspec.json.encode(stored).decode()


def _valid_url(url: str, field: str) -> str:
    """Return a normalised URL. Raises ConfigError."""
    if not (valid := resolve(url, url)) or "@" in urlsplit(valid).netloc:
        raise ConfigError(
            f"{field!r} must be http(s) URLs without user names, not {url[:200]!r}"
        )
    return valid


def _valid_prefixes(prefixes: Sequence[str]) -> tuple[str, ...]:
    """Return the beginnings of paths. Raises ConfigError."""
    for prefix in prefixes:
        if not prefix.startswith("/"):
            raise ConfigError(
                f"'prefixes' are beginnings of paths such as '/docs/', not {prefix[:200]!r}"
            )
    return tuple(unquote(prefix) for prefix in prefixes)


def _access(rules: AccessRules, key: str) -> AccessList | None:
    """Return who may read a page, by the longest rule for its path."""
    site, path = origin_of(key), unquote(urlsplit(key).path)
    by_prefix = {
        unquote(prefix.removeprefix(site)): access
        for prefix, access in rules.by_prefix.items()
    }
    return AccessRules(by_prefix).find(path)


def _is_ignored(page: FetchedResponse) -> bool:
    """Return whether a response is an image, a script or the like."""
    media_type = page.headers.get("content-type", "").partition(";")[0].strip().lower()
    family = media_type.partition("/")[0]
    return family in _IGNORED_TYPES or media_type in _IGNORED_MEDIA_TYPES
