"""Parsing and validation of a dataset's settings."""

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.gateway.knowledge.calls import (
    DatasetParts,
    DatasetRequest,
    convert_value,
)
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
    """Reads a dataset's settings from a request, and checks that its models and
    external APIs exist."""

    def __init__(self, parts: DatasetParts) -> None:
        self._parts = parts

    def has_embedding(self, tenant: str, settings: DatasetSettings) -> bool:
        """Return whether the tenant may call the embedding model of the settings."""
        try:
            self._parts.models.find(
                tenant, settings.embedding, ModelType.TEXT_EMBEDDING
            )
        except ModelyardError:
            return False
        return True

    async def read(
        self,
        request: DatasetRequest,
        settings: DatasetSettings,
        body: Mapping[str, Any],
    ) -> DatasetSettings:
        """Return the settings with the changes of the body.

        Raises ServiceError.
        """
        changed: dict[str, Any] = {}
        # Plain text fields first, then the fields with a type of their own.
        for name in (
            "permission",
            "provider",
            "embedding_model",
            "embedding_model_provider",
            "external_knowledge_id",
            "external_knowledge_api_id",
        ):
            if body.get(name) is not None:
                changed[name] = convert_value(body[name], str, name)
        readers: dict[str, Any] = {
            "indexing_technique": Technique,
            "doc_form": DocForm,
            "retrieval_model": RetrievalSettings,
            "process_rule": ProcessRule,
            "external_retrieval_model": ExternalRetrieval,
            "summary_index_setting": SummaryIndex,
        }
        for name, target_type in readers.items():
            if body.get(name) is not None:
                changed[name] = convert_value(body[name], target_type, name)
        if body.get("partial_member_list") is not None:
            members = list_of(dict(body), "partial_member_list")
            # Members are sent as objects or as plain ids.
            changed["members"] = [
                str(member.get("user_id") if isinstance(member, dict) else member)
                for member in members
            ]
        if changed.get("provider", "vendor") not in ("vendor", "external"):
            raise ServiceError(
                400, "invalid_param", "provider must be vendor or external"
            )
        if changed.get("permission", "only_me") not in (
            "only_me",
            "all_team_members",
            "partial_members",
        ):
            raise ServiceError(
                400,
                "invalid_param",
                "permission must be only_me, all_team_members or partial_members",
            )
        if (rule := changed.get("process_rule")) is not None:
            check_rule(rule)
        settings = msgspec.structs.replace(settings, **changed)
        # Checked only if the request sets a model: a dataset whose model was removed
        # can still be edited.
        if changed.get("embedding_model") and not self.has_embedding(
            request.tenant, settings
        ):
            raise ServiceError(
                400,
                "provider_not_initialize",
                f"embedding model {settings.embedding!r} is not available here",
            )
        if settings.provider == "external":
            # An external dataset needs a registered API and the id of the knowledge in
            # it.
            api_ids = {
                api["id"] for api in await self._parts.external.list(request.tenant)
            }
            if (
                settings.external_knowledge_api_id not in api_ids
                or not settings.external_knowledge_id
            ):
                raise ServiceError(
                    400,
                    "invalid_param",
                    "an external dataset needs external_knowledge_id and the id of an external "
                    "knowledge API that is known here",
                )
        return settings


def check_rule(rule: ProcessRule) -> None:
    """Check the sizes of a splitting rule.

    Raises ServiceError.
    """
    if rule.mode in ("custom", "hierarchical") and rule.rules is None:
        raise ServiceError(
            400, "invalid_param", f"process_rule.rules are required in mode {rule.mode}"
        )
    if rule.rules is None:
        return
    for name, segmentation in (
        ("segmentation", rule.rules.segmentation),
        ("subchunk_segmentation", rule.rules.subchunk_segmentation),
    ):
        if not 10 <= segmentation.max_tokens <= 10_000:
            raise ServiceError(
                400,
                "invalid_param",
                f"process_rule.{name}.max_tokens must be 10 to 10000",
            )
        # With an overlap as large as the segment, splitting would never advance.
        if not 0 <= segmentation.chunk_overlap < segmentation.max_tokens:
            raise ServiceError(
                400,
                "invalid_param",
                f"process_rule.{name}.chunk_overlap must be below max_tokens",
            )
