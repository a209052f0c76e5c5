"""`modelyard keys`, `tenants`, `limits` and `secrets`: the functions of the admin API
for the local installation."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

import click

from modelyard.app import Modelyard
from modelyard.app.storage import MASTER_KEY
from modelyard.base.errors import ConfigError
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
from modelyard.models.types import JSON
from modelyard.storage.secrets import KeyRing, load_key_ring, rotating, save_key_ring
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller, Role

# Whoever can run the command line owns the installation, so no key is needed.
_OPERATOR = Caller(tenant=DEFAULT_TENANT)
# Seconds of each unit, as in "30d".
_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _run(
    ctx: click.Context, work: Callable[[Modelyard], Coroutine[Any, Any, Any]]
) -> Any:
    """Run an operation with the opened library."""
    return run_with_modelyard(ctx, work)


# Keys.


@click.group()
def keys() -> None:
    """Manage API keys. As soon as one exists, callers must authenticate."""


@keys.command("create")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default="developer",
    show_default=True,
    help="Role of the key's callers.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Allowed models, for example openai/*; repeatable. Default: all.",
)
@click.option("--user", help="User that the key belongs to.")
@click.option(
    "--speaks-for-users",
    is_flag=True,
    help="Let callers name the user on whose behalf they read documents.",
)
@click.option(
    "--priority",
    type=int,
    default=0,
    show_default=True,
    help="Priority of queued calls; a higher one is served first.",
)
@click.option(
    "--expires",
    help="Lifetime, for example 12h or 30d. Default: unlimited.",
)
@click.option(
    "--unpriced",
    type=click.Choice(["refuse", "count"]),
    help="Calls whose price is unknown, where a limit of money applies. Default: as the"
    " settings say.",
)
@tenant_option
@json_option
@click.pass_context
def create_key(
    ctx: click.Context,
    name: str,
    tenant: str,
    as_json: bool,
    expires: str | None,
    **options: Any,
) -> None:
    """Create an API key. The key is printed once."""
    # Options that were not set are omitted, so that the defaults of the API apply.
    fields: JSON = {
        key: list(value) if key == "models" else value
        for key, value in options.items()
        if value
    }
    if expires:
        fields["expires_at"] = time.time() + _seconds(expires, "--expires")

    async def work(yard: Modelyard) -> JSON:
        """Create the key and return its record with the secret."""
        return await yard.services.tenancy.administration.create(
            _OPERATOR, tenant, "key", name, fields
        )

    created_key = _run(ctx, work)
    if as_json:
        print_json(created_key)
        return
    # Only the key goes to standard output, so that scripts can capture it.
    click.echo(created_key["key"])
    print_note(
        f"{created_key['id']}, role {created_key['role']}, tenant {tenant}: store the"
        " key now, it is not printed again"
    )


def _seconds(text: str, option: str) -> float:
    """Parse the value of an option, a period such as 30d. Raises click.UsageError."""
    if not text[:-1].isdigit() or text[-1:] not in _UNITS:
        raise click.UsageError(
            f"{option}: expected a number and m, h, d or w, for example 30d, got {text!r}"
        )
    return int(text[:-1]) * _UNITS[text[-1]]


@keys.command("list")
@tenant_option
@json_option
@click.pass_context
def list_keys(ctx: click.Context, tenant: str, as_json: bool) -> None:
    """List a tenant's keys."""

    async def work(yard: Modelyard) -> list[JSON]:
        """Return the tenant's keys."""
        return await yard.services.tenancy.administration.list(
            tenant, "key", limit=1000
        )

    key_records = _run(ctx, work)
    if as_json:
        print_json(key_records)
        return
    columns = ("id", "name", "key", "role", "user", "models", "state")
    print_table(
        "",
        columns,
        [
            (
                key_record["id"],
                key_record["name"],
                key_record["hint"],
                key_record["role"],
                key_record["user"] or "-",
                ", ".join(key_record["models"]) or "all",
                _state(key_record),
            )
            for key_record in key_records
        ],
    )


def _state(key_record: JSON) -> Any:
    """Return the display form of a key's state."""
    # Revocation takes precedence over expiry.
    if key_record["revoked_at"]:
        return failure_text("revoked")
    if key_record["expires_at"] and key_record["expires_at"] < time.time():
        return failure_text("expired")
    until = (
        datetime.fromtimestamp(key_record["expires_at"])
        .astimezone()
        .strftime("%Y-%m-%d")
        if key_record["expires_at"]
        else ""
    )
    return success_text(f"valid until {until}" if until else "valid")


@keys.command("revoke")
@click.argument("key_id")
@tenant_option
@click.pass_context
def revoke_key(ctx: click.Context, key_id: str, tenant: str) -> None:
    """Revoke the key with the id KEY_ID. Takes effect within one second on all
    servers."""
    _run(
        ctx,
        lambda yard: yard.services.tenancy.administration.revoke(
            _OPERATOR, tenant, key_id
        ),
    )
    print_note(f"revoked {key_id}")


@keys.command("rotate")
@click.argument("key_id")
@click.option(
    "--grace",
    default="0m",
    show_default=True,
    help="How long the old key stays valid, for example 24h.",
)
@tenant_option
@json_option
@click.pass_context
def rotate_key(
    ctx: click.Context, key_id: str, grace: str, tenant: str, as_json: bool
) -> None:
    """Replace the key with the id KEY_ID by a new one with the same rights. The new key
    is printed once."""
    seconds = _seconds(grace, "--grace")
    created_key = _run(
        ctx,
        lambda yard: yard.services.tenancy.administration.rotate(
            _OPERATOR, tenant, key_id, grace_seconds=seconds
        ),
    )
    print_json(created_key) if as_json else click.echo(created_key["key"])


# Tenants.


@click.group()
def tenants() -> None:
    """Manage tenants: add, list, enable, disable."""


@tenants.command("add")
@click.argument("name")
@click.option("--label", default="", help="Display name.")
@click.pass_context
def add_tenant(ctx: click.Context, name: str, label: str) -> None:
    """Add a tenant. It has no keys or credentials yet.

    Create keys with `modelyard keys create --tenant NAME`; add credentials through the
    admin API.
    """
    _run(
        ctx,
        lambda yard: yard.services.tenancy.administration.create(
            _OPERATOR, name, "tenant", name, {"label": label}
        ),
    )
    print_note(
        f"added {name}; create its first key with `modelyard keys create KEY --tenant"
        f" {name} --role owner`"
    )


@tenants.command("list")
@json_option
@click.pass_context
def list_tenants(ctx: click.Context, as_json: bool) -> None:
    """List all tenants."""

    async def work(yard: Modelyard) -> list[JSON]:
        """Return the tenants, without the default tenant."""
        return yard.services.tenancy.administration.tenants()

    tenant_records = _run(ctx, work)
    if as_json:
        print_json(tenant_records)
    else:
        rows = [
            (
                tenant_record["id"],
                tenant_record["label"],
                (
                    success_text("enabled")
                    if tenant_record["is_enabled"]
                    else failure_text("disabled")
                ),
            )
            for tenant_record in tenant_records
        ]
        # The default tenant always exists and has no record.
        print_table(
            "",
            ("tenant", "label", "state"),
            [
                ("default", "owner of this installation", success_text("enabled")),
                *rows,
            ],
        )


@tenants.command("enable")
@click.argument("name")
@click.pass_context
def enable_tenant(ctx: click.Context, name: str) -> None:
    """Enable a tenant and all its keys. Takes effect within one second on all servers."""
    _set_enabled(ctx, name, is_enabled=True)


@tenants.command("disable")
@click.argument("name")
@click.pass_context
def disable_tenant(ctx: click.Context, name: str) -> None:
    """Disable a tenant and all its keys. Takes effect within one second on all servers."""
    _set_enabled(ctx, name, is_enabled=False)


def _set_enabled(ctx: click.Context, name: str, *, is_enabled: bool) -> None:
    """Enable or disable a tenant."""
    _run(
        ctx,
        lambda yard: yard.services.tenancy.administration.change(
            _OPERATOR, name, "tenant", name, {"is_enabled": is_enabled}
        ),
    )


# Limits.


@click.group()
def limits() -> None:
    """Manage rate limits and budgets. Limits of the settings file are not included."""


@limits.command("set")
@click.argument("name")
@click.option(
    "--unit",
    type=click.Choice(
        ["requests", "tokens", "cost", "concurrency", "credits", "times"]
    ),
    required=True,
    help="Unit that is counted; `concurrency` counts running calls.",
)
@click.option(
    "--amount",
    type=float,
    required=True,
    help="Limit value; -1 means unlimited.",
)
@click.option(
    "--window",
    type=click.Choice(["minute", "hour", "day", "month", "total"]),
    default="minute",
    show_default=True,
    help="Time window; day and month are calendar periods in UTC.",
)
@click.option(
    "--per",
    type=click.Choice(["tenant", "key", "user", "model"]),
    default="tenant",
    show_default=True,
    help="Count separately per tenant, key, user or model.",
)
@click.option("--key", default="", help="Apply only to this key id. Default: all.")
@click.option("--user", default="", help="Apply only to this user. Default: all.")
@click.option(
    "--model",
    default="",
    help="Apply only to models that match the pattern, for example openai/*. Default: all.",
)
@tenant_option
@click.pass_context
def set_limit(ctx: click.Context, name: str, tenant: str, **fields: Any) -> None:
    """Create or update the limit NAME."""

    async def work(yard: Modelyard) -> JSON:
        """Create or change the limit."""
        existing_limits = await yard.services.tenancy.administration.list(
            tenant, "limit", limit=1000
        )
        old = next((limit for limit in existing_limits if limit["name"] == name), None)
        if old is not None:
            return await yard.services.tenancy.administration.change(
                _OPERATOR, tenant, "limit", old["id"], fields
            )
        return await yard.services.tenancy.administration.create(
            _OPERATOR, tenant, "limit", name, fields
        )

    _run(ctx, work)


@limits.command("list")
@tenant_option
@json_option
@click.pass_context
def list_limits(ctx: click.Context, tenant: str, as_json: bool) -> None:
    """List a tenant's limits."""

    async def work(yard: Modelyard) -> list[JSON]:
        """Return the tenant's limits."""
        return await yard.services.tenancy.administration.list(
            tenant, "limit", limit=1000
        )

    limit_records = _run(ctx, work)
    if as_json:
        print_json(limit_records)
        return
    columns = ("name", "unit", "amount", "window", "per", "key", "user", "model")
    print_table(
        "",
        columns,
        [
            [str(limit_record[column]) for column in columns]
            for limit_record in limit_records
        ],
    )


@limits.command("remove")
@click.argument("name")
@tenant_option
@click.pass_context
def remove_limit(ctx: click.Context, name: str, tenant: str) -> None:
    """Remove the limit NAME."""

    async def work(yard: Modelyard) -> None:
        """Delete the limit. Raises ConfigError if there is none with this name."""
        for limit_record in await yard.services.tenancy.administration.list(
            tenant, "limit", limit=1000
        ):
            if limit_record["name"] == name:
                await yard.services.tenancy.administration.remove(
                    _OPERATOR, tenant, "limit", limit_record["id"]
                )
                return
        raise ConfigError(
            f"Tenant {tenant!r} has no limit {name!r}; list its limits with `modelyard"
            f" limits list --tenant {tenant}`"
        )

    _run(ctx, work)


# Secrets.


@click.group()
def secrets() -> None:
    """Manage the master key, which encrypts credentials and protects API keys."""


@secrets.command("rotate")
@click.pass_context
def rotate_secrets(ctx: click.Context) -> None:
    """Create a new master key and encrypt every credential with it.

    Old keys stay in the file, because API keys created under them are verified with
    them. Running servers with this home folder load the new key without a restart.
    """

    async def work(yard: Modelyard) -> int:
        """Rotate the key file and return the number of re-encrypted credentials."""
        # Keys in the settings cannot be rotated from here: every server must know the
        # new one before it is used.
        if yard.settings.master_key:
            raise ConfigError(
                "master_key is set in the settings and cannot be rotated from here:"
                " append a new id:KEY to it on every server and restart them, then move"
                " the new key to the front, restart them again, and run `modelyard"
                " secrets verify`"
            )
        path = yard.settings.home_path / MASTER_KEY
        with rotating(path):
            ring = load_key_ring(path).rotated()
            # Saved before anything is encrypted with it: a crash must not lose the new
            # key.
            await asyncio.to_thread(save_key_ring, path, ring)
            return await _reencrypt_all(yard, ring)

    print_note(f"encrypted {_run(ctx, work)} credentials with the new key")


async def _reencrypt_all(yard: Modelyard, ring: KeyRing) -> int:
    """Re-encrypt all credentials with the active key and return how many were changed."""
    changed_count = await yard.services.tenancy.administration.reencrypt_all(ring)
    for tenant in yard.services.tenancy.administration.tenant_names():
        # Keys of external knowledge servers are stored separately.
        changed_count += await yard.knowledge.external.reencrypt_all(tenant, ring)
        changed_count += await yard.knowledge.sources.reencrypt_all(tenant, ring)
    # Files of apps with secret variables are encrypted as a whole.
    documents = yard.services.workflows.journal.documents
    return changed_count + await documents.reencrypt_all(ring)


@secrets.command("verify")
@click.pass_context
def verify_secrets(ctx: click.Context) -> None:
    """Check that every stored credential can be decrypted.

    Credentials under old keys are encrypted again with the active key. Exit code 1: a
    credential cannot be decrypted.
    """

    async def work(yard: Modelyard) -> int:
        """Re-encrypt what is not under the active key. Fails if a credential cannot be
        decrypted."""
        return await _reencrypt_all(yard, yard.services.storage.keys)

    changed = _run(ctx, work)
    print_note(
        "every credential can be decrypted"
        + (f"; encrypted {changed} with the active key" if changed else "")
    )
