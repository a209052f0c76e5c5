"""/console: the console's built files, as they are, with what a browser may do with them.

They are built from `console-ui/` (`make console`) and travel in the wheel. Where they were not built, the page says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import Reply, Request
from modelyard.gateway.policies import page_policy
from modelyard.gateway.table import NoSuchPathError

PREFIX = "/console"
_TYPES = {
    "html": b"text/html; charset=utf-8", "js": b"text/javascript; charset=utf-8", "css": b"text/css; charset=utf-8",
    "svg": b"image/svg+xml", "png": b"image/png", "woff2": b"font/woff2", "json": b"application/json",
}  # fmt: skip
_MISSING = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Modelyard</title>
<h1>The console is not built here.</h1><p>It is built once by <code>make console</code>, with Node 20 or newer.
The server runs without it.</p></html>"""


@dataclass(frozen=True, slots=True)
class ConsoleFiles:
    """GET /console and what is below: the built page."""

    async def __call__(self, request: Request) -> Reply:
        known = _built()
        name = request.names.get("file", "").strip("/")
        if "index.html" not in known:
            return Reply(_MISSING, 503, _TYPES["html"], _headers(is_page=True))
        if name not in known:
            if name.startswith("api/"):  # an address of the API that is none: a program asks, not a person
                raise NoSuchPathError(request.path, None)
            if "." in name.rpartition("/")[2]:
                raise NotFoundError(f"there is nothing at {request.path!r}", code="unknown_url")
            name = "index.html"  # an address within the console: the page finds its way by itself
        data, headers = _read(known[name]), _headers(is_page=name == "index.html")
        accepted = [one.partition(";")[0].strip() for one in (request.header(b"accept-encoding") or "").split(",")]
        for ending, coding in ((".br", "br"), (".gz", "gzip")):
            if coding in accepted and f"{name}{ending}" in known:
                data = _read(known[f"{name}{ending}"])
                headers = {**headers, "content-encoding": coding}
                break
        return Reply(
            data, content_type=_TYPES.get(name.rpartition(".")[2], b"application/octet-stream"), headers=headers
        )


def is_built() -> bool:
    """Whether there is a console to show."""
    return "index.html" in _built()


def _headers(*, is_page: bool) -> dict[str, str]:
    shared = {"x-content-type-options": "nosniff", "vary": "accept-encoding", "referrer-policy": "no-referrer"}
    if not is_page:  # a name holds a digest of what is in it
        return {**shared, "cache-control": "public, max-age=31536000, immutable"}
    # No page that opened the console, or that it opened, can reach into its window.
    return {
        **shared, "cache-control": "no-cache", "content-security-policy": page_policy(),
        "cross-origin-opener-policy": "same-origin",
    }  # fmt: skip


@lru_cache(64)
def _read(file: Traversable) -> bytes:
    return file.read_bytes()


@lru_cache(1)
def _built() -> Mapping[str, Traversable]:
    """Name → file, of all that was built."""
    found: dict[str, Traversable] = {}
    todo: list[tuple[str, Traversable]] = [("", files("modelyard.gateway") / "console")]
    while todo:
        at, folder = todo.pop()
        if folder.is_dir():
            todo += [(f"{at}/{one.name}".lstrip("/"), one) for one in folder.iterdir()]
        elif folder.is_file():
            found[at] = folder
    return found
