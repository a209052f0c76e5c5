"""The models that a caller may use, in the list formats of the vendors' APIs.

OpenAI, Anthropic and Google have the path `/v1/models` in common. The client's own
headers tell whose format it reads.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.fields import whole_number
from modelyard.gateway.http import Request
from modelyard.models.entities import AIModelEntity, ModelPropertyKey
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.model_manager import ALIASES, ModelManager
from modelyard.tenancy.caller import Caller

ListFormat = Literal["openai", "anthropic", "google"]
_MAX_PAGE = 1000
"""Largest page of Anthropic's and Google's APIs, and the page without a limit."""
# Anthropic documents the epoch for a model whose release date is unknown.
_UNKNOWN_DATE = datetime.fromtimestamp(0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
# Google's clients choose a model by the methods that it lists.
_METHODS_BY_TYPE = {
    ModelType.LLM: ["generateContent", "streamGenerateContent", "countTokens"],
    ModelType.TEXT_EMBEDDING: ["embedContent", "batchEmbedContents"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """A model, a route or an alias by which a caller may call a model."""

    id: str
    """The full name, with the provider's if it is a model."""
    owner: str
    label: str
    type: ModelType | None = None
    """None for a route."""
    context_size: int | None = None
    max_output: int | None = None
    """Tokens that a call and an answer may have; None if unknown."""
    details: JSON
    """Fields that only the list in OpenAI's format has."""

    @property
    def bare_name(self) -> str:
        """The name without the provider's."""
        return self.id.partition("/")[2] or self.id


def list_models(manager: ModelManager, caller: Caller) -> Iterator[ListedModel]:
    """Yield the models that the caller may use, then the routes, then the aliases that
    resolve to a model."""
    yield from _provider_models(manager, caller)
    yield from _routes(manager, caller)
    yield from _aliases(manager, caller)


def _provider_models(manager: ModelManager, caller: Caller) -> Iterator[ListedModel]:
    """Yield the models of the tenant's providers that the caller may use."""
    for provider, model in manager.providers.get_models(caller.tenant):
        if not caller.may_call(f"{provider}/{model.model}"):
            continue
        details: JSON = {
            "model_type": model.model_type.value,
            "context_size": model.context_size,
        }
        if model.max_output:
            details["max_output"] = model.max_output
        if voices := model.model_properties.get(ModelPropertyKey.VOICES):
            details["voices"] = [voice["mode"] for voice in voices]
        yield ListedModel(
            id=f"{provider}/{model.model}",
            owner=provider,
            label=model.label.en_us,
            type=model.model_type,
            context_size=model.context_size,
            max_output=model.max_output,
            details=details,
        )


def _routes(manager: ModelManager, caller: Caller) -> Iterator[ListedModel]:
    """Yield the tenant's routes that the caller may use, with their targets."""
    routes = manager.providers.routes(caller.tenant)
    if not routes:
        return
    models = {
        f"{provider}/{model.model}": model
        for provider, model in manager.providers.get_models(caller.tenant)
    }
    for name, route in routes:
        if not caller.may_call(name):
            continue
        yield _listed_route(name, [target.model for target in route.targets], models)


def _listed_route(
    name: str, targets: list[str], models: Mapping[str, AIModelEntity]
) -> ListedModel:
    """Return a route. Any of its targets may answer, so it takes what the smallest one
    takes. `models` has the known models by their full names."""
    entities = [models.get(target) for target in targets]
    context_size = _smallest([model and model.context_size for model in entities])
    max_output = _smallest([model and model.max_output for model in entities])
    details: JSON = {"targets": targets}
    if context_size:
        details["context_size"] = context_size
    if max_output:
        details["max_output"] = max_output
    return ListedModel(
        id=name,
        owner="modelyard",
        label=name,
        context_size=context_size,
        max_output=max_output,
        details=details,
    )


def _smallest(sizes: Sequence[int | None]) -> int | None:
    """Return the smallest size; None if one is unknown."""
    known_sizes = [size for size in sizes if size]
    # If one size is unknown, another number would promise more than is certain.
    return min(known_sizes) if known_sizes and len(known_sizes) == len(sizes) else None


def _aliases(manager: ModelManager, caller: Caller) -> Iterator[ListedModel]:
    """Yield the aliases that resolve to a model that the caller may use."""
    for alias, model_type in ALIASES.items():
        try:
            instance = manager.get_default_model_instance(caller.tenant, model_type)
        except NotFoundError:
            # The tenant has no default model of this type.
            continue
        # An alias must not show the name of a model that the caller may not use.
        if not caller.may_call(instance.name):
            continue
        details: JSON = {"model_type": model_type.value, "stands_for": instance.name}
        yield ListedModel(
            id=alias,
            owner=instance.provider,
            label=alias,
            type=model_type,
            details=details,
        )


def format_of(request: Request) -> ListFormat:
    """Return the format in which the client reads lists of models."""
    if request.header(b"anthropic-version"):
        return "anthropic"
    google_headers = (b"x-goog-api-key", b"x-goog-api-client")
    is_google = any(request.header(name) for name in google_headers)
    # Google's clients may also send their key as a query parameter.
    return "google" if is_google or request.query("key") else "openai"


def dump_model(model: ListedModel, list_format: ListFormat) -> JSON:
    """Return a model in a vendor's format."""
    match list_format:
        case "openai":
            # The creation time is unknown, but clients require the field.
            identity = {"id": model.id, "object": "model", "created": 0}
            return {**identity, "owned_by": model.owner, **model.details}
        case "anthropic":
            return {
                "type": "model",
                "id": model.id,
                "display_name": model.label,
                "created_at": _UNKNOWN_DATE,
                "lifecycle": "active",
                "max_input_tokens": model.context_size,
                "max_tokens": model.max_output,
            }
        case "google":
            sizes = {
                "inputTokenLimit": model.context_size,
                "outputTokenLimit": model.max_output,
            }
            limits = {name: size for name, size in sizes.items() if size}
            methods = _METHODS_BY_TYPE.get(model.type or ModelType.LLM, [])
            return {
                "name": f"models/{model.id}",
                "baseModelId": model.bare_name,
                "version": "",
                "displayName": model.label,
                "supportedGenerationMethods": methods,
                **limits,
            }


def dump_list(
    models: Sequence[ListedModel], list_format: ListFormat, request: Request
) -> JSON:
    """Return a list of models in a vendor's format, or the page of it that the request
    asks for. Raises InvokeBadRequestError for an invalid page."""
    match list_format:
        case "openai":
            data = [dump_model(model, list_format) for model in models]
            return {"object": "list", "data": data}
        case "anthropic":
            return _anthropic_page(models, request)
        case "google":
            return _google_page(models, request)


def _anthropic_page(models: Sequence[ListedModel], request: Request) -> JSON:
    """Return a page in Anthropic's format, after or before a model."""
    size = _page_size(request, "limit")
    # One name may stand for models of several types; a position is found by the name.
    models = list({model.id: model for model in reversed(models)}.values())[::-1]
    names = [model.id for model in models]
    after, before = request.query("after_id"), request.query("before_id")
    if before:
        end = _position(names, before, "before_id")
        start = max(0, end - size)
        has_more = start > 0
    else:
        start = _position(names, after, "after_id") + 1 if after else 0
        end = min(start + size, len(models))
        has_more = end < len(models)
    page = models[start:end]
    return {
        "data": [dump_model(model, "anthropic") for model in page],
        "has_more": has_more,
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }


def _google_page(models: Sequence[ListedModel], request: Request) -> JSON:
    """Return a page in Google's format. Its token is the position of the next model."""
    size = _page_size(request, "pageSize")
    token = request.query("pageToken")
    start = whole_number(token, maximum=len(models)) if token else 0
    if start is None:
        raise InvokeBadRequestError("'pageToken' is unknown", param="pageToken")
    # A token that is a position stays valid while models are added at the end.
    end = start + size
    document: JSON = {
        "models": [dump_model(model, "google") for model in models[start:end]]
    }
    if end < len(models):
        document["nextPageToken"] = str(end)
    return document


def _page_size(request: Request, name: str) -> int:
    """Return the requested size of a page. Raises InvokeBadRequestError."""
    text = request.query(name)
    # Google's clients send 0 for no limit.
    if not text or text == "0":
        return _MAX_PAGE
    size = whole_number(text, maximum=1 << 31)
    if size is None:
        raise InvokeBadRequestError(f"{name!r} must be a positive number", param=name)
    return min(size, _MAX_PAGE)


def _position(names: Sequence[str], name: str, param: str) -> int:
    """Return the position of a model. Raises InvokeBadRequestError."""
    if name not in names:
        raise InvokeBadRequestError(
            f"{param!r} names no model: {name[:100]!r}", param=param
        )
    return names.index(name)
