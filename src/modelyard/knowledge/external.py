"""The external knowledge API, as its caller: another server's search in the place of an index of ours."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.bodies import BodyError, decode_body
from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError, NotFoundError
from modelyard.base.ids import new_uuid
from modelyard.knowledge.entities import Conditions, Dataset
from modelyard.knowledge.stored.externals import StoredExternals
from modelyard.storage.secrets import KeyRing
from modelyard.transport.egress import Egress, EgressError

_KIND = "external_knowledge"
_MOST_ANSWER = 8 << 20
_CODES = {1001: "its Authorization header is refused", 1002: "its key is refused", 2001: "it has no such knowledge"}


class ExternalKnowledge:
    def __init__(self, stored: StoredExternals, egress: Egress, keys: KeyRing) -> None:
        self._stored = stored
        self._egress = egress
        self._keys = keys

    async def add(self, tenant: str, name: str, endpoint: str, api_key: str) -> str:
        """A server to be asked; its id. Raises InvokeBadRequestError."""
        if not endpoint.startswith(("http://", "https://")):
            raise InvokeBadRequestError(f"endpoint {endpoint[:80]!r} is no address", param="endpoint")
        row = new_uuid()
        secret = self._keys.encrypt(api_key, tenant=tenant, kind=_KIND, row=row)
        await self._stored.add(tenant, row, name, endpoint.rstrip("/"), secret)
        return row

    async def listed(self, tenant: str) -> list[Mapping[str, Any]]:
        """{id, name, endpoint} each; never a key."""
        return [
            {"id": row["id"], "name": row["name"], "endpoint": row["endpoint"]} for row in await self._stored.of(tenant)
        ]

    async def encrypt_anew(self, tenant: str, keys: KeyRing) -> int:
        """Have the tenant's keys encrypted with the ring's active key; how many were not."""
        done = 0
        for row in await self._stored.of(tenant):
            if not keys.is_current(row["secret"]):
                plain = keys.decrypt(row["secret"], tenant=tenant, kind=_KIND, row=row["id"])
                sealed = keys.encrypt(plain, tenant=tenant, kind=_KIND, row=row["id"])
                done += await self._stored.reseal(tenant, row["id"], sealed, row["secret"])
        return done

    async def delete(self, tenant: str, id: str) -> None:  # noqa: A002
        """Raises NotFoundError."""
        if not await self._stored.delete(tenant, id):
            raise NotFoundError(f"external knowledge API {id[:80]!r} does not exist", code="external_api_not_found")

    async def retrieve(
        self, dataset: Dataset, query: str, top_k: int, threshold: float, conditions: Conditions | None
    ) -> Sequence[Mapping[str, Any]]:
        """Raises InvokeError in words for whoever searched."""
        wanted = dataset.settings.external_knowledge_api_id
        row = next((one for one in await self._stored.of(dataset.tenant) if one["id"] == wanted), None)
        if row is None:
            raise NotFoundError(f"external knowledge API {wanted[:80]!r} does not exist", code="external_api_not_found")
        key = self._keys.decrypt(row["secret"], tenant=dataset.tenant, kind=_KIND, row=row["id"])
        body: dict[str, Any] = {
            "knowledge_id": dataset.settings.external_knowledge_id, "query": query,
            "retrieval_setting": {"top_k": top_k, "score_threshold": threshold},
        }  # fmt: skip
        if conditions is not None:
            body["metadata_condition"] = {
                "logical_operator": conditions.logical_operator,
                "conditions": [
                    {"name": [one.name], "comparison_operator": one.comparison_operator, "value": one.value}
                    for one in conditions.conditions
                ],
            }
        headers = [("content-type", "application/json"), ("authorization", f"Bearer {key}")]
        url = f"{row['endpoint']}/retrieval"
        try:
            answer = await self._egress.fetch(
                "POST", url, headers=headers, body=msgspec.json.encode(body), most_bytes=_MOST_ANSWER
            )
        except EgressError as error:
            raise InvokeServerUnavailableError(
                f"external knowledge {row['name']!r} cannot be asked: {error}"
            ) from error
        return _records(answer.status, answer.body, row["name"])


def _records(status: int, body: bytes, name: str) -> Sequence[Mapping[str, Any]]:
    try:
        told: Any = decode_body(body)
    except BodyError:
        told = None
    if not 200 <= status < 300:
        code = told.get("error_code") if isinstance(told, Mapping) else None
        why = _CODES.get(code, str(told.get("error_msg", "")) if isinstance(told, Mapping) else "") if code else ""
        raise InvokeServerUnavailableError(f"external knowledge {name!r} answers with status {status}. {why}".strip())
    records = told.get("records") if isinstance(told, Mapping) else None
    if not isinstance(records, list):
        raise InvokeServerUnavailableError(f"external knowledge {name!r} answers with no list of records")
    return [one for one in records if isinstance(one, Mapping)]
