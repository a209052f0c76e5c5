"""Tests for serving the console's files: content encodings, caching and permissions."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from modelyard.gateway.console_api import static as console
from tests.gateway.conftest import Running

PAGE = b"<!doctype html><title>Console</title>"
SCRIPT = b"export const answer = 42;"
# A fixed mtime: this value is a test parameter, so it becomes part of the test id.
PACKED = gzip.compress(SCRIPT, mtime=0)


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files as the console build produces them."""
    folder = tmp_path / "built"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_bytes(PAGE)
    (folder / "assets" / "index-abc.js").write_bytes(SCRIPT)
    (folder / "assets" / "index-abc.js.gz").write_bytes(PACKED)
    (folder / "assets" / "index-abc.js.br").write_bytes(b"as Brotli")
    built_files = {
        str(path.relative_to(folder)): path
        for path in folder.rglob("*")
        if path.is_file()
    }
    monkeypatch.setattr(console, "_list_built_files", lambda: built_files)
    return folder


@pytest.fixture
def client(start_gateway: Callable[..., Running]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=start_gateway().origin, timeout=30) as http_client:
        yield http_client


def test_every_console_path_serves_the_page(built: Path, client: httpx.Client):
    for path in (
        "/console",
        "/console/",
        "/console/playground",
        "/console/apps/7/canvas",
    ):
        response = client.get(path)
        assert (response.status_code, response.content) == (200, PAGE), path
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(("accepts", "coding", "content"), [
    ("br, gzip", "br", b"as Brotli"), ("gzip;q=0.8", "gzip", PACKED), ("identity", None, SCRIPT),
    ("*", None, SCRIPT),
], ids=["br", "gzip", "identity", "any"])  # fmt: skip
def test_files_have_a_content_encoding_that_the_browser_accepts(
    built: Path, client: httpx.Client, accepts: str, coding: str | None, content: bytes
):
    with client.stream(
        "GET", "/console/assets/index-abc.js", headers={"accept-encoding": accepts}
    ) as response:
        raw = b"".join(response.iter_raw())
    assert (
        response.headers.get("content-encoding"),
        raw,
        response.headers["vary"],
    ) == (
        coding,
        content,
        "accept-encoding",
    )
    assert response.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "immutable" in response.headers["cache-control"]


def test_missing_files_are_not_found(built: Path, client: httpx.Client):
    for path in (
        "/console/assets/other.js",
        "/console/../modelyard/gateway/server.py",
        "/console/%2e%2e/server.py",
    ):
        assert client.get(path).status_code == 404, path
    assert client.post("/console/playground").status_code == 405


def test_without_a_build_the_page_explains_how_to_build(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(console, "_list_built_files", dict)
    response = client.get("/console")
    assert (response.status_code, "make console" in response.text) == (503, True)
