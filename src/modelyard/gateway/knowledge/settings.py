"""A dataset's settings, read from what callers send."""

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.gateway.knowledge.calls import Asked, DatasetParts, converted
from modelyard.gateway.service.calls import (
    ServiceError,
    list_of,
)
from modelyard.knowledge.entities import (
    DatasetSettings,
    DocForm,
    ExternalRetrieval,
    ProcessRule,
    RetrievalSettings,
    SummaryIndex,
    Technique,
)
from modelyard.models.types import ModelType


class SettingsReader:
    """Reads a dataset's settings, and holds them to what is there: models, external APIs."""

    def __init__(self, parts: DatasetParts) -> None:
        self._parts = parts

    def has_embedding(self, tenant: str, settings: DatasetSettings) -> bool:
        """Whether the tenant may call the model by which the dataset is indexed."""
        try:
            self._parts.models.find(tenant, settings.embedding, ModelType.TEXT_EMBEDDING)
        except ModelyardError:
            return False
        return True

    async def read(self, asked: Asked, settings: DatasetSettings, body: Mapping[str, Any]) -> DatasetSettings:
        """As the body says, where it says something. Raises ServiceError."""
        changed: dict[str, Any] = {}
        for name in ("permission", "provider", "embedding_model", "embedding_model_provider", "external_knowledge_id",
                     "external_knowledge_api_id"):  # fmt: skip
            if body.get(name) is not None:
                changed[name] = converted(body[name], str, name)
        readers: dict[str, Any] = {
            "indexing_technique": Technique, "doc_form": DocForm, "retrieval_model": RetrievalSettings,
            "process_rule": ProcessRule, "external_retrieval_model": ExternalRetrieval,
            "summary_index_setting": SummaryIndex,
        }  # fmt: skip
        for name, kind in readers.items():
            if body.get(name) is not None:
                changed[name] = converted(body[name], kind, name)
        if body.get("partial_member_list") is not None:
            members = list_of(dict(body), "partial_member_list")
            changed["members"] = [str(one.get("user_id") if isinstance(one, dict) else one) for one in members]
        if changed.get("provider", "vendor") not in ("vendor", "external"):
            raise ServiceError(400, "invalid_param", "provider must be vendor or external")
        if changed.get("permission", "only_me") not in ("only_me", "all_team_members", "partial_members"):
            raise ServiceError(400, "invalid_param", "permission must be only_me, all_team_members or partial_members")
        if (rule := changed.get("process_rule")) is not None:
            check_rule(rule)
        settings = msgspec.structs.replace(settings, **changed)
        if changed.get("embedding_model") and not self.has_embedding(asked.tenant, settings):
            raise ServiceError(
                400, "provider_not_initialize", f"embedding model {settings.embedding!r} is not available here"
            )
        if settings.provider == "external":
            known = {one["id"] for one in await self._parts.external.listed(asked.tenant)}
            if settings.external_knowledge_api_id not in known or not settings.external_knowledge_id:
                raise ServiceError(
                    400, "invalid_param", "an external dataset needs external_knowledge_id and the id of an external "
                    "knowledge API that is known here",
                )  # fmt: skip
        return settings


def check_rule(rule: ProcessRule) -> None:
    """Raises ServiceError where a rule's sizes are none."""
    if rule.mode in ("custom", "hierarchical") and rule.rules is None:
        raise ServiceError(400, "invalid_param", f"process_rule.rules are required in mode {rule.mode}")
    if rule.rules is None:
        return
    for name, one in (
        ("segmentation", rule.rules.segmentation),
        ("subchunk_segmentation", rule.rules.subchunk_segmentation),
    ):
        if not 10 <= one.max_tokens <= 10_000:
            raise ServiceError(400, "invalid_param", f"process_rule.{name}.max_tokens must be 10 to 10000")
        if not 0 <= one.chunk_overlap < one.max_tokens:
            raise ServiceError(400, "invalid_param", f"process_rule.{name}.chunk_overlap must be below max_tokens")
