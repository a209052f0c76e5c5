"""Declarations of models, by their providers and by tenants that added some, and their
prices."""

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache

from modelyard.base.errors import ConfigError
from modelyard.models.entities import AIModelEntity, PriceConfig
from modelyard.models.types import ModelType
from modelyard.providers.definition import read_model
from modelyard.providers.factory import ModelProviderFactory
from modelyard.tenancy.caller import DEFAULT_TENANT
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.resource_types import CustomModel

logger = logging.getLogger("modelyard.providers")


_MAX_CACHED = 4096
"""Clients can invent model names, which must not fill the memory."""


class DeclaredModels:
    """The models that tenants can use, including those that a tenant added itself."""

    def __init__(
        self,
        factory_of: Callable[[str], ModelProviderFactory],
        directory: Directory | None,
    ) -> None:
        self._factory_of = factory_of
        self._directory = directory
        # The added models of each tenant, read from the directory once.
        self._models_by_tenant: dict[str, Sequence[tuple[str, AIModelEntity]]] = {}
        # Looked up several times for each call.
        self.get_schema = lru_cache(_MAX_CACHED)(self._find_schema)
        self.pricing = lru_cache(_MAX_CACHED)(self._find_price)

    def clear_cache(self) -> None:
        """Discard the cached models of tenants, so that they are read again."""
        self._models_by_tenant.clear()
        self.get_schema.cache_clear()
        self.pricing.cache_clear()

    def _find_schema(
        self, tenant: str, provider: str, model_type: ModelType, model: str
    ) -> AIModelEntity | None:
        """Return the declaration of a model, or None. A tenant's own declaration takes
        precedence."""
        for owner, entity in self.custom_models(tenant):
            if (
                owner == provider
                and entity.model == model
                and entity.model_type is model_type
            ):
                return entity
        return self._factory_of(tenant).get_model_schema(provider, model_type, model)

    def custom_models(self, tenant: str) -> Sequence[tuple[str, AIModelEntity]]:
        """Return the (provider, model) pairs that a tenant added."""
        # Without a directory there is only one tenant, which adds nothing.
        if self._directory is None:
            return ()
        if (custom_models := self._models_by_tenant.get(tenant)) is None:
            custom_models = self._models_by_tenant[tenant] = [
                (custom_model.provider, entity)
                for row, custom_model in self._directory.of(tenant, CustomModel)
                if (entity := _parse_stored_model(tenant, row.id, custom_model))
                is not None
            ]
        return custom_models

    def _find_price(
        self,
        tenant: str,
        provider: str,
        model_type: ModelType,
        model: str,
        credential: str,
    ) -> PriceConfig | None:
        """Return the price of a call with this credential (its id), or None.

        A tenant's own prices apply only to its own credentials. For the operator's
        credentials, or without a credential, the operator's prices apply.
        """
        is_operators = not credential or credential.startswith(f"{DEFAULT_TENANT}/")
        # The operator may not know the provider, if only the tenant added it.
        knows = self._factory_of(DEFAULT_TENANT).find_definition(provider) is not None
        schema = self.get_schema(
            DEFAULT_TENANT if is_operators and knows else tenant,
            provider,
            model_type,
            model,
        )
        return schema.pricing if schema else None

    def is_hosted(self, provider: str, model_type: ModelType, model: str) -> bool:
        """Return whether the operator's credentials can be used for this model. They
        cannot for a model that only a tenant declares."""
        definition = self._factory_of(DEFAULT_TENANT).find_definition(provider)
        if definition is None:
            return False
        # A customizable provider accepts any model name.
        if definition.entity.is_customizable:
            return True
        schema = self.get_schema(DEFAULT_TENANT, provider, model_type, model)
        return schema is not None


def _parse_stored_model(
    tenant: str, row: str, custom_model: CustomModel
) -> AIModelEntity | None:
    """Return the declaration of a stored model, or None if it is invalid.

    The error is logged, and the tenant's other models remain usable.
    """
    try:
        return read_model(custom_model.definition, custom_model.provider)
    except ConfigError as error:
        fields = {"tenant": tenant, "id": row, "error": str(error)}
        logger.error("stored model not readable", extra={"fields": fields})
        return None
