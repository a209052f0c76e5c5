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
from modelyard.base.json_types import is_array, is_mapping
from modelyard.knowledge.entities import Conditions, Dataset
from modelyard.knowledge.stored.externals import StoredExternals
from modelyard.storage.database import Row
from modelyard.storage.secrets import KeyRing
from modelyard.transport.egress import EgressClient, EgressError

_SECRET_TYPE = "external_knowledge"  # noqa: S105
_MAX_RESPONSE_BYTES = 8 << 20
_ERROR_CODES = {
    1001: "invalid Authorization header",
    1002: "invalid API key",
    2001: "knowledge not found",
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
                f"Invalid endpoint {endpoint[:80]!r}; expected an http(s) URL",
                param="endpoint",
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
                f"External knowledge API {id[:80]!r} does not exist",
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
        row = await self._get(
            dataset.tenant, dataset.settings.external_knowledge_api_id
        )
        key = self._keys.decrypt(
            row["secret"], tenant=dataset.tenant, kind=_SECRET_TYPE, row=row["id"]
        )
        headers = [
            ("content-type", "application/json"),
            ("authorization", f"Bearer {key}"),
        ]
        url = f"{row['endpoint']}/retrieval"
        try:
            response = await self._egress.fetch(
                "POST",
                url,
                headers=headers,
                body=_request_body(dataset, query, top_k, threshold, conditions),
                max_bytes=_MAX_RESPONSE_BYTES,
            )
        except EgressError as error:
            raise InvokeServerUnavailableError(
                f"External knowledge API {row['name']!r} request failed: {error}"
            ) from error
        return _records(response.status, response.body, row["name"])

    async def _get(self, tenant: str, id: str) -> Row:
        """Return the row of an external API. Raises NotFoundError."""
        for row in await self._store.list(tenant):
            if row["id"] == id:
                return row
        raise NotFoundError(
            f"External knowledge API {id[:80]!r} does not exist",
            code="external_api_not_found",
        )


def _request_body(
    dataset: Dataset,
    query: str,
    top_k: int,
    threshold: float,
    conditions: Conditions | None,
) -> bytes:
    """Return a request in the format of Dify's external knowledge API."""
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
    return msgspec.json.encode(body)


def _records(status: int, body: bytes, name: str) -> Sequence[Mapping[str, Any]]:
    """Return the records of a response. Raises InvokeServerUnavailableError for an error
    status and for a response without records."""
    try:
        decoded: Any = decode_body(body)
    except BodyError:
        decoded = None
    # The body may be anything: only known fields of a JSON object are used.
    fields: Mapping[str, Any] = decoded if is_mapping(decoded) else {}
    if not 200 <= status < 300:
        reason = f": {text}" if (text := error_text(fields)) else ""
        raise InvokeServerUnavailableError(
            f"External knowledge API {name!r} returned status {status}{reason}"
        )
    records = fields.get("records")
    if not is_array(records):
        raise InvokeServerUnavailableError(
            f"External knowledge API {name!r} returned no list of records"
        )
    # Records that are not objects are skipped.
    return [record for record in records if is_mapping(record)]


def error_text(fields: Mapping[str, Any]) -> str:
    """Return the text of an error response; "" without an error code."""
    code = fields.get("error_code")
    if not code:
        return ""
    # The server is not ours: its code may be any JSON value.
    known = _ERROR_CODES.get(code) if isinstance(code, int) else None
    return known or str(fields.get("error_msg", ""))
