"""`modelyard plugin subscription`: subscribe to the events of trigger plugins, by the
plugin or by hand."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from modelyard.cli.assignments import assignments_option
from modelyard.cli.output import (
    json_option,
    print_json,
    print_note,
    print_table,
    run_with_modelyard,
)
from modelyard.cli.usage import tenant_option
from modelyard.tenancy.resource_types import Subscription

if TYPE_CHECKING:
    from modelyard.app import Modelyard

_Rows = Sequence[tuple[str, str, Subscription]]


@click.group()
def subscription() -> None:
    """Manage the subscriptions to the events of trigger plugins."""


def _address(yard: "Modelyard", subscription_id: str) -> str:
    """Return the URL that the provider calls."""
    return f"{yard.services.addresses.content()}/t/{subscription_id}"


@subscription.command("add")
@click.argument("plugin")
@click.argument("name")
@assignments_option(
    "--parameter",
    "parameters",
    help="Parameter of a subscription that the plugin makes; repeatable.",
)
@assignments_option(
    "--credential",
    "credentials",
    help="Credential with which the plugin subscribes; repeatable.",
)
@assignments_option(
    "--property",
    "properties",
    help=(
        "For a subscription by hand: what verifies the provider's calls, such as its"
        " signing secret; repeatable."
    ),
)
@tenant_option
@json_option
@click.pass_context
def add_subscription(
    ctx: click.Context,
    plugin: str,
    name: str,
    parameters: Sequence[tuple[str, str]],
    credentials: Sequence[tuple[str, str]],
    properties: Sequence[tuple[str, str]],
    tenant: str,
    as_json: bool,
) -> None:
    """Subscribe to the events of PLUGIN under a NAME, and print the webhook's URL.

    With --property, and for plugins that cannot subscribe by themselves, enter the URL
    at the provider.
    """

    async def work(yard: "Modelyard") -> tuple[str, str]:
        """Subscribe and return the subscription's id and URL."""
        subscription_id = await yard.services.plugins.subscriptions.subscribe(
            tenant,
            plugin,
            name,
            dict(parameters),
            dict(credentials),
            origin=yard.services.addresses.content(),
            # Without any, the plugin's declaration decides how it is done.
            properties=dict(properties) or None,
        )
        return subscription_id, _address(yard, subscription_id)

    subscription_id, address = run_with_modelyard(ctx, work)
    if as_json:
        print_json({"id": subscription_id, "address": address})
    else:
        click.echo(address)


@subscription.command("list")
@tenant_option
@json_option
@click.pass_context
def list_subscriptions(ctx: click.Context, tenant: str, as_json: bool) -> None:
    """List a tenant's subscriptions."""

    async def work(yard: "Modelyard") -> list[dict[str, str | bool]]:
        """Return the subscriptions as rows for the table and for JSON."""
        rows: _Rows = yard.services.plugins.subscriptions.all(tenant)
        return [
            {
                "id": row,
                "name": name,
                "plugin": value.plugin,
                "address": _address(yard, row),
                "by_hand": value.is_manual,
            }
            for row, name, value in rows
        ]

    rows = run_with_modelyard(ctx, work)
    if as_json:
        print_json(rows)
        return
    print_table(
        "",
        ("name", "plugin", "made by", "address"),
        [
            (
                row["name"],
                row["plugin"],
                "hand" if row["by_hand"] else "plugin",
                row["address"],
            )
            for row in rows
        ],
    )


@subscription.command("remove")
@click.argument("subscription_id")
@tenant_option
@click.pass_context
def remove_subscription(ctx: click.Context, subscription_id: str, tenant: str) -> None:
    """End a subscription. SUBSCRIPTION_ID is its id or its URL."""
    identifier = subscription_id.rpartition("/")[2]
    run_with_modelyard(
        ctx,
        lambda yard: yard.services.plugins.subscriptions.unsubscribe(
            tenant, identifier
        ),
    )
    print_note(f"removed {identifier}")
