"""What the operator sets for a tenant is not the tenant's to change; nobody changes whoever is above them."""

import asyncio
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
from modelyard.tenancy.caller import Caller, ForbiddenError, Role
from modelyard.tenancy.directory import KEPT_BY_OPERATOR
from modelyard.tenancy.kinds import KINDS
from modelyard.testing import echo_models, echo_provider

PASSWORD = "a long enough word"
OPERATOR = Caller(tenant="default")
ACTING = [(TENANT, b"acme")]
GIVEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "limit": ({"name": "budget", "unit": "cost", "amount": 1.0, "window": "month"}, {"amount": 1e9}),
    "route": ({"name": "house", "targets": [{"model": "echo/echo"}]}, {"cache_seconds": 60.0}),
    "model": (
        {"name": "dear", "provider": "echo", "definition": {"name": "dear", "input_price": 5.0, "output_price": 5.0}},
        {"definition": {"name": "dear", "input_price": 0.0, "output_price": 0.0}},
    ),
    "default": ({"name": "llm", "model": "echo/echo"}, {"model": "echo/echo"}),
    "credential": ({"name": "house's", "provider": "openai", "values": {"api_key": "sk-of-the-house"}}, {"weight": 0.0}),
}  # fmt: skip
"""Kind → (what the operator sets, what a tenant would make of it)."""
THE_TENANTS = frozenset({
    "tenant", "user", "key", "plugin", "endpoint", "subscription", "tool_credential", "oauth_client", "plugin_task",
    "app", "app_key", "dataset_key", "tool_provider",
})  # fmt: skip
"""Kinds that are the tenant's own whoever made them; `tenant` itself takes the operator whatever is done."""


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


def run(work: Callable[[Modelyard, Gateway], Awaitable[None]], home: Path, **changes: Any) -> None:
    async def go() -> None:
        settings = msgspec.convert({"home": str(home), "local": {"hub": ""}, **changes}, Settings)
        yard = Modelyard(settings, definitions=[echo_provider()], builders={"echo": echo_models}, environ={})
        async with yard:
            await work(yard, gateway_for(yard.services))

    asyncio.run(go())


async def keys_of(yard: Modelyard) -> tuple[str, str]:
    """(the operator's key, that of the tenant's owner)."""
    admin = yard.services.tenancy.administration
    await admin.create(OPERATOR, "acme", "tenant", "acme", {})
    made = [
        await admin.create(Caller(tenant=tenant), tenant, "key", "o", {"role": "owner"}) for tenant in ("default", "acme")
    ]  # fmt: skip
    return made[0]["key"], made[1]["key"]


def test_every_kind_of_row_is_the_operators_or_the_tenants():
    assert set(KINDS) == KEPT_BY_OPERATOR | THE_TENANTS
    assert not KEPT_BY_OPERATOR & THE_TENANTS
    assert set(GIVEN) == KEPT_BY_OPERATOR


@pytest.mark.parametrize("way", ["acting", "query", "command line"])
def test_a_tenant_changes_nothing_that_the_operator_set(tmp_path: Path, database: str, way: str):
    """The law, over every kind of row that is the operator's and every way in which it sets one."""

    async def work(yard: Modelyard, gateway: Gateway) -> None:
        house, own = await keys_of(yard)
        for plural, kind in PLURALS.items():
            if kind not in KEPT_BY_OPERATOR:
                continue
            given, wanted = GIVEN[kind]
            where = f"/admin/v1/{plural}"
            if way == "command line":
                rest = {key: value for key, value in given.items() if key != "name"}
                row = (await yard.services.tenancy.administration.create(OPERATOR, "acme", kind, given["name"], rest))[
                    "id"
                ]
            else:
                path = f"{where}?tenant=acme" if way == "query" else where
                made = await ask(gateway, "POST", path, house, given, ACTING if way == "acting" else ())
                assert made.status == 201, made.body
                row = msgspec.json.decode(made.body)["id"]
            seen = msgspec.json.decode((await ask(gateway, "GET", f"{where}/{row}", own)).body)
            assert seen["set_by"] == "operator"
            renamed = {"name": "another"}
            for method, path, body in (
                ("PATCH", f"{where}/{row}", wanted), ("PATCH", f"{where}/{row}", renamed),
                ("DELETE", f"{where}/{row}", None), ("POST", where, {**given, **wanted}),
            ):  # fmt: skip
                told = await ask(gateway, method, path, own, body)
                assert (told.status, msgspec.json.decode(told.body)["error"]["code"]) == (403, "forbidden"), (
                    kind,
                    method,
                )
            assert msgspec.json.decode((await ask(gateway, "GET", f"{where}/{row}", own)).body) == seen
            changed = await ask(gateway, "PATCH", f"{where}/{row}", house, wanted, ACTING)
            assert changed.status == 200, changed.body
            assert msgspec.json.decode(changed.body)["set_by"] == "operator"
            assert (await ask(gateway, "DELETE", f"{where}/{row}", house, None, ACTING)).status == 200
            made = await ask(gateway, "POST", where, own, given)
            assert made.status == 201, made.body
            assert msgspec.json.decode(made.body)["set_by"] == ""
            row = msgspec.json.decode(made.body)["id"]
            assert (await ask(gateway, "PATCH", f"{where}/{row}", own, wanted)).status == 200
            assert (await ask(gateway, "DELETE", f"{where}/{row}", own)).status == 200

    run(work, tmp_path, database=database)


def test_a_limit_that_the_operator_changes_is_the_operators_from_then_on(tmp_path: Path):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        house, own = await keys_of(yard)
        made = await ask(gateway, "POST", "/admin/v1/limits", own, GIVEN["limit"][0])
        where = f"/admin/v1/limits/{msgspec.json.decode(made.body)['id']}"
        assert (await ask(gateway, "PATCH", where, house, {"amount": 0.5}, ACTING)).status == 200
        assert (await ask(gateway, "PATCH", where, own, {"amount": 50.0})).status == 403

    run(work, tmp_path)


def test_a_tenant_gives_its_model_no_name_that_stands_for_the_operators(tmp_path: Path):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        house, own = await keys_of(yard)
        given, wanted = GIVEN["model"]
        assert (await ask(gateway, "POST", "/admin/v1/models", house, given, ACTING)).status == 201
        free = {**given, **wanted, "name": "no such name"}
        assert (await ask(gateway, "POST", "/admin/v1/models", own, free)).status == 403
        other = {**free, "definition": {"name": "cheap"}}
        made = await ask(gateway, "POST", "/admin/v1/models", own, other)
        assert made.status == 201
        where = f"/admin/v1/models/{msgspec.json.decode(made.body)['id']}"
        assert (await ask(gateway, "PATCH", where, own, wanted)).status == 403
        assert (await ask(gateway, "PATCH", where, own, {"name": "dear"})).status == 403

    run(work, tmp_path)


def test_what_the_settings_say_is_replaced_by_no_admin_of_the_house(tmp_path: Path):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        admin = await yard.services.tenancy.administration.create(OPERATOR, "default", "key", "a", {"role": "admin"})
        house = {"name": "house", "targets": [{"model": "echo/other"}]}
        assert (await ask(gateway, "POST", "/admin/v1/routes", admin["key"], house)).status == 403
        budget = {**GIVEN["limit"][0], "amount": -1}
        assert (await ask(gateway, "POST", "/admin/v1/limits", admin["key"], budget)).status == 403
        assert (await ask(gateway, "POST", "/admin/v1/limits", admin["key"], {**budget, "name": "mine"})).status == 201
        for method in ("PATCH", "DELETE"):
            assert (await ask(gateway, method, "/admin/v1/limits/file:budget", admin["key"], {})).status == 404

    routes, limits = {"house": {"targets": ["echo/echo"]}}, {"budget": {"unit": "cost", "amount": 1.0}}
    run(work, tmp_path, routes=routes, limits=limits)


def test_limits_that_the_command_line_sets_are_the_operators(tmp_path: Path):
    home = {"MODELYARD_HOME": str(tmp_path)}
    for arguments in (
        ["tenants", "add", "acme"],
        ["limits", "set", "budget", "--unit", "cost", "--amount", "1", "--window", "month", "--tenant", "acme"],
    ):
        told = CliRunner(env=home).invoke(root, arguments)
        assert told.exit_code == 0, told.output

    async def work(yard: Modelyard, gateway: Gateway) -> None:
        (limit,) = await yard.services.tenancy.administration.list("acme", "limit")
        assert limit["set_by"] == "operator"
        with pytest.raises(ForbiddenError):
            await yard.services.tenancy.administration.remove(Caller(tenant="acme"), "acme", "limit", limit["id"])

    run(work, tmp_path)


def test_a_limit_from_before_rows_were_marked_is_marked_by_setting_it_again(tmp_path: Path):
    home = {"MODELYARD_HOME": str(tmp_path), "MODELYARD_LOCAL__HUB": ""}
    setting = ["limits", "set", "budget", "--unit", "cost", "--amount", "1", "--window", "month", "--tenant", "acme"]

    async def before(yard: Modelyard, gateway: Gateway) -> None:
        await keys_of(yard)
        limit = {"unit": "cost", "amount": 1.0, "window": "month"}
        made = await yard.services.tenancy.administration.create(
            Caller(tenant="acme"), "acme", "limit", "budget", limit
        )
        assert made["set_by"] == ""

    async def after(yard: Modelyard, gateway: Gateway) -> None:
        (limit,) = await yard.services.tenancy.administration.list("acme", "limit")
        assert limit["set_by"] == "operator"

    run(before, tmp_path)
    assert CliRunner(env=home).invoke(root, setting).exit_code == 0
    run(after, tmp_path)


def test_every_row_says_who_set_it_in_the_default_tenant_too(tmp_path: Path):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        house, _ = await keys_of(yard)
        staff = await yard.services.tenancy.administration.create(
            OPERATOR, "default", "key", "staff", {"role": "admin"}
        )
        for plural, kind in PLURALS.items():
            if kind not in KEPT_BY_OPERATOR:
                continue
            given, wanted = GIVEN[kind]
            where = f"/admin/v1/{plural}"
            made = msgspec.json.decode((await ask(gateway, "POST", where, house, given)).body)
            assert made["set_by"] == "operator"
            # What is the operator's there stays open to the administrators of the default tenant.
            assert (await ask(gateway, "PATCH", f"{where}/{made['id']}", staff["key"], wanted)).status == 200
            assert (await ask(gateway, "DELETE", f"{where}/{made['id']}", staff["key"])).status == 200
            made = msgspec.json.decode((await ask(gateway, "POST", where, staff["key"], given)).body)
            assert made["set_by"] == ""
        for kind in ("key", "user"):
            made = await yard.services.tenancy.administration.create(
                OPERATOR, "acme", kind, f"a {kind}", {"role": "viewer"}
            )
            assert (await yard.services.storage.resources.one("acme", kind, made["id"])).set_by == "operator"

    run(work, tmp_path)


# ------------------------------------------------------------------------------------------------ roles


ORDER = list(Role)


def test_nobody_touches_a_key_or_a_user_above_them_before_or_after(tmp_path: Path, database: str):
    """The law, over every pair of roles and everything that can be done to a key or a user."""

    async def work(yard: Modelyard, gateway: Gateway) -> None:
        admin = yard.services.tenancy.administration
        await keys_of(yard)
        for mine in Role:
            caller = Caller(tenant="acme", role=mine, key="x")
            for theirs in Role:
                for other in Role:
                    may = mine.covers(theirs) and mine.covers(other)
                    for kind in ("key", "user"):
                        row = await made(yard, kind, theirs)
                        assert await does(admin.change(caller, "acme", kind, row, {"role": other.value})) is may
                        await admin.remove(Caller(tenant="acme"), "acme", kind, row)
                for name, act in acts_on_keys(yard, caller).items():
                    row = await made(yard, "key", theirs)
                    assert await does(act(row)) is mine.covers(theirs), (mine, theirs, name)
                for switch in ({"is_enabled": False}, None):
                    row = await made(yard, "user", theirs)
                    act = (
                        admin.change(caller, "acme", "user", row, switch)
                        if switch
                        else admin.remove(caller, "acme", "user", row)
                    )
                    assert await does(act) is mine.covers(theirs)
                for kind in ("key", "user"):
                    given = {"role": theirs.value}
                    name = uuid.uuid4().hex
                    assert await does(admin.create(caller, "acme", kind, name, given)) is mine.covers(theirs)

    run(work, tmp_path, database=database)


def acts_on_keys(yard: Modelyard, caller: Caller) -> dict[str, Callable[[str], Awaitable[Any]]]:
    admin = yard.services.tenancy.administration
    return {
        "rename": lambda row: admin.change(caller, "acme", "key", row, {"name": uuid.uuid4().hex}),
        "models": lambda row: admin.change(caller, "acme", "key", row, {"models": ["x/*"]}),
        "rotate": lambda row: admin.rotate(caller, "acme", row),
        "revoke": lambda row: admin.revoke(caller, "acme", row),
        "remove": lambda row: admin.remove(caller, "acme", "key", row),
    }


async def made(yard: Modelyard, kind: str, role: Role) -> str:
    row = await yard.services.tenancy.administration.create(
        Caller(tenant="acme"), "acme", kind, uuid.uuid4().hex, {"role": role.value}
    )
    return row["id"]


async def does(act: Awaitable[Any]) -> bool:
    try:
        await act
    except ForbiddenError:
        return False
    return True


def test_nobody_changes_an_account_above_them_and_an_owner_stays(tmp_path: Path, database: str):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        await keys_of(yard)
        accounts, owner = yard.services.tenancy.accounts, Caller(tenant="acme")

        await joined(yard, "o@acme.example", Role.OWNER)
        for mine in Role:
            caller = Caller(tenant="acme", role=mine)
            for theirs in Role:
                for other in Role:
                    one = await joined(yard, f"{uuid.uuid4().hex}@acme.example", theirs)
                    may = mine.covers(theirs) and mine.covers(other)
                    assert await does(accounts.change(caller, one.id, role=other)) is may
                one = await joined(yard, f"{uuid.uuid4().hex}@acme.example", theirs)
                assert await does(accounts.change(caller, one.id, is_enabled=False)) is mine.covers(theirs)
                name = f"{uuid.uuid4().hex}@acme.example"
                assert await does(accounts.invite(caller, name, theirs)) is mine.covers(theirs)
        with pytest.raises(NotFoundError):
            await accounts.change(Caller(tenant="default"), one.id, role=Role.VIEWER)
        owners = [one for one in await accounts.of("acme") if one.role is Role.OWNER and one.is_enabled]
        ended = await asyncio.gather(
            *(accounts.change(owner, one.id, role=Role.VIEWER) for one in owners), return_exceptions=True
        )
        refused = [one for one in ended if isinstance(one, BaseException)]
        assert [type(one) for one in refused] == [InvokeBadRequestError]
        assert sum(one.role is Role.OWNER and one.is_enabled for one in await accounts.of("acme")) == 1

    run(work, tmp_path, database=database)


async def joined(yard: Modelyard, email: str, role: Role) -> Any:
    """What accepting an invitation does, without the time that a password takes."""
    values = (f"acct_{uuid.uuid4().hex}", "acme", email, "x", "", role.value, 1.0)
    statement = (
        "INSERT INTO accounts (id, tenant, email, name, password, role, is_enabled, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?, 1, ?)"
    )
    await yard.services.storage.database.transact(lambda it: it.execute(statement, values))
    return next(one for one in await yard.services.tenancy.accounts.of("acme") if one.email == email)


def test_two_servers_that_demote_two_owners_leave_one(tmp_path: Path, database: str):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        async with Modelyard(yard.settings, environ={}) as other:
            for turn in range(5):
                for name in ("a", "b"):
                    await joined(yard, f"{name}{turn}@acme.example", Role.OWNER)
                owners = [one for one in await yard.services.tenancy.accounts.of("acme") if one.role is Role.OWNER]
                both = zip((yard, other), owners, strict=False)
                ended = await asyncio.gather(
                    *(
                        one.services.tenancy.accounts.change(Caller(tenant="acme"), each.id, role=Role.VIEWER)
                        for one, each in both
                    ),
                    return_exceptions=True,
                )
                left = [one for one in await yard.services.tenancy.accounts.of("acme") if one.role is Role.OWNER]
                assert left, ended
                await yard.services.storage.database.transact(lambda it: it.execute("DELETE FROM accounts"))

    run(work, tmp_path, database=database)


def test_an_invitation_is_worth_no_more_than_whoever_gave_it(tmp_path: Path):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        await keys_of(yard)
        accounts = yard.services.tenancy.accounts
        await joined(yard, "ann@acme.example", Role.ADMIN)
        (ann,) = await accounts.of("acme")
        with pytest.raises(ForbiddenError):
            await accounts.invite(ann.caller, "eve@acme.example", Role.OWNER)
        token = await accounts.invite(ann.caller, "eve@acme.example", Role.ADMIN)
        await joined(yard, "o@acme.example", Role.OWNER)
        await accounts.change(Caller(tenant="acme"), ann.id, role=Role.VIEWER)
        with pytest.raises(NotFoundError, match="no longer"):
            await accounts.accept(token, "Eve", PASSWORD)

    run(work, tmp_path)


def test_a_user_that_is_switched_off_takes_a_role_that_covers_whom_it_shuts_out(tmp_path: Path):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        _, own = await keys_of(yard)
        admin = yard.services.tenancy.administration
        boss = await admin.create(Caller(tenant="acme"), "acme", "key", "b", {"role": "owner", "user": "boss"})
        await joined(yard, "o@acme.example", Role.OWNER)
        caller = Caller(tenant="acme", role=Role.ADMIN, key="x")
        for name in ("boss", "o@acme.example"):
            off = {"role": "viewer", "is_enabled": False}
            with pytest.raises(ForbiddenError):
                await admin.create(caller, "acme", "user", name, off)
            row = await admin.create(caller, "acme", "user", name, {"role": "viewer"})
            with pytest.raises(ForbiddenError):
                await admin.change(caller, "acme", "user", row["id"], {"is_enabled": False})
        assert (await ask(gateway, "GET", "/v1/models", boss["key"])).status == 200
        free = await admin.create(caller, "acme", "user", "nobody", {"role": "viewer"})
        renamed = {"name": "boss!", "is_enabled": False}
        await admin.change(caller, "acme", "user", free["id"], renamed)
        with pytest.raises(ModelyardError):
            await admin.change(caller, "acme", "user", free["id"], {"name": "boss"})
        assert (await ask(gateway, "GET", "/v1/models", own)).status == 200

    run(work, tmp_path)


def test_the_last_way_in_as_owner_stays(tmp_path: Path):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        house, own = await keys_of(yard)
        (row,) = await yard.services.tenancy.administration.list("acme", "key")
        where = f"/admin/v1/keys/{row['id']}"
        for method, path, body in (
            ("DELETE", where, None), ("POST", f"{where}/revoke", None), ("PATCH", where, {"role": "admin"}),
        ):  # fmt: skip
            told = await ask(gateway, method, path, own, body)
            assert told.status == 400, told.body
            assert b"one owner" in told.body
        late = {"name": "late", "role": "owner", "user": "u"}
        made = msgspec.json.decode((await ask(gateway, "POST", "/admin/v1/keys", own, late)).body)
        assert (await ask(gateway, "PATCH", where, own, {"role": "admin"})).status == 200
        assert (
            await ask(gateway, "POST", "/admin/v1/users", made["key"], {"name": "u", "is_enabled": False})
        ).status == 400
        assert (await ask(gateway, "DELETE", f"/admin/v1/keys/{made['id']}", house, None, ACTING)).status == 200

    run(work, tmp_path)
