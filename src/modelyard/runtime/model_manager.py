"""Resolution of model names: (tenant, provider, type, model) to a callable model
instance."""

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import (
    InvokeBadRequestError,
    NotFoundError,
    closest_names,
)
from modelyard.models.embedding import (
    TOKEN_ID_PROVIDERS,
    TextEmbeddingRequest,
    TokenIds,
)
from modelyard.models.passthrough import PassthroughRequest, to_parsed_request
from modelyard.models.types import Chunks, ModelType
from modelyard.runtime.invocation import Context, Invocation
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.pipeline import Call, Policy, compose
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.tenancy.caller import Caller, ModelNotAllowedError, on_behalf

ALIASES: Mapping[str, ModelType] = {
    "default": ModelType.LLM,
    **{
        f"default-{model_type.value}": model_type
        for model_type in ModelType
        if model_type is not ModelType.LLM
    },
}
"""Aliases of a tenant's default model for each type."""
# Callers times models can be many; a bound instance is quickly built again.
_MAX_BOUND = 4096


class ModelManager:
    """Finds models by name and returns instances with the policies around them."""

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
        self.changes = 0
        """How often the caches were cleared."""
        self._passes_on = passes_on
        self._providers = providers
        self._clock = clock
        self._defaults = dict(defaults or {})
        self._total_timeout = total_timeout
        self._call: Call = compose(policies, self.invoke)
        # Three caches: by the name as written, by the resolved model, and bound to a
        # caller.
        self._instances_by_name: dict[tuple[str, str, ModelType], ModelInstance] = {}
        self._instances: dict[tuple[str, str, ModelType, str], ModelInstance] = {}
        self._bound: dict[tuple[Caller, str, ModelType], ModelInstance] = {}

    @property
    def providers(self) -> ProviderManager:
        """The provider manager that models are resolved with."""
        return self._providers

    def apply_settings(
        self, defaults: Mapping[ModelType, str], total_timeout: float | None
    ) -> None:
        """Replace the default models and the total timeout in seconds, and clear the
        caches."""
        self._defaults = dict(defaults)
        self._total_timeout = total_timeout
        self.clear_cache()

    def clear_cache(self) -> None:
        """Clear the caches because providers, routes or models have changed."""
        self.changes += 1
        self._instances_by_name.clear()
        self._instances.clear()
        self._bound.clear()

    def invoke(self, invocation: Invocation) -> Chunks:
        """Call the provider's model. The innermost step of the pipeline."""
        model = self.model_of(invocation)
        request = _accepted_request(model, invocation)
        return model.invoke(invocation.model, invocation.credentials, request)

    def model_of(self, invocation: Invocation) -> Any:
        """Return the provider's model that a call goes to."""
        return self._providers.factory_of(invocation.tenant).get_model(
            invocation.provider, invocation.model_type
        )

    def get_model_instance(
        self, tenant: str, provider: str, model_type: ModelType, model: str
    ) -> ModelInstance:
        """Return the instance of a model.

        Raises NotFoundError, with similar names, if the provider, type or model does
        not exist.
        """
        key = (tenant, provider, model_type, model)
        if (cached := self._instances.get(key)) is not None:
            return cached
        factory = self._providers.factory_of(tenant)
        entity = factory.get_definition(provider).entity
        callee = factory.get_model(provider, model_type)
        schema = self._providers.schema(tenant, provider, model_type, model)
        # A customisable provider accepts models that its catalogue does not list.
        if schema is None and not entity.is_customizable:
            raise self._not_found_error(tenant, model, model_type, provider)
        instance = ModelInstance(
            caller=Caller(tenant=tenant),
            provider=provider,
            model=model,
            model_type=model_type,
            schema=schema,
            callee=callee,
            call=self._call,
            clock=self._clock,
            # Read at each call, so that a changed credential is used at once.
            credentials=lambda: self._first_credential(tenant, provider),
            total_timeout=self._total_timeout,
            allows_passthrough=self._passes_on and model_type is ModelType.LLM,
        )
        # Only catalogued models are cached: clients can invent names, which must not
        # fill the memory.
        if schema is not None:
            self._instances[key] = instance
        return instance

    def _first_credential(self, tenant: str, provider: str) -> Mapping[str, object]:
        """Return the values of the provider's first credential; empty if it has none."""
        credentials = self._providers.credentials(tenant, provider)
        return credentials[0].values if credentials else {}

    def get_default_model_instance(
        self, tenant: str, model_type: ModelType
    ) -> ModelInstance:
        """Return the tenant's default model of a type: its own, else the configured
        one, else the first that is ready."""
        configured = self._defaults.get(model_type)
        name = self._providers.default(tenant, model_type) or configured
        if name:
            return self._find(tenant, name, model_type)
        provider, model = self._providers.first_model(tenant, model_type)
        return self.get_model_instance(tenant, provider, model_type, model)

    def find(
        self,
        caller: Caller | str,
        name: str,
        model_type: ModelType,
        *,
        context: Context | None = None,
    ) -> ModelInstance:
        """Find a model by `provider/model`, by bare model name, by route name, or by a
        default's alias.

        `caller` may be a tenant's name for a call without an API key. A call made
        inside the server counts as made by the sender of the request (`on_behalf`).
        Raises NotFoundError, with similar names or the model's real type, and
        ModelNotAllowedError if the API key is not allowed to call the model.
        """
        caller = on_behalf(Caller(tenant=caller) if isinstance(caller, str) else caller)
        key = (caller, name, model_type)
        if (bound := self._bound.get(key)) is None:
            instance = self._find(caller.tenant, name, model_type)
            # A key may allow either the model itself or the route through which it was
            # found.
            if not (
                caller.may_call(instance.name)
                or (instance.route and caller.may_call(instance.route))
            ):
                raise ModelNotAllowedError(
                    f"This API key has no access to {name!r}; allowed models:"
                    f" {', '.join(caller.models)}"
                )
            bound = msgspec.structs.replace(instance, caller=caller, call_plans={})
            if instance.schema is not None:
                # The caches hold one entry for each key and name; dropping them all is
                # cheaper than tracking their age.
                if len(self._bound) >= _MAX_BOUND:
                    self._bound.clear()
                self._bound[key] = bound
        # The context belongs to one request, so it is never stored in the cache.
        return msgspec.structs.replace(bound, context=context) if context else bound

    def _find(self, tenant: str, name: str, model_type: ModelType) -> ModelInstance:
        """Find a model by name for a tenant, without checking the caller's permission."""
        if (alias := ALIASES.get(name)) is not None:
            if alias is not model_type:
                raise NotFoundError(
                    f"{name!r} is the alias for {alias.value} models, not"
                    f" {model_type.value}; use {_alias_of(model_type)!r}",
                    code="model_type_mismatch",
                )
            return self.get_default_model_instance(tenant, model_type)
        if (
            cached := self._instances_by_name.get((tenant, name, model_type))
        ) is not None:
            return cached
        instance = self._look_up(tenant, name, model_type)
        if instance.schema is not None:
            self._instances_by_name[tenant, name, model_type] = instance
        return instance

    def _look_up(self, tenant: str, name: str, model_type: ModelType) -> ModelInstance:
        """Resolve a name that is not cached: a route first, then `provider/model`, then
        a bare name."""
        if (route := self._providers.route(tenant, name)) is not None:
            # A route's instance is that of its first target; the plan chooses the
            # actual one for each call.
            first = self._look_up(tenant, route.targets[0].model, model_type)
            return msgspec.structs.replace(first, route=name)
        provider, slash, model = name.partition("/")
        provider_names = {
            entity.provider
            for entity in self._providers.factory_of(tenant).get_providers()
        }
        if slash and provider in provider_names:
            return self.get_model_instance(tenant, provider, model_type, model)
        # A bare name may itself contain slashes, so it is tried even if it has one.
        for owner, entity in self._providers.get_models(tenant, model_type=model_type):
            if entity.model == name:
                return self.get_model_instance(tenant, owner, model_type, name)
        raise self._not_found_error(tenant, name, model_type)

    def _not_found_error(
        self, tenant: str, name: str, model_type: ModelType, provider: str | None = None
    ) -> NotFoundError:
        """Return the error for a name that is not found, with the model's real type or
        similar names."""
        models = list(self._providers.get_models(tenant))
        for owner, entity in models:
            if name in (entity.model, f"{owner}/{entity.model}") and provider in (
                None,
                owner,
            ):
                return NotFoundError(
                    f"Model {name!r} is of type {entity.model_type.value}, not"
                    f" {model_type.value}",
                    code="model_type_mismatch",
                )
        offered = [
            f"{owner}/{entity.model}"
            for owner, entity in models
            if entity.model_type is model_type and provider in (None, owner)
        ]
        # Reversed, so that the first provider wins if several offer the same model.
        by_bare_name = {
            full_name.partition("/")[2]: full_name for full_name in reversed(offered)
        }
        # Prefer full names that are similar, then similar bare names, then a few
        # examples.
        close = (
            closest_names(name, offered)
            or [
                by_bare_name[bare_name]
                for bare_name in closest_names(name, by_bare_name)
            ]
            or offered[:5]
        )
        where = f" from provider {provider!r}" if provider else ""
        hint = (
            f"did you mean {' or '.join(repr(candidate) for candidate in close)}?"
            if close
            else "no model of that type is configured"
        )
        return NotFoundError(
            f"Model {name!r} of type {model_type.value} is not available{where};"
            f" {hint}",
            code="model_not_found",
        )


def _alias_of(model_type: ModelType) -> str:
    """Return the alias of the default model of a type."""
    return next(
        name for name, aliased_type in ALIASES.items() if aliased_type is model_type
    )


def _check_token_ids(provider: str, request: TextEmbeddingRequest) -> None:
    """Raise InvokeBadRequestError for token ids that another tokenizer would read as
    another text."""
    if provider in TOKEN_ID_PROVIDERS:
        return
    if any(isinstance(text, TokenIds) for text in request.texts):
        raise InvokeBadRequestError(
            "'input' contains token ids, which depend on the tokenizer; send text",
            param="input",
        )


def _accepted_request(model: Any, invocation: Invocation) -> Any:
    """Return the call's request in a form that the model accepts."""
    request = invocation.request
    # A model without passthrough support needs the parsed request.
    if isinstance(request, PassthroughRequest) and not model.accepts_passthrough:
        request = to_parsed_request(request)
    if isinstance(request, TextEmbeddingRequest):
        _check_token_ids(invocation.provider, request)
    return request
