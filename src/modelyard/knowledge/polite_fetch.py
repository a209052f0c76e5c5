"""Polite fetching of web pages: robots.txt is respected (RFC 9309), requests to a host
are spaced out, a busy host gets no requests until it permits them, and unchanged pages
are not fetched again."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from modelyard.base.charsets import LABELS, charset_of
from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.knowledge.page_urls import (
    host_and_port,
    normalized_url,
    origin_of,
    resolve,
)
from modelyard.providers.http_errors import retry_after
from modelyard.sandbox.runner import Sandbox, SandboxError
from modelyard.transport.egress import EgressClient, FetchedResponse

AGENT = "modelyard"
"""The crawler's product token in robots.txt files and page directives; the egress
client sends it in User-Agent."""
_MAX_PAGE_BYTES = 20 << 20
_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({429, 503})
_MAX_ATTEMPTS = 3
_MAX_WAIT_SECONDS = 120.0
"""Maximum wait in seconds. A host that asks for more is not requested again in this
crawl."""
_MAX_DELAY_SECONDS = 30.0
"""Maximum seconds between two requests, whatever robots.txt demands."""
_ROBOTS_CACHE_SECONDS = 24 * 3600.0
"""How long a robots.txt is cached (RFC 9309, 2.4)."""
_ROBOTS_RETRY_SECONDS = 60.0
"""How long a robots.txt that could not be fetched is not requested again."""
_MAX_CACHED_SITES = 100
_MAX_ROBOTS_BYTES = (500 << 10) + 1
"""Bytes of a robots.txt that are processed: one more than the parser reads, so that it
can detect truncation."""


class PageError(InvokeBadRequestError):
    """A page cannot be indexed. `is_for_good` means permanently: it was deleted, or access
    is not allowed."""

    code = "page_failed"

    def __init__(self, message: str, *, is_for_good: bool = False) -> None:
        super().__init__(message)
        self.is_for_good = is_for_good


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlPolicy:
    """The behaviour of the crawler."""

    delay_seconds: float = 0.5
    """Minimum seconds between two requests to a host; robots.txt may demand more."""
    own_sites: frozenset[str] = frozenset()
    """`host` or `host:port` of sites whose robots.txt is ignored, because the operator
    owns them."""
    follows_nofollow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Validators of an earlier fetch, for a conditional request (RFC 9110, 13)."""

    url: str
    etag: str = ""
    modified: str = ""

    def headers(self, url: str) -> list[tuple[str, str]]:
        """Return the conditional headers for a request. They are empty for another URL
        than the validators' own."""
        # After a redirect the validators of another page would be meaningless.
        if normalized_url(url) != normalized_url(self.url):
            return []
        validators = (
            ("if-none-match", self.etag),
            ("if-modified-since", self.modified),
        )
        return [(name, value) for name, value in validators if value]


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """The result of fetching a page."""

    page: FetchedResponse
    is_same: bool = False
    """True if the page has not changed since the earlier fetch; its body is empty then.
    """


@dataclass(frozen=True, slots=True)
class _RobotsRules:
    """The robots.txt of a site. Empty rules forbid nothing."""

    body: bytes = b""
    refusal: str = ""
    """Why nothing of the site may be fetched; empty if the rules are known."""
    until: float = 0.0


@dataclass(slots=True)
class _HostSchedule:
    """The time of the next permitted request to a host."""

    next: float = 0.0
    delay: float = field(default=0.0)
    """Crawl delay in seconds that the site's robots.txt demands."""


class PageFetcher:
    """Fetches pages for all crawls of the process, so that concurrent crawls of a host
    keep the delay together."""

    def __init__(
        self,
        egress: EgressClient,
        sandbox: Sandbox,
        clock: Clock,
        manners: CrawlPolicy | None = None,
    ) -> None:
        self.policy = manners or CrawlPolicy()
        self._egress = egress
        self._sandbox = sandbox
        self._clock = clock
        # Both hold what a site says to everybody, by its origin; what was not used for
        # longest is let go first.
        self._rules: OrderedDict[str, _RobotsRules] = OrderedDict()
        self._hosts: OrderedDict[str, _HostSchedule] = OrderedDict()

    def now(self) -> float:
        """Return the Unix time in seconds."""
        return self._clock.time()

    async def visit(
        self,
        url: str,
        *,
        conditions: Conditions | None = None,
        on_redirect: Callable[[str], None] | None = None,
        max_bytes: int = _MAX_PAGE_BYTES,
    ) -> FetchedPage:
        """Fetch a page, following redirects. `on_redirect` is called with each target
        and may raise.

        Raises PageError if the page cannot be indexed, EgressError if the request
        fails.
        """
        for _ in range(_MAX_REDIRECTS + 1):
            # Each redirect target has to pass the robots.txt of its own site.
            await self._check(url)
            headers = conditions.headers(url) if conditions else []
            page = await self._request(url, headers, max_bytes)
            target = _redirect_target(page)
            if target is None:
                return _visit(url, page, is_conditional=bool(headers))
            if not target:
                raise PageError(
                    f"{_display_url(url)} redirects to an address that is not an"
                    " http(s) URL",
                    is_for_good=True,
                )
            if on_redirect is not None:
                on_redirect(target)
            url = target
        raise PageError(
            f"{_display_url(url)} redirected more than {_MAX_REDIRECTS} times"
        )

    async def read(self, of: str, page: FetchedResponse) -> dict[str, Any]:
        """Parse a page, sitemap or feed for the crawler in the sandbox. Raises
        PageError."""
        codec = LABELS.get(charset_of(page.headers.get("content-type", "")).lower(), "")
        try:
            return await self._sandbox.web(of, page.body, agent=AGENT, charset=codec)
        except SandboxError as error:
            raise PageError(f"{_display_url(page.url)}: {error}") from error

    # robots.txt

    async def _check(self, url: str) -> None:
        """Raise PageError if the site's robots.txt does not allow to fetch the URL."""
        place = host_and_port(url)
        # Own sites are matched with or without the port.
        if {place, urlsplit(url).hostname} & self.policy.own_sites:
            return
        rules = await self._rules_of(origin_of(url))
        if rules.refusal:
            raise PageError(rules.refusal)
        if not rules.body.strip():
            return
        try:
            verdict = await self._sandbox.web(
                "robots", rules.body, agent=AGENT, addresses=[url]
            )
        except SandboxError as error:
            raise PageError(f"robots.txt of {place} cannot be read: {error}") from error
        # Record the demanded delay; it applies from the next request on.
        self._host(url).delay = min(verdict["delay"] or 0.0, _MAX_DELAY_SECONDS)
        if not verdict["allowed"][0]:
            raise PageError(
                f"robots.txt of {place} does not allow {AGENT} to fetch"
                f" {_display_url(url)};"
                f" if the site is your own, an administrator can list {place!r} under"
                " knowledge.crawl_own_sites",
                is_for_good=True,
            )

    async def _rules_of(self, site: str) -> _RobotsRules:
        """Return the robots.txt rules of a site, fetched unless they are cached.

        `site` is an origin, as `https://example.org`. A site whose robots.txt is not
        available has rules that refuse everything. The least recently used site leaves
        a full cache.
        """
        rules = self._rules.get(site)
        if rules is None or rules.until <= self._clock.monotonic():
            rules = await self._fetch_rules(site)
            self._rules[site] = rules
            if len(self._rules) > _MAX_CACHED_SITES:
                self._rules.popitem(last=False)
        self._rules.move_to_end(site)
        return rules

    async def _fetch_rules(self, site: str) -> _RobotsRules:
        """Fetch a site's robots.txt (RFC 9309, 2.3.1): 4xx means no restriction, 5xx
        and no answer forbid everything."""
        try:
            page = await self._robots_page(f"{site}/robots.txt")
        except ModelyardError as error:
            return self._refuse_site(site, str(error))
        if page.status >= 500:
            return self._refuse_site(site, f"status {page.status}")
        body = page.body[:_MAX_ROBOTS_BYTES] if 200 <= page.status < 300 else b""
        return _RobotsRules(
            body=body, until=self._clock.monotonic() + _ROBOTS_CACHE_SECONDS
        )

    def _refuse_site(self, site: str, reason: str) -> _RobotsRules:
        """Return rules that forbid a whole site for the next minute.

        `reason` says why its robots.txt could not be read, and becomes part of the
        message.
        """
        message = (
            f"robots.txt of {site} is not available, so the site is not crawled:"
            f" {reason}"
        )
        # A failure is cached only briefly, as it may be temporary.
        return _RobotsRules(
            refusal=message, until=self._clock.monotonic() + _ROBOTS_RETRY_SECONDS
        )

    async def _robots_page(self, url: str) -> FetchedResponse:
        """Fetch a robots.txt, following up to five redirects, also to other hosts.

        A further redirect, or one that does not lead to an http(s) URL, is returned as
        it is. Raises EgressError and PageError.
        """
        page = await self._request(url, (), _MAX_PAGE_BYTES)
        for _ in range(_MAX_REDIRECTS):
            target = _redirect_target(page)
            if not target:
                break
            # Redirects of robots.txt may lead to another host (RFC 9309, 2.3.1.2).
            page = await self._request(target, (), _MAX_PAGE_BYTES)
        return page

    # requests

    async def _request(
        self, url: str, headers: Sequence[tuple[str, str]], max_bytes: int
    ) -> FetchedResponse:
        """Send one request once its host permits it, and repeat it if the host is busy.
        Raises EgressError and PageError."""
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            await self._wait_for_host(url)
            page = await self._egress.fetch_once(
                "GET", url, headers=headers, max_bytes=max_bytes
            )
            wait = self._back_off(url, page)
            # A busy answer without a wait, or with a very long one, is returned as it
            # is.
            if wait is None or wait > _MAX_WAIT_SECONDS or attempt == _MAX_ATTEMPTS:
                return page
        raise AssertionError("Unreachable: the last attempt returns its page")

    def _back_off(self, url: str, page: FetchedResponse) -> float | None:
        """Postpone further requests to a busy host as long as it asks. Returns the
        seconds, or None if it is not busy."""
        if page.status not in _BUSY:
            return None
        wait = retry_after(page.headers, now_seconds=self._clock.time())
        if wait is not None:
            host = self._host(url)
            host.next = max(host.next, self._clock.monotonic() + wait)
        return wait

    async def _wait_for_host(self, url: str) -> None:
        """Wait until the host may be requested. Raises PageError if that is further
        away than a crawl can wait."""
        host, current_time = self._host(url), self._clock.monotonic()
        start_time = max(host.next, current_time)
        if start_time - current_time > _MAX_WAIT_SECONDS:
            raise PageError(
                f"{host_and_port(url)} accepts the next request only in"
                f" {start_time - current_time:.0f} s"
            )
        # The time slot is reserved before the wait, so that no other request gets it.
        host.next = start_time + max(self.policy.delay_seconds, host.delay)
        if start_time > current_time:
            await self._clock.sleep(start_time - current_time)

    def _host(self, url: str) -> _HostSchedule:
        """Return the request schedule of a URL's host, creating it if necessary.

        The least recently used host leaves a full table, and its delay is forgotten.
        """
        place = host_and_port(url)
        host = self._hosts.setdefault(place, _HostSchedule())
        self._hosts.move_to_end(place)
        if len(self._hosts) > _MAX_CACHED_SITES:
            self._hosts.popitem(last=False)
        return host


def validators_of(page: FetchedResponse) -> Mapping[str, str]:
    """Return the validators of a response: `etag` and `modified`. Unusable ones are
    left out."""
    validators = {
        "etag": page.headers.get("etag", ""),
        "modified": page.headers.get("last-modified", ""),
    }
    return {
        name: value
        for name, value in validators.items()
        # A later fetch sends them as headers, and must not fail for them.
        if value and len(value) <= 200 and _can_be_sent(value)
    }


def _can_be_sent(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _redirect_target(page: FetchedResponse) -> str | None:
    """Return the redirect target of a response: None if it is not a redirect, empty if the
    target is not an http(s) URL."""
    location = page.headers.get("location")
    if page.status not in _REDIRECTS or not location:
        return None
    return resolve(page.url, location)


def _visit(url: str, page: FetchedResponse, *, is_conditional: bool) -> FetchedPage:
    """Return the result of a response, or raise PageError for an error status.

    Status 304 counts as unchanged only if the request was conditional. The error is
    permanent for 404 and 410.
    """
    if page.status == 304 and is_conditional:
        return FetchedPage(page, is_same=True)
    if 200 <= page.status < 300:
        return FetchedPage(page)
    # 404 and 410 mean that the page was deleted; other errors may be temporary.
    raise PageError(
        f"{_display_url(url)} returned status {page.status}",
        is_for_good=page.status in (404, 410),
    )


def _display_url(url: str) -> str:
    """Return a URL for a message, without its query, which may contain secrets."""
    return url.partition("?")[0][:200]
