"""/admin/v1/usage: what was used, added up or attempt by attempt; what is exported of it."""

import csv
import io
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.computing import apart
from modelyard.base.errors import InvokeBadRequestError
from modelyard.gateway.admin.requests import span_of, tenant_of
from modelyard.gateway.http import Reply, Request, StreamReply, encode
from modelyard.models.types import JSON
from modelyard.runtime.usage_row import UsageRow
from modelyard.runtime.usage_table import GROUPINGS, Spending, UsageTable


@dataclass(frozen=True, slots=True)
class Usage:
    """A tenant's attempts at calls, between `since` and `until`."""

    table: UsageTable

    async def sums(self, request: Request) -> Reply:
        """Added up by `by`. Raises InvokeBadRequestError, NotFoundError."""
        by = [name for name in (request.query("by") or "provider,model").split(",") if name]
        if not by or set(by) - set(GROUPINGS):
            raise InvokeBadRequestError(f"'by' takes {', '.join(GROUPINGS)}", param="by")
        since, until = span_of(request)
        tenant = tenant_of(request)
        sums = await self.table.summary(tenant, by=by, since=since, until=until)
        return await apart(_sums_reply, sums, by, since, until)

    async def rows(self, request: Request) -> StreamReply:
        """Every attempt, as JSON lines or CSV. Raises InvokeBadRequestError, NotFoundError."""
        since, until = span_of(request)
        tenant = tenant_of(request)
        form = request.query("format") or "jsonl"
        if form not in ("jsonl", "csv"):
            raise InvokeBadRequestError("'format' is jsonl or csv", param="format")
        pages = self.table.export(tenant, since=since, until=until)
        kind = b"text/csv; charset=utf-8" if form == "csv" else b"application/x-ndjson"
        return StreamReply(_pieces(pages, as_csv if form == "csv" else as_lines), None, [(b"content-type", kind)])


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
