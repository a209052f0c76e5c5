"""Tests for permissions: tenants cannot change the operator's rows.

Nobody can change a key or user with a higher role.
"""

import asyncio
import itertools
import urllib.parse
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from click.testing import CliRunner
from tools.show.servers import Postgres
from tools.show.tenancy import ask

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.settings import Settings
from modelyard.cli import root
from modelyard.gateway.admin.resources import PLURALS
from modelyard.gateway.auth import TENANT
from modelyard.gateway.server import Gateway
from modelyard.people.account import Account
from modelyard.tenancy.caller import Caller, ForbiddenError, Role
from modelyard.tenancy.directory import OPERATOR_MANAGED
from modelyard.tenancy.resource_types import KINDS
from modelyard.testing import echo_models, echo_provider

PASSWORD = "a long enough word"
OPERATOR = Caller(tenant="default")
ACTING = [(TENANT, b"acme")]
ROW_VALUES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "limit": ({"name": "budget", "unit": "cost", "amount": 1.0, "window": "month"}, {"amount": 1e9}),
    "route": ({"name": "house", "targets": [{"model": "echo/echo"}]}, {"cache_seconds": 60.0}),
    "model": (
        {"name": "dear", "provider": "echo", "definition": {"name": "dear", "input_price": 5.0, "output_price": 5.0}},
        {"definition": {"name": "dear", "input_price": 0.0, "output_price": 0.0}},
    ),
    "default": ({"name": "llm", "model": "echo/echo"}, {"model": "echo/echo"}),
    "credential": ({"name": "house's", "provider": "openai", "values": {"api_key": "sk-of-the-house"}}, {"weight": 0.0}),
}  # fmt: skip
"""Kind → (values that the operator sets, a change that the tenant attempts)"""
TENANT_OWNED_KINDS = frozenset({
    "tenant", "user", "key", "plugin", "endpoint", "subscription", "tool_credential", "oauth_client", "plugin_task",
    "app", "app_tag", "app_key", "dataset_key", "tool_provider", "trace_destination",
    "group_claims",
})  # fmt: skip
"""Kinds that belong to the tenant whoever created them.

For `tenant` every operation needs the operator.
"""


@pytest.fixture(scope="module")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Postgres(tmp_path_factory.mktemp("postgres") / "data") as running:
        yield running.url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "x.db")
    url, name = request.getfixturevalue("postgres_url"), f"test_{uuid.uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return urllib.parse.urlunsplit(urllib.parse.urlsplit(url)._replace(path=f"/{name}"))


def run(
    work: Callable[[Modelyard, Gateway], Awaitable[None]], home: Path, **changes: Any
) -> None:
    async def go() -> None:
        settings = msgspec.convert(
            {"home": str(home), "local": {"hub": ""}, **changes}, Settings
        )
        yard = Modelyard(
            settings,
            definitions=[echo_provider()],
            builders={"echo": echo_models},
            environ={},
        )
        async with yard:
            await work(yard, gateway_for(yard.services))

    asyncio.run(go())


async def keys_of(yard: Modelyard) -> tuple[str, str]:
    """Return (the operator's key, the key of the tenant's owner)."""
    admin = yard.services.tenancy.administration
    await admin.create(OPERATOR, "acme", "tenant", "acme", {})
    created_keys = [
        await admin.create(Caller(tenant=tenant), tenant, "key", "o", {"role": "owner"}) for tenant in ("default", "acme")
    ]  # fmt: skip
    return created_keys[0]["key"], created_keys[1]["key"]


def test_every_kind_of_row_is_classified():
    assert set(KINDS) == OPERATOR_MANAGED | TENANT_OWNED_KINDS
    assert not OPERATOR_MANAGED & TENANT_OWNED_KINDS
    assert set(ROW_VALUES) == OPERATOR_MANAGED


@pytest.mark.parametrize("set_via", ["acting", "query", "command line"])
def test_a_tenant_changes_nothing_that_the_operator_set(
    tmp_path: Path, database: str, set_via: str
):
    """Property over every kind of row that the operator manages, set in any way."""

    async def work(yard: Modelyard, gateway: Gateway) -> None:
        house, tenant_key = await keys_of(yard)
        for plural, resource_kind in PLURALS.items():
            if resource_kind not in OPERATOR_MANAGED:
                continue
            row_values, change = ROW_VALUES[resource_kind]
            path = f"/admin/v1/{plural}"
            if set_via == "command line":
                row = await _created_by_command(yard, resource_kind, row_values)
            else:
                row = await _created_by_request(
                    gateway, path, house, row_values, set_via
                )
            row_path = f"{path}/{row}"
            before = await _read(gateway, row_path, tenant_key)
            assert before["set_by"] == "operator"
            await _check_refused_changes(gateway, path, row, tenant_key, resource_kind)
            assert await _read(gateway, row_path, tenant_key) == before
            await _change_by_operator(gateway, row_path, house, change)
            await _check_own_row(gateway, path, tenant_key, row_values, change)

    run(work, tmp_path, database=database)


async def _created_by_command(
    yard: Modelyard, resource_kind: str, row_values: dict[str, Any]
) -> str:
    """Create a row as the command line does; return its id."""
    values = {key: value for key, value in row_values.items() if key != "name"}
    created = await yard.services.tenancy.administration.create(
        OPERATOR, "acme", resource_kind, row_values["name"], values
    )
    return created["id"]


async def _created_by_request(
    gateway: Gateway, path: str, house: str, row_values: dict[str, Any], set_via: str
) -> str:
    """Create a row of the tenant by a request of the operator; return its id."""
    target = f"{path}?tenant=acme" if set_via == "query" else path
    headers = ACTING if set_via == "acting" else ()
    response = await ask(gateway, "POST", target, house, row_values, headers)
    assert response.status == 201, response.body
    return msgspec.json.decode(response.body)["id"]


async def _read(gateway: Gateway, path: str, key: str) -> Any:
    """Return the JSON of a row."""
    return msgspec.json.decode((await ask(gateway, "GET", path, key)).body)


async def _check_refused_changes(
    gateway: Gateway, path: str, row: str, tenant_key: str, resource_kind: str
) -> None:
    """The tenant cannot change, rename, delete or replace the operator's row."""
    row_values, change = ROW_VALUES[resource_kind]
    for method, target, body in (
        ("PATCH", f"{path}/{row}", change),
        ("PATCH", f"{path}/{row}", {"name": "another"}),
        ("DELETE", f"{path}/{row}", None),
        ("POST", path, {**row_values, **change}),
    ):
        refusal = await ask(gateway, method, target, tenant_key, body)
        code = msgspec.json.decode(refusal.body)["error"]["code"]
        assert (refusal.status, code) == (403, "forbidden"), (resource_kind, method)


async def _change_by_operator(
    gateway: Gateway, row_path: str, house: str, change: dict[str, Any]
) -> None:
    """The operator changes and deletes the row; it stays the operator's."""
    changed = await ask(gateway, "PATCH", row_path, house, change, ACTING)
    assert changed.status == 200, changed.body
    assert msgspec.json.decode(changed.body)["set_by"] == "operator"
    deleted = await ask(gateway, "DELETE", row_path, house, None, ACTING)
    assert deleted.status == 200


async def _check_own_row(
    gateway: Gateway,
    path: str,
    tenant_key: str,
    row_values: dict[str, Any],
    change: dict[str, Any],
) -> None:
    """The tenant creates, changes and deletes a row of its own."""
    created = await ask(gateway, "POST", path, tenant_key, row_values)
    assert created.status == 201, created.body
    row = msgspec.json.decode(created.body)
    assert row["set_by"] == ""
    row_path = f"{path}/{row['id']}"
    assert (await ask(gateway, "PATCH", row_path, tenant_key, change)).status == 200
    assert (await ask(gateway, "DELETE", row_path, tenant_key)).status == 200


def test_a_limit_changed_by_the_operator_becomes_the_operators(
    tmp_path: Path,
):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        house, tenant_key = await keys_of(yard)
        response = await ask(
            gateway, "POST", "/admin/v1/limits", tenant_key, ROW_VALUES["limit"][0]
        )
        where = f"/admin/v1/limits/{msgspec.json.decode(response.body)['id']}"
        assert (
            await ask(gateway, "PATCH", where, house, {"amount": 0.5}, ACTING)
        ).status == 200
        assert (
            await ask(gateway, "PATCH", where, tenant_key, {"amount": 50.0})
        ).status == 403

    run(work, tmp_path)


def test_a_tenants_model_cannot_shadow_the_operators(tmp_path: Path):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        house, tenant_key = await keys_of(yard)
        row_values, change = ROW_VALUES["model"]
        assert (
            await ask(gateway, "POST", "/admin/v1/models", house, row_values, ACTING)
        ).status == 201
        free = {**row_values, **change, "name": "no such name"}
        assert (
            await ask(gateway, "POST", "/admin/v1/models", tenant_key, free)
        ).status == 403
        cheap_model = {**free, "definition": {"name": "cheap"}}
        response = await ask(
            gateway, "POST", "/admin/v1/models", tenant_key, cheap_model
        )
        assert response.status == 201
        where = f"/admin/v1/models/{msgspec.json.decode(response.body)['id']}"
        assert (await ask(gateway, "PATCH", where, tenant_key, change)).status == 403
        assert (
            await ask(gateway, "PATCH", where, tenant_key, {"name": "dear"})
        ).status == 403

    run(work, tmp_path)


def test_admins_of_the_default_tenant_cannot_override_the_settings(tmp_path: Path):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        admin = await yard.services.tenancy.administration.create(
            OPERATOR, "default", "key", "a", {"role": "admin"}
        )
        house = {"name": "house", "targets": [{"model": "echo/other"}]}
        assert (
            await ask(gateway, "POST", "/admin/v1/routes", admin["key"], house)
        ).status == 403
        budget = {**ROW_VALUES["limit"][0], "amount": -1}
        assert (
            await ask(gateway, "POST", "/admin/v1/limits", admin["key"], budget)
        ).status == 403
        assert (
            await ask(
                gateway,
                "POST",
                "/admin/v1/limits",
                admin["key"],
                {**budget, "name": "mine"},
            )
        ).status == 201
        for method in ("PATCH", "DELETE"):
            assert (
                await ask(
                    gateway, method, "/admin/v1/limits/file:budget", admin["key"], {}
                )
            ).status == 404

    routes, limits = (
        {"house": {"targets": ["echo/echo"]}},
        {"budget": {"unit": "cost", "amount": 1.0}},
    )
    run(work, tmp_path, routes=routes, limits=limits)


def test_limits_that_the_command_line_sets_are_the_operators(tmp_path: Path):
    home = {"MODELYARD_HOME": str(tmp_path)}
    for arguments in (
        ["tenants", "add", "acme"],
        [
            "limits",
            "set",
            "budget",
            "--unit",
            "cost",
            "--amount",
            "1",
            "--window",
            "month",
            "--tenant",
            "acme",
        ],
    ):
        result = CliRunner(env=home).invoke(root, arguments)
        assert result.exit_code == 0, result.output

    async def work(yard: Modelyard, gateway: Gateway) -> None:
        (limit,) = await yard.services.tenancy.administration.list("acme", "limit")
        assert limit["set_by"] == "operator"
        with pytest.raises(ForbiddenError):
            await yard.services.tenancy.administration.remove(
                Caller(tenant="acme"), "acme", "limit", limit["id"]
            )

    run(work, tmp_path)


def test_an_unmarked_old_limit_is_marked_when_set_again(
    tmp_path: Path,
):
    home = {"MODELYARD_HOME": str(tmp_path), "MODELYARD_LOCAL__HUB": ""}
    setting = [
        "limits",
        "set",
        "budget",
        "--unit",
        "cost",
        "--amount",
        "1",
        "--window",
        "month",
        "--tenant",
        "acme",
    ]

    async def create_unmarked(yard: Modelyard, gateway: Gateway) -> None:
        await keys_of(yard)
        limit = {"unit": "cost", "amount": 1.0, "window": "month"}
        created_limit = await yard.services.tenancy.administration.create(
            Caller(tenant="acme"), "acme", "limit", "budget", limit
        )
        assert created_limit["set_by"] == ""

    async def check_marked(yard: Modelyard, gateway: Gateway) -> None:
        (limit,) = await yard.services.tenancy.administration.list("acme", "limit")
        assert limit["set_by"] == "operator"

    run(create_unmarked, tmp_path)
    assert CliRunner(env=home).invoke(root, setting).exit_code == 0
    run(check_marked, tmp_path)


def test_every_row_records_who_set_it(tmp_path: Path):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        house, _ = await keys_of(yard)
        staff = await yard.services.tenancy.administration.create(
            OPERATOR, "default", "key", "staff", {"role": "admin"}
        )
        for plural, resource_kind in PLURALS.items():
            if resource_kind not in OPERATOR_MANAGED:
                continue
            row_values, change = ROW_VALUES[resource_kind]
            where = f"/admin/v1/{plural}"
            created_row = msgspec.json.decode(
                (await ask(gateway, "POST", where, house, row_values)).body
            )
            assert created_row["set_by"] == "operator"
            # The operator's rows in the default tenant stay open to that tenant's
            # administrators.
            assert (
                await ask(
                    gateway,
                    "PATCH",
                    f"{where}/{created_row['id']}",
                    staff["key"],
                    change,
                )
            ).status == 200
            assert (
                await ask(
                    gateway, "DELETE", f"{where}/{created_row['id']}", staff["key"]
                )
            ).status == 200
            created_row = msgspec.json.decode(
                (await ask(gateway, "POST", where, staff["key"], row_values)).body
            )
            assert created_row["set_by"] == ""
        for resource_kind in ("key", "user"):
            created_row = await yard.services.tenancy.administration.create(
                OPERATOR,
                "acme",
                resource_kind,
                f"a {resource_kind}",
                {"role": "viewer"},
            )
            assert (
                await yard.services.storage.resources.get(
                    "acme", resource_kind, created_row["id"]
                )
            ).set_by == "operator"

    run(work, tmp_path)


# -------------------------------------------------------------------------------- roles


ORDER = list(Role)


def test_nobody_touches_a_key_or_a_user_above_them_before_or_after(
    tmp_path: Path, database: str
):
    """Property over every pair of roles and every operation on keys and users."""

    async def work(yard: Modelyard, gateway: Gateway) -> None:
        await keys_of(yard)
        for mine, target_role in itertools.product(Role, Role):
            caller = Caller(tenant="acme", role=mine, key="x")
            await _check_new_roles(yard, caller, target_role)
            await _check_acts(yard, caller, target_role)

    run(work, tmp_path, database=database)


async def _check_new_roles(yard: Modelyard, caller: Caller, target_role: Role) -> None:
    """A role is changed only by a caller whose role covers the old and the new one."""
    admin = yard.services.tenancy.administration
    for new_role, resource_kind in itertools.product(Role, ("key", "user")):
        is_permitted = caller.role.covers(target_role) and caller.role.covers(new_role)
        row = await create_row(yard, resource_kind, target_role)
        change = {"role": new_role.value}
        outcome = await is_allowed(
            admin.change(caller, "acme", resource_kind, row, change)
        )
        assert outcome is is_permitted
        await admin.remove(Caller(tenant="acme"), "acme", resource_kind, row)


async def _check_acts(yard: Modelyard, caller: Caller, target_role: Role) -> None:
    """Keys and users are managed only by a caller whose role covers theirs."""
    admin = yard.services.tenancy.administration
    is_covered = caller.role.covers(target_role)
    for name, act in acts_on_keys(yard, caller).items():
        row = await create_row(yard, "key", target_role)
        assert await is_allowed(act(row)) is is_covered, (
            caller.role,
            target_role,
            name,
        )
    row = await create_row(yard, "user", target_role)
    disabling = admin.change(caller, "acme", "user", row, {"is_enabled": False})
    assert await is_allowed(disabling) is is_covered
    row = await create_row(yard, "user", target_role)
    assert await is_allowed(admin.remove(caller, "acme", "user", row)) is is_covered
    for resource_kind in ("key", "user"):
        fields = {"role": target_role.value}
        creating = admin.create(caller, "acme", resource_kind, uuid.uuid4().hex, fields)
        assert await is_allowed(creating) is is_covered


def acts_on_keys(
    yard: Modelyard, caller: Caller
) -> dict[str, Callable[[str], Awaitable[Any]]]:
    admin = yard.services.tenancy.administration
    return {
        "rename": lambda row: admin.change(
            caller, "acme", "key", row, {"name": uuid.uuid4().hex}
        ),
        "models": lambda row: admin.change(
            caller, "acme", "key", row, {"models": ["x/*"]}
        ),
        "rotate": lambda row: admin.rotate(caller, "acme", row),
        "revoke": lambda row: admin.revoke(caller, "acme", row),
        "remove": lambda row: admin.remove(caller, "acme", "key", row),
    }


async def create_row(yard: Modelyard, resource_kind: str, role: Role) -> str:
    name, fields = uuid.uuid4().hex, {"role": role.value}
    row = await yard.services.tenancy.administration.create(
        Caller(tenant="acme"), "acme", resource_kind, name, fields
    )
    return row["id"]


async def is_allowed(act: Awaitable[Any]) -> bool:
    try:
        await act
    except ForbiddenError:
        return False
    return True


def test_nobody_changes_an_account_above_them_and_an_owner_stays(
    tmp_path: Path, database: str
):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        await keys_of(yard)
        accounts, owner = yard.services.tenancy.accounts, Caller(tenant="acme")
        account = await add_account(yard, "o@acme.example", Role.OWNER)
        for mine, target_role in itertools.product(Role, Role):
            caller = Caller(tenant="acme", role=mine)
            account = await _check_account_changes(yard, caller, target_role)
        with pytest.raises(NotFoundError):
            await accounts.change(
                Caller(tenant="default"), account.id, role=Role.VIEWER
            )
        outcomes = await asyncio.gather(
            *(
                accounts.change(owner, account.id, role=Role.VIEWER)
                for account in await _enabled_owners(yard)
            ),
            return_exceptions=True,
        )
        errors = [error for error in outcomes if isinstance(error, BaseException)]
        assert [type(error) for error in errors] == [InvokeBadRequestError]
        assert len(await _enabled_owners(yard)) == 1

    run(work, tmp_path, database=database)


async def _check_account_changes(
    yard: Modelyard, caller: Caller, target_role: Role
) -> Account:
    """Accounts are managed only by a caller whose role covers theirs.

    Operations: changing, disabling, inviting. Returns the last account.
    """
    accounts = yard.services.tenancy.accounts
    is_covered = caller.role.covers(target_role)
    for new_role in Role:
        account = await add_account(yard, _new_email(), target_role)
        change = accounts.change(caller, account.id, role=new_role)
        is_permitted = is_covered and caller.role.covers(new_role)
        assert await is_allowed(change) is is_permitted
    account = await add_account(yard, _new_email(), target_role)
    disabling = accounts.change(caller, account.id, is_enabled=False)
    assert await is_allowed(disabling) is is_covered
    inviting = accounts.invite(caller, _new_email(), target_role)
    assert await is_allowed(inviting) is is_covered
    return account


def _new_email() -> str:
    """Return an address that no account has."""
    return f"{uuid.uuid4().hex}@acme.example"


async def _enabled_owners(yard: Modelyard) -> list[Account]:
    """Return the tenant's owners who can sign in."""
    return [
        account
        for account in await yard.services.tenancy.accounts.list_accounts("acme")
        if account.role is Role.OWNER and account.is_enabled
    ]


async def add_account(yard: Modelyard, email: str, role: Role) -> Account:
    """Do what accepting an invitation does, without the cost of a password hash."""
    values = (f"acct_{uuid.uuid4().hex}", "acme", email, "x", "", role.value, 1.0)
    statement = (
        "INSERT INTO accounts (id, tenant, email, name, password, role, is_enabled, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?, 1, ?)"
    )
    await yard.services.storage.database.transact(
        lambda connection: connection.execute(statement, values)
    )
    return next(
        account
        for account in await yard.services.tenancy.accounts.list_accounts("acme")
        if account.email == email
    )


def test_concurrent_demotions_leave_one_owner(tmp_path: Path, database: str):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        async with Modelyard(yard.settings, environ={}) as other_yard:
            for round_index in range(5):
                for name in ("a", "b"):
                    await add_account(
                        yard, f"{name}{round_index}@acme.example", Role.OWNER
                    )
                owners = await _enabled_owners(yard)
                demotions = zip((yard, other_yard), owners, strict=False)
                outcomes = await asyncio.gather(
                    *(
                        server.services.tenancy.accounts.change(
                            Caller(tenant="acme"), account.id, role=Role.VIEWER
                        )
                        for server, account in demotions
                    ),
                    return_exceptions=True,
                )
                assert await _enabled_owners(yard), outcomes
                await yard.services.storage.database.transact(
                    lambda connection: connection.execute("DELETE FROM accounts")
                )

    run(work, tmp_path, database=database)


def test_an_invitation_expires_if_its_author_loses_the_role(tmp_path: Path):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        await keys_of(yard)
        accounts = yard.services.tenancy.accounts
        await add_account(yard, "ann@acme.example", Role.ADMIN)
        (ann,) = await accounts.list_accounts("acme")
        with pytest.raises(ForbiddenError):
            await accounts.invite(ann.caller, "eve@acme.example", Role.OWNER)
        token = await accounts.invite(ann.caller, "eve@acme.example", Role.ADMIN)
        await add_account(yard, "o@acme.example", Role.OWNER)
        await accounts.change(Caller(tenant="acme"), ann.id, role=Role.VIEWER)
        with pytest.raises(NotFoundError, match="has expired"):
            await accounts.accept(token, "Eve", PASSWORD)

    run(work, tmp_path)


def test_disabling_a_user_needs_a_role_that_covers_its_accounts(
    tmp_path: Path,
):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        _, tenant_key = await keys_of(yard)
        admin = yard.services.tenancy.administration
        boss = await admin.create(
            Caller(tenant="acme"), "acme", "key", "b", {"role": "owner", "user": "boss"}
        )
        await add_account(yard, "o@acme.example", Role.OWNER)
        caller = Caller(tenant="acme", role=Role.ADMIN, key="x")
        for name in ("boss", "o@acme.example"):
            off = {"role": "viewer", "is_enabled": False}
            with pytest.raises(ForbiddenError):
                await admin.create(caller, "acme", "user", name, off)
            row = await admin.create(caller, "acme", "user", name, {"role": "viewer"})
            with pytest.raises(ForbiddenError):
                await admin.change(
                    caller, "acme", "user", row["id"], {"is_enabled": False}
                )
        assert (await ask(gateway, "GET", "/v1/models", boss["key"])).status == 200
        free = await admin.create(caller, "acme", "user", "nobody", {"role": "viewer"})
        renamed = {"name": "boss!", "is_enabled": False}
        await admin.change(caller, "acme", "user", free["id"], renamed)
        with pytest.raises(ModelyardError):
            await admin.change(caller, "acme", "user", free["id"], {"name": "boss"})
        assert (await ask(gateway, "GET", "/v1/models", tenant_key)).status == 200

    run(work, tmp_path)


def test_the_last_owner_key_cannot_be_removed(tmp_path: Path):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        house, tenant_key = await keys_of(yard)
        (row,) = await yard.services.tenancy.administration.list("acme", "key")
        where = f"/admin/v1/keys/{row['id']}"
        for method, path, body in (
            ("DELETE", where, None), ("POST", f"{where}/revoke", None), ("PATCH", where, {"role": "admin"}),
        ):  # fmt: skip
            refusal = await ask(gateway, method, path, tenant_key, body)
            assert refusal.status == 400, refusal.body
            assert b"at least one valid owner key" in refusal.body
        second_key = {"name": "late", "role": "owner", "user": "u"}
        created_key = msgspec.json.decode(
            (await ask(gateway, "POST", "/admin/v1/keys", tenant_key, second_key)).body
        )
        assert (
            await ask(gateway, "PATCH", where, tenant_key, {"role": "admin"})
        ).status == 200
        assert (
            await ask(
                gateway,
                "POST",
                "/admin/v1/users",
                created_key["key"],
                {"name": "u", "is_enabled": False},
            )
        ).status == 400
        assert (
            await ask(
                gateway,
                "DELETE",
                f"/admin/v1/keys/{created_key['id']}",
                house,
                None,
                ACTING,
            )
        ).status == 200

    run(work, tmp_path)
