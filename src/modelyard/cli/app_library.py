"""`modelyard app templates | create | copy | tag | statistics`: start apps from templates,
copy and sort them, and show how they are used. The other commands of apps are in `workflows`."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from modelyard.cli.output import (
    json_option,
    print_json,
    print_table,
    run_with_modelyard,
)
from modelyard.cli.usage import tenant_option
from modelyard.workflow.app_statistics import DAY, MAX_DAYS, Statistics
from modelyard.workflow.app_templates import list_templates, template_file

if TYPE_CHECKING:
    from modelyard.app import Modelyard
    from modelyard.workflow.apps import AppRecord


@click.command()
@json_option
def templates(as_json: bool) -> None:
    """List the templates for `modelyard app create`."""
    listed = list_templates()
    if as_json:
        print_json(listed)
        return
    rows = [
        (
            template.id,
            template.mode,
            "a dataset" if template.needs_dataset else "",
            template.description,
        )
        for template in listed
    ]
    print_table("", ("template", "mode", "needs", "description"), rows)


@click.command()
@click.argument("template")
@click.option(
    "--name", default="", help="Name of the app. Default: the template's name."
)
@click.option(
    "--model",
    default="",
    help="Model or route of its nodes. Default: the tenant's default model.",
)
@click.option(
    "--dataset", default="", help="Dataset, by name or id, that the app answers from."
)
@click.option("--draft", is_flag=True, help="Create a draft instead of publishing it.")
@tenant_option
@json_option
@click.pass_context
def create(
    ctx: click.Context,
    template: str,
    name: str,
    model: str,
    dataset: str,
    draft: bool,
    tenant: str,
    as_json: bool,
) -> None:
    """Create an app from TEMPLATE. `modelyard app templates` lists them."""

    async def work(yard: "Modelyard") -> "AppRecord":
        """Create the app and return it."""
        # Looked up before the app is created, so that a wrong name leaves nothing.
        datasets = (
            [(await yard.knowledge.datasets.get_by_id_or_name(tenant, dataset)).id]
            if dataset
            else []
        )
        text = template_file(template, model=model, datasets=datasets)
        created, _ = await yard.services.workflows.library.add_new(
            tenant, text, name=name, publishes=not draft
        )
        return created

    _show_created(run_with_modelyard(ctx, work), as_json=as_json)


@click.command()
@click.argument("name")
@click.argument("copy_name", default="")
@click.option("--publish", is_flag=True, help="Publish the copy. Default: a draft.")
@tenant_option
@json_option
@click.pass_context
def copy(
    ctx: click.Context,
    name: str,
    copy_name: str,
    publish: bool,
    tenant: str,
    as_json: bool,
) -> None:
    """Copy the app NAME as COPY_NAME, by default "NAME copy".

    The copy has the draft's nodes and secrets, but no keys, page and conversations.
    """

    async def work(yard: "Modelyard") -> "AppRecord":
        """Copy the app and return the copy."""
        app_record = yard.apps.get_by_id_or_name(tenant, name)
        created, _ = await yard.services.workflows.library.duplicate(
            app_record, name=copy_name, publishes=publish
        )
        return created

    _show_created(run_with_modelyard(ctx, work), as_json=as_json)


def _show_created(app_record: "AppRecord", *, as_json: bool) -> None:
    """Print a new app."""
    if as_json:
        print_json(
            {
                "id": app_record.id,
                "name": app_record.name,
                "mode": app_record.stored.mode,
                "draft": bool(app_record.stored.draft),
            }
        )
        return
    state = "a draft" if app_record.stored.draft else "published"
    click.echo(f"created {app_record.name}  {app_record.stored.mode}, {state}")


@click.command()
@click.argument("name")
@click.argument("tags", nargs=-1)
@click.option("--none", "is_none", is_flag=True, help="Remove all tags from the app.")
@tenant_option
@json_option
@click.pass_context
def tag(
    ctx: click.Context,
    name: str,
    tags: tuple[str, ...],
    is_none: bool,
    tenant: str,
    as_json: bool,
) -> None:
    """Set the tags of the app NAME to TAGS. New tags are created. Without TAGS the
    app's tags are listed."""

    # Without tags and without `--none` nothing is changed.
    new_tags = None if not tags and not is_none else tags
    tag_names = run_with_modelyard(
        ctx, lambda yard: _set_tags(yard, tenant, name, new_tags)
    )
    if as_json:
        print_json(tag_names)
    else:
        click.echo(", ".join(tag_names) or "no tags")


async def _set_tags(
    yard: "Modelyard", tenant: str, name: str, tags: Sequence[str] | None
) -> list[str]:
    """Set the tags of an app, if there are any to set, and return those that it has
    then."""
    library = yard.services.workflows.library
    app_record = yard.apps.get_by_id_or_name(tenant, name)
    existing = {existing_tag.name for existing_tag in library.tags(tenant)}
    # Each once: creating a tag twice would fail.
    for tag_name in dict.fromkeys(tags or ()):
        if tag_name not in existing:
            await library.add_tag(tenant, tag_name)
    if tags is not None:
        app_record = await library.set_tags(app_record, tags)
    return library.tag_names(app_record)


@click.command()
@click.argument("name")
@click.option(
    "--days",
    type=click.IntRange(1, MAX_DAYS),
    default=7,
    show_default=True,
    help="Number of days, today included.",
)
@tenant_option
@json_option
@click.pass_context
def statistics(
    ctx: click.Context, name: str, days: int, tenant: str, as_json: bool
) -> None:
    """Show messages, users, tokens, cost and ratings of the app NAME by day.

    Days begin at midnight of this machine's time zone. Tests in the console count only
    for tokens and cost.
    """

    async def work(yard: "Modelyard") -> Any:
        """Return the figures of each day and of all days."""
        app_record = yard.apps.get_by_id_or_name(tenant, name)
        since, until, offset = _last_days(yard.services.clock.time(), days)
        return await yard.services.workflows.statistics.of_app(
            tenant,
            app_record.id,
            since=since,
            until=until,
            offset=offset,
        )

    by_day, total = run_with_modelyard(ctx, work)
    if as_json:
        print_json({"data": by_day, "total": total})
        return
    print_table(
        "",
        ("day", "messages", "runs", "users", "tokens", "cost", "likes", "dislikes"),
        [_statistics_row(row) for row in (*by_day, total)],
        right_aligned=("messages", "runs", "users", "tokens", "likes", "dislikes"),
    )


def _last_days(current_time: float, days: int) -> tuple[float, float, int]:
    """Return (since, until, offset) of the last days in local time."""
    # The offset of today: after a change to or from summer time, earlier days begin an
    # hour off.
    offset = (time.localtime(current_time).tm_gmtoff or 0) // 60
    midnight = (current_time + offset * 60) // DAY * DAY - offset * 60
    # The end is not part of the range; one second more includes the present one.
    return midnight - (days - 1) * DAY, current_time + 1, offset


def _statistics_row(row: Statistics) -> tuple[Any, ...]:
    """Return the cells of a day, or of all days."""
    costs = " + ".join(f"{amount} {currency}" for currency, amount in row.costs.items())
    return (
        row.day or "all",
        row.messages,
        row.runs,
        row.end_users,
        row.prompt_tokens + row.completion_tokens,
        costs or "0",
        row.likes,
        row.dislikes,
    )


COMMANDS = (templates, create, copy, tag, statistics)
