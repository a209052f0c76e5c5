"""/admin/v1/plan, /resting and /cache: the routing plan of a call, current cooldowns,
and the response cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modelyard.base.clock import Clock
from modelyard.base.fields import invalid_field, optional_field, required_field
from modelyard.gateway.admin.requests import longest_cooldown, model_type, tenant_of
from modelyard.gateway.admin.shapes import (
    AppliedLimit,
    CacheCleared,
    PlannedDeployment,
    RoutingPlan,
    RoutingTier,
)
from modelyard.gateway.admin.shapes import CooldownsView as RestingShown
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.limits import ApplicableLimit, Estimate, Subject, charge
from modelyard.runtime.load_balancing import (
    Deployment,
    DeploymentHealth,
    LBModelManager,
)
from modelyard.runtime.model_manager import ALIASES, ModelManager
from modelyard.storage.counters import Counters
from modelyard.storage.response_cache import ResponseCache
from modelyard.tenancy.caller import Caller

_MAX_NAME_LENGTH = 500


@dataclass(frozen=True, slots=True)
class CooldownsRoute:
    """Route for the deployments and credentials of a tenant that are in cooldown in
    this process."""

    health: DeploymentHealth

    async def listed(self, request: Request) -> Reply:
        """List the remaining cooldowns in seconds.

        Raises NotFoundError for a tenant that the caller may not access.
        """
        # Cooldown keys start with the tenant.
        prefix = f"{tenant_of(request)}/"
        cooldowns = self.health.in_cooldown().items()
        mine = {key: seconds for key, seconds in cooldowns if key.startswith(prefix)}
        rounded = {key: round(seconds, 1) for key, seconds in mine.items()}
        return json_reply(RestingShown(data=rounded))


@dataclass(frozen=True, slots=True)
class ResponseCacheRoute:
    """Route for the response cache."""

    answers: ResponseCache

    async def clear(self, request: Request) -> Reply:
        """Clear the cached responses of a tenant.

        Raises NotFoundError for a tenant that the caller may not access.
        """
        await self.answers.clear(tenant_of(request))
        return json_reply(CacheCleared(cleared=True))


@dataclass(frozen=True, slots=True)
class PlanRoute:
    """Route for the routing plan of a call to `model`, optionally for a `user` and a
    `key`. Calls no model."""

    models: ModelManager
    clock: Clock
    applicable_limits: Callable[[Subject], Sequence[ApplicableLimit]]
    counters: Counters
    cache_seconds: Callable[[str, str], float]
    """(tenant, route) → seconds for which responses may be cached."""

    async def make(self, request: Request) -> Reply:
        """Return the deployments that a call would use now, in order, and the limits
        that apply to it.

        Raises InvokeBadRequestError, NotFoundError.
        """
        body = await request.json()
        name = required_field(body, "model", str)
        tenant = tenant_of(request)
        if len(name) > _MAX_NAME_LENGTH:
            raise invalid_field("model", name, f"at most {_MAX_NAME_LENGTH} characters")
        # An alias implies the model type.
        requested_type = ALIASES.get(name) or model_type(
            optional_field(body, "type", str) or "llm"
        )
        instance = self.models.find(Caller(tenant=tenant), name, requested_type)
        user = optional_field(body, "user", str) or ""
        key = optional_field(body, "key", str) or ""
        invocation = Invocation(
            tenant=tenant,
            provider=instance.provider,
            model=instance.model,
            model_type=requested_type,
            request=None,
            route=instance.route,
        )
        groups = self._groups(invocation)
        limits = await self._limits(Subject(tenant, key, user, instance.name))
        return json_reply(
            RoutingPlan(
                asked_for=name,
                model=instance.name,
                type=requested_type,
                route=instance.route,
                groups=groups,
                limits=limits,
                cache_seconds=self.cache_seconds(tenant, instance.route),
            )
        )

    def _groups(self, invocation: Invocation) -> list[RoutingTier]:
        """Return the views of the routing groups of a call, in the order in which they
        are tried."""
        plan = self.models.providers.plan(invocation)
        first = "route" if invocation.route else "model"
        # The first group is what the caller named; all others are tried only after it
        # fails.
        return [
            self._group(first if index == 0 else "failover", manager)
            for index, manager in enumerate(plan.groups)
        ]

    async def _limits(self, subject: Subject) -> list[AppliedLimit]:
        """Return the limits that apply to a call, with the amounts that are used."""
        current_time = self.clock.time()
        applied = self.applicable_limits(subject)
        # Charge nothing: only the names of the counters are needed, to read their
        # levels.
        names = [
            charge(applied_limit, subject, Estimate(0, 0), current_time).name
            for applied_limit in applied
        ]
        levels = await self.counters.levels(names)
        return [
            AppliedLimit(
                name=applied_limit.name,
                unit=applied_limit.limit.unit,
                amount=applied_limit.limit.amount,
                window=applied_limit.limit.window,
                # A limit whose counter has no level yet is reported as unknown.
                used=_used(levels.get(counter), applied_limit.limit.unit),
            )
            for applied_limit, counter in zip(applied, names, strict=True)
        ]

    def _group(
        self, reason: Literal["model", "route", "failover"], manager: LBModelManager
    ) -> RoutingTier:
        """Return the view of one routing group with the current state of its
        deployments."""
        health = manager.health
        shares = _traffic_fractions(manager)
        return RoutingTier(
            why=reason,
            strategy=manager.strategy,
            deployments=[
                PlannedDeployment(
                    model=f"{deployment.provider}/{deployment.model}",
                    credential=(
                        deployment.credential.name if deployment.credential else ""
                    ),
                    weight=deployment.weight,
                    priority=deployment.priority,
                    resting_seconds=longest_cooldown([health.wait(deployment)]),
                    in_flight=health.in_flight(deployment),
                    latency=health.latency(deployment),
                    share=shares.get(deployment.id, 0.0),
                )
                for deployment in manager.deployments
            ],
        )


def _used(level: float | None, unit: str) -> float | None:
    """Return the used amount of a limit in its own unit. Costs are counted in
    billionths."""
    if level is None:
        return None
    return level / 1e9 if unit == "cost" else level


def _traffic_fractions(manager: LBModelManager) -> dict[str, float]:
    """Return the fraction of new calls that each available deployment would get, from 0
    to 1."""
    available = [
        deployment
        for deployment in manager.deployments
        if manager.health.wait(deployment) <= 0
    ]
    # All deployments are in cooldown.
    if not available:
        return {}
    # A lower number is a higher priority; others are used only if none of these is
    # available.
    candidates = _with_lowest(lambda deployment: deployment.priority, available)
    match manager.strategy:
        case "weighted":
            total = sum(deployment.weight for deployment in candidates) or 1.0
            return {
                deployment.id: deployment.weight / total for deployment in candidates
            }
        case "lowest_cost":
            candidates = _with_lowest(lambda deployment: deployment.price, candidates)
        case "least_in_flight":
            candidates = _with_lowest(manager.health.in_flight, candidates)
        case _:
            pass
    # All other strategies divide calls evenly among the deployments that remain.
    return {deployment.id: 1 / len(candidates) for deployment in candidates}


def _with_lowest(
    measure: Callable[[Deployment], Any], deployments: Sequence[Deployment]
) -> list[Deployment]:
    """Return the deployments whose measure is the lowest of all."""
    lowest = min(map(measure, deployments))
    return [deployment for deployment in deployments if measure(deployment) == lowest]
