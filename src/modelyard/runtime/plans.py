"""Where a tenant's calls may go: to the model that was named, to what stands in for it, or by a route."""

from collections.abc import Callable, Iterator, Sequence

from modelyard.models.entities import PriceConfig
from modelyard.models.types import ModelType
from modelyard.providers.factory import ModelProviderFactory
from modelyard.runtime.declared_models import DeclaredModels
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.load_balancing import Deployment, Health, LBModelManager, Plan
from modelyard.runtime.provider_credentials import ProviderCredentials
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.kinds import Route, Target

_MOST_PLANS = 4096

Failover = Callable[[str, str, str, ModelType], Sequence[tuple[str, str]]]
"""(tenant, provider, model, type) → further models."""
Resolve = Callable[[str, str, ModelType], tuple[str, str]]
"""(tenant, name, type) → (provider, model)."""


class Plans:
    """Plans of calls, made when first needed and kept until something that they depend on changes."""

    def __init__(
        self,
        factory_of: Callable[[str], ModelProviderFactory],
        credentials: ProviderCredentials,
        models: DeclaredModels,
        health: Health,
        directory: Directory | None,
    ) -> None:
        self._factory_of = factory_of
        self._credentials = credentials
        self._models = models
        self._health = health
        self._directory = directory
        self._plans: dict[tuple[str, ...], Plan] = {}
        self._managers: dict[tuple[str, ...], LBModelManager] = {}
        self._failover: Failover = lambda *call: ()
        self._resolve: Resolve = _by_name

    def choose_with(self, failover: Failover, resolve: Resolve) -> None:
        """What stands in for a model, and which model a route's target means."""
        self._failover = failover
        self._resolve = resolve

    def forget(self) -> None:
        """Make them anew."""
        self._plans.clear()
        self._managers.clear()

    def of(self, invocation: Invocation) -> Plan:
        """Where this call may go, in which order."""
        key = (
            invocation.tenant, invocation.provider, invocation.model, invocation.model_type.value, invocation.route,
        )  # fmt: skip
        if (known := self._plans.get(key)) is not None:
            return known
        if len(self._plans) >= _MOST_PLANS:  # names that anybody may invent must not fill the memory
            self.forget()
        made = self._plans[key] = self._made(invocation)
        return made

    def _made(self, invocation: Invocation) -> Plan:
        tenant, kind, route_name = invocation.tenant, invocation.model_type, invocation.route
        route = self._directory.named(tenant, Route, route_name) if route_name and self._directory else None
        if route is None:
            named = (invocation.provider, invocation.model)
            others = self._failover(tenant, *named, kind)
            return Plan([self._manager(tenant, provider, kind, model) for provider, model in [named, *others]])
        first = self._routed(tenant, kind, route_name, route)
        others = [self._resolve(tenant, name, kind) for name in route.failover]
        groups = [first, *(self._manager(tenant, provider, kind, model) for provider, model in others)]
        return Plan(groups, route.sticky, route.hedge_after, route.continue_streams)

    # who balances the calls of a group

    def _routed(self, tenant: str, kind: ModelType, name: str, route: Route) -> LBModelManager:
        """Calls to a route."""
        key = (tenant, "", kind.value, name)
        if (known := self._managers.get(key)) is None:
            deployments = [one for target in route.targets for one in self._of_target(tenant, kind, target)]
            patience = 2.0 if route.when_resting == "wait" else 0.0
            known = self._managers[key] = LBModelManager(
                deployments, self._health, strategy=route.strategy, patience=patience
            )
        return known

    def _manager(self, tenant: str, provider: str, kind: ModelType, model: str) -> LBModelManager:
        """Calls of a tenant to a model."""
        key = (tenant, provider, kind.value, model)
        if (known := self._managers.get(key)) is None:
            found = list(self._deployments(tenant, provider, kind, model))
            is_weighted = any(one.weight != 1.0 for one in found)
            known = self._managers[key] = LBModelManager(
                found, self._health, strategy="weighted" if is_weighted else "round_robin"
            )
        return known

    def _of_target(self, tenant: str, kind: ModelType, target: Target) -> Iterator[Deployment]:
        provider, model = self._resolve(tenant, target.model, kind)
        for one in self._deployments(tenant, provider, kind, model):
            yield Deployment(
                one.id, provider, model, one.credential, one.weight * target.weight,
                one.priority + target.priority, one.price,
            )  # fmt: skip

    def _deployments(self, tenant: str, provider: str, kind: ModelType, model: str) -> Iterator[Deployment]:
        definition = self._factory_of(tenant).get_definition(provider)
        credentials = [
            one
            for one in self._credentials.of(tenant, provider, model)
            if not one.quotas or self._models.is_hosted(provider, kind, model)
        ]

        def price_with(credential: str) -> float:
            return _comparable(self._models.pricing(tenant, provider, kind, model, credential))

        if not credentials and not definition.needs_credential:
            yield Deployment(f"{tenant}/{provider}/{model}", provider, model, None, price=price_with(""))
        for one in credentials:
            yield Deployment(
                f"{tenant}/{one.id}/{model}", provider, model, one, one.weight, one.priority, price_with(one.id)
            )


def _by_name(tenant: str, name: str, kind: ModelType) -> tuple[str, str]:
    """`provider/model`, where nobody knows more of names."""
    provider, _, model = name.partition("/")
    return provider, model


def _comparable(pricing: PriceConfig | None) -> float:
    """What a thousand units in and out cost; unknown is dear."""
    if pricing is None:
        return float("inf")
    return float(1000 * pricing.unit * (pricing.input + (pricing.output or 0)))
