"""The pages that a sitemap lists (sitemaps.org), and the sitemaps that it references."""

from collections.abc import Sequence
from dataclasses import dataclass

from modelyard.base.errors import ModelyardError
from modelyard.knowledge.connectors.base import SourceError
from modelyard.knowledge.page_urls import resolve
from modelyard.knowledge.polite_fetch import PageFetcher

_MAX_SITEMAPS = 50
_MAX_SITEMAP_BYTES = 50 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sitemap:
    """What a sitemap lists: pages with their `lastmod`, or other sitemaps."""

    pages: Sequence[tuple[str, str]] = ()
    references: Sequence[str] = ()
    is_cut: bool = False
    """Whether some of its entries are unknown."""


async def read_sitemaps(
    fetcher: PageFetcher, url: str
) -> tuple[list[tuple[str, str]], bool]:
    """Return the pages of a sitemap and of those it references, as pairs of URL and
    `lastmod`, and whether all sitemaps were read completely.

    Raises SourceError if the first one cannot be read.
    """
    try:
        sitemap = await _read_sitemap(fetcher, url)
    except ModelyardError as error:
        raise SourceError(f"{url} cannot be read: {error}") from error
    waiting, seen, is_complete = list(sitemap.references), {url}, not sitemap.is_cut
    pages = list(sitemap.pages)
    while waiting and len(seen) < _MAX_SITEMAPS:
        address = waiting.pop(0)
        # Sitemaps may reference each other.
        if address in seen:
            continue
        seen.add(address)
        sitemap = await _read_or_cut(fetcher, address)
        is_complete = is_complete and not sitemap.is_cut
        pages += sitemap.pages
        waiting += sitemap.references
    return pages, is_complete and not waiting


async def _read_or_cut(fetcher: PageFetcher, url: str) -> _Sitemap:
    """Return a sitemap; an empty one that is cut if it cannot be read."""
    try:
        return await _read_sitemap(fetcher, url)
    except ModelyardError:
        # Its pages are unknown, so none of them may be missed.
        return _Sitemap(is_cut=True)


async def _read_sitemap(fetcher: PageFetcher, url: str) -> _Sitemap:
    """Return what a sitemap lists. Raises ModelyardError."""
    visit = await fetcher.visit(url, max_bytes=_MAX_SITEMAP_BYTES)
    # Untrusted content is parsed in the sandbox.
    parsed = await fetcher.read("sitemap", visit.page)
    resolved = [
        (resolve(visit.page.url, reference), lastmod)
        for reference, lastmod in parsed["entries"]
    ]
    entries = [(address, lastmod) for address, lastmod in resolved if address]
    if parsed["is_index"]:
        references = [address for address, _ in entries]
        return _Sitemap(references=references, is_cut=parsed["is_cut"])
    return _Sitemap(pages=entries, is_cut=parsed["is_cut"])
