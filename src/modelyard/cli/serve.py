"""`modelyard serve`."""

import asyncio
import gc
import socket
import sys
from typing import Any

import click
import msgspec
import uvicorn

from modelyard.app import Modelyard
from modelyard.base.errors import ConfigError
from modelyard.base.log import configure_logging
from modelyard.cli.show import settings_of
from modelyard.gateway.auth import Gatekeeper, check_bind
from modelyard.gateway.routes.models import listed
from modelyard.gateway.server import Gateway
from modelyard.runtime.invocation import DEFAULT_TENANT

_GRACE_SECONDS = 10


class Server(uvicorn.Server):
    """Says that it is ready when it is."""

    def __init__(self, config: uvicorn.Config, welcome: str) -> None:
        super().__init__(config)
        self._welcome = welcome

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Loops keep track of every async generator, to close those that are forgotten. Ours are all closed where they
        # are used, a call makes nine of them, and the bookkeeping costs a tenth of a call.
        sys.set_asyncgen_hooks(firstiter=None, finalizer=None)
        # What is here now stays: the collector need not look at it again, nor look at all after every 700 objects, as
        # it would at every other call.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        await super().startup(sockets)
        if self.started:
            click.echo(self._welcome)


@click.command()
@click.option("--host", help="Address to listen on; others than loopback need an API key.  [127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [8790]")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="[info]")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="[text]")
@click.pass_context
def serve(ctx: click.Context, **given: Any) -> None:
    """Start the server, for OpenAI's clients at http://127.0.0.1:8790/v1 and for Anthropic's, Google's and Cohere's at
    http://127.0.0.1:8790. It needs no key there.

    Stop it with Ctrl-C: calls that are running get ten seconds to end.
    """
    settings = settings_of(ctx)
    settings = msgspec.structs.replace(settings, **{key: value for key, value in given.items() if value is not None})
    check_bind(settings.host, settings.api_keys)
    configure_logging(settings.log_level, settings.log_format)
    listening = _listen(settings.host, settings.port)
    yard = Modelyard(settings)
    gateway = Gateway(
        yard.models,
        yard.clock,
        Gatekeeper(settings.api_keys),
        store=yard.responses,
        max_body=settings.max_body_mb << 20,
        on_close=yard.aclose,
    )
    config = uvicorn.Config(
        gateway,  # pyright: ignore[reportArgumentType]  uvicorn's types of scopes are its own
        loop="auto",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,  # nobody may say for others who they are
        timeout_graceful_shutdown=_GRACE_SECONDS,
        timeout_keep_alive=75,
        backlog=2048,
    )
    with listening:
        server = Server(config, _welcome(yard, settings.host, listening.getsockname()[1]))
        config.load()
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server.serve(sockets=[listening]))


def _listen(host: str, port: int) -> socket.socket:
    """Raises ConfigError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another port with --port or MODELYARD_PORT"
        ) from error


def _welcome(yard: Modelyard, host: str, port: int) -> str:
    origin = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    aliases = [
        (model["id"], model["stands_for"]) for model in listed(yard.models, DEFAULT_TENANT) if "stands_for" in model
    ]
    lines = [click.style(f"Modelyard is ready at {origin}/v1", bold=True), ""]
    lines += [f"  {alias:<24}{name}" for alias, name in aliases]
    if not any(name.startswith("local/") for _, name in aliases):
        lines.append("  No local models yet: `modelyard models pull small` brings all six types.")
    lines += [
        "",
        f"  curl {origin}/v1/chat/completions -H 'content-type: application/json' \\",
        '    -d \'{"model": "default", "messages": [{"role": "user", "content": "Say hello"}]}\'',
        "",
        f"  Anthropic's, Google's and Cohere's clients take {origin} as their base URL.",
        "",
    ]
    return "\n".join(lines)
