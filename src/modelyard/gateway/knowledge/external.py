"""A dataset of ours as somebody else's external knowledge."""

from typing import Any

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply
from modelyard.gateway.knowledge.calls import DatasetParts
from modelyard.gateway.knowledge.entrance import Callers
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
    """The external knowledge API, served. It has errors of its own, with numbers."""

    def __init__(self, parts: DatasetParts, callers: Callers) -> None:
        self._parts = parts
        self._callers = callers

    async def retrieve(self, request: Request) -> Reply | StreamReply:
        """POST /retrieval: a dataset of ours as somebody else's external knowledge."""
        try:
            request.identify(await self._callers.of(request))
            tenant = request.tenant
        except ServiceError as error:
            code = 1001 if "Bearer" not in (request.header(b"authorization") or "") else 1002
            return json_reply({"error_code": code, "error_msg": str(error)}, status=403)
        try:
            body = read_object(await request.body())
            setting = mapping_of(body, "retrieval_setting")
            threshold = float(setting.get("score_threshold") or 0.0)
            settings = RetrievalSettings(
                top_k=int(setting.get("top_k") or 4), score_threshold=threshold, score_threshold_enabled=threshold > 0
            )
            condition = _external_conditions(body.get("metadata_condition"))
            datasets = self._parts.datasets
            dataset = await datasets.stored.datasets.get(tenant, str(body.get("knowledge_id") or ""))
            found = await datasets.search(
                tenant, [dataset.id], str(body.get("query") or ""), settings=settings, conditions=condition,
                source="external",
            )  # fmt: skip
        except NotFoundError as error:
            return json_reply({"error_code": 2001, "error_msg": str(error)}, status=404)
        except (ValueError, TypeError) as error:
            raise InvokeBadRequestError(f"retrieval_setting: {error}") from error
        return json_reply({
            "records": [
                {"content": one.text, "score": one.score, "title": one.document.name, "metadata": {
                    **one.document.metadata, "document_id": one.document.id, "segment_id": one.segment.id,
                    "page": one.segment.page,
                }}
                for one in found.hits
            ]
        })  # fmt: skip


def _external_conditions(given: Any) -> Conditions | None:
    """Conditions as the external knowledge API writes them: a list of names each, of which one must fit."""
    if not isinstance(given, dict) or not given.get("conditions"):
        return None
    found = [
        Condition(
            name=str(one["name"][0] if isinstance(one.get("name"), list) and one["name"] else one.get("name")),
            comparison_operator=str(one.get("comparison_operator") or "is"), value=one.get("value"),
        )
        for one in given["conditions"] if isinstance(one, dict)
    ]  # fmt: skip
    return Conditions(logical_operator="or" if given.get("logical_operator") == "or" else "and", conditions=found)
