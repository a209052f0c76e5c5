"""(tenant, provider, type, model) → something to call."""

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import NotFoundError, near
from modelyard.models.types import Chunks, ModelType
from modelyard.models.verbatim import VerbatimRequest
from modelyard.runtime.invocation import Context, Invocation
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.pipeline import Call, Policy, compose
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.tenancy.caller import Caller, ModelNotAllowedError, on_behalf

ALIASES: Mapping[str, ModelType] = {
    "default": ModelType.LLM,
    **{f"default-{kind.value}": kind for kind in ModelType if kind is not ModelType.LLM},
}
"""Names that stand for a tenant's default model of a type."""
_MOST_BOUND = 4096


class ModelManager:
    """Finds models by name and hands out instances with the policies around them."""

    def __init__(
        self,
        providers: ProviderManager,
        policies: list[Policy],
        clock: Clock,
        *,
        defaults: Mapping[ModelType, str] | None = None,
        total_timeout: float | None = None,
        passes_on: bool = False,
    ) -> None:
        self._passes_on = passes_on
        self._providers = providers
        self._clock = clock
        self._defaults = dict(defaults or {})
        self._total_timeout = total_timeout
        self._call: Call = compose(policies, self._invoke)
        self._found: dict[tuple[str, str, ModelType], ModelInstance] = {}
        self._instances: dict[tuple[str, str, ModelType, str], ModelInstance] = {}
        self._bound: dict[tuple[Caller, str, ModelType], ModelInstance] = {}

    @property
    def providers(self) -> ProviderManager:
        return self._providers

    def use(self, defaults: Mapping[ModelType, str], total_timeout: float | None) -> None:
        """Settings from now on."""
        self._defaults = dict(defaults)
        self._total_timeout = total_timeout
        self.forget()

    def forget(self) -> None:
        """What was found before: providers, routes or models have changed."""
        self._found.clear()
        self._instances.clear()
        self._bound.clear()

    def _invoke(self, invocation: Invocation) -> Chunks:
        """The end of the pipeline: the provider's own model."""
        model: Any = self._providers.factory_of(invocation.tenant).get_model(invocation.provider, invocation.model_type)
        request = invocation.request
        if isinstance(request, VerbatimRequest) and not model.takes_verbatim:
            request = request.parse()
        return model.invoke(invocation.model, invocation.credentials, request)

    def get_model_instance(self, tenant: str, provider: str, model_type: ModelType, model: str) -> ModelInstance:
        """Raises NotFoundError that lists near names where provider, type or model do not exist."""
        key = (tenant, provider, model_type, model)
        if (known := self._instances.get(key)) is not None:
            return known
        factory = self._providers.factory_of(tenant)
        entity = factory.get_definition(provider).entity
        callee = factory.get_model(provider, model_type)
        schema = self._providers.schema(tenant, provider, model_type, model)
        if schema is None and not entity.is_customizable:
            raise self._unknown(tenant, model, model_type, provider)
        instance = ModelInstance(
            caller=Caller(tenant=tenant),
            provider=provider,
            model=model,
            model_type=model_type,
            schema=schema,
            callee=callee,
            call=self._call,
            clock=self._clock,
            credentials=lambda: self._first_credential(tenant, provider),
            total_timeout=self._total_timeout,
            may_pass_on=self._passes_on and model_type is ModelType.LLM,
        )
        if schema is not None:  # names that anybody may invent must not fill the memory
            self._instances[key] = instance
        return instance

    def _first_credential(self, tenant: str, provider: str) -> Mapping[str, object]:
        credentials = self._providers.credentials(tenant, provider)
        return credentials[0].values if credentials else {}

    def get_default_model_instance(self, tenant: str, model_type: ModelType) -> ModelInstance:
        """The tenant's default of a type: its own, else the settings', else the first that is ready."""
        if name := self._providers.default(tenant, model_type) or self._defaults.get(model_type):
            return self._find(tenant, name, model_type)
        provider, model = self._providers.first_model(tenant, model_type)
        return self.get_model_instance(tenant, provider, model_type, model)

    def find(
        self, caller: Caller | str, name: str, model_type: ModelType, *, context: Context | None = None
    ) -> ModelInstance:
        """By `provider/model`, by a bare model name, by a route's, or by a default's alias; a tenant's name may stand
        for a caller of its own.

        A call that something inside the server makes is made on behalf of whoever sent the request (`on_behalf`).

        Raises NotFoundError that lists near names, or says that the model is of another type; ModelNotAllowedError
        where the caller's key is not for it.
        """
        caller = on_behalf(Caller(tenant=caller) if isinstance(caller, str) else caller)
        key = (caller, name, model_type)
        if (bound := self._bound.get(key)) is None:
            found = self._find(caller.tenant, name, model_type)
            if not (caller.may_call(found.name) or (found.route and caller.may_call(found.route))):
                raise ModelNotAllowedError(
                    f"this API key may not call {name!r}; it may call {', '.join(caller.models)}"
                )
            bound = msgspec.structs.replace(found, caller=caller)
            if found.schema is not None:
                if len(self._bound) >= _MOST_BOUND:
                    self._bound.clear()
                self._bound[key] = bound
        return msgspec.structs.replace(bound, context=context) if context else bound

    def _find(self, tenant: str, name: str, model_type: ModelType) -> ModelInstance:
        if (alias := ALIASES.get(name)) is not None:
            if alias is not model_type:
                raise NotFoundError(
                    f"{name!r} stands for {alias.value}, not for {model_type.value}; use {_alias_of(model_type)!r}",
                    code="model_type_mismatch",
                )
            return self.get_default_model_instance(tenant, model_type)
        if (found := self._found.get((tenant, name, model_type))) is not None:
            return found
        instance = self._look_up(tenant, name, model_type)
        if instance.schema is not None:
            self._found[tenant, name, model_type] = instance
        return instance

    def _look_up(self, tenant: str, name: str, model_type: ModelType) -> ModelInstance:
        if (route := self._providers.route(tenant, name)) is not None:
            first = self._look_up(tenant, route.targets[0].model, model_type)
            return msgspec.structs.replace(first, route=name)
        provider, slash, model = name.partition("/")
        known = {entity.provider for entity in self._providers.factory_of(tenant).get_providers()}
        if slash and provider in known:
            return self.get_model_instance(tenant, provider, model_type, model)
        for owner, entity in self._providers.get_models(tenant, model_type=model_type):
            if entity.model == name:
                return self.get_model_instance(tenant, owner, model_type, name)
        raise self._unknown(tenant, name, model_type)

    def _unknown(self, tenant: str, name: str, model_type: ModelType, provider: str | None = None) -> NotFoundError:
        models = list(self._providers.get_models(tenant))
        for owner, entity in models:
            if name in (entity.model, f"{owner}/{entity.model}") and provider in (None, owner):
                return NotFoundError(
                    f"model {name!r} is of type {entity.model_type.value}, not {model_type.value}",
                    code="model_type_mismatch",
                )
        offered = [
            f"{owner}/{entity.model}"
            for owner, entity in models
            if entity.model_type is model_type and provider in (None, owner)
        ]
        by_bare_name = {one.partition("/")[2]: one for one in reversed(offered)}
        close = near(name, offered) or [by_bare_name[one] for one in near(name, by_bare_name)] or offered[:5]
        where = f" by {provider!r}" if provider else ""
        hint = f"did you mean {' or '.join(repr(one) for one in close)}?" if close else "nothing of that type is set up"
        return NotFoundError(
            f"model {name!r} of type {model_type.value} is not offered{where}; {hint}", code="model_not_found"
        )


def _alias_of(model_type: ModelType) -> str:
    return next(name for name, kind in ALIASES.items() if kind is model_type)
