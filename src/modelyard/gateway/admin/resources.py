"""/admin/v1: tenants, users, keys, credentials, models, routes, limits; what was used, and why a call went its way.

A caller reaches its own tenant. The default tenant's owner may name another with `?tenant=`; for anybody else that
tenant does not exist.
"""

import csv
import io
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from modelyard.base.computing import apart
from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.fields import need
from modelyard.gateway.admin.requests import PREFIX, count_of, span_of, tenant_of
from modelyard.gateway.http import Reply, Request, StreamReply, encode, json_reply
from modelyard.models.types import JSON
from modelyard.runtime.administration import Administration
from modelyard.runtime.load_balancing import Health
from modelyard.runtime.usage_row import UsageRow
from modelyard.runtime.usage_table import GROUPINGS, Spending, UsageTable
from modelyard.storage.answers import Answers

PLURALS: Mapping[str, str] = {
    "tenants": "tenant",
    "users": "user",
    "keys": "key",
    "credentials": "credential",
    "models": "model",
    "routes": "route",
    "limits": "limit",
    "defaults": "default",
}


@dataclass(frozen=True, slots=True)
class Collection:
    """GET and POST of a kind of thing, and what may be done with one of them."""

    admin: Administration
    kind: str

    async def __call__(self, request: Request) -> Reply:
        rest = request.path.removeprefix(PREFIX).rstrip("/").split("/")[1:]
        if self.kind == "tenant":
            return await self._tenants(request, rest)
        tenant = tenant_of(request)
        if tenant != request.tenant:
            await self.admin.get(tenant, "tenant", tenant)  # an operator, and a tenant that is there
        return await self._one_of(request, tenant, rest)

    async def _tenants(self, request: Request, rest: Sequence[str]) -> Reply:
        """An operator's: all of them. Anybody's: their own, to look at."""
        if not request.caller.is_operator:
            if request.method == "GET" and rest in ([], [request.tenant]):
                own = await self.admin.get(request.tenant, "tenant", request.tenant)
                return json_reply(own if rest else {"data": [own], "has_more": False})
            raise NotFoundError(f"tenant {'/'.join(rest)!r} does not exist", code="tenant_not_found")
        if request.method == "GET" and not rest:
            return json_reply({"data": self.admin.tenants(), "has_more": False})
        return await self._one_of(request, rest[0] if rest else "", rest)

    async def _one_of(self, request: Request, tenant: str, rest: Sequence[str]) -> Reply:
        match request.method, *rest:
            case ("GET",):
                most = count_of(request, "limit", 100)
                found = await self.admin.list(tenant, self.kind, after=request.query("after") or "", most=most + 1)
                return json_reply({"data": found[:most], "has_more": len(found) > most})
            case ("POST",):
                given = await request.json()
                name = need(given, "name", str)
                rest_of = {key: value for key, value in given.items() if key != "name"}
                made = await self.admin.create(request.caller, tenant, self.kind, name, rest_of)
                return json_reply(made, status=201)
            case "GET", id_:
                return json_reply(await self.admin.get(tenant, self.kind, id_))
            case "PATCH", id_:
                given = await request.json()
                return json_reply(await self.admin.change(request.caller, tenant, self.kind, id_, given))
            case "DELETE", id_:
                await self.admin.remove(request.caller, tenant, self.kind, id_)
                return json_reply({"id": id_, "deleted": True})
            case "POST", id_, "revoke" if self.kind == "key":
                return json_reply(await self.admin.revoke(request.caller, tenant, id_))
            case "POST", id_, "rotate" if self.kind == "key":
                given = _rotation(await request.body())
                made = await self.admin.rotate(request.caller, tenant, id_, grace_seconds=given.grace_seconds)
                return json_reply(made, status=201)
            case _:
                raise request.not_offered()


def _rotation(body: bytes) -> "_Rotation":
    """Raises InvokeBadRequestError."""
    try:
        return msgspec.json.decode(body, type=_Rotation) if body else _Rotation()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvokeBadRequestError(f"the body must be an object with 'grace_seconds': {error}") from error


class _Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    grace_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """GET /admin/v1/usage: sums by `by`, between `since` and `until` (seconds since 1970)."""

    table: UsageTable

    async def __call__(self, request: Request) -> Reply:
        by = [one for one in (request.query("by") or "provider,model").split(",") if one]
        if not by or set(by) - set(GROUPINGS):
            raise InvokeBadRequestError(f"'by' takes {', '.join(GROUPINGS)}", param="by")
        since, until = span_of(request)
        tenant = tenant_of(request)
        sums = await self.table.summary(tenant, by=by, since=since, until=until)
        return await apart(_sums_reply, sums, by, since, until)


def _sums_reply(sums: Sequence[Spending], by: Sequence[str], since: float, until: float) -> Reply:
    """Made beside the loop, and a line at a time: by day and user there may be many, and whoever writes all at once
    lets go of the interpreter for nobody."""
    lines = [encode({**_named(by, line.key), **_built(line)}) for line in sums]
    rest = encode({"since": since, "until": until}).removeprefix(b"{")
    return Reply(b'{"data":[' + b",".join(lines) + b"]," + rest)


def _named(by: Sequence[str], key: Sequence[str]) -> JSON:
    return {
        name: int(value) if name in ("day", "hour") else value for name, value in zip(by, key, strict=True)
    }  # fmt: skip


def _built(one: Any) -> JSON:
    return {key: value for key, value in msgspec.to_builtins(one).items() if key != "key"}


@dataclass(frozen=True, slots=True)
class Rows:
    """GET /admin/v1/usage/rows: every attempt, as JSON lines or CSV."""

    table: UsageTable

    async def __call__(self, request: Request) -> StreamReply:
        since, until = span_of(request)
        tenant = tenant_of(request)
        form = request.query("format") or "jsonl"
        if form not in ("jsonl", "csv"):
            raise InvokeBadRequestError("'format' is jsonl or csv", param="format")
        pages = self.table.export(tenant, since=since, until=until)
        kind = b"text/csv; charset=utf-8" if form == "csv" else b"application/x-ndjson"
        return StreamReply(_pieces(pages, as_csv if form == "csv" else as_lines), None, [(b"content-type", kind)])


async def _pieces(
    pages: AsyncGenerator[list[UsageRow], None], write: Callable[[Sequence[UsageRow], bool], bytes]
) -> AsyncGenerator[bytes, None]:
    """A page at a time, each written beside the loop: a thousand rows take milliseconds."""
    is_first = True
    async with aclosing(pages):
        async for page in pages:
            if page or is_first:
                yield await apart(write, page, is_first)
            is_first = False


def as_lines(rows: Sequence[UsageRow], is_first: bool) -> bytes:
    del is_first
    return b"".join([encode(row.as_dict()) + b"\n" for row in rows])


def as_csv(rows: Sequence[UsageRow], is_first: bool) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if is_first:
        writer.writerow(UsageRow.__struct_fields__)
    for row in rows:
        writer.writerow([_cell(value) for value in row.as_dict().values()])
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    """What a spreadsheet would take for a formula is marked as text."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t"):
        return "'" + value
    return value


@dataclass(frozen=True, slots=True)
class Resting:
    """GET /admin/v1/resting: which of a tenant's deployments and credentials rest, in this process, and how long."""

    health: Health

    async def __call__(self, request: Request) -> Reply:
        tenant = tenant_of(request)
        found = self.health.resting()
        mine = {place: round(seconds, 1) for place, seconds in found.items() if place.startswith(f"{tenant}/")}
        return json_reply({"data": mine})


@dataclass(frozen=True, slots=True)
class CacheRoute:
    """DELETE /admin/v1/cache: a tenant's answers are not given again."""

    answers: Answers

    async def __call__(self, request: Request) -> Reply:
        await self.answers.clear(tenant_of(request))
        return json_reply({"cleared": True})
