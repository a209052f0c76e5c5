"""What may be sent to set something up, and what is wrong with it. Changing it: `administration`."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError, InvokeBadRequestError
from modelyard.base.numbers import Priority, Weight, check_numbers
from modelyard.models.types import JSON, ModelType
from modelyard.providers.definition import read_model
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.storage.resources import missing
from modelyard.tenancy.caller import Caller, ForbiddenError, Role
from modelyard.tenancy.kinds import KINDS, CustomModel, DefaultModel, Limit, Route, Target, User


class KeyInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be said of an API key; the rest is ours."""

    role: Role = Role.DEVELOPER
    user: str | None = None
    models: list[str] = []
    """Patterns as `openai/*`; empty for all."""
    priority: Priority = 0
    expires_at: float | None = None


class CredentialInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A filled-in form of a provider, and when it is to be used."""

    provider: str
    values: dict[str, Any] = {}
    model: str = ""
    model_type: str = ""
    weight: Weight = 1.0
    priority: Priority = 0
    domain: str = ""
    is_enabled: bool = True


INPUTS: Mapping[str, type[Any]] = {**KINDS, "key": KeyInput, "credential": CredentialInput}
"""Kind → what may be sent for one."""


def read_input(kind: str, given: JSON) -> Any:
    """What was sent for a kind. Raises InvokeBadRequestError, NotFoundError for no kind."""
    if kind not in INPUTS:
        raise missing("kind", kind)
    try:
        value = msgspec.convert(given, INPUTS[kind])
        check_numbers(value)
        return value
    except msgspec.ValidationError as error:
        raise InvokeBadRequestError(f"this is no {kind}: {error}") from error


class InputChecks:
    """Whether what is sent makes sense beside what there is."""

    def __init__(self, providers: ProviderManager, clock: Clock) -> None:
        self._providers = providers
        self._clock = clock

    def check(self, caller: Caller, tenant: str, name: str, value: Any, *, old: JSON | None = None) -> None:
        """Whether a caller may set a tenant's resource to this; `old` is what it was before, where it is changed.

        Raises InvokeBadRequestError, ForbiddenError, NotFoundError.
        """
        try:
            self._refuse(caller, tenant, name, value, old=old)
        except ConfigError as error:  # what is wrong is the request here, and not the deployment
            raise InvokeBadRequestError(str(error)) from error

    def _refuse(self, caller: Caller, tenant: str, name: str, value: Any, *, old: JSON | None = None) -> None:
        match value:
            case KeyInput() | User():
                if not caller.role.covers(value.role):
                    raise ForbiddenError(f"role {value.role.value!r} is given by its equals alone")
                if (
                    isinstance(value, KeyInput)
                    and value.expires_at is not None
                    and value.expires_at <= self._clock.time()
                ):
                    raise InvokeBadRequestError("'expires_at' is in the past", param="expires_at")
            case CredentialInput():
                definition = self._providers.factory_of(tenant).get_definition(value.provider)
                if value.values or old is None:
                    self._providers.factory_of(tenant).validate_credentials(definition.name, value.values)
                if value.weight < 0:
                    raise InvokeBadRequestError("'weight' must be 0 or more", param="weight")
            case Limit():
                check_limit(value)
            case Route():
                self._check_route(tenant, name, value)
            case DefaultModel():
                self._check_default(tenant, name, value)
            case CustomModel():
                self._providers.factory_of(tenant).get_definition(value.provider)
                read_model(value.definition, value.provider)
            case _:
                pass

    def _check_route(self, tenant: str, name: str, route: Route) -> None:
        if not route.targets:
            raise InvokeBadRequestError("'targets' must name at least one model", param="targets")
        for target in route.targets:
            self._check_target(target)
        for model in [*(one.model for one in route.targets), *route.failover]:
            provider, slash, _ = model.partition("/")
            if not slash:
                raise InvokeBadRequestError(f"{model!r} must read 'provider/model'; a route may not lead to a route")
            self._providers.factory_of(tenant).get_definition(provider)
        if len({*route.failover}) != len(route.failover):
            raise InvokeBadRequestError("'failover' names a model twice", param="failover")
        if "/" in name and name.partition("/")[0] in {
            one.provider for one in self._providers.factory_of(tenant).get_providers()
        }:
            raise InvokeBadRequestError(f"{name!r} reads like a provider's model; choose another name", param="name")
        if route.hedge_after is not None and not 50 <= route.hedge_after < 100:
            raise InvokeBadRequestError("'hedge_after' is a percentile from 50 to below 100", param="hedge_after")

    def _check_default(self, tenant: str, name: str, value: DefaultModel) -> None:
        if name not in {*ModelType}:
            raise InvokeBadRequestError(f"'name' is a model type: {', '.join(ModelType)}; not {name!r}", param="name")
        provider, slash, model = value.model.partition("/")
        if self._providers.route(tenant, value.model) is not None:
            return
        if not slash:
            raise InvokeBadRequestError(f"{value.model!r} must read 'provider/model', or name a route", param="model")
        definition = self._providers.factory_of(tenant).get_definition(provider)
        known = self._providers.schema(tenant, provider, ModelType(name), model)
        if known is None and not definition.entity.is_customizable:
            raise InvokeBadRequestError(f"{provider!r} has no {name} model {model!r}", param="model")

    @staticmethod
    def _check_target(target: Target) -> None:
        if target.weight < 0:
            raise InvokeBadRequestError(f"the weight of {target.model!r} must be 0 or more", param="targets")


def check_limit(limit: Limit) -> None:
    """Raises InvokeBadRequestError for a limit that makes no sense."""
    if limit.amount < 0 and limit.amount != -1:
        raise InvokeBadRequestError(
            f"'amount' must be 0 or more, or -1 for unlimited, not {limit.amount:g}", param="amount"
        )
    if limit.unit == "concurrency" and limit.amount == 0:
        raise InvokeBadRequestError(
            "a concurrency of 0 would refuse every call; disable the key instead", param="amount"
        )
    if any(one < 0 for one in limit.credits.values()):
        raise InvokeBadRequestError("'credits' must be 0 or more", param="credits")


def configured_limit(name: str, given: Mapping[str, Any]) -> Limit:
    """A limit from the settings. Raises ConfigError."""
    try:
        limit = msgspec.convert(dict(given), Limit)
        check_numbers(limit)
        check_limit(limit)
    except (msgspec.ValidationError, InvokeBadRequestError) as error:
        raise ConfigError(f"limit {name!r}: {error}") from error
    return limit


def configured_route(name: str, given: Mapping[str, Any]) -> Route:
    """A route from the settings: targets may be names alone. Raises ConfigError."""
    targets = given.get("targets")
    spelled = (
        [{"model": one} if isinstance(one, str) else one for one in targets] if isinstance(targets, list) else targets
    )
    try:
        route = msgspec.convert({**given, "targets": spelled}, Route)
        check_numbers(route)
        return route
    except msgspec.ValidationError as error:
        raise ConfigError(f"route {name!r}: {error}") from error


def cycle(failover: Mapping[str, Sequence[str]]) -> list[str]:
    """A way from a model back to itself, by what it fails over to; empty where there is none."""

    def walk(here: str, path: list[str]) -> list[str]:
        if here in path:
            return [*path[path.index(here) :], here]
        return next((found for one in failover.get(here, ()) if (found := walk(one, [*path, here]))), [])

    return next((found for start in failover if (found := walk(start, []))), [])
