"""Visits to other people's sites, as a polite guest makes them: robots.txt is read first (RFC 9309), requests to a host
keep their distance, a host that asks to be left alone is left alone, and what did not change is not fetched again.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from modelyard.base.charsets import LABELS, charset_of
from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.jail.sandbox import Jail, JailError
from modelyard.knowledge.addresses import identity, place_of, resolve, site_of
from modelyard.providers.http_errors import retry_after
from modelyard.transport.egress import Egress, Fetched

AGENT = "modelyard"
"""The product token by which robots.txt files and pages name this crawler; `egress` sends it with each request."""
_MOST_PAGE = 20 << 20
_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({429, 503})
_MOST_ATTEMPTS = 3
_MOST_WAIT = 120.0
"""Seconds. A host that asks for more is not asked again in this crawl."""
_MOST_DELAY = 30.0
"""Seconds between two requests, whatever robots.txt asks for."""
_KEPT_SECONDS = 24 * 3600.0
"""RFC 9309, 2.4."""
_TRIED_SECONDS = 60.0
"""For so long a robots.txt that could not be had is not asked for again."""
_MOST_SITES = 100
_MOST_ROBOTS = (500 << 10) + 1
"""Bytes that are kept of a robots.txt: one more than is read of it, so that the reader knows that it was cut."""


class PageError(InvokeBadRequestError):
    """A page cannot be taken up. `is_for_good`: it is gone, or not for us; otherwise another time may do."""

    code = "page_failed"

    def __init__(self, message: str, *, is_for_good: bool = False) -> None:
        super().__init__(message)
        self.is_for_good = is_for_good


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How a crawler behaves."""

    delay_seconds: float = 0.5
    """Between two requests to a host; robots.txt may ask for more."""
    own_sites: frozenset[str] = frozenset()
    """`host` or `host:port` of sites whose robots.txt is not asked."""
    follows_nofollow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What is known of a page from last time, so that its server may say that it is the same (RFC 9110, 13)."""

    url: str
    etag: str = ""
    modified: str = ""

    def headers(self, url: str) -> list[tuple[str, str]]:
        if identity(url) != identity(self.url):
            return []
        known = (("if-none-match", self.etag), ("if-modified-since", self.modified))
        return [(name, value) for name, value in known if value]


@dataclass(frozen=True, slots=True)
class Visit:
    page: Fetched
    is_same: bool = False
    """It did not change since the conditions were true; its body is empty then."""


@dataclass(frozen=True, slots=True)
class _Rules:
    """What a site's robots.txt says. Empty: nothing is forbidden."""

    body: bytes = b""
    refusal: str = ""
    """Why nothing may be fetched at all."""
    until: float = 0.0


@dataclass(slots=True)
class _Host:
    """When a host may be asked next."""

    next: float = 0.0
    delay: float = field(default=0.0)
    """That its robots.txt asks for."""


class Visitor:
    """Shared by all crawls of a process, so that two of them together keep their distance too."""

    def __init__(self, egress: Egress, jail: Jail, clock: Clock, manners: Manners | None = None) -> None:
        self.manners = manners or Manners()
        self._egress = egress
        self._jail = jail
        self._clock = clock
        # Both hold what a site says to everybody, by its origin; what was not used for longest is let go first.
        self._rules: OrderedDict[str, _Rules] = OrderedDict()
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    def now(self) -> float:
        """Seconds since 1970."""
        return self._clock.time()

    async def visit(
        self,
        url: str,
        *,
        conditions: Conditions | None = None,
        on_redirect: Callable[[str], None] | None = None,
        most_bytes: int = _MOST_PAGE,
    ) -> Visit:
        """A page, wherever it is led to: `on_redirect` is told of each step, and may raise. Raises PageError,
        EgressError."""
        for _ in range(_MOST_REDIRECTS + 1):
            await self._check(url)
            headers = conditions.headers(url) if conditions else []
            page = await self._ask(url, headers, most_bytes)
            target = _target(page)
            if target is None:
                return _visit(url, page, is_conditional=bool(headers))
            if not target:
                raise PageError(f"{_shown(url)} redirects to what is no address of the web", is_for_good=True)
            if on_redirect is not None:
                on_redirect(target)
            url = target
        raise PageError(f"{_shown(url)} redirects more than {_MOST_REDIRECTS} times")

    async def read(self, of: str, page: Fetched) -> dict[str, Any]:
        """What a page, a sitemap or a feed says to a crawler, read in the jail. Raises PageError."""
        codec = LABELS.get(charset_of(page.headers.get("content-type", "")).lower(), "")
        try:
            return await self._jail.web(of, page.body, agent=AGENT, charset=codec)
        except JailError as error:
            raise PageError(f"{_shown(page.url)}: {error}") from error

    # robots.txt

    async def _check(self, url: str) -> None:
        """Raises PageError where robots.txt does not let us read it."""
        place = place_of(url)
        if {place, urlsplit(url).hostname} & self.manners.own_sites:
            return
        rules = await self._rules_of(site_of(url))
        if rules.refusal:
            raise PageError(rules.refusal)
        if not rules.body.strip():
            return
        try:
            told = await self._jail.web("robots", rules.body, agent=AGENT, addresses=[url])
        except JailError as error:
            raise PageError(f"robots.txt of {place} cannot be read: {error}") from error
        self._host(url).delay = min(told["delay"] or 0.0, _MOST_DELAY)
        if not told["allowed"][0]:
            raise PageError(
                f"robots.txt of {place} does not let {AGENT} read {_shown(url)}; if the site is your own, an "
                f"administrator can list {place!r} under knowledge.crawl_own_sites",
                is_for_good=True,
            )

    async def _rules_of(self, site: str) -> _Rules:
        known = self._rules.get(site)
        if known is None or known.until <= self._clock.monotonic():
            known = await self._fetched_rules(site)
            self._rules[site] = known
            if len(self._rules) > _MOST_SITES:
                self._rules.popitem(last=False)
        self._rules.move_to_end(site)
        return known

    async def _fetched_rules(self, site: str) -> _Rules:
        """RFC 9309, 2.3.1: 4xx and too many redirects are no restriction, 5xx and no answer forbid everything."""
        try:
            page = await self._robots_page(f"{site}/robots.txt")
        except ModelyardError as error:
            return self._refused(site, str(error))
        if page.status >= 500:
            return self._refused(site, f"it answers with status {page.status}")
        body = page.body[:_MOST_ROBOTS] if 200 <= page.status < 300 else b""
        return _Rules(body=body, until=self._clock.monotonic() + _KEPT_SECONDS)

    def _refused(self, site: str, why: str) -> _Rules:
        message = f"robots.txt of {site} cannot be had, so nothing there is read: {why}"
        return _Rules(refusal=message, until=self._clock.monotonic() + _TRIED_SECONDS)

    async def _robots_page(self, url: str) -> Fetched:
        page = await self._ask(url, (), _MOST_PAGE)
        for _ in range(_MOST_REDIRECTS):
            target = _target(page)
            if not target:
                break
            page = await self._ask(target, (), _MOST_PAGE)
        return page

    # requests

    async def _ask(self, url: str, headers: Sequence[tuple[str, str]], most_bytes: int) -> Fetched:
        """One request, when its host's turn comes; again when the host says so. Raises EgressError, PageError."""
        for attempt in range(1, _MOST_ATTEMPTS + 1):
            await self._turn(url)
            page = await self._egress.fetch_once("GET", url, headers=headers, most_bytes=most_bytes)
            wait = self._rest(url, page)
            if wait is None or wait > _MOST_WAIT or attempt == _MOST_ATTEMPTS:
                return page
        raise AssertionError("unreachable: the last attempt gives its page back")

    def _rest(self, url: str, page: Fetched) -> float | None:
        """Leave the host alone for as long as it asks; how long that is."""
        if page.status not in _BUSY:
            return None
        wait = retry_after(page.headers, now=self._clock.time())
        if wait is not None:
            host = self._host(url)
            host.next = max(host.next, self._clock.monotonic() + wait)
        return wait

    async def _turn(self, url: str) -> None:
        """Raises PageError where the host asked for more rest than a crawl can wait."""
        host, now = self._host(url), self._clock.monotonic()
        begin = max(host.next, now)
        if begin - now > _MOST_WAIT:
            raise PageError(f"{place_of(url)} asks to be left alone for {begin - now:.0f} s")
        # The turn is taken before it is waited for: nobody else gets the same.
        host.next = begin + max(self.manners.delay_seconds, host.delay)
        if begin > now:
            await self._clock.sleep(begin - now)

    def _host(self, url: str) -> _Host:
        place = place_of(url)
        known = self._hosts.setdefault(place, _Host())
        self._hosts.move_to_end(place)
        if len(self._hosts) > _MOST_SITES:
            self._hosts.popitem(last=False)
        return known


def conditions_of(page: Fetched) -> Mapping[str, str]:
    """The validators that a page came with: `etag`, `modified`."""
    found = {"etag": page.headers.get("etag", ""), "modified": page.headers.get("last-modified", "")}
    return {name: value for name, value in found.items() if value and len(value) <= 200 and _can_be_sent(value)}


def _can_be_sent(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _target(page: Fetched) -> str | None:
    """Where an answer leads: None where nowhere, empty where to no address."""
    location = page.headers.get("location")
    if page.status not in _REDIRECTS or not location:
        return None
    return resolve(page.url, location)


def _visit(url: str, page: Fetched, *, is_conditional: bool) -> Visit:
    if page.status == 304 and is_conditional:
        return Visit(page, is_same=True)
    if 200 <= page.status < 300:
        return Visit(page)
    raise PageError(f"{_shown(url)} answers with status {page.status}", is_for_good=page.status in (404, 410))


def _shown(url: str) -> str:
    """For a message: without its query, which may hold secrets."""
    return url.partition("?")[0][:200]
