"""Parsing and validation of a dataset's settings."""

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.json_types import is_object
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

_FIELD_TYPES: Mapping[str, Any] = {
    "permission": str,
    "default_access": str,
    "provider": str,
    "embedding_model": str,
    "embedding_model_provider": str,
    "external_knowledge_id": str,
    "external_knowledge_api_id": str,
    "indexing_technique": Technique,
    "doc_form": DocForm,
    "retrieval_model": RetrievalSettings,
    "process_rule": ProcessRule,
    "external_retrieval_model": ExternalRetrieval,
    "summary_index_setting": SummaryIndex,
}
"""Settings that a request can change, with their types. Plain texts come first, because
the first invalid field is reported."""
_PERMISSIONS = ("only_me", "all_team_members", "partial_members")


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
        changed = _changed_fields(body)
        _check_choices(changed)
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
                f"Embedding model {settings.embedding!r} is not available",
            )
        if settings.provider == "external":
            await self._check_external(request.tenant, settings)
        return settings

    async def _check_external(self, tenant: str, settings: DatasetSettings) -> None:
        """Check the settings of an external dataset. It needs a registered API and the
        id of the knowledge in it.

        Raises ServiceError.
        """
        api_ids = {api["id"] for api in await self._parts.external.list(tenant)}
        if (
            settings.external_knowledge_api_id not in api_ids
            or not settings.external_knowledge_id
        ):
            raise ServiceError(
                400,
                "invalid_param",
                "An external dataset requires external_knowledge_id, and the id of a"
                " registered API in external_knowledge_api_id",
            )


def _changed_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the body sets, converted to their types.

    Raises ServiceError.
    """
    changed: dict[str, Any] = {
        name: convert_value(body[name], target_type, name)
        for name, target_type in _FIELD_TYPES.items()
        if body.get(name) is not None
    }
    if body.get("partial_member_list") is not None:
        members = list_of(dict(body), "partial_member_list")
        # Members are sent as objects or as plain ids.
        changed["members"] = [
            str(member.get("user_id") if is_object(member) else member)
            for member in members
        ]
    return changed


def _check_choices(changed: Mapping[str, Any]) -> None:
    """Check the fields that allow only certain values.

    Raises ServiceError.
    """
    if changed.get("provider", "vendor") not in ("vendor", "external"):
        raise ServiceError(
            400, "invalid_param", "'provider' must be vendor or external"
        )
    if changed.get("default_access", "everyone") not in ("everyone", "nobody"):
        raise ServiceError(
            400, "invalid_param", "'default_access' must be everyone or nobody"
        )
    if changed.get("permission", "only_me") not in _PERMISSIONS:
        raise ServiceError(
            400,
            "invalid_param",
            "'permission' must be only_me, all_team_members or partial_members",
        )


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
