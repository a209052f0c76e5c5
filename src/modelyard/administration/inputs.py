"""Validation of what administrators send and of limits and routes in the settings. The
changes themselves are in `administration`."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError, InvokeBadRequestError
from modelyard.base.json_types import is_array
from modelyard.base.number_bounds import Priority, Weight, check_numbers
from modelyard.models.types import JSON, ModelType
from modelyard.providers.definition import read_model
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.storage.resources import not_found
from modelyard.tenancy.caller import Caller, ForbiddenError, Role
from modelyard.tenancy.reader import checked_names
from modelyard.tenancy.resource_types import (
    KINDS,
    CustomModel,
    DefaultModel,
    Limit,
    Route,
    Target,
    User,
)


class KeyInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an administrator may set of an API key; the server sets the other fields."""

    role: Role = Role.DEVELOPER
    user: str | None = None
    models: list[str] = []
    """Patterns such as `openai/*`; empty for all models."""
    priority: Priority = 0
    expires_at: float | None = None
    unpriced: Literal["", "refuse", "count"] = ""
    """What a limit of money does with calls whose price is unknown; empty for what the
    settings say."""
    speaks_for_users: bool = False
    """Whether its caller may name the user on whose behalf it reads documents."""


class CredentialInput(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """A provider's credential form with its values, and when the credential is used."""

    provider: str
    values: dict[str, Any] = {}
    model: str = ""
    model_type: str = ""
    weight: Weight = 1.0
    priority: Priority = 0
    domain: str = ""
    is_enabled: bool = True


INPUTS: Mapping[str, type[Any]] = {
    **KINDS,
    "key": KeyInput,
    "credential": CredentialInput,
}
"""Resource type to the type of its input."""


def read_input(kind: str, fields: JSON) -> Any:
    """Return the input for a resource type. Raises InvokeBadRequestError, or
    NotFoundError for an unknown type."""
    if kind not in INPUTS:
        raise not_found("kind", kind)
    try:
        value = msgspec.convert(fields, INPUTS[kind])
        # msgspec does not check for NaN and infinity, which JSON parsers may produce.
        check_numbers(value)
        return value
    except msgspec.ValidationError as error:
        raise InvokeBadRequestError(f"Invalid {kind}: {error}") from error


class InputChecks:
    """Checks an input against the existing resources."""

    def __init__(self, providers: ProviderManager, clock: Clock) -> None:
        self._providers = providers
        self._clock = clock

    def check(
        self,
        caller: Caller,
        tenant: str,
        name: str,
        value: Any,
        *,
        old: JSON | None = None,
    ) -> None:
        """Check whether the caller may set a tenant's resource to `value`. `old` is its
        previous state, None for a new one.

        Raises InvokeBadRequestError, ForbiddenError or NotFoundError.
        """
        try:
            self._check_input(caller, tenant, name, value, old=old)
        except (
            ConfigError
        ) as error:  # what is wrong is the request here, and not the deployment
            raise InvokeBadRequestError(str(error)) from error

    def _check_input(
        self,
        caller: Caller,
        tenant: str,
        name: str,
        value: Any,
        *,
        old: JSON | None = None,
    ) -> None:
        """Check one input by its type."""
        match value:
            case KeyInput() | User():
                # Nobody can give a role above their own.
                if not caller.role.covers(value.role):
                    raise ForbiddenError(
                        f"Only a role of the same level can grant role {value.role.value!r}"
                    )
                if isinstance(value, User):
                    checked_names(value.groups, "groups")
                elif (
                    value.expires_at is not None
                    and value.expires_at <= self._clock.time()
                ):
                    raise InvokeBadRequestError(
                        "'expires_at' is in the past", param="expires_at"
                    )
            case CredentialInput():
                _check_model_type(value.model_type)
                definition = self._providers.factory_of(tenant).get_definition(
                    value.provider
                )
                # Without new values the stored secret stays, and was validated before.
                if value.values or old is None:
                    self._providers.factory_of(tenant).validate_credentials(
                        definition.name,
                        value.values,
                        model=value.model,
                        model_type=value.model_type,
                    )
                if value.weight < 0:
                    raise InvokeBadRequestError(
                        "'weight' must be 0 or more", param="weight"
                    )
            case Limit():
                check_limit(value)
            case Route():
                self._check_route(tenant, name, value)
            case DefaultModel():
                self._check_default(tenant, name, value)
            case CustomModel():
                self._providers.factory_of(tenant).get_definition(value.provider)
                _check_definition(value)
            case _:
                pass

    def _check_route(self, tenant: str, name: str, route: Route) -> None:
        """Check that a route's models exist and that its name cannot be confused with a
        model."""
        if not route.targets:
            raise InvokeBadRequestError(
                "'targets' must name at least one model", param="targets"
            )
        for target in route.targets:
            self._check_target(target)
        for model in [*(target.model for target in route.targets), *route.failover]:
            provider, slash, _ = model.partition("/")
            if not slash:
                # A route that leads to a route could form a cycle.
                raise InvokeBadRequestError(
                    f"Target {model!r} must be 'provider/model'; a route cannot contain a"
                    " route"
                )
            self._providers.factory_of(tenant).get_definition(provider)
        if len({*route.failover}) != len(route.failover):
            raise InvokeBadRequestError(
                "'failover' contains a model twice", param="failover"
            )
        if "/" in name and name.partition("/")[0] in {
            entity.provider
            for entity in self._providers.factory_of(tenant).get_providers()
        }:
            raise InvokeBadRequestError(
                f"Route name {name!r} looks like a provider's model; choose another name",
                param="name",
            )
        # Below the median, most calls would be sent twice.
        if route.hedge_after is not None and not 50 <= route.hedge_after < 100:
            raise InvokeBadRequestError(
                "'hedge_after' must be a percentile from 50 to below 100",
                param="hedge_after",
            )

    def _check_default(self, tenant: str, name: str, value: DefaultModel) -> None:
        """Check that a default's name is a model type and that its model or route
        exists."""
        if name not in {*ModelType}:
            raise InvokeBadRequestError(
                f"'name': unknown model type {name!r}; expected one of"
                f" {', '.join(ModelType)}",
                param="name",
            )
        provider, slash, model = value.model.partition("/")
        if self._providers.route(tenant, value.model) is not None:
            return
        if not slash:
            raise InvokeBadRequestError(
                f"Model {value.model!r} must be 'provider/model' or the name of a route",
                param="model",
            )
        definition = self._providers.factory_of(tenant).get_definition(provider)
        schema = self._providers.schema(tenant, provider, ModelType(name), model)
        # A customisable provider accepts models that its catalogue does not list.
        if schema is None and not definition.entity.is_customizable:
            raise InvokeBadRequestError(
                f"Provider {provider!r} has no {name} model {model!r}", param="model"
            )

    @staticmethod
    def _check_target(target: Target) -> None:
        """Check a route's target."""
        if target.weight < 0:
            raise InvokeBadRequestError(
                f"Weight of target {target.model!r} must be 0 or more", param="targets"
            )


def _check_model_type(name: str) -> None:
    """Check the model type of a credential; empty for the usual one."""
    if name and name not in {*ModelType}:
        raise InvokeBadRequestError(
            f"Unknown model type {name[:50]!r}; expected one of {', '.join(ModelType)}",
            param="model_type",
        )


def _check_definition(model: CustomModel) -> None:
    """Check the definition of a tenant's model. Raises ConfigError or
    InvokeBadRequestError."""
    if model.definition.get("quirks"):
        # They belong to the server, which all models of a provider share.
        raise InvokeBadRequestError(
            "'definition.quirks' can only be set in the settings or in a provider's file",
            param="definition",
        )
    read_model(model.definition, model.provider)


def check_limit(limit: Limit) -> None:
    """Check that a limit makes sense. Raises InvokeBadRequestError."""
    if limit.amount < 0 and limit.amount != -1:
        raise InvokeBadRequestError(
            f"'amount' must be 0 or more, or -1 for unlimited; got {limit.amount:g}",
            param="amount",
        )
    if limit.unit == "concurrency" and limit.amount == 0:
        raise InvokeBadRequestError(
            "A concurrency of 0 would reject every call; disable the key instead",
            param="amount",
        )
    if any(credits_per_call < 0 for credits_per_call in limit.credits.values()):
        raise InvokeBadRequestError("'credits' must be 0 or more", param="credits")


def configured_limit(name: str, fields: Mapping[str, Any]) -> Limit:
    """Return a limit from the settings. Raises ConfigError."""
    try:
        limit = msgspec.convert(dict(fields), Limit)
        check_numbers(limit)
        check_limit(limit)
    except (msgspec.ValidationError, InvokeBadRequestError) as error:
        raise ConfigError(f"Limit {name!r}: {error}") from error
    return limit


def configured_route(name: str, fields: Mapping[str, Any]) -> Route:
    """Return a route from the settings, in which a target may be just a name. Raises
    ConfigError."""
    targets = fields.get("targets")
    spelled: Any = (
        # A short target becomes an object; anything else is left for the validation to
        # refuse.
        [{"model": target} if isinstance(target, str) else target for target in targets]
        if is_array(targets)
        else targets
    )
    try:
        route = msgspec.convert({**fields, "targets": spelled}, Route)
        check_numbers(route)
        return route
    except msgspec.ValidationError as error:
        raise ConfigError(f"Route {name!r}: {error}") from error


def find_cycle(failover: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the first failover path that leads from a model back to itself; empty if
    there is none."""

    def walk(model: str, path: list[str]) -> list[str]:
        """Follow the failover models depth first; return the cycle if the path meets
        itself."""
        if model in path:
            return [*path[path.index(model) :], model]
        return next(
            (
                cycle_path
                for successor in failover.get(model, ())
                if (cycle_path := walk(successor, [*path, model]))
            ),
            list[str](),
        )

    return next(
        (cycle_path for start in failover if (cycle_path := walk(start, []))),
        list[str](),
    )
