"""Downloads weight files from a model hub over HTTP. An interrupted download resumes."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from urllib.parse import quote, urljoin

from modelyard.base.errors import ConfigError, InvokeError
from modelyard.providers.local.weights import Fetch, Hub
from modelyard.transport.http import HttpClient, Response, Timeouts
from modelyard.transport.proxies import NetworkConfig

# A mirror redirects to a store, and that to a server near by.
_MAX_REDIRECTS = 5
_MAX_FILE = 32 * 1024**3


def hub_fetch(base_url: str, network: NetworkConfig | None = None) -> Fetch:
    """Return a function that downloads from `base_url/<repo>/resolve/main/<file>`, the
    URL scheme that hubs share."""

    def fetch(hub: Hub, partial: Path, report: Callable[[int], None]) -> None:
        """Download a hub file to `partial`, after the bytes already there. Raises
        ConfigError if the hub cannot serve it."""
        url = f"{base_url.rstrip('/')}/{quote(hub.repo)}/resolve/main/{quote(hub.file)}"
        resume_at = partial.stat().st_size if partial.exists() else 0
        # Downloads run in a thread without an event loop.
        asyncio.run(_download(url, partial, resume_at, report, network))

    return fetch


async def _download(
    url: str,
    partial: Path,
    resume_at: int,
    report: Callable[[int], None],
    network: NetworkConfig | None,
) -> None:
    """Download a URL into a file, after the bytes already there.

    The hub is asked to continue at byte `resume_at`; if it sends the whole file, that
    is written anew. `report` is called with the bytes there are so far. Raises
    ConfigError if the request fails.
    """
    client = HttpClient(network=network)
    try:
        response = await _follow(client, url, resume_at)
        # Status 206 continues where the file ends; with 200 the server sends the whole
        # file again.
        # Opened in append mode only if the server continues at the requested offset.
        with open(partial, "ab" if response.status == 206 else "wb") as output:  # noqa: ASYNC230, PTH123
            async with aclosing(response.chunks(max_bytes=_MAX_FILE)) as body_chunks:
                async for body_chunk in body_chunks:
                    output.write(body_chunk)
                    report(output.tell())
        response.close()
    except InvokeError as error:
        raise ConfigError(f"The hub request for {url} failed: {error}") from error
    finally:
        await client.aclose()


async def _follow(client: HttpClient, url: str, resume_at: int) -> Response:
    """Request the file and follow redirects, since hubs store files on other hosts.

    Nothing secret is sent, so any host is allowed. Raises ConfigError for another
    status or too many redirects.
    """
    headers = {"user-agent": "modelyard"} | (
        {"range": f"bytes={resume_at}-"} if resume_at else {}
    )
    for _ in range(_MAX_REDIRECTS):
        # Large files take long in total, so only the time between bytes is limited.
        response = await client.send(
            "GET", url, headers=headers, timeouts=Timeouts(between_bytes=60)
        )
        if response.status in (301, 302, 303, 307, 308) and response.headers.get(
            "location"
        ):
            url = urljoin(url, response.headers["location"])
            response.close()
        elif response.status in (200, 206):
            return response
        else:
            response.close()
            raise ConfigError(
                f"The hub returned HTTP status {response.status} for {url}"
            )
    raise ConfigError(f"The hub redirected {url} more than {_MAX_REDIRECTS} times")
