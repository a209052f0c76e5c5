"""Validates every answer in a test against the API's table: status, type, schema.

`watch()` intercepts responses between the gateway and its callers. Mismatches are
collected, and fail the test in which they occurred.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import jsonschema_rs
import msgspec

from modelyard.gateway.http import Reply, Request, StreamReply
from modelyard.gateway.openapi import response_schema
from modelyard.gateway.router import RouteMatch
from modelyard.gateway.server import Gateway
from modelyard.gateway.table import Api, Content, OneOf, Row


@contextmanager
def watch() -> Iterator[list[str]]:
    """Collect the mismatches of all gateways of this process."""
    misfits: list[str] = []
    note, failure = Gateway._audit, Gateway._failure

    async def noting(
        self: Gateway,
        request: Request,
        route_match: RouteMatch,
        reply: Reply | StreamReply,
    ) -> None:
        problem = misfit(route_match.api, route_match.row, reply)
        if problem is not None:
            misfits.append(
                f"{request.method} {route_match.row.path} of {route_match.api.name}: {problem}"
            )
        await note(self, request, route_match, reply)

    def failing(self: Gateway, error: Exception, request: Request) -> Reply:
        reply = failure(self, error, request)
        shape = self.errors_for(request.method, request.path, request.scope["headers"])
        problem = _problem(_validator(msgspec.json.encode(shape.schema)), reply.body)
        if problem is not None:
            misfits.append(f"error of {request.method} {request.path}: {problem}")
        return reply

    Gateway._audit, Gateway._failure = noting, failing  # type: ignore[method-assign]
    try:
        yield misfits
    finally:
        Gateway._audit, Gateway._failure = note, failure  # type: ignore[method-assign]


def misfit(api: Api, row: Row, reply: Reply | StreamReply) -> str | None:
    """Return how a response differs from what its row documents, or None."""
    if row.takes_any_method:
        return None
    status = reply.status
    if status >= 400:
        return _misfit_of_error(api, row, reply) if isinstance(reply, Reply) else None
    if status not in (row.status, *row.other_statuses):
        return f"status {status}, not {row.status}"
    if row.answer is None or status in (202, 204, 302, 303):
        return _misfit_of_empty(reply)
    if isinstance(reply, Reply) and _kind(reply) == "application/json":
        schema = _schema(api, row, status)
        if schema is not None:
            return _problem(_validator(schema), reply.body)
    return _misfit_of_type(row, reply)


def _misfit_of_empty(reply: Reply | StreamReply) -> str | None:
    """Return a problem if a response has undocumented content.

    A redirect with status 303 may have some.
    """
    has_content = isinstance(reply, StreamReply) or bool(reply.body)
    if has_content and reply.status != 303:
        return f"undocumented content of {_kind(reply)}"
    return None


def _misfit_of_type(row: Row, reply: Reply | StreamReply) -> str | None:
    """Return a problem if the content type is not one that the row documents.

    A stream may always be JSON instead.
    """
    content_type = _kind(reply)
    if _fits(content_type, _kinds(row.answer)):
        return None
    is_json = content_type == "application/json"
    if isinstance(reply, StreamReply):
        return None if is_json else f"a stream of {content_type}"
    return "undocumented JSON" if is_json else f"content of {content_type}"


def _misfit_of_error(api: Api, row: Row, reply: Reply) -> str | None:
    """Check an error that a handler built itself.

    Other documented statuses of its row may have the shape of the answer.
    """
    if (
        reply.status in row.other_statuses
        or reply.status in row.errors
        or _kind(reply) != "application/json"
    ):
        return None
    return _problem(_validator(msgspec.json.encode(api.errors.schema)), reply.body)


_SCHEMAS: dict[tuple[int, int], bytes | None] = {}


def _schema(api: Api, row: Row, status: int) -> bytes | None:
    """Return the schema of a row's JSON answer, built once per row and status."""
    key = (id(row), status)
    if key not in _SCHEMAS:
        schema = response_schema(api, row, status, "application/json")
        _SCHEMAS[key] = None if schema is None else msgspec.json.encode(schema)
        # Keep the row alive, so that no other object gets its id.
        _KEPT.append(row)
    return _SCHEMAS[key]


_KEPT: list[Row] = []


@lru_cache(2000)
def _validator(schema: bytes) -> Any:
    return jsonschema_rs.Draft202012Validator(msgspec.json.decode(schema))


def _problem(validator: Any, body: bytes) -> str | None:
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        return f"no JSON: {error}"
    errors = list(validator.iter_errors(document))[:3]
    return (
        "; ".join(
            f"{'/'.join(map(str, error.instance_path))}: {error.message[:200]}"
            for error in errors
        )
        or None
    )


def _kind(reply: Reply | StreamReply) -> str:
    if isinstance(reply, Reply):
        text = reply.content_type
    else:
        text = next(
            (value for name, value in reply.headers if name == b"content-type"), b""
        )
    return text.partition(b";")[0].strip().decode()


def _kinds(body: Any) -> set[str]:
    """Return the content types that a body may have."""
    match body:
        case OneOf(bodies):
            return {
                content_type
                for alternative in bodies
                for content_type in _kinds(alternative)
            }
        case Content(kind):
            return {kind}
        case None:
            return set()
        case _:
            return {"application/json"}


def _fits(content_type: str, promised: set[str]) -> bool:
    """Return whether a content type is allowed; `*/*` and `image/*` are wildcards."""
    return any(
        promised_type in ("*/*", content_type)
        or (
            promised_type.endswith("/*") and content_type.startswith(promised_type[:-1])
        )
        for promised_type in promised
    )
