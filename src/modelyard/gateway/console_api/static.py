"""/console: the built files of the console, with their security headers.

They are built from `console-ui/` (`make console`), together with the apps' page, and
are part of the wheel. If they were not built, a notice is served.
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
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "svg": b"image/svg+xml",
    "png": b"image/png",
    "woff2": b"font/woff2",
    "json": b"application/json",
}
_MISSING = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Modelyard</title>
<h1>The console is not built</h1><p>Build it with <code>make console</code> (Node 20 or newer).
The API works without it.</p></html>"""


_PAGE = "index.html"
_ASSETS = "assets/"
_COMMON_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class ConsoleFiles:
    """GET /console and below: the built console."""

    async def __call__(self, request: Request) -> Reply:
        """Return a file of the console, or its page for the path of a view."""
        if not is_built():
            return Reply(_MISSING, 503, _TYPES["html"], _page_headers())
        name = request.names.get("file", "").strip("/")
        asset = built_asset(name, request)
        if asset is not None:
            return asset
        # An unknown path of the API is requested by a program, which needs an error
        # document and not a page.
        if name.startswith("api/"):
            raise NoSuchPathError(request.path, None)
        # A name with an extension is a file; anything else is a view of the console.
        is_file = "." in name.rpartition("/")[2] and name != _PAGE
        # The console is a single-page application: its own router reads the path.
        page = None if is_file else built_file(_PAGE, request, _page_headers())
        if page is None:
            raise NotFoundError(f"Not found: {request.path}", code="unknown_url")
        return page


def built_asset(name: str, request: Request) -> Reply | None:
    """Return a script or style of a built page, or None. Its name contains a digest of
    its content, so browsers may cache it forever."""
    if not name.startswith(_ASSETS):
        return None
    return built_file(
        name,
        request,
        {**_COMMON_HEADERS, "cache-control": "public, max-age=31536000, immutable"},
    )


def built_file(name: str, request: Request, headers: Mapping[str, str]) -> Reply | None:
    """Return a file of the build, compressed if the client accepts it; None if there is
    no such file."""
    # Names are looked up in a fixed list, so a path cannot leave the folder.
    built_files = _list_built_files()
    if name not in built_files:
        return None
    content, reply_headers = built_files[name], {**headers, "vary": "accept-encoding"}
    accepted = [
        encoding.partition(";")[0].strip()
        for encoding in (request.header(b"accept-encoding") or "").split(",")
    ]
    # Brotli first: it is smaller than gzip.
    for ending, coding in ((".br", "br"), (".gz", "gzip")):
        if coding in accepted and f"{name}{ending}" in built_files:
            content = built_files[f"{name}{ending}"]
            reply_headers["content-encoding"] = coding
            break
    content_type = _TYPES.get(name.rpartition(".")[2], b"application/octet-stream")
    return Reply(_read(content), content_type=content_type, headers=reply_headers)


def is_built() -> bool:
    """Return whether the console was built."""
    return _PAGE in _list_built_files()


def _page_headers() -> dict[str, str]:
    """Return the headers of the console's page."""
    # Isolate the window: no page that opened the console, or that it opened, can script
    # it.
    return {
        **_COMMON_HEADERS,
        "cache-control": "no-cache",
        "content-security-policy": page_policy(),
        "cross-origin-opener-policy": "same-origin",
    }


@lru_cache(64)
def _read(file: Traversable) -> bytes:
    """Return the content of a file. The cache holds the files that are used most."""
    return file.read_bytes()


@lru_cache(1)
def _list_built_files() -> Mapping[str, Traversable]:
    """Return all files of the build by their relative path."""
    built_files: dict[str, Traversable] = {}
    # Traversable has no recursive listing, so the folders are walked here.
    todo: list[tuple[str, Traversable]] = [("", files("modelyard.gateway") / "console")]
    while todo:
        path, folder = todo.pop()
        if folder.is_dir():
            todo += [
                (f"{path}/{child.name}".lstrip("/"), child)
                for child in folder.iterdir()
            ]
        elif folder.is_file():
            built_files[path] = folder
    return built_files
