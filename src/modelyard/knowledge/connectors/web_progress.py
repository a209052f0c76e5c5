"""How far a pass over a site has come, as the cursor of a web source stores it."""

import base64
import zlib

import msgspec

from modelyard.knowledge.page_urls import normalized_url
from modelyard.knowledge.prepare import digest_of

_MAX_CURSOR_BYTES = 64 << 20


class PassProgress(msgspec.Struct):
    """How far a pass has come; stored in the cursor."""

    waiting: list[tuple[str, str]] = []
    """URLs to visit, each with its `lastmod` of the sitemap."""
    seen: set[str] = set()
    """Normalised URLs that were visited or wait."""
    found: set[str] = set()
    """Keys of the documents that exist, or may exist."""
    copies: set[str] = set()
    """Digests of canonical URLs with texts, which identify copies."""
    visits: int = 0
    is_complete: bool = True
    """Whether pages that were not found no longer exist."""
    is_checking: bool = False
    """Whether the pass has been cut, and only visits pages known from earlier ones."""

    def mark_seen(self, url: str) -> bool:
        """Mark a URL as seen. Returns whether it is new."""
        identity = normalized_url(url)
        is_new = identity not in self.seen
        self.seen.add(identity)
        return is_new

    def add(self, url: str, lastmod: str = "") -> None:
        """Have a URL visited, unless it was seen."""
        if self.mark_seen(url):
            self.waiting.append((url, lastmod))

    def is_copy(self, canonical: str, digest: str) -> bool:
        """Return whether a page with this text and canonical URL was found before."""
        copy = digest_of(f"{normalized_url(canonical)} {digest}")[:24]
        if copy in self.copies:
            return True
        self.copies.add(copy)
        return False


def cursor_of(progress: PassProgress) -> str:
    """Return the cursor for a pass that goes on."""
    # URLs of one site repeat each other, so this is a tenth of their length.
    return base64.b64encode(zlib.compress(msgspec.json.encode(progress))).decode()


def progress_of(cursor: str) -> PassProgress | None:
    """Return where an interrupted pass was; None if there was none."""
    try:
        data = zlib.decompressobj().decompress(
            base64.b64decode(cursor), _MAX_CURSOR_BYTES
        )
        return msgspec.json.decode(data, type=PassProgress)
    except (ValueError, zlib.error, msgspec.DecodeError):
        # A cursor of another version: the pass begins again.
        return None
