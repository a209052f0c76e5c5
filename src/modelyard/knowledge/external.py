"""Client of Dify's external knowledge API: a search on another server instead of an
index of this one."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.errors import (
    InvokeBadRequestError,
    InvokeServerUnavailableError,
    NotFoundError,
)
from modelyard.base.ids import new_uuid
from modelyard.knowledge.entities import Conditions, Dataset
from modelyard.knowledge.stored.externals import StoredExternals
from modelyard.storage.secrets import KeyRing
from modelyard.transport.egress import EgressClient, EgressError

_SECRET_TYPE = "external_knowledge"  # noqa: S105
_MAX_RESPONSE_BYTES = 8 << 20
_ERROR_CODES = {
    1001: "its Authorization header is refused",
    1002: "its key is refused",
    2001: "it has no such knowledge",
}


class ExternalKnowledge:
    """Stores the external knowledge APIs of tenants and searches them."""

    def __init__(
        self, store: StoredExternals, egress: EgressClient, keys: KeyRing
    ) -> None:
        self._store = store
        self._egress = egress
        self._keys = keys

    async def add(self, tenant: str, name: str, endpoint: str, api_key: str) -> str:
        """Add an external API and return its id. Raises InvokeBadRequestError if the
        endpoint is not an http(s) URL."""
        if not endpoint.startswith(("http://", "https://")):
            raise InvokeBadRequestError(
                f"endpoint {endpoint[:80]!r} is no address", param="endpoint"
            )
        # The row's id is part of the encryption context, so it is chosen before the key
        # is encrypted.
        row = new_uuid()
        secret = self._keys.encrypt(api_key, tenant=tenant, kind=_SECRET_TYPE, row=row)
        await self._store.add(tenant, row, name, endpoint.rstrip("/"), secret)
        return row

    async def list(self, tenant: str) -> list[Mapping[str, Any]]:
        """Return the tenant's external APIs as {id, name, endpoint}. Keys are never
        returned."""
        return [
            {"id": row["id"], "name": row["name"], "endpoint": row["endpoint"]}
            for row in await self._store.list(tenant)
        ]

    async def reencrypt_all(self, tenant: str, keys: KeyRing) -> int:
        """Re-encrypt the tenant's API keys with the key ring's active key. Returns how
        many were changed."""
        reencrypted_count = 0
        for row in await self._store.list(tenant):
            if not keys.is_current(row["secret"]):
                plain = keys.decrypt(
                    row["secret"], tenant=tenant, kind=_SECRET_TYPE, row=row["id"]
                )
                sealed = keys.encrypt(
                    plain, tenant=tenant, kind=_SECRET_TYPE, row=row["id"]
                )
                # The update compares the old ciphertext, so that a concurrent change is
                # not overwritten.
                reencrypted_count += await self._store.reseal(
                    tenant, row["id"], sealed, row["secret"]
                )
        return reencrypted_count

    async def delete(self, tenant: str, id: str) -> None:
        """Delete an external API. Raises NotFoundError."""
        if not await self._store.delete(tenant, id):
            raise NotFoundError(
                f"external knowledge API {id[:80]!r} does not exist",
                code="external_api_not_found",
            )

    async def retrieve(
        self,
        dataset: Dataset,
        query: str,
        top_k: int,
        threshold: float,
        conditions: Conditions | None,
    ) -> Sequence[Mapping[str, Any]]:
        """Search a dataset's external knowledge and return the records.

        Raises NotFoundError if the API was deleted, InvokeServerUnavailableError if it
        fails, with a message for the caller.
        """
        api_id = dataset.settings.external_knowledge_api_id
        row = next(
            (
                api_row
                for api_row in await self._store.list(dataset.tenant)
                if api_row["id"] == api_id
            ),
            None,
        )
        if row is None:
            raise NotFoundError(
                f"external knowledge API {api_id[:80]!r} does not exist",
                code="external_api_not_found",
            )
        key = self._keys.decrypt(
            row["secret"], tenant=dataset.tenant, kind=_SECRET_TYPE, row=row["id"]
        )
        # The request format of Dify's external knowledge API.
        body: dict[str, Any] = {
            "knowledge_id": dataset.settings.external_knowledge_id,
            "query": query,
            "retrieval_setting": {"top_k": top_k, "score_threshold": threshold},
        }
        if conditions is not None:
            body["metadata_condition"] = {
                "logical_operator": conditions.logical_operator,
                "conditions": [
                    {
                        "name": [condition.name],
                        "comparison_operator": condition.comparison_operator,
                        "value": condition.value,
                    }
                    for condition in conditions.conditions
                ],
            }
        headers = [
            ("content-type", "application/json"),
            ("authorization", f"Bearer {key}"),
        ]
        url = f"{row['endpoint']}/retrieval"
        try:
            answer = await self._egress.fetch(
                "POST",
                url,
                headers=headers,
                body=msgspec.json.encode(body),
                max_bytes=_MAX_RESPONSE_BYTES,
            )
        except EgressError as error:
            raise InvokeServerUnavailableError(
                f"external knowledge {row['name']!r} cannot be asked: {error}"
            ) from error
        return _records(answer.status, answer.body, row["name"])


def _records(status: int, body: bytes, name: str) -> Sequence[Mapping[str, Any]]:
    try:
        response_body: Any = decode_body(body)
    except BodyError:
        response_body = None
    # The error body may be anything: only known fields of a JSON object are used.
    if not 200 <= status < 300:
        code = (
            response_body.get("error_code")
            if isinstance(response_body, Mapping)
            else None
        )
        reason = (
            _ERROR_CODES.get(
                code,
                str(response_body.get("error_msg", ""))
                if isinstance(response_body, Mapping)
                else "",
            )
            if code
            else ""
        )
        raise InvokeServerUnavailableError(
            f"external knowledge {name!r} answers with status {status}. {reason}".strip()
        )
    records = (
        response_body.get("records") if isinstance(response_body, Mapping) else None
    )
    if not isinstance(records, list):
        raise InvokeServerUnavailableError(
            f"external knowledge {name!r} answers with no list of records"
        )
    # Records that are not objects are skipped.
    return [record for record in records if isinstance(record, Mapping)]
