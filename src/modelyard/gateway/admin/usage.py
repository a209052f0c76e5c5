"""/admin/v1/usage: aggregated usage, and the export of all attempts."""

import csv
import io
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.cpu_work import run_in_thread
from modelyard.base.errors import InvokeBadRequestError
from modelyard.gateway.admin.requests import tenant_of, time_range
from modelyard.gateway.admin.shapes import CallTotals
from modelyard.gateway.http import Reply, Request, StreamReply, encode
from modelyard.models.types import JSON
from modelyard.runtime.usage_row import UsageRow
from modelyard.runtime.usage_table import (
    GROUPINGS,
    UsageReport,
    UsageSummary,
    UsageTable,
)


@dataclass(frozen=True, slots=True)
class Usage:
    """Routes for the attempts of a tenant between `since` and `until`."""

    table: UsageTable

    async def sums(self, request: Request) -> Reply:
        """Return usage aggregated by the groupings in `by`.

        Raises InvokeBadRequestError, NotFoundError.
        """
        by = [
            name
            for name in (request.query("by") or "provider,model").split(",")
            if name
        ]
        if not by or set(by) - set(GROUPINGS):
            raise InvokeBadRequestError(
                f"'by' must list some of {', '.join(GROUPINGS)}", param="by"
            )
        since, until = time_range(request)
        tenant = tenant_of(request)
        report = await self.table.report(tenant, by=by, since=since, until=until)
        return await run_in_thread(_sums_reply, report, by, since, until)

    async def rows(self, request: Request) -> StreamReply:
        """Export all attempts as JSON lines or CSV.

        Raises InvokeBadRequestError, NotFoundError.
        """
        since, until = time_range(request)
        tenant = tenant_of(request)
        output_format = request.query("format") or "jsonl"
        if output_format not in ("jsonl", "csv"):
            raise InvokeBadRequestError("'format' must be jsonl or csv", param="format")
        pages = self.table.export(tenant, since=since, until=until)
        content_type = (
            b"text/csv; charset=utf-8"
            if output_format == "csv"
            else b"application/x-ndjson"
        )
        return StreamReply(
            _export_chunks(pages, as_csv if output_format == "csv" else as_lines),
            None,
            [(b"content-type", content_type)],
        )


def _sums_reply(
    report: UsageReport, by: Sequence[str], since: float, until: float
) -> Reply:
    """Build the reply with the sums, outside the event loop and one row at a time.

    There can be many rows by day and user, and encoding them in one call would hold the
    GIL throughout.
    """
    lines = [
        encode({**_grouping_values(by, line.key), **_sum_fields(line)})
        for line in report.sums
    ]
    # The rows are already encoded, so the surrounding object is assembled as bytes.
    span = {
        "since": since,
        "until": until,
        "total": CallTotals(**report.total._asdict()),
    }
    closing = encode(span).removeprefix(b"{")
    return Reply(b'{"data":[' + b",".join(lines) + b"]," + closing)


def _grouping_values(by: Sequence[str], key: Sequence[str]) -> JSON:
    """Return the values of the groupings by name; days and hours are numbers."""
    return {
        name: int(value) if name in ("day", "hour") else value
        for name, value in zip(by, key, strict=True)
    }


def _sum_fields(summary: UsageSummary) -> JSON:
    """Return the sums as JSON, without the key."""
    return {
        key: value
        for key, value in msgspec.to_builtins(summary).items()
        if key != "key"
    }


async def _export_chunks(
    pages: AsyncGenerator[list[UsageRow], None],
    write: Callable[[Sequence[UsageRow], bool], bytes],
) -> AsyncGenerator[bytes, None]:
    """Yield the export one page at a time. Each page is encoded outside the event loop."""
    is_first = True
    async with aclosing(pages):
        async for page in pages:
            # An empty export still needs its CSV header.
            if page or is_first:
                yield await run_in_thread(write, page, is_first)
            is_first = False


def as_lines(rows: Sequence[UsageRow], is_first: bool) -> bytes:
    """Return attempts as JSON lines."""
    del is_first
    return b"".join([encode(row.as_dict()) + b"\n" for row in rows])


def as_csv(rows: Sequence[UsageRow], is_first: bool) -> bytes:
    """Return attempts as CSV, with a header on the first page."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if is_first:
        writer.writerow(UsageRow.__struct_fields__)
    for row in rows:
        writer.writerow([_cell(value) for value in row.as_dict().values()])
    return buffer.getvalue().encode()


def _cell(value: Any) -> Any:
    """Return a CSV cell. Text that a spreadsheet would run as a formula gets a leading
    quote."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t"):
        return "'" + value
    return value
