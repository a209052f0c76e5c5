"""Route table of providers, models, weights, usage and routing."""

from collections.abc import Iterator

from modelyard.gateway.admin import shapes
from modelyard.gateway.admin.catalogue import Catalogue, Providers
from modelyard.gateway.admin.dependencies import AdminParts
from modelyard.gateway.admin.inputs import FormInput, PlanInput, ReplayInput
from modelyard.gateway.admin.model_calls import Calls, Latency
from modelyard.gateway.admin.routing import (
    CooldownsRoute,
    PlanRoute,
    ResponseCacheRoute,
)
from modelyard.gateway.admin.rows import LIMIT, OFFSET, SPAN, row
from modelyard.gateway.admin.usage import Usage
from modelyard.gateway.admin.weights import Weights
from modelyard.gateway.schemas import NUMBER
from modelyard.gateway.table import (
    ADMIN,
    DEVELOPER,
    EVENTS,
    VIEWER,
    Content,
    Listed,
    OneOf,
    Query,
    Row,
)
from modelyard.runtime.usage_table import GROUPINGS

_TYPE = Query("type", "A model type.")
_FILTERS = (
    Query("provider", "Of this provider."),
    Query("model", "Of this model."),
    _TYPE,
    Query("credential", "With this credential, by its id."),
    Query("key", "With this API key, by its id."),
    Query("user", "Of this user."),
    Query("call", "Of this call, by its id."),
    Query("status", "As the ledger has it; failed for all that did not go well."),
)  # fmt: skip
_BY = Query("by", f"What is added up, joined by commas: {', '.join(GROUPINGS)}.")
_READY = Query("ready", "true for those alone that can be called now.", "boolean")
_ROWS = OneOf((Content("application/x-ndjson"), Content("text/csv")))


def rows(parts: AdminParts) -> Iterator[Row]:
    """Yield the routes, in the order of the documentation."""
    manage = parts.manage
    yield from _provider_rows(
        Providers(manage.models, manage.directory, manage.plugins, manage.check)
    )
    catalogue = Catalogue(manage.models, manage.directory)
    yield row("GET", "/catalogue", DEVELOPER, catalogue.listed,
              "List models, ready or not, with rules and prices.", Listed(shapes.CatalogueModel),
              query=(_TYPE, _READY))  # fmt: skip
    yield from _weights_rows(Weights(manage.weights, manage.models))
    yield from _usage_rows(Usage(manage.ledger.usage), Latency(manage.ledger.usage))
    yield from _call_rows(Calls(manage.models, manage.ledger, manage.traces))
    plans = PlanRoute(
        manage.models,
        manage.clock,
        manage.applicable_limits,
        manage.counters,
        manage.cache_seconds,
    )
    yield row("POST", "/plan", ADMIN, plans.make,
              "Say where a call would go now; nothing is called.", shapes.RoutingPlan,
              request_body=PlanInput, changes_nothing=True)  # fmt: skip
    yield row("GET", "/resting", ADMIN, CooldownsRoute(manage.models.providers.health).listed,
              "List what rests after failures, with the seconds that are left.",
              shapes.CooldownsView)  # fmt: skip
    yield row("DELETE", "/cache", ADMIN, ResponseCacheRoute(parts.answers).clear,
              "Forget the answers that may be given again.", shapes.CacheCleared)  # fmt: skip


def _provider_rows(providers: Providers) -> Iterator[Row]:
    """Yield the routes of providers."""
    yield row("GET", "/providers", ADMIN, providers.listed,
              "List providers, and what is set up of them.",
              Listed(shapes.ProviderView))  # fmt: skip
    yield row("GET", "/providers/{id}", ADMIN, providers.get_provider,
              "Get a provider, with its form and its models.", shapes.ProviderDetail)  # fmt: skip
    yield row("POST", "/providers/{id}/check", ADMIN, providers.check,
              "Ask a provider whether a filled-in form works; nothing is kept.",
              shapes.CredentialCheck, request_body=FormInput, changes_nothing=True)  # fmt: skip


def _weights_rows(weights: Weights) -> Iterator[Row]:
    """Yield the routes of local models' weights."""
    yield row(
        "GET",
        "/weights",
        ADMIN,
        weights.listed,
        "List local models' files.",
        Listed(shapes.WeightsView),
    )
    yield row("POST", "/weights/{id}/pull", ADMIN, weights.pull,
              "Fetch a local model's files, told as it goes.", EVENTS)  # fmt: skip
    yield row(
        "DELETE",
        "/weights/{id}",
        ADMIN,
        weights.remove,
        "Remove a local model's files.",
        shapes.Removed,
    )


def _usage_rows(usage: Usage, latency: Latency) -> Iterator[Row]:
    """Yield the routes of usage and latency."""
    span = {"since": NUMBER, "until": NUMBER}
    yield row("GET", "/usage", VIEWER, usage.sums, "Add up what was used.",
              Listed(shapes.UsageSum, span), query=(_BY, *SPAN))  # fmt: skip
    yield row("GET", "/usage/rows", VIEWER, usage.rows,
              "Export every attempt, as JSON lines or CSV.", _ROWS,
              query=(Query("format", "jsonl or csv."), *SPAN))  # fmt: skip
    yield row("GET", "/latency", VIEWER, latency.percentiles,
              "List how long calls took, in percentiles by model.", Listed(shapes.Percentiles),
              query=SPAN)  # fmt: skip


def _call_rows(calls: Calls) -> Iterator[Row]:
    """Yield the routes of recorded calls."""
    yield row("GET", "/calls", VIEWER, calls.list_attempts,
              "List attempts at calls, newest first.", shapes.CallPage,
              query=(*SPAN, LIMIT, OFFSET, *_FILTERS))  # fmt: skip
    yield row("GET", "/calls/{id}", VIEWER, calls.explain, "Explain why a call went where it went.",
              shapes.Explanation)  # fmt: skip
    yield row("POST", "/calls/{id}/replay", DEVELOPER, calls.replay,
              "Ask a recorded chat again, of another model.", shapes.ReplayResult,
              request_body=ReplayInput, changes_nothing=True)  # fmt: skip
