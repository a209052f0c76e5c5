"""Stored responses that clients may continue with `previous_response_id`, each with its
input, within one tenant."""

from collections import OrderedDict
from typing import Any

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.models.types import JSON
from modelyard.storage.database import Connection, Database, statements

_RETENTION_SECONDS = 30 * 86_400.0
"""How long responses are kept: as long as OpenAI keeps them."""
# A client usually continues its latest response, within seconds.
_MAX_IN_MEMORY = 256
# Each response of a conversation is read from the database one after another.
_MAX_CHAIN = 1000


class _StoredResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A response with its input and a link to the one before it."""

    tenant: str
    previous: str | None
    items: list[Any]
    response: JSON
    created_at: float


class ResponseStore:
    """Writes in the background; the most recent responses are in memory, the others are
    read from the database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._sql = statements("responses")
        self._recent: OrderedDict[str, _StoredResponse] = OrderedDict()

    def add(
        self, tenant: str, response: JSON, items: list[Any], *, previous: str | None
    ) -> None:
        """Store a response and its input items. Does not wait for the database."""
        stored_response = _StoredResponse(
            tenant=tenant,
            previous=previous,
            items=items,
            response=response,
            created_at=self._clock.time(),
        )
        self._recent[response["id"]] = stored_response
        # The oldest one is in the database by now; only the copy in memory is dropped.
        if len(self._recent) > _MAX_IN_MEMORY:
            self._recent.popitem(last=False)
        self._write(response["id"], stored_response)

    def _write(self, response_id: str, record: _StoredResponse) -> None:
        """Queue the write of a response."""
        items, response = (
            msgspec.json.encode(record.items).decode(),
            msgspec.json.encode(record.response).decode(),
        )
        self._database.write(
            self._sql["put"],
            (
                response_id,
                record.tenant,
                record.previous,
                record.created_at,
                items,
                response,
            ),
        )

    async def get(self, tenant: str, response_id: str) -> JSON:
        """Return a response. Raises NotFoundError if this tenant does not have it."""
        return (await self._find(tenant, response_id)).response

    async def input_items(self, tenant: str, response_id: str) -> list[Any]:
        """Return the input items of a response. Raises NotFoundError if this tenant
        does not have it."""
        return (await self._find(tenant, response_id)).items

    async def history(self, tenant: str, response_id: str) -> list[Any]:
        """Return all input and output items of the conversation up to this response,
        oldest first.

        Raises NotFoundError if a response of the chain is missing,
        InvokeBadRequestError if there are too many.
        """
        chain: list[_StoredResponse] = []
        current_id: str | None = response_id
        while current_id is not None:
            if len(chain) >= _MAX_CHAIN:
                raise InvokeBadRequestError(
                    "'previous_response_id' refers to a chain of more than"
                    f" {_MAX_CHAIN:,} responses",
                    param="previous_response_id",
                )
            # A chain may alternate between memory and the database, because a write may
            # not be committed yet.
            if current_id in self._recent:
                chain.append(
                    self._check_access(tenant, current_id, self._recent[current_id])
                )
            else:
                chain += await self._read_chain(
                    tenant, current_id, max_count=_MAX_CHAIN - len(chain)
                )
            current_id = chain[-1].previous
        return [
            item
            for stored_response in reversed(chain)
            for item in [
                *stored_response.items,
                *stored_response.response.get("output", ()),
            ]
        ]

    async def _read_chain(
        self, tenant: str, response_id: str, *, max_count: int
    ) -> list[_StoredResponse]:
        """Read a response and its predecessors from the database in one trip, newest
        first, up to one that is in memory."""
        recent = frozenset(self._recent)

        def work(connection: Connection) -> list[tuple[str, _StoredResponse | None]]:
            """Follow the links on a reader thread."""
            links: list[tuple[str, _StoredResponse | None]] = []
            current_id: str | None = response_id
            # Uses a copy of the ids in memory, since that dictionary belongs to the
            # event loop's thread.
            while (
                current_id is not None
                and current_id not in recent
                and len(links) < max_count
            ):
                stored_response = self._read(connection, tenant, current_id)
                links.append((current_id, stored_response))
                current_id = (
                    stored_response.previous if stored_response is not None else None
                )
            return links

        return [
            self._check_access(tenant, name, stored_response)
            for name, stored_response in await self._database.read_together(work)
        ]

    async def remove(self, tenant: str, response_id: str) -> None:
        """Delete the content of a response at once. An empty row remains, so that a
        chain through it still resolves.

        Raises NotFoundError if it does not exist.
        """
        await self._find(tenant, response_id)
        self._recent.pop(response_id, None)
        # The tombstone has the creation time 0, so it counts as expired and is never
        # returned.
        tombstone = _StoredResponse(
            tenant=tenant, previous=None, items=[], response={}, created_at=0.0
        )
        self._recent[response_id] = tombstone
        self._write(response_id, tombstone)

    async def _find(self, tenant: str, response_id: str) -> _StoredResponse:
        """Return a response from memory or the database. Raises NotFoundError."""
        stored_response = self._recent.get(response_id)
        if stored_response is None:
            stored_response = await self._database.read_together(
                lambda connection: self._read(connection, tenant, response_id)
            )
        return self._check_access(tenant, response_id, stored_response)

    def _check_access(
        self, tenant: str, response_id: str, stored_response: _StoredResponse | None
    ) -> _StoredResponse:
        """Return the response. Raises NotFoundError if it is missing, expired or
        another tenant's."""
        is_old = (
            stored_response is not None
            and stored_response.created_at < self._clock.time() - _RETENTION_SECONDS
        )
        if stored_response is None or stored_response.tenant != tenant or is_old:
            raise NotFoundError(
                f"Response {response_id!r} not found, or older than 30 days",
                code="not_found",
            )
        return stored_response

    def _read(
        self, connection: Connection, tenant: str, response_id: str
    ) -> _StoredResponse | None:
        """Read and parse a row. Runs on a reader thread, so that parsing does not block
        the event loop."""
        rows = connection.execute(
            self._sql["one"], {"tenant": tenant, "id": response_id}
        )
        if not rows:
            return None
        row = rows[0]
        return _StoredResponse(
            tenant=row["tenant"],
            previous=row["previous"],
            items=msgspec.json.decode(row["items"]),
            response=msgspec.json.decode(row["response"]),
            created_at=row["created_at"],
        )
