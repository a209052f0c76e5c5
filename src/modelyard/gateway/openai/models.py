"""GET /v1/models and /v1/models/NAME."""

from collections.abc import Iterator
from dataclasses import dataclass

from modelyard.base.errors import NotFoundError, closest_names
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.models.entities import ModelPropertyKey
from modelyard.models.types import JSON
from modelyard.runtime.model_manager import ALIASES, ModelManager
from modelyard.tenancy.caller import Caller


@dataclass(frozen=True, slots=True)
class ListRoute:
    """GET /v1/models: list the models that the caller may use."""

    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        return json_reply(
            {"object": "list", "data": list(list_models(self.manager, request.caller))}
        )


@dataclass(frozen=True, slots=True)
class OneRoute:
    """GET /v1/models/NAME: return one model, named with or without its provider."""

    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        name = request.names["model"]
        models = list(list_models(self.manager, request.caller))
        for model in models:
            if name in (model["id"], model["id"].partition("/")[2]):
                return json_reply(model)
        by_bare_name = {
            model["id"].partition("/")[2] or model["id"]: model["id"]
            for model in models
        }
        # Compare with the full names first, then with the names without the provider.
        close = closest_names(name, by_bare_name.values()) or [
            by_bare_name[bare_name] for bare_name in closest_names(name, by_bare_name)
        ]
        hint = (
            f"did you mean {' or '.join(map(repr, close))}?"
            if close
            else "GET /v1/models lists the models"
        )
        raise NotFoundError(
            f"Model {name!r} does not exist; {hint}", code="model_not_found"
        )


def list_models(manager: ModelManager, caller: Caller) -> Iterator[JSON]:
    """Yield the models that the caller may use, then the routes, then the aliases that
    resolve to a model."""
    yield from _provider_models(manager, caller)
    yield from _routes(manager, caller)
    yield from _aliases(manager, caller)


def _provider_models(manager: ModelManager, caller: Caller) -> Iterator[JSON]:
    """Yield the models of the tenant's providers that the caller may use."""
    for provider, model in manager.providers.get_models(caller.tenant):
        if not caller.may_call(f"{provider}/{model.model}"):
            continue
        voices = model.model_properties.get(ModelPropertyKey.VOICES)
        yield {
            "id": f"{provider}/{model.model}",
            "object": "model",
            # The creation time is unknown, but clients require the field.
            "created": 0,
            "owned_by": provider,
            "model_type": model.model_type.value,
            "context_size": model.context_size,
            **({"voices": [voice["mode"] for voice in voices]} if voices else {}),
        }


def _routes(manager: ModelManager, caller: Caller) -> Iterator[JSON]:
    """Yield the tenant's routes that the caller may use, with their targets."""
    for name, route in manager.providers.routes(caller.tenant):
        if not caller.may_call(name):
            continue
        yield {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "modelyard",
            "targets": [target.model for target in route.targets],
        }


def _aliases(manager: ModelManager, caller: Caller) -> Iterator[JSON]:
    """Yield the aliases that resolve to a model that the caller may use."""
    for alias, model_type in ALIASES.items():
        try:
            instance = manager.get_default_model_instance(caller.tenant, model_type)
        except NotFoundError:
            # The tenant has no default model of this type.
            continue
        if not caller.may_call(instance.name):
            continue
        yield {
            "id": alias,
            "object": "model",
            "created": 0,
            "owned_by": instance.provider,
            "model_type": model_type.value,
            "stands_for": instance.name,
        }
