"""Routing plans: the deployments of the named model, of its failover models, or of a
route."""

from collections.abc import Callable, Iterator, Sequence

from modelyard.models.entities import PriceConfig
from modelyard.models.types import ModelType
from modelyard.providers.factory import ModelProviderFactory
from modelyard.runtime.declared_models import DeclaredModels
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.load_balancing import (
    Deployment,
    DeploymentHealth,
    LBModelManager,
    Plan,
)
from modelyard.runtime.provider_credentials import ProviderCredentials
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.resource_types import Route, Target

# Names of models come from requests; a plan is quickly made again.
_MAX_PLANS = 4096

Failover = Callable[[str, str, str, ModelType], Sequence[tuple[str, str]]]
"""(tenant, provider, model, type) to the models to fail over to."""
Resolve = Callable[[str, str, ModelType], tuple[str, str]]
"""(tenant, name, type) to (provider, model)."""


def _no_failover(
    tenant: str, provider: str, model: str, model_type: ModelType
) -> Sequence[tuple[str, str]]:
    """Return no models: nothing is failed over to."""
    del tenant, provider, model, model_type
    return ()


class Plans:
    """Builds routing plans on first use and caches them until something that they
    depend on changes."""

    def __init__(
        self,
        factory_of: Callable[[str], ModelProviderFactory],
        credentials: ProviderCredentials,
        models: DeclaredModels,
        health: DeploymentHealth,
        directory: Directory | None,
    ) -> None:
        self._factory_of = factory_of
        self._credentials = credentials
        self._models = models
        self._health = health
        self._directory = directory
        self._plans: dict[tuple[str, ...], Plan] = {}
        # Managers are cached apart from plans: several plans share a model's manager,
        # and it holds the round-robin state.
        self._managers: dict[tuple[str, ...], LBModelManager] = {}
        # These apply until `choose_with` is called.
        self._failover: Failover = _no_failover
        self._resolve: Resolve = _split_name

    def choose_with(self, failover: Failover, resolve: Resolve) -> None:
        """Set the functions that list failover models and that resolve the model names
        of a route's targets."""
        self._failover = failover
        self._resolve = resolve

    def forget(self) -> None:
        """Drop all plans, so that they are built again."""
        self._plans.clear()
        self._managers.clear()

    def plan_for(self, invocation: Invocation) -> Plan:
        """Return the plan of a call: its deployments in the order to try them."""
        key = (
            invocation.tenant,
            invocation.provider,
            invocation.model,
            invocation.model_type.value,
            invocation.route,
        )
        if (cached_plan := self._plans.get(key)) is not None:
            return cached_plan
        # Clients can invent model names, which must not fill the memory.
        if len(self._plans) >= _MAX_PLANS:
            self.forget()
        plan = self._plans[key] = self._build_plan(invocation)
        return plan

    def _build_plan(self, invocation: Invocation) -> Plan:
        """Build the plan of a call."""
        tenant, model_type, route_name = (
            invocation.tenant,
            invocation.model_type,
            invocation.route,
        )
        route = (
            self._directory.get_by_name(tenant, Route, route_name)
            if route_name and self._directory
            else None
        )
        # The route may have been deleted since the call was resolved; then the model
        # itself is used.
        if route is None:
            primary_target = (invocation.provider, invocation.model)
            failover_targets = self._failover(tenant, *primary_target, model_type)
            return Plan(
                [
                    self._model_manager(tenant, provider, model_type, model)
                    for provider, model in [primary_target, *failover_targets]
                ]
            )
        first = self._route_manager(tenant, model_type, route_name, route)
        failover_targets = [
            self._resolve(tenant, name, model_type) for name in route.failover
        ]
        groups = [
            first,
            *(
                self._model_manager(tenant, provider, model_type, model)
                for provider, model in failover_targets
            ),
        ]
        return Plan(groups, route.sticky, route.hedge_after, route.continue_streams)

    # who balances the calls of a group

    def _route_manager(
        self, tenant: str, model_type: ModelType, name: str, route: Route
    ) -> LBModelManager:
        """Return the manager that balances the targets of a route."""
        # The empty provider keeps a route apart from a model of the same name.
        key = (tenant, "", model_type.value, name)
        if (manager := self._managers.get(key)) is None:
            deployments = [
                deployment
                for target in route.targets
                for deployment in self._target_deployments(tenant, model_type, target)
            ]
            patience = 2.0 if route.when_resting == "wait" else 0.0
            manager = self._managers[key] = LBModelManager(
                deployments, self._health, strategy=route.strategy, patience=patience
            )
        return manager

    def _model_manager(
        self, tenant: str, provider: str, model_type: ModelType, model: str
    ) -> LBModelManager:
        """Return the manager that balances a model's deployments of a tenant."""
        key = (tenant, provider, model_type.value, model)
        if (manager := self._managers.get(key)) is None:
            deployments = list(self._deployments(tenant, provider, model_type, model))
            # Weights matter as soon as one credential has a weight other than 1.
            is_weighted = any(deployment.weight != 1.0 for deployment in deployments)
            manager = self._managers[key] = LBModelManager(
                deployments,
                self._health,
                strategy="weighted" if is_weighted else "round_robin",
            )
        return manager

    def _target_deployments(
        self, tenant: str, model_type: ModelType, target: Target
    ) -> Iterator[Deployment]:
        """Yield the deployments of a route's target, with the target's weight and
        priority applied."""
        provider, model = self._resolve(tenant, target.model, model_type)
        for deployment in self._deployments(tenant, provider, model_type, model):
            yield Deployment(
                deployment.id,
                provider,
                model,
                deployment.credential,
                deployment.weight * target.weight,
                deployment.priority + target.priority,
                deployment.price,
            )

    def _deployments(
        self, tenant: str, provider: str, model_type: ModelType, model: str
    ) -> Iterator[Deployment]:
        """Yield a deployment for each credential that may call the model."""
        definition = self._factory_of(tenant).get_definition(provider)
        credentials = [
            credential
            for credential in self._credentials.credentials_for(
                tenant, provider, model, model_type.value
            )
            # A hosted credential, which has quotas, serves only the models that are
            # offered with it.
            if not credential.quotas
            or self._models.is_hosted(provider, model_type, model)
        ]

        def price_with(credential: str) -> float:
            """Return the comparable price of the model with this credential."""
            return _comparable_price(
                self._models.pricing(tenant, provider, model_type, model, credential)
            )

        # A provider that needs no credential, such as a local one, still gets one
        # deployment.
        if not credentials and not definition.needs_credential:
            yield Deployment(
                f"{tenant}/{provider}/{model}",
                provider,
                model,
                None,
                price=price_with(""),
            )
        for credential in credentials:
            yield Deployment(
                f"{tenant}/{credential.id}/{model}",
                provider,
                model,
                credential,
                credential.weight,
                credential.priority,
                price_with(credential.id),
            )


def _split_name(tenant: str, name: str, model_type: ModelType) -> tuple[str, str]:
    """Split `provider/model`. Used until a real resolver is set."""
    provider, _, model = name.partition("/")
    return provider, model


def _comparable_price(pricing: PriceConfig | None) -> float:
    """Return the price of 1,000 units in plus 1,000 out; infinity if it is unknown."""
    if pricing is None:
        return float("inf")
    return float(1000 * pricing.unit * (pricing.input + (pricing.output or 0)))
