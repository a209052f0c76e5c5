"""External knowledge API: a dataset of this server as a knowledge source of another
product."""

from typing import Any

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
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
    RetrievalSettings,
)


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
            tenant = request.tenant
        except ServiceError as error:
            # 1001: the header is malformed; 1002: the key is invalid.
            code = (
                1001
                if "Bearer" not in (request.header(b"authorization") or "")
                else 1002
            )
            return json_reply({"error_code": code, "error_msg": str(error)}, status=403)
        try:
            body = read_object(await request.body())
            setting = mapping_of(body, "retrieval_setting")
            threshold = float(setting.get("score_threshold") or 0.0)
            # A threshold of 0 means that it is off.
            settings = RetrievalSettings(
                top_k=int(setting.get("top_k") or 4),
                score_threshold=threshold,
                score_threshold_enabled=threshold > 0,
            )
            condition = _external_conditions(body.get("metadata_condition"))
            datasets = self._parts.datasets
            dataset = await datasets.store.datasets.get(
                tenant, str(body.get("knowledge_id") or "")
            )
            retrieval = await datasets.search(
                tenant,
                [dataset.id],
                str(body.get("query") or ""),
                settings=settings,
                conditions=condition,
                source="external",
            )
        except NotFoundError as error:
            # 2001: the knowledge does not exist.
            return json_reply({"error_code": 2001, "error_msg": str(error)}, status=404)
        except (ValueError, TypeError) as error:
            raise InvokeBadRequestError(f"retrieval_setting: {error}") from error
        return json_reply(
            {
                "records": [
                    {
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
                    for hit in retrieval.hits
                ]
            }
        )


def _external_conditions(condition_body: Any) -> Conditions | None:
    """Parse the conditions of the external knowledge API, or return None if there are
    none."""
    if not isinstance(condition_body, dict) or not condition_body.get("conditions"):
        return None
    conditions = [
        Condition(
            # A condition carries a list of names; only the first is supported.
            name=str(
                condition["name"][0]
                if isinstance(condition.get("name"), list) and condition["name"]
                else condition.get("name")
            ),
            comparison_operator=str(condition.get("comparison_operator") or "is"),
            value=condition.get("value"),
        )
        for condition in condition_body["conditions"]
        if isinstance(condition, dict)
    ]
    return Conditions(
        logical_operator="or"
        if condition_body.get("logical_operator") == "or"
        else "and",
        conditions=conditions,
    )
