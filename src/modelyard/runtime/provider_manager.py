"""The providers of a tenant: their credentials, their models, what is ready to be called."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.base.clock import Clock
from modelyard.base.errors import NotFoundError
from modelyard.models.credentials import secrets_of
from modelyard.models.entities import AIModelEntity
from modelyard.models.provider import ProviderEntity
from modelyard.models.types import ModelType
from modelyard.providers.factory import ModelProviderFactory
from modelyard.runtime.load_balancing import Cooldowns, Credential, LBModelManager


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderStatus:
    """A provider as a tenant sees it."""

    entity: ProviderEntity
    credentials: Sequence[Credential]
    needs_credential: bool

    @property
    def is_ready(self) -> bool:
        return bool(self.credentials) or not self.needs_credential


class ProviderManager:
    """Owns which credentials a tenant has for which provider."""

    def __init__(
        self,
        factory: ModelProviderFactory,
        clock: Clock,
        *,
        on_secret: Callable[[Iterable[str]], None] = lambda values: None,
        is_present: Callable[[str, str], bool] = lambda provider, model: True,
    ) -> None:
        self._factory = factory
        self._cooldowns = Cooldowns(clock)
        self._balancers: dict[tuple[str, str], LBModelManager] = {}
        self._on_secret = on_secret
        self._is_present = is_present

    @property
    def factory(self) -> ModelProviderFactory:
        return self._factory

    def configure(self, tenant: str, provider: str, credentials: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Set a tenant's credentials for a provider: (name, form values) each.

        Raises CredentialsValidateFailedError where a form is filled in wrongly, NotFoundError for no such provider.
        """
        forms = self._factory.get_definition(provider).entity.credential_forms
        checked: list[Credential] = []
        for place, (name, values) in enumerate(credentials, 1):
            accepted = self._factory.validate_credentials(provider, values)
            self._on_secret(secrets_of(forms, accepted))
            checked.append(Credential(f"{tenant}/{provider}/{place}", name or f"credential-{place}", accepted))
        self._balancers[tenant, provider] = LBModelManager(checked, self._cooldowns)

    def balancer(self, tenant: str, provider: str) -> LBModelManager | None:
        """Who balances for this tenant and provider; None where the provider needs no credential and has none."""
        found = self._balancers.get((tenant, provider))
        if found is None and self._factory.get_definition(provider).needs_credential:
            return LBModelManager((), self._cooldowns)
        return found

    def get_provider(self, tenant: str, provider: str) -> ProviderStatus:
        """Raises NotFoundError with near names."""
        definition = self._factory.get_definition(provider)
        balancer = self._balancers.get((tenant, provider))
        return ProviderStatus(
            entity=definition.entity,
            credentials=balancer.credentials if balancer else (),
            needs_credential=definition.needs_credential,
        )

    def get_providers(self, tenant: str) -> list[ProviderStatus]:
        return [self.get_provider(tenant, entity.provider) for entity in self._factory.get_providers()]

    def get_models(
        self, tenant: str, *, model_type: ModelType | None = None, ready: bool = True
    ) -> Iterator[tuple[str, AIModelEntity]]:
        """(provider, model) of every declared model; those that cannot be called yet too unless `ready`."""
        for status in self.get_providers(tenant):
            if ready and not status.is_ready:
                continue
            for model in status.entity.models:
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
