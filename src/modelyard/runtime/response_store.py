"""Answers that callers may go on from: each with what was asked, within one tenant."""

from collections import OrderedDict
from typing import Any

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.models.types import JSON
from modelyard.storage.database import Connection, Database, statements

_KEPT_SECONDS = 30 * 86_400.0
"""As long as OpenAI keeps them."""
_AT_HAND = 256
_MAX_CHAIN = 1000


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    tenant: str
    previous: str | None
    items: list[Any]
    response: JSON
    created_at: float


class ResponseStore:
    """Writes do not make the caller wait; what was just written is at hand, the rest comes from the database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._sql = statements("responses")
        self._recent: OrderedDict[str, _Stored] = OrderedDict()

    def add(self, tenant: str, response: JSON, items: list[Any], *, previous: str | None) -> None:
        stored = _Stored(
            tenant=tenant, previous=previous, items=items, response=response, created_at=self._clock.time()
        )
        self._recent[response["id"]] = stored
        if len(self._recent) > _AT_HAND:
            self._recent.popitem(last=False)
        self._write(response["id"], stored)

    def _write(self, response_id: str, one: _Stored) -> None:
        items, response = msgspec.json.encode(one.items).decode(), msgspec.json.encode(one.response).decode()
        self._database.write(self._sql["put"], (response_id, one.tenant, one.previous, one.created_at, items, response))

    async def get(self, tenant: str, response_id: str) -> JSON:
        """Raises NotFoundError where this tenant has no such answer."""
        return (await self._find(tenant, response_id)).response

    async def input_items(self, tenant: str, response_id: str) -> list[Any]:
        """What was asked. Raises NotFoundError where this tenant has no such answer."""
        return (await self._find(tenant, response_id)).items

    async def history(self, tenant: str, response_id: str) -> list[Any]:
        """All items that went before and came of it, oldest first.

        Raises NotFoundError where this tenant has not all of them, InvokeBadRequestError where they are too many.
        """
        chain: list[_Stored] = []
        here: str | None = response_id
        while here is not None:
            if len(chain) >= _MAX_CHAIN:
                raise InvokeBadRequestError(
                    f"'previous_response_id' stands for more than {_MAX_CHAIN:,} answers", param="previous_response_id"
                )
            if here in self._recent:
                chain.append(self._checked(tenant, here, self._recent[here]))
            else:
                chain += await self._older(tenant, here, most=_MAX_CHAIN - len(chain))
            here = chain[-1].previous
        return [item for stored in reversed(chain) for item in [*stored.items, *stored.response.get("output", ())]]

    async def _older(self, tenant: str, response_id: str, *, most: int) -> list[_Stored]:
        """A stored answer and those before it, newest first, as far as they are not at hand: one trip for all."""
        recent = frozenset(self._recent)

        def work(connection: Connection) -> list[tuple[str, _Stored | None]]:
            links: list[tuple[str, _Stored | None]] = []
            here: str | None = response_id
            while here is not None and here not in recent and len(links) < most:
                stored = self._read(connection, tenant, here)
                links.append((here, stored))
                here = stored.previous if stored is not None else None
            return links

        return [self._checked(tenant, name, stored) for name, stored in await self._database.at_once(work)]

    async def remove(self, tenant: str, response_id: str) -> None:
        """Its words are gone at once; that it was there stays. Raises NotFoundError where it is not there."""
        await self._find(tenant, response_id)
        self._recent.pop(response_id, None)
        gone = _Stored(tenant=tenant, previous=None, items=[], response={}, created_at=0.0)
        self._recent[response_id] = gone
        self._write(response_id, gone)

    async def _find(self, tenant: str, response_id: str) -> _Stored:
        """Raises NotFoundError."""
        stored = self._recent.get(response_id)
        if stored is None:
            stored = await self._database.at_once(lambda it: self._read(it, tenant, response_id))
        return self._checked(tenant, response_id, stored)

    def _checked(self, tenant: str, response_id: str, stored: _Stored | None) -> _Stored:
        """Raises NotFoundError for what this tenant has not, or not any more."""
        is_old = stored is not None and stored.created_at < self._clock.time() - _KEPT_SECONDS
        if stored is None or stored.tenant != tenant or is_old:
            raise NotFoundError(f"response {response_id!r} does not exist, or is older than 30 days", code="not_found")
        return stored

    def _read(self, connection: Connection, tenant: str, response_id: str) -> _Stored | None:
        """In a reader's thread; what it held is parsed there too."""
        rows = connection.execute(self._sql["one"], {"tenant": tenant, "id": response_id})
        if not rows:
            return None
        row = rows[0]
        return _Stored(
            tenant=row["tenant"],
            previous=row["previous"],
            items=msgspec.json.decode(row["items"]),
            response=msgspec.json.decode(row["response"]),
            created_at=row["created_at"],
        )
