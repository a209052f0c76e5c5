"""The providers of a tenant: which there are, which are ready to be called, and what the tenant chose among them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from modelyard.base.clock import Clock
from modelyard.base.errors import NotFoundError
from modelyard.models.entities import AIModelEntity, PriceConfig
from modelyard.models.provider import ProviderEntity
from modelyard.models.types import ModelType
from modelyard.providers.definition import ProviderDefinition
from modelyard.providers.factory import Builder, ModelProviderFactory
from modelyard.runtime.declared_models import DeclaredModels
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.load_balancing import Credential, Health, Plan
from modelyard.runtime.plans import Failover, Plans, Resolve
from modelyard.runtime.provider_credentials import Given as Given
from modelyard.runtime.provider_credentials import ProviderCredentials, Unlock
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.kinds import CustomModel, DefaultModel, Installation, Route, StoredCredential, Tenant

_KINDS_THAT_COUNT = {StoredCredential.kind, Route.kind, Tenant.kind, CustomModel.kind, Installation.kind}
"""A resource of these changes what a tenant can call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderStatus:
    """A provider as a tenant sees it."""

    entity: ProviderEntity
    credentials: Sequence[Credential]
    needs_credential: bool

    @property
    def is_ready(self) -> bool:
        return bool(self.credentials) or not self.needs_credential


Added = Callable[[str], tuple[Sequence[ProviderDefinition], Builder]]
"""Tenant → providers of its own, and who makes their models."""


class ProviderManager:
    """Owns which providers a tenant has; their credentials, models and plans are owned by an object each."""

    plan: Callable[[Invocation], Plan]
    """Where a call may go, in which order. This and the two below are asked by every call: they are the owners' own
    functions, with nothing in between."""
    schema: Callable[[str, str, ModelType, str], AIModelEntity | None]
    """(tenant, provider, type, model) → what is declared of it; a tenant's own word goes first."""
    pricing: Callable[[str, str, ModelType, str, str], PriceConfig | None]
    """(tenant, provider, type, model, the id of a credential) → what a call costs that it serves."""

    def __init__(
        self,
        factory: ModelProviderFactory,
        clock: Clock,
        *,
        on_secret: Callable[[Iterable[str]], None] = lambda values: None,
        is_present: Callable[[str, str], bool] = lambda provider, model: True,
        directory: Directory | None = None,
        unlock: Unlock = lambda tenant, id, value: value,  # noqa: A006  the field's word
    ) -> None:
        self._factory = factory
        self._factories: dict[str, ModelProviderFactory] = {}
        self._added: Added | None = None
        self._is_present = is_present
        self._directory = directory
        self.health = Health(clock)
        self._credentials = ProviderCredentials(self.factory_of, directory, on_secret=on_secret, unlock=unlock)
        self._models = DeclaredModels(self.factory_of, directory)
        self._plans = Plans(self.factory_of, self._credentials, self._models, self.health, directory)
        self.plan = self._plans.of
        self.schema = self._models.schema
        self.pricing = self._models.pricing
        if directory is not None:
            directory.on_change(self._changed)

    # how they are set up

    @property
    def factory(self) -> ModelProviderFactory:
        """The providers that all tenants have."""
        return self._factory

    def factory_of(self, tenant: str) -> ModelProviderFactory:
        """Those, and what the tenant's plugins add."""
        if self._added is None:
            return self._factory
        if (known := self._factories.get(tenant)) is None:
            definitions, builder = self._added(tenant)
            known = self._factories[tenant] = self._factory.with_more(definitions, builder)
        return known

    def add_from(self, added: Added) -> None:
        """Have providers of a tenant's own added to those that all have; `forget` when they change."""
        self._added = added
        self.forget()

    def use(self, factory: ModelProviderFactory) -> None:
        """Providers from now on; credentials are to be configured anew."""
        self._factory = factory
        self._credentials.clear()
        self.forget()

    def configure(self, tenant: str, provider: str, credentials: Sequence[Given]) -> None:
        """Set a tenant's credentials for a provider.

        Raises CredentialsValidateFailedError where a form is filled in wrongly, NotFoundError for no such provider.
        """
        self._credentials.configure(tenant, provider, credentials)
        self.forget()

    def plan_with(self, failover: Failover, resolve: Resolve) -> None:
        """`failover`: (tenant, provider, model, type) → further models; `resolve`: a name → (provider, model)."""
        self._plans.choose_with(failover, resolve)

    def forget(self) -> None:
        """What was derived from how things were set up."""
        self._factories.clear()
        self._credentials.forget()
        self._models.forget()
        self._plans.forget()

    def _changed(self, touched: set[tuple[str, str]]) -> None:
        if any(kind in _KINDS_THAT_COUNT for _, kind in touched):
            self.forget()

    # what there is

    def credentials(self, tenant: str, provider: str, model: str = "") -> Sequence[Credential]:
        """In the order in which they are to serve: a model's own in the place of its provider's."""
        return self._credentials.of(tenant, provider, model)

    def get_provider(self, tenant: str, provider: str) -> ProviderStatus:
        """Raises NotFoundError with near names."""
        definition = self.factory_of(tenant).get_definition(provider)
        return ProviderStatus(
            entity=definition.entity,
            credentials=self.credentials(tenant, provider),
            needs_credential=definition.needs_credential,
        )

    def get_providers(self, tenant: str) -> list[ProviderStatus]:
        return [self.get_provider(tenant, entity.provider) for entity in self.factory_of(tenant).get_providers()]

    def get_models(
        self, tenant: str, *, model_type: ModelType | None = None, ready: bool = True
    ) -> Iterator[tuple[str, AIModelEntity]]:
        """(provider, model) of every declared model; those that cannot be called yet too unless `ready`."""
        for status in self.get_providers(tenant):
            if ready and not status.is_ready:
                continue
            custom = [one for owner, one in self._models.added(tenant) if owner == status.entity.provider]
            for model in [*custom, *status.entity.models]:
                if model_type not in (None, model.model_type):
                    continue
                if not ready or self._is_present(status.entity.provider, model.model):
                    yield status.entity.provider, model

    def first_model(self, tenant: str, model_type: ModelType) -> tuple[str, str]:
        """The first declared model of a type. Raises NotFoundError where none is ready."""
        found = next(self.get_models(tenant, model_type=model_type), None)
        if found is None:
            raise NotFoundError(
                f"no {model_type.value} model is set up; pull the local ones with `modelyard models pull small` "
                "or add a provider with `modelyard providers add NAME`; `modelyard doctor` says what is missing",
                code="model_not_found",
            )
        provider, model = found
        return provider, model.model

    # what the tenant chose

    def route(self, tenant: str, name: str) -> Route | None:
        return self._directory.named(tenant, Route, name) if self._directory else None

    def routes(self, tenant: str) -> list[tuple[str, Route]]:
        found = self._directory.of(tenant, Route) if self._directory else []
        return [(one.name, route) for one, route in found]

    def default(self, tenant: str, model_type: ModelType) -> str:
        """What a tenant has chosen for a type; empty where it has not."""
        found = self._directory.named(tenant, DefaultModel, model_type.value) if self._directory else None
        return found.model if found else ""
