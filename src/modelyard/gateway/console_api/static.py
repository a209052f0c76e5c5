"""/console: the console's built files, as they are, with what a browser may do with them.

They are built from `console-ui/` (`make console`), with those of the apps' page, and travel in the wheel. Where they
were not built, the page says so.
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


_PAGE = "index.html"
_ASSETS = "assets/"
_SHARED = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


@dataclass(frozen=True, slots=True)
class ConsoleFiles:
    """GET /console and what is below: the built page."""

    async def __call__(self, request: Request) -> Reply:
        if not is_built():
            return Reply(_MISSING, 503, _TYPES["html"], _page_headers())
        name = request.names.get("file", "").strip("/")
        asset = built_asset(name, request)
        if asset is not None:
            return asset
        if name.startswith("api/"):  # an address of the API that is none: a program asks, not a person
            raise NoSuchPathError(request.path, None)
        is_file = "." in name.rpartition("/")[2] and name != _PAGE
        # An address within the console: the page finds its way by itself.
        page = None if is_file else built_file(_PAGE, request, _page_headers())
        if page is None:
            raise NotFoundError(f"there is nothing at {request.path!r}", code="unknown_url")
        return page


def built_asset(name: str, request: Request) -> Reply | None:
    """A script or a style of a built page. Its name holds a digest of what is in it, so it is kept for ever."""
    if not name.startswith(_ASSETS):
        return None
    return built_file(name, request, {**_SHARED, "cache-control": "public, max-age=31536000, immutable"})


def built_file(name: str, request: Request, headers: Mapping[str, str]) -> Reply | None:
    """A file that the build made, in a coding that the caller takes; None where it made none of that name."""
    known = _built()
    if name not in known:
        return None
    content, said = known[name], {**headers, "vary": "accept-encoding"}
    accepted = [one.partition(";")[0].strip() for one in (request.header(b"accept-encoding") or "").split(",")]
    for ending, coding in ((".br", "br"), (".gz", "gzip")):
        if coding in accepted and f"{name}{ending}" in known:
            content = known[f"{name}{ending}"]
            said["content-encoding"] = coding
            break
    kind = _TYPES.get(name.rpartition(".")[2], b"application/octet-stream")
    return Reply(_read(content), content_type=kind, headers=said)


def is_built() -> bool:
    """Whether there is a console to show."""
    return _PAGE in _built()


def _page_headers() -> dict[str, str]:
    # No page that opened the console, or that it opened, can reach into its window.
    return {
        **_SHARED, "cache-control": "no-cache", "content-security-policy": page_policy(),
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
