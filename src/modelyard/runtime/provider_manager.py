"""The providers of a tenant: their credentials, their models, what is ready to be called, and where a call may go."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError, ModelyardError, NotFoundError
from modelyard.models.credentials import secrets_of
from modelyard.models.entities import AIModelEntity, PriceConfig
from modelyard.models.provider import ProviderEntity
from modelyard.models.types import ModelType, OperatorCredentials
from modelyard.providers.definition import ProviderDefinition, read_model
from modelyard.providers.factory import Builder, ModelProviderFactory
from modelyard.runtime.caller import DEFAULT_TENANT
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.load_balancing import Credential, Deployment, Health, LBModelManager, Plan
from modelyard.runtime.operators import row_is_operators
from modelyard.runtime.tenancy import (
    CustomModel,
    DefaultModel,
    Directory,
    Installation,
    Known,
    Limit,
    Route,
    StoredCredential,
    Target,
    Tenant,
)
from modelyard.storage.secrets import SecretError, UnknownKeyError

logger = logging.getLogger("modelyard.providers")

_MOST_PLANS = 4096
_AFTER_ALL_OTHERS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderStatus:
    """A provider as a tenant sees it."""

    entity: ProviderEntity
    credentials: Sequence[Credential]
    needs_credential: bool

    @property
    def is_ready(self) -> bool:
        return bool(self.credentials) or not self.needs_credential


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A credential as the settings give it: form values, not checked yet."""

    values: Mapping[str, Any]
    name: str = ""
    weight: float = 1.0
    priority: int = 0
    domain: str = ""
    quotas: tuple[tuple[str, Limit], ...] = ()
    """With a quota it is hosted: every tenant may use it, within that."""


Unlock = Callable[[str, str, str], str]
"""(tenant, id, encrypted) → the credential's form as JSON."""
Added = Callable[[str], tuple[Sequence[ProviderDefinition], Builder]]
"""Tenant → providers of its own, and who makes their models."""


class ProviderManager:
    """Owns which credentials a tenant has for which provider."""

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
        self.health = Health(clock)
        self._own: dict[tuple[str, str], list[Credential]] = {}
        self._hosted: dict[str, list[Credential]] = defaultdict(list)
        self._stored: dict[tuple[str, str, str], list[Credential]] = {}
        self._models: dict[str, list[tuple[str, AIModelEntity]]] = {}
        self._plans: dict[tuple[str, ...], Plan] = {}
        self._managers: dict[tuple[str, ...], LBModelManager] = {}
        self._on_secret = on_secret
        self._is_present = is_present
        self._added: Added | None = None
        self._factories: dict[str, ModelProviderFactory] = {}
        self._directory = directory
        self._unlock = unlock
        self._failover: Callable[[str, str, str, ModelType], Sequence[tuple[str, str]]] = lambda *call: ()
        self._resolve: Callable[[str, str, ModelType], tuple[str, str]] | None = None
        if directory is not None:
            directory.on_change(self._changed)

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
        self._own.clear()
        self._hosted.clear()
        self.forget()

    def forget(self) -> None:
        """What was derived from how things were set up."""
        self._plans.clear()
        self._managers.clear()
        self._factories.clear()
        self._stored.clear()
        self._models.clear()

    def _changed(self, touched: set[tuple[str, str]]) -> None:
        if {kind for _, kind in touched} & {
            StoredCredential.kind,
            Route.kind,
            Tenant.kind,
            CustomModel.kind,
            Installation.kind,
        }:
            self.forget()

    def configure(self, tenant: str, provider: str, credentials: Sequence[Given]) -> None:
        """Set a tenant's credentials for a provider.

        Raises CredentialsValidateFailedError where a form is filled in wrongly, NotFoundError for no such provider.
        """
        own = [
            _operators(self._checked(tenant, f"{tenant}/{provider}/{place}", provider, one, place))
            for place, one in enumerate(credentials, 1)
        ]
        self._own[tenant, provider] = [one for one in own if not one.quotas]
        self._hosted[provider] = [one for one in own if one.quotas]
        self.forget()

    def _checked(self, tenant: str, row: str, provider: str, one: Given, place: int) -> Credential:
        factory = self.factory_of(tenant)
        forms = factory.get_definition(provider).entity.credential_forms
        accepted = factory.validate_credentials(provider, one.values)
        self._on_secret(secrets_of(forms, accepted))
        return Credential(
            row, one.name or f"credential-{place}", accepted, one.weight, one.priority, one.domain, one.quotas
        )

    # credentials

    def credentials(self, tenant: str, provider: str, model: str = "") -> Sequence[Credential]:
        """In the order in which they are to serve: a model's own in the place of its provider's."""
        stored = self._stored_for(tenant, provider, model) if model else []
        own = stored or [*self._own.get((tenant, provider), ()), *self._stored_for(tenant, provider, "")]
        hosted = self._hosted.get(provider, ())
        if not hosted:
            return own
        found = self._directory.one(tenant, Tenant, tenant) if self._directory else None
        is_hosted_first = found is not None and found.preferred.get(provider) == "system"
        first, then = (hosted, own) if is_hosted_first else (own, hosted)
        return [*first, *(_later(one) for one in then)]

    def _stored_for(self, tenant: str, provider: str, model: str) -> list[Credential]:
        if self._directory is None:
            return []
        key = (tenant, provider, model)
        if (known := self._stored.get(key)) is None:
            known = self._stored[key] = [
                found
                for one, value in self._directory.of(tenant, StoredCredential)
                if value.is_enabled and (value.provider, value.model) == (provider, model)
                if (found := self._opened(tenant, one, value)) is not None
            ]
        return known

    def _opened(self, tenant: str, row: Known, one: StoredCredential) -> Credential | None:
        try:
            values = msgspec.json.decode(self._unlock(tenant, row.id, one.secret), type=dict[str, Any])
        except (
            UnknownKeyError
        ):  # for the moment: a call that took another credential's way would be somebody else's cost
            raise
        except (SecretError, msgspec.MsgspecError) as error:  # damaged: the tenant's others still serve
            fields = {"tenant": tenant, "id": row.id, "error": str(error)}
            logger.error("a stored credential cannot be read", extra={"fields": fields})
            return None
        given = Given(values=values, name=row.name, weight=one.weight, priority=one.priority, domain=one.domain)
        try:
            credential = self._checked(tenant, row.id, one.provider, given, 0)
        except ModelyardError:  # the form has changed since: the tenant's others still serve
            return None
        # What a tenant calls a domain must not let the credentials of others rest.
        credential = replace(credential, owner=tenant)
        return _operators(credential) if row_is_operators(self._directory, tenant, row) else credential

    # where a call may go

    def plan_with(
        self,
        failover: Callable[[str, str, str, ModelType], Sequence[tuple[str, str]]],
        resolve: Callable[[str, str, ModelType], tuple[str, str]],
    ) -> None:
        """`failover`: (tenant, provider, model, type) → further models; `resolve`: a name → (provider, model)."""
        self._failover = failover
        self._resolve = resolve

    def plan(self, invocation: Invocation) -> Plan:
        """Where this call may go, in which order."""
        kind = invocation.model_type
        key = (invocation.tenant, invocation.provider, invocation.model, kind.value, invocation.route)
        if (known := self._plans.get(key)) is not None:
            return known
        if len(self._plans) >= _MOST_PLANS:  # names that anybody may invent must not fill the memory
            self._plans.clear()
            self._managers.clear()
        made = self._plans[key] = self._planned(
            invocation.tenant, invocation.provider, invocation.model, kind, invocation.route
        )
        return made

    def _planned(self, tenant: str, provider: str, model: str, kind: ModelType, route_name: str) -> Plan:
        route = self._directory.named(tenant, Route, route_name) if route_name and self._directory else None
        if route is None:
            others = self._failover(tenant, provider, model, kind)
            groups = [self.manager(tenant, one, kind, name) for one, name in [(provider, model), *others]]
            return Plan(groups)
        first = self._routed(tenant, kind, route_name, route)
        others = [self._resolved(tenant, name, kind) for name in route.failover]
        groups = [first, *(self.manager(tenant, one, kind, name) for one, name in others)]
        return Plan(groups, route.sticky, route.hedge_after, route.continue_streams)

    def _resolved(self, tenant: str, name: str, kind: ModelType) -> tuple[str, str]:
        if self._resolve is None:
            provider, _, model = name.partition("/")
            return provider, model
        return self._resolve(tenant, name, kind)

    def _routed(self, tenant: str, kind: ModelType, name: str, route: Route) -> LBModelManager:
        key = (tenant, "", kind.value, name)
        if (known := self._managers.get(key)) is None:
            deployments = [one for target in route.targets for one in self._of_target(tenant, kind, target)]
            patience = 2.0 if route.when_resting == "wait" else 0.0
            known = self._managers[key] = LBModelManager(
                deployments, self.health, strategy=route.strategy, patience=patience
            )
        return known

    def _of_target(self, tenant: str, kind: ModelType, target: Target) -> Iterator[Deployment]:
        provider, model = self._resolved(tenant, target.model, kind)
        for one in self._deployments(tenant, provider, kind, model):
            yield Deployment(
                one.id, provider, model, one.credential, one.weight * target.weight,
                one.priority + target.priority, one.price,
            )  # fmt: skip

    def manager(self, tenant: str, provider: str, kind: ModelType, model: str) -> LBModelManager:
        """Who balances calls of a tenant to a model."""
        key = (tenant, provider, kind.value, model)
        if (known := self._managers.get(key)) is None:
            found = list(self._deployments(tenant, provider, kind, model))
            is_weighted = any(one.weight != 1.0 for one in found)
            known = self._managers[key] = LBModelManager(
                found, self.health, strategy="weighted" if is_weighted else "round_robin"
            )
        return known

    def _deployments(self, tenant: str, provider: str, kind: ModelType, model: str) -> Iterator[Deployment]:
        definition = self.factory_of(tenant).get_definition(provider)
        credentials = [
            one
            for one in self.credentials(tenant, provider, model)
            if not one.quotas or self._is_hosted_here(provider, kind, model)
        ]

        def price_with(credential: str) -> float:
            return _comparable(self.pricing(tenant, provider, kind, model, credential))

        if not credentials and not definition.needs_credential:
            yield Deployment(f"{tenant}/{provider}/{model}", provider, model, None, price=price_with(""))
        for one in credentials:
            yield Deployment(
                f"{tenant}/{one.id}/{model}", provider, model, one, one.weight, one.priority, price_with(one.id)
            )

    # what there is

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
            custom = [one for owner, one in self._custom(tenant) if owner == status.entity.provider]
            for model in [*custom, *status.entity.models]:
                if model_type not in (None, model.model_type):
                    continue
                if not ready or self._is_present(status.entity.provider, model.model):
                    yield status.entity.provider, model

    def schema(self, tenant: str, provider: str, kind: ModelType, model: str) -> AIModelEntity | None:
        """What is declared of a model; a tenant's own word goes first."""
        if self._directory is not None:
            for one in self._custom(tenant):
                if one[0] == provider and one[1].model == model and one[1].model_type is kind:
                    return one[1]
        return self.factory_of(tenant).get_model_schema(provider, kind, model)

    def _custom(self, tenant: str) -> Sequence[tuple[str, AIModelEntity]]:
        """The models that a tenant added."""
        if self._directory is None:
            return ()
        if (known := self._models.get(tenant)) is None:
            known = self._models[tenant] = [
                (one.provider, entity)
                for row, one in self._directory.of(tenant, CustomModel)
                if (entity := _read_custom(tenant, row.id, one)) is not None
            ]
        return known

    def pricing(self, tenant: str, provider: str, kind: ModelType, model: str, credential: str) -> PriceConfig | None:
        """What a call costs that this credential (its id) serves. The tenant's own prices hold for the tenant's own
        credentials alone; where the operator's serve, or none is needed, the operator says."""
        is_operators = not credential or credential.startswith(f"{DEFAULT_TENANT}/")
        knows = self.factory_of(DEFAULT_TENANT).known(provider) is not None
        schema = self.schema(DEFAULT_TENANT if is_operators and knows else tenant, provider, kind, model)
        return schema.pricing if schema else None

    def _is_hosted_here(self, provider: str, kind: ModelType, model: str) -> bool:
        """Whether the operator's credentials are for this model: one that only a tenant declares is not among them."""
        definition = self.factory_of(DEFAULT_TENANT).known(provider)
        if definition is None:
            return False
        return definition.entity.is_customizable or self.schema(DEFAULT_TENANT, provider, kind, model) is not None

    def route(self, tenant: str, name: str) -> Route | None:
        return self._directory.named(tenant, Route, name) if self._directory else None

    def routes(self, tenant: str) -> list[tuple[str, Route]]:
        found = self._directory.of(tenant, Route) if self._directory else []
        return [(one.name, route) for one, route in found]

    def default(self, tenant: str, model_type: ModelType) -> str:
        """What a tenant has chosen for a type; empty where it has not."""
        found = self._directory.named(tenant, DefaultModel, model_type.value) if self._directory else None
        return found.model if found else ""

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


def _read_custom(tenant: str, row: str, one: CustomModel) -> AIModelEntity | None:
    """None, and said in the log, for one that cannot be read: the tenant's others still serve."""
    try:
        return read_model(one.definition, one.provider)
    except ConfigError as error:
        fields = {"tenant": tenant, "id": row, "error": str(error)}
        logger.error("a stored model cannot be read", extra={"fields": fields})
        return None


def _later(one: Credential) -> Credential:
    return replace(one, priority=one.priority + _AFTER_ALL_OTHERS)


def _operators(one: Credential) -> Credential:
    """Marked as filled in by the operator."""
    return replace(one, values=OperatorCredentials(one.values))


def _comparable(pricing: PriceConfig | None) -> float:
    """What a thousand units in and out cost; unknown is dear."""
    if pricing is None:
        return float("inf")
    return float(1000 * pricing.unit * (pricing.input + (pricing.output or 0)))
