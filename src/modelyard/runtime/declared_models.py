"""What is declared of models, by their providers and by the tenants that added some, and what they cost."""

import logging
from collections.abc import Callable, Sequence

from modelyard.base.errors import ConfigError
from modelyard.models.entities import AIModelEntity, PriceConfig
from modelyard.models.types import ModelType
from modelyard.providers.definition import read_model
from modelyard.providers.factory import ModelProviderFactory
from modelyard.tenancy.caller import DEFAULT_TENANT
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.kinds import CustomModel

logger = logging.getLogger("modelyard.providers")


class DeclaredModels:
    """The models that tenants may name, with what a tenant added of its own."""

    def __init__(self, factory_of: Callable[[str], ModelProviderFactory], directory: Directory | None) -> None:
        self._factory_of = factory_of
        self._directory = directory
        self._added: dict[str, Sequence[tuple[str, AIModelEntity]]] = {}

    def forget(self) -> None:
        """Read what tenants added anew."""
        self._added.clear()

    def schema(self, tenant: str, provider: str, kind: ModelType, model: str) -> AIModelEntity | None:
        """What is declared of a model; a tenant's own word goes first."""
        added = self._added.get(tenant)  # asked by every call: a known tenant costs one look
        if added is None:
            added = self.added(tenant)
        for owner, entity in added:
            if owner == provider and entity.model == model and entity.model_type is kind:
                return entity
        return self._factory_of(tenant).get_model_schema(provider, kind, model)

    def added(self, tenant: str) -> Sequence[tuple[str, AIModelEntity]]:
        """(provider, model) of those that a tenant added."""
        if self._directory is None:
            return ()
        if (known := self._added.get(tenant)) is None:
            known = self._added[tenant] = [
                (one.provider, entity)
                for row, one in self._directory.of(tenant, CustomModel)
                if (entity := _read(tenant, row.id, one)) is not None
            ]
        return known

    def pricing(self, tenant: str, provider: str, kind: ModelType, model: str, credential: str) -> PriceConfig | None:
        """What a call costs that this credential (its id) serves. The tenant's own prices hold for the tenant's own
        credentials alone; where the operator's serve, or none is needed, the operator says."""
        is_operators = not credential or credential.startswith(f"{DEFAULT_TENANT}/")
        knows = self._factory_of(DEFAULT_TENANT).known(provider) is not None
        schema = self.schema(DEFAULT_TENANT if is_operators and knows else tenant, provider, kind, model)
        return schema.pricing if schema else None

    def is_hosted(self, provider: str, kind: ModelType, model: str) -> bool:
        """Whether the operator's credentials are for this model: one that only a tenant declares is not among them."""
        definition = self._factory_of(DEFAULT_TENANT).known(provider)
        if definition is None:
            return False
        return definition.entity.is_customizable or self.schema(DEFAULT_TENANT, provider, kind, model) is not None


def _read(tenant: str, row: str, one: CustomModel) -> AIModelEntity | None:
    """None, and said in the log, for one that cannot be read: the tenant's others still serve."""
    try:
        return read_model(one.definition, one.provider)
    except ConfigError as error:
        fields = {"tenant": tenant, "id": row, "error": str(error)}
        logger.error("a stored model cannot be read", extra={"fields": fields})
        return None
