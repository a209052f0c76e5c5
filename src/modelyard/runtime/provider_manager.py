"""The providers of a tenant: which exist, which are ready to be called, and what the
tenant has chosen among them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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
from modelyard.runtime.load_balancing import Credential, DeploymentHealth, Plan
from modelyard.runtime.provider_credentials import (
    ConfiguredCredential as ConfiguredCredential,
)
from modelyard.runtime.provider_credentials import ProviderCredentials, Unlock
from modelyard.runtime.routing_plans import Failover, Plans, Resolve
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.resource_types import (
    CustomModel,
    DefaultModel,
    Installation,
    Route,
    StoredCredential,
    Tenant,
)

# A change of any other resource leaves all models as they are.
_RELEVANT_TYPES = {
    StoredCredential.kind,
    Route.kind,
    Tenant.kind,
    CustomModel.kind,
    Installation.kind,
}
"""The resource types whose changes affect what a tenant can call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderStatus:
    """A provider as a tenant sees it."""

    entity: ProviderEntity
    credentials: Sequence[Credential]
    needs_credential: bool

    @property
    def is_ready(self) -> bool:
        """Whether the provider can be called: it has a credential or needs none."""
        return bool(self.credentials) or not self.needs_credential


AdditionalProviders = Callable[[str], tuple[Sequence[ProviderDefinition], Builder]]
"""Tenant to its additional providers and the function that builds their models."""


class ProviderManager:
    """Owns the providers of all tenants; credentials, declared models and plans each
    have their own object."""

    plan: Callable[[Invocation], Plan]
    """Returns where a call may go, in order. Every call uses this and the next two, so
    they are the owners' bound methods without a wrapper."""
    schema: Callable[[str, str, ModelType, str], AIModelEntity | None]
    """(tenant, provider, type, model) to the declared model; the tenant's own
    definition takes precedence."""
    pricing: Callable[[str, str, ModelType, str, str], PriceConfig | None]
    """(tenant, provider, type, model, credential id) to the price of a call."""

    def __init__(
        self,
        factory: ModelProviderFactory,
        clock: Clock,
        *,
        on_secret: Callable[[Iterable[str]], None] = lambda values: None,
        is_present: Callable[[str, str], bool] = lambda provider, model: True,
        directory: Directory | None = None,
        unlock: Unlock = lambda tenant, id, value: value,  # noqa: A006
    ) -> None:
        self._factory = factory
        self.changes = 0
        """How often what is derived from the configuration was dropped."""
        self._factories: dict[str, ModelProviderFactory] = {}
        self._additional_providers: AdditionalProviders | None = None
        # For local providers: whether the model's files are on this machine.
        self._is_present = is_present
        self._directory = directory
        self.health = DeploymentHealth(clock)
        self._credentials = ProviderCredentials(
            self.factory_of, directory, on_secret=on_secret, unlock=unlock
        )
        self._models = DeclaredModels(self.factory_of, directory)
        self._plans = Plans(
            self.factory_of, self._credentials, self._models, self.health, directory
        )
        self.plan = self._plans.plan_for
        self.schema = self._models.get_schema
        self.pricing = self._models.pricing
        # Changes of other processes arrive through the directory.
        if directory is not None:
            directory.on_change(self._on_change)

    # how they are set up

    @property
    def factory(self) -> ModelProviderFactory:
        """The providers that all tenants have."""
        return self._factory

    def factory_of(self, tenant: str) -> ModelProviderFactory:
        """Return the providers of a tenant: the common ones and those of its plugins."""
        if self._additional_providers is None:
            return self._factory
        factory = self._factories.get(tenant)
        # Built at the first call: most tenants have no plugins, or make no calls.
        if factory is None:
            definitions, builder = self._additional_providers(tenant)
            factory = self._factory.with_definitions(definitions, builder)
            self._factories[tenant] = factory
        return factory

    def add_providers_from(self, added: AdditionalProviders) -> None:
        """Register the source of additional providers per tenant. Call `forget` when
        they change."""
        self._additional_providers = added
        self.clear_cache()

    def replace_factory(self, factory: ModelProviderFactory) -> None:
        """Replace the common providers. The credentials from the settings have to be
        configured again."""
        self._factory = factory
        self._credentials.clear()
        self.clear_cache()

    def configure(
        self, tenant: str, provider: str, credentials: Sequence[ConfiguredCredential]
    ) -> None:
        """Set a tenant's credentials for a provider, from the settings.

        Raises CredentialsValidateFailedError for invalid form values, NotFoundError for
        an unknown provider.
        """
        self._credentials.configure(tenant, provider, credentials)
        self.clear_cache()

    def configure_later(
        self, tenant: str, provider: str, credentials: Sequence[ConfiguredCredential]
    ) -> None:
        """Set a tenant's credentials for a provider of a plugin, which need not be
        installed yet. They are validated when they are used."""
        self._credentials.configure_later(tenant, provider, credentials)
        self.clear_cache()

    def configure_plans(self, failover: Failover, resolve: Resolve) -> None:
        """Set how plans are built. `failover`: (tenant, provider, model, type) to
        further models; `resolve`: name to (provider, model)."""
        self._plans.choose_with(failover, resolve)

    def clear_cache(self) -> None:
        """Drop everything that was derived from the configuration."""
        self.changes += 1
        self._factories.clear()
        self._credentials.forget()
        self._models.clear_cache()
        self._plans.forget()

    def _on_change(self, touched: set[tuple[str, str]]) -> None:
        """Drop derived state if a changed resource affects what can be called."""
        if any(kind in _RELEVANT_TYPES for _, kind in touched):
            self.clear_cache()

    # what there is

    def credentials(
        self, tenant: str, provider: str, model: str = ""
    ) -> Sequence[Credential]:
        """Return the credentials in the order of use. Those stored for the model
        replace the provider's own."""
        return self._credentials.credentials_for(tenant, provider, model)

    def model_credentials(
        self, tenant: str, provider: str
    ) -> list[tuple[Credential, StoredCredential]]:
        """Return the credentials that are for one model of a provider, with what is
        stored of them."""
        return self._credentials.of_models(tenant, provider)

    def get_provider(self, tenant: str, provider: str) -> ProviderStatus:
        """Return the status of a provider. Raises NotFoundError with similar names."""
        definition = self.factory_of(tenant).get_definition(provider)
        return ProviderStatus(
            entity=definition.entity,
            credentials=self.credentials(tenant, provider),
            needs_credential=definition.needs_credential,
        )

    def get_providers(self, tenant: str) -> list[ProviderStatus]:
        """Return the status of every provider of the tenant."""
        return [
            self.get_provider(tenant, entity.provider)
            for entity in self.factory_of(tenant).get_providers()
        ]

    def get_models(
        self, tenant: str, *, model_type: ModelType | None = None, ready: bool = True
    ) -> Iterator[tuple[str, AIModelEntity]]:
        """Yield (provider, model) for every declared model. With `ready=False`, those
        that cannot be called yet are included."""
        own = self._credentials.models_with_own(tenant)
        for status in self.get_providers(tenant):
            provider = status.entity.provider
            for model in self._declared_models(tenant, status.entity, model_type):
                models_with_own = own.get(provider, ())
                if not ready or self._can_call(status, model.model, models_with_own):
                    yield provider, model

    def _can_call(
        self, status: ProviderStatus, model: str, models_with_own: Collection[str]
    ) -> bool:
        """Return whether a model can be called now.

        `models_with_own` are the models that need no credential of the provider.
        """
        if not status.is_ready and model not in models_with_own:
            return False
        return self._is_present(status.entity.provider, model)

    def _declared_models(
        self, tenant: str, provider: ProviderEntity, model_type: ModelType | None
    ) -> list[AIModelEntity]:
        """Return the declared models of a provider, of one type or of all. Custom
        models come first, so that they are found before a catalogue entry of the same
        name."""
        custom = [
            custom_model
            for owner, custom_model in self._models.custom_models(tenant)
            if owner == provider.provider
        ]
        return [
            model
            for model in [*custom, *provider.models]
            if model_type in (None, model.model_type)
        ]

    def first_model(self, tenant: str, model_type: ModelType) -> tuple[str, str]:
        """Return (provider, model) of the first ready model of a type. Raises
        NotFoundError if there is none."""
        first_ready = next(self.get_models(tenant, model_type=model_type), None)
        if first_ready is None:
            raise NotFoundError(
                f"No {model_type.value} model is configured; pull the local"
                " models with `modelyard models pull small` or add a provider"
                " with `modelyard providers add NAME`; `modelyard doctor` lists"
                " what is missing",
                code="model_not_found",
            )
        provider, model = first_ready
        return provider, model.model

    # what the tenant chose

    def route(self, tenant: str, name: str) -> Route | None:
        """Return a route by name; None if the tenant has none of that name."""
        return (
            self._directory.get_by_name(tenant, Route, name)
            if self._directory
            else None
        )

    def routes(self, tenant: str) -> list[tuple[str, Route]]:
        """Return the tenant's routes by name."""
        rows = self._directory.of(tenant, Route) if self._directory else []
        return [(row.name, route) for row, route in rows]

    def default(self, tenant: str, model_type: ModelType) -> str:
        """Return the tenant's default model of a type; empty if it has chosen none."""
        default = (
            self._directory.get_by_name(tenant, DefaultModel, model_type.value)
            if self._directory
            else None
        )
        return default.model if default else ""
