"""GET /v1/models and /v1/models/NAME, in the format of the client's own API."""

from dataclasses import dataclass

from modelyard.base.errors import NotFoundError, closest_names
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.gateway.model_lists import (
    dump_list,
    dump_model,
    format_of,
    list_models,
)
from modelyard.runtime.model_manager import ModelManager


@dataclass(frozen=True, slots=True)
class ListRoute:
    """GET /v1/models: list the models that the caller may use."""

    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        """List the models that the caller may use."""
        models = list(list_models(self.manager, request.caller))
        return json_reply(dump_list(models, format_of(request), request))


@dataclass(frozen=True, slots=True)
class OneRoute:
    """GET /v1/models/NAME: return one model, named with or without its provider."""

    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        """Return one model. Raises NotFoundError with similar names."""
        name = request.names["model"]
        models = list(list_models(self.manager, request.caller))
        for model in models:
            if name in (model.id, model.id.partition("/")[2]):
                return json_reply(dump_model(model, format_of(request)))
        by_bare_name = {model.bare_name: model.id for model in models}
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
