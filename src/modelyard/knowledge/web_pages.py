"""What web pages say about themselves: links, canonical addresses, and whether they may
be indexed; and what is stored about a page to fetch it conditionally the next time."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from modelyard.knowledge.page_urls import resolve
from modelyard.knowledge.polite_fetch import AGENT, Conditions, PageFetcher
from modelyard.transport.egress import FetchedResponse

MAX_STORED_LINKS = 500
"""Maximum number of a page's links stored with its document. A page with more is
fetched completely each time."""
URLS_PER_SLICE = 200
"""Number of URLs that are resolved before control returns to the event loop."""


class RememberedPage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fetch state of a page, stored with its document."""

    url: str = ""
    """The final URL, after redirects."""
    etag: str = ""
    modified: str = ""
    lastmod: str = ""
    """The sitemap's `lastmod` for the page, as it was written."""
    fetched: float = 0.0
    links: list[str] | None = None
    """The page's links; None if they were not extracted or are too many to store."""
    canonical: str = ""
    """The canonical URL that the page declares."""
    digest: str = ""
    """The digest of the page's text."""


@dataclass(frozen=True, slots=True)
class PageInfo:
    """What a page declares about itself: links, canonical address, and whether it may
    be indexed."""

    links: Sequence[str] = ()
    canonical: str = ""
    may_index: bool = True


async def read_page_info(
    fetcher: PageFetcher, page: FetchedResponse, *, is_html: bool
) -> PageInfo:
    """Return what a page declares in its headers and, for HTML, in its content."""
    directives = _robots_directives(page.headers.get("x-robots-tag", ""))
    parsed: Mapping[str, Any] = {}
    if is_html:
        parsed = await fetcher.read("page", page)
        directives |= {
            directive
            for content in parsed["robots"]
            for directive in _robots_directives(content)
        }
    # Whether nofollow is respected is a setting of the crawler.
    follows_all = fetcher.policy.follows_nofollow
    may_follow = follows_all or not directives & {"nofollow", "none"}
    links = (
        await _link_targets(page.url, parsed, follows_all=follows_all)
        if parsed and may_follow
        else ()
    )
    canonical = (
        resolve(page.url, parsed["canonical"], parsed["encoding"])
        if parsed and parsed["canonical"]
        else ""
    )
    return PageInfo(links, canonical, may_index=not directives & {"noindex", "none"})


def conditions_of(
    remembered_page: RememberedPage | None, *, needs_links: bool
) -> Conditions | None:
    """Return the conditions for fetching a page; None if it must be fetched completely.

    That is so if the page is new, or if its links are needed and were not stored.
    """
    if (
        remembered_page is None
        or not remembered_page.url
        or (needs_links and remembered_page.links is None)
    ):
        return None
    return Conditions(
        url=remembered_page.url,
        etag=remembered_page.etag,
        modified=remembered_page.modified,
    )


def _robots_directives(content: str) -> set[str]:
    """Return the directives of a robots rule, as `noindex`. A header may start with the
    crawler it applies to."""
    directives: set[str] = set()
    is_for_us = True
    for part in content.lower().split(","):
        agent, colon, directive = part.strip().partition(":")
        # A prefix is a crawler's name unless the directive itself takes a value after a
        # colon.
        if colon and agent.strip() not in _DIRECTIVES_WITH_VALUE:
            is_for_us = agent.strip() == AGENT
            part = directive
        if is_for_us:
            directives.add(part.strip())
    return directives


_DIRECTIVES_WITH_VALUE = frozenset(
    {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"}
)
"""Robots directives that take a value after a colon."""


async def _link_targets(
    url: str, parsed: Mapping[str, Any], *, follows_all: bool
) -> list[str]:
    """Return the distinct targets of a page's links, in order."""
    encoding = parsed["encoding"]
    base = resolve(url, parsed["base"], encoding) or url
    targets: dict[str, None] = {}
    for index, (reference, relations) in enumerate(parsed["links"]):
        if index % URLS_PER_SLICE == 0:
            await asyncio.sleep(0)
        if follows_all or "nofollow" not in relations:
            targets[resolve(base, reference, encoding)] = None
    # Links that are not http(s) URLs resolve to an empty string.
    targets.pop("", None)
    return list(targets)


def is_unchanged(remembered_page: RememberedPage, lastmod: str) -> bool:
    """Return whether the sitemap's `lastmod` is the remembered one and the page was
    fetched after that date."""
    if not lastmod or lastmod != remembered_page.lastmod:
        return False
    latest = _latest_time(lastmod)
    return latest is not None and latest <= remembered_page.fetched


def _latest_time(lastmod: str) -> float | None:
    """Return the latest time that a W3C date can denote; None if it is not a date."""
    try:
        moment = datetime.fromisoformat(lastmod)
    except ValueError:
        return None
    if moment.tzinfo is not None:
        return moment.timestamp()
    # A date, or a time without zone: the furthest zone reaches it half a day after
    # Greenwich does.
    return (moment.replace(tzinfo=UTC) + timedelta(days=1, hours=12)).timestamp()
