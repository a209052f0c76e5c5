"""External knowledge API: a dataset of this server as a knowledge source of another
product."""

from typing import Any

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.json_types import is_array, is_object
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply
from modelyard.gateway.knowledge.authentication import DatasetAuthenticator
from modelyard.gateway.knowledge.calls import DatasetParts
from modelyard.gateway.service.calls import (
    ServiceError,
    mapping_of,
    read_object,
)
from modelyard.knowledge.entities import (
    Condition,
    Conditions,
    Hit,
    RetrievalSettings,
)
from modelyard.knowledge.retrieve import Retrieval
from modelyard.models.types import JSON
from modelyard.tenancy.caller import Caller


class ExternalCalls:
    """Routes of the external knowledge API, which has its own numeric error codes."""

    def __init__(self, parts: DatasetParts, callers: DatasetAuthenticator) -> None:
        self._parts = parts
        self._callers = callers

    async def retrieve(self, request: Request) -> Reply | StreamReply:
        """POST /retrieval: search a dataset on behalf of another product.

        Raises InvokeBadRequestError; other errors are responses with a code.
        """
        try:
            request.identify(await self._callers.authenticate(request))
        except ServiceError as error:
            # 1001: the header is malformed; 1002: the key is invalid.
            code = (
                1001
                if "Bearer" not in (request.header(b"authorization") or "")
                else 1002
            )
            return json_reply({"error_code": code, "error_msg": str(error)}, status=403)
        try:
            retrieval = await self._search(
                request.caller, read_object(await request.body())
            )
        except NotFoundError as error:
            # 2001: the knowledge does not exist.
            return json_reply({"error_code": 2001, "error_msg": str(error)}, status=404)
        except (ValueError, TypeError) as error:
            raise InvokeBadRequestError(f"retrieval_setting: {error}") from error
        return json_reply({"records": [_record(hit) for hit in retrieval.hits]})

    async def _search(self, caller: Caller, body: JSON) -> Retrieval:
        """Search the dataset that the body names.

        Raises NotFoundError, and ValueError or TypeError for an invalid setting.
        """
        setting = mapping_of(body, "retrieval_setting")
        threshold = float(setting.get("score_threshold") or 0.0)
        # A threshold of 0 means that it is off.
        settings = RetrievalSettings(
            top_k=int(setting.get("top_k") or 4),
            score_threshold=threshold,
            score_threshold_enabled=threshold > 0,
        )
        conditions = _external_conditions(body.get("metadata_condition"))
        datasets = self._parts.datasets
        dataset = await datasets.store.datasets.get(
            caller.tenant, str(body.get("knowledge_id") or "")
        )
        return await datasets.search(
            caller.tenant,
            [dataset.id],
            str(body.get("query") or ""),
            settings=settings,
            conditions=conditions,
            source="external",
            reader=caller.reader,
        )


def _record(hit: Hit) -> JSON:
    """Return a hit as a record of the external knowledge API."""
    return {
        "content": hit.text,
        "score": hit.score,
        "title": hit.document.name,
        "metadata": {
            **hit.document.metadata,
            "document_id": hit.document.id,
            "segment_id": hit.segment.id,
            "page": hit.segment.page,
        },
    }


def _external_conditions(condition_body: Any) -> Conditions | None:
    """Parse the conditions of the external knowledge API, or return None if there are
    none."""
    if not is_object(condition_body) or not condition_body.get("conditions"):
        return None
    conditions = [
        _condition(condition)
        for condition in condition_body["conditions"]
        if is_object(condition)
    ]
    is_any = condition_body.get("logical_operator") == "or"
    return Conditions(logical_operator="or" if is_any else "and", conditions=conditions)


def _condition(condition: JSON) -> Condition:
    """Parse one condition. It carries a list of names; only the first is supported."""
    name, value = condition.get("name"), condition.get("value")
    if is_array(name) and name:
        name = name[0]
    operator = str(condition.get("comparison_operator") or "is")
    return Condition(name=str(name), comparison_operator=operator, value=value)
