"""Weights from a model hub: a plain download over the one HTTP client, resumed where it stopped."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from urllib.parse import quote, urljoin

from modelyard.base.errors import ConfigError, InvokeError
from modelyard.providers.local.weights import Fetch, Hub
from modelyard.transport.http import HttpClient, Response, Timeouts
from modelyard.transport.proxies import Network

_MAX_REDIRECTS = 5
_MAX_FILE = 32 * 1024**3


def hub_fetch(base_url: str, network: Network | None = None) -> Fetch:
    """Fetches from `base_url/<repo>/resolve/main/<file>`, the address that hubs have in common."""

    def fetch(hub: Hub, partial: Path, report: Callable[[int], None]) -> None:
        url = f"{base_url.rstrip('/')}/{quote(hub.repo)}/resolve/main/{quote(hub.file)}"
        begin = partial.stat().st_size if partial.exists() else 0
        asyncio.run(_download(url, partial, begin, report, network))

    return fetch


async def _download(
    url: str, partial: Path, begin: int, report: Callable[[int], None], network: Network | None
) -> None:
    client = HttpClient(network=network)
    try:
        response = await _follow(client, url, begin)
        # 206 goes on where we stopped; 200 starts anew, whatever we asked for.
        with open(partial, "ab" if response.status == 206 else "wb") as out:  # noqa: ASYNC230, PTH123  has a loop to itself
            async with aclosing(response.pieces(most=_MAX_FILE)) as pieces:
                async for piece in pieces:
                    out.write(piece)
                    report(out.tell())
        response.close()
    except InvokeError as error:
        raise ConfigError(f"the hub cannot serve {url}: {error}") from error
    finally:
        await client.aclose()


async def _follow(client: HttpClient, url: str, begin: int) -> Response:
    """The file's answer, through redirects: hubs keep files elsewhere. Nothing secret is sent, so any host may."""
    headers = {"user-agent": "modelyard"} | ({"range": f"bytes={begin}-"} if begin else {})
    for _ in range(_MAX_REDIRECTS):
        response = await client.send("GET", url, headers=headers, timeouts=Timeouts(between_bytes=60))
        if response.status in (301, 302, 303, 307, 308) and response.headers.get("location"):
            url = urljoin(url, response.headers["location"])
            response.close()
        elif response.status in (200, 206):
            return response
        else:
            response.close()
            raise ConfigError(f"the hub answers {url} with HTTP status {response.status}")
    raise ConfigError(f"the hub redirects {url} more than {_MAX_REDIRECTS} times")
