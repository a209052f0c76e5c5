"""`modelyard keys`, `tenants`, `limits` and `secrets`: what the admin API does, on this machine."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

import click

from modelyard.app import Modelyard
from modelyard.app.storage import MASTER_KEY
from modelyard.base.errors import ConfigError
from modelyard.cli.show import bad, good, json_option, note, print_json, print_table, run_with_yard
from modelyard.cli.usage import tenant_option
from modelyard.models.types import JSON
from modelyard.storage.secrets import KeyRing, load_key_ring, rotating, save_key_ring
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller, Role

_OPERATOR = Caller(tenant=DEFAULT_TENANT)
_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _run(ctx: click.Context, work: Callable[[Modelyard], Coroutine[Any, Any, Any]]) -> Any:
    return run_with_yard(ctx, work)


# keys


@click.group()
def keys() -> None:
    """API keys: make, list, rotate, revoke. Once there is one, callers must show one."""


@keys.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in Role]), default="developer", show_default=True)
@click.option("--model", "models", multiple=True, help="What it may call, as openai/*; all where nothing is said.")
@click.option("--user", help="Whose it is.")
@click.option("--priority", type=int, default=0, help="Higher goes first where calls have to wait.")
@click.option("--expires", help="In how long, as 12h or 30d.")
@tenant_option
@json_option
@click.pass_context
def create_key(ctx: click.Context, name: str, tenant: str, as_json: bool, expires: str | None, **how: Any) -> None:
    """Make a key. It is shown this once."""
    given: JSON = {key: list(value) if key == "models" else value for key, value in how.items() if value}
    if expires:
        given["expires_at"] = time.time() + _seconds(expires)

    async def work(yard: Modelyard) -> JSON:
        return await yard.services.tenancy.administration.create(_OPERATOR, tenant, "key", name, given)

    made = _run(ctx, work)
    if as_json:
        print_json(made)
        return
    click.echo(made["key"])
    note(f"{made['id']}, role {made['role']}, tenant {tenant}: keep it now, it is not shown again")


def _seconds(text: str) -> float:
    if not text[:-1].isdigit() or text[-1:] not in _UNITS:
        raise click.UsageError(f"--expires wants a number and m, h, d or w, as 30d, not {text!r}")
    return int(text[:-1]) * _UNITS[text[-1]]


@keys.command("list")
@tenant_option
@json_option
@click.pass_context
def list_keys(ctx: click.Context, tenant: str, as_json: bool) -> None:
    """A tenant's keys."""

    async def work(yard: Modelyard) -> list[JSON]:
        return await yard.services.tenancy.administration.list(tenant, "key", most=1000)

    found = _run(ctx, work)
    if as_json:
        print_json(found)
        return
    columns = ("id", "name", "key", "role", "user", "models", "state")
    print_table("", columns, [
        (one["id"], one["name"], one["hint"], one["role"], one["user"] or "-", ", ".join(one["models"]) or "all",
         _state(one))
        for one in found
    ])  # fmt: skip


def _state(one: JSON) -> Any:
    if one["revoked_at"]:
        return bad("revoked")
    if one["expires_at"] and one["expires_at"] < time.time():
        return bad("expired")
    until = datetime.fromtimestamp(one["expires_at"]).astimezone().strftime("%Y-%m-%d") if one["expires_at"] else ""
    return good(f"until {until}" if until else "good")


@keys.command("revoke")
@click.argument("key_id")
@tenant_option
@click.pass_context
def revoke_key(ctx: click.Context, key_id: str, tenant: str) -> None:
    """Have a key serve nobody: within a second, on every server."""
    _run(ctx, lambda yard: yard.services.tenancy.administration.revoke(_OPERATOR, tenant, key_id))
    note(f"{key_id} is revoked")


@keys.command("rotate")
@click.argument("key_id")
@click.option("--grace", default="0m", help="How long the old one serves on, as 24h.")
@tenant_option
@json_option
@click.pass_context
def rotate_key(ctx: click.Context, key_id: str, grace: str, tenant: str, as_json: bool) -> None:
    """Make a new key with the rights of an old one."""
    seconds = _seconds(grace)
    made = _run(
        ctx, lambda yard: yard.services.tenancy.administration.rotate(_OPERATOR, tenant, key_id, grace_seconds=seconds)
    )
    print_json(made) if as_json else click.echo(made["key"])


# tenants


@click.group()
def tenants() -> None:
    """Tenants: add, list, switch off."""


@tenants.command("add")
@click.argument("name")
@click.option("--label", default="", help="For people.")
@click.pass_context
def add_tenant(ctx: click.Context, name: str, label: str) -> None:
    """Add a tenant. It starts with nothing: give it keys, and credentials through the admin API."""
    _run(
        ctx, lambda yard: yard.services.tenancy.administration.create(_OPERATOR, name, "tenant", name, {"label": label})
    )
    note(f"{name} is there; `modelyard keys create NAME --tenant {name} --role owner` makes its first key")


@tenants.command("list")
@json_option
@click.pass_context
def list_tenants(ctx: click.Context, as_json: bool) -> None:
    """All tenants."""

    async def work(yard: Modelyard) -> list[JSON]:
        return yard.services.tenancy.administration.tenants()

    found = _run(ctx, work)
    if as_json:
        print_json(found)
    else:
        rows = [(one["id"], one["label"], good("on") if one["is_enabled"] else bad("off")) for one in found]
        print_table("", ("tenant", "label", "state"), [("default", "this machine's owner", good("on")), *rows])


@tenants.command("switch")
@click.argument("name")
@click.argument("state", type=click.Choice(["on", "off"]))
@click.pass_context
def switch_tenant(ctx: click.Context, name: str, state: str) -> None:
    """Switch a tenant on or off: with all its keys."""
    given = {"is_enabled": state == "on"}
    _run(ctx, lambda yard: yard.services.tenancy.administration.change(_OPERATOR, name, "tenant", name, given))


# limits


@click.group()
def limits() -> None:
    """Limits: what may be used, and how fast. Those of the settings file are not listed here."""


@limits.command("set")
@click.argument("name")
@click.option(
    "--unit", type=click.Choice(["requests", "tokens", "cost", "concurrency", "credits", "times"]), required=True
)
@click.option("--amount", type=float, required=True, help="-1 is unlimited.")
@click.option("--window", type=click.Choice(["minute", "hour", "day", "month", "total"]), default="minute")
@click.option(
    "--per", type=click.Choice(["tenant", "key", "user", "model"]), default="tenant", help="A counter for each."
)
@click.option("--key", default="", help="For this key alone, by its id.")
@click.option("--user", default="")
@click.option("--model", default="", help="For models that fit, as openai/*.")
@tenant_option
@click.pass_context
def set_limit(ctx: click.Context, name: str, tenant: str, **given: Any) -> None:
    """Set a limit; one of that name is changed."""

    async def work(yard: Modelyard) -> JSON:
        known = await yard.services.tenancy.administration.list(tenant, "limit", most=1000)
        old = next((one for one in known if one["name"] == name), None)
        if old is not None:
            return await yard.services.tenancy.administration.change(_OPERATOR, tenant, "limit", old["id"], given)
        return await yard.services.tenancy.administration.create(_OPERATOR, tenant, "limit", name, given)

    _run(ctx, work)


@limits.command("list")
@tenant_option
@json_option
@click.pass_context
def list_limits(ctx: click.Context, tenant: str, as_json: bool) -> None:
    """A tenant's limits."""

    async def work(yard: Modelyard) -> list[JSON]:
        return await yard.services.tenancy.administration.list(tenant, "limit", most=1000)

    found = _run(ctx, work)
    if as_json:
        print_json(found)
        return
    columns = ("name", "unit", "amount", "window", "per", "key", "user", "model")
    print_table("", columns, [[str(one[column]) for column in columns] for one in found])


@limits.command("remove")
@click.argument("name")
@tenant_option
@click.pass_context
def remove_limit(ctx: click.Context, name: str, tenant: str) -> None:
    """Remove a limit."""

    async def work(yard: Modelyard) -> None:
        for one in await yard.services.tenancy.administration.list(tenant, "limit", most=1000):
            if one["name"] == name:
                await yard.services.tenancy.administration.remove(_OPERATOR, tenant, "limit", one["id"])
                return
        raise ConfigError(f"tenant {tenant!r} has no limit {name!r}; `modelyard limits list` shows what there is")

    _run(ctx, work)


# secrets


@click.group()
def secrets() -> None:
    """The master key that encrypts credentials and stands behind API keys."""


@secrets.command("rotate")
@click.pass_context
def rotate_secrets(ctx: click.Context) -> None:
    """Make a new master key and encrypt every credential with it. Old keys stay in the file: API keys made under them
    are checked with them. Servers that run with this home folder go on, and take the new key up by themselves."""

    async def work(yard: Modelyard) -> int:
        if yard.settings.master_key:
            raise ConfigError(
                "the master key is in the settings: put a new id:KEY behind the others there on every server, restart "
                "them, then move it to the front, restart them again, and run `modelyard secrets verify`"
            )
        path = yard.settings.home_path / MASTER_KEY
        with rotating(path):
            ring = load_key_ring(path).rotated()
            await asyncio.to_thread(save_key_ring, path, ring)
            return await _encrypt_anew(yard, ring)

    note(f"{_run(ctx, work)} credentials are encrypted with the new key")


async def _encrypt_anew(yard: Modelyard, ring: KeyRing) -> int:
    done = await yard.services.tenancy.administration.encrypt_anew(ring)
    for tenant in yard.services.tenancy.administration.tenant_names():
        done += await yard.knowledge.external.encrypt_anew(tenant, ring)
    return done


@secrets.command("verify")
@click.pass_context
def verify_secrets(ctx: click.Context) -> None:
    """Whether every credential can be read, and which key each is encrypted with."""

    async def work(yard: Modelyard) -> int:
        return await _encrypt_anew(yard, yard.services.storage.keys)

    changed = _run(ctx, work)
    note("every credential can be read" + (f"; {changed} were encrypted with the active key" if changed else ""))
