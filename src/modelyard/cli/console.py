"""`modelyard open`: opens the console of the local server."""

import click

from modelyard.cli.output import settings_of


@click.command("open")
@click.option(
    "--print",
    "prints_address",
    is_flag=True,
    help="Print the address instead of opening the browser.",
)
@click.pass_context
def open_(ctx: click.Context, prints_address: bool) -> None:
    """Open the console of the local server in the browser."""
    settings = settings_of(ctx)
    # A server that listens on all interfaces is reached by the loopback address.
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    address = f"http://{host}:{settings.port}/console"
    # Without a browser, for example over SSH, the address is printed.
    if prints_address or click.launch(address) != 0:
        click.echo(address)
