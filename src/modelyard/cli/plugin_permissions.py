"""Permissions of plugins at the command line: asking for them before an installation,
and `modelyard plugin permission`."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from modelyard.cli.output import (
    failure_text,
    json_option,
    print_json,
    print_note,
    print_table,
    run_with_modelyard,
    success_text,
)
from modelyard.cli.usage import tenant_option
from modelyard.plugins.manifest import Manifest
from modelyard.tenant_plugins.grants import (
    NETWORK,
    Grant,
    check_grant,
    describe_requests,
)

if TYPE_CHECKING:
    from modelyard.app import Modelyard
    from modelyard.tenant_plugins.plugins import Installed


def grant_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that grant permissions to a command. They are its arguments
    `granted`, `grants_all`, `grants_none` and `network`."""
    options = (
        click.option(
            "--grant",
            "granted",
            metavar="PERMISSION",
            multiple=True,
            help="Permission to grant; repeatable. All others are refused.",
        ),
        click.option(
            "--all",
            "grants_all",
            is_flag=True,
            help="Grant all permissions that the plugin requests.",
        ),
        click.option(
            "--none", "grants_none", is_flag=True, help="Refuse all permissions."
        ),
        click.option(
            "--network/--no-network",
            default=None,
            help="Whether the plugin may connect to hosts other than this server.",
        ),
    )
    # Decorators apply from the bottom up.
    for option in reversed(options):
        command = option(command)
    return command


def installation_grant(
    manifest: Manifest,
    granted: Sequence[str],
    *,
    grants_all: bool,
    grants_none: bool,
    network: bool | None,
    is_only_package: bool,
) -> Grant | None:
    """Return the decision on a plugin's permissions: that of the options, or of the
    person at the terminal; None if nobody was asked.

    `is_only_package` tells whether the options are meant for this plugin alone; with
    several, each gets those of the named permissions that it requests. Raises Abort if
    the person cancels, and InvokeBadRequestError for a permission that is not
    requested.
    """
    requested = manifest.permissions.allowed_names()
    if granted or grants_all or grants_none:
        names = requested if grants_all else list(granted)
        # A bundle's plugins request different things.
        if not is_only_package:
            names = _common(names, requested)
        check_grant(manifest, names)
        return Grant(permissions=names, has_network=network is not False)
    if sys.stdin.isatty() and sys.stderr.isatty():
        return _ask(manifest, network)
    return (
        None if network is None else Grant(permissions=requested, has_network=network)
    )


def _common(names: Sequence[str], requested: Sequence[str]) -> list[str]:
    """Return the names that are requested, in their order."""
    return [name for name in names if name in requested]


def _ask(manifest: Manifest, network: bool | None) -> Grant | None:
    """Show what a plugin requests and ask for a decision. Raises Abort for `cancel`.

    `network` is the decision on the network that an option has already made.
    """
    requests = describe_requests(manifest)
    # What an option has decided is not asked again.
    if network is not None:
        requests.pop(NETWORK, None)
    if not requests:
        return None if network is None else Grant(permissions=[], has_network=network)
    click.echo(f"{manifest.id} {manifest.version} requests:", err=True)
    for name, description in requests.items():
        click.echo(f"  {name}: {description}", err=True)
    answer = click.prompt(
        "Grant",
        type=click.Choice(["all", "some", "none", "cancel"]),
        default="all",
        err=True,
    )
    if answer == "cancel":
        raise click.Abort
    accepted = {
        name
        for name in requests
        if answer == "all"
        or (answer == "some" and click.confirm(f"Grant {name}?", err=True))
    }
    has_network = NETWORK in accepted if network is None else network
    # A manifest that requests no network needs none to be refused.
    return Grant(
        permissions=[name for name in requests if name in accepted - {NETWORK}],
        has_network=has_network or NETWORK not in describe_requests(manifest),
    )


def print_refused(installed: "Installed", hint: str) -> None:
    """Tell which requests of a plugin are not granted. `hint` is the command that
    changes that, without its options."""
    granted = installed.permissions.allowed_names()
    requested = installed.declaration.manifest.permissions.allowed_names()
    refused = [name for name in requested if name not in granted]
    if refused:
        print_note(
            f"not granted: {', '.join(refused)}; grant with `{hint} --grant …` or `--all`"
        )
    if not installed.installation.has_network:
        print_note(f"no network; permit with `{hint} --network`")


@click.command()
@click.argument("name")
@grant_options
@tenant_option
@json_option
@click.pass_context
def permission(
    ctx: click.Context,
    name: str,
    granted: Sequence[str],
    grants_all: bool,
    grants_none: bool,
    network: bool | None,
    tenant: str,
    as_json: bool,
) -> None:
    """Show or change a plugin's granted permissions. Without options, show them."""

    async def update_permissions(yard: "Modelyard") -> "Installed":
        """Change the permissions if an option requests it, and return the plugin."""
        installed = yard.services.plugins.plugins.find(tenant, name)
        changes_names = bool(granted or grants_all or grants_none)
        if not changes_names and network is None:
            return installed
        # None grants all requested permissions; an empty list grants none.
        names = None if grants_all else list(granted)
        return await yard.services.plugins.installations.grant(
            tenant,
            name,
            names if changes_names else installed.installation.granted,
            has_network=network,
        )

    _print_permissions(run_with_modelyard(ctx, update_permissions), as_json=as_json)


def _print_permissions(installed: "Installed", *, as_json: bool) -> None:
    """Print what a plugin requests, and what of it is granted."""
    manifest, permissions = installed.declaration.manifest, installed.permissions
    requested = manifest.permissions.allowed_names()
    allowed = permissions.allowed_names()
    if as_json:
        print_json(
            {
                "asks": requested,
                "granted": allowed,
                "network": permissions.network.enabled,
                "hosts": permissions.hosts,
            }
        )
        return
    if permissions.network.enabled:
        allowed.append(NETWORK)
    rows = [
        (
            permission_name,
            success_text("granted")
            if permission_name in allowed
            else failure_text("denied"),
            description,
        )
        for permission_name, description in describe_requests(manifest).items()
    ]
    print_table("", ("requested", "", "to"), rows)
