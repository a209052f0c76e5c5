"""Route table of providers, models, weights, usage and routing."""

from collections.abc import Iterator

from modelyard.gateway.admin import shapes
from modelyard.gateway.admin.budgets import Budgets
from modelyard.gateway.admin.catalogue import Catalogue, Providers
from modelyard.gateway.admin.dependencies import AdminParts
from modelyard.gateway.admin.inputs import FormInput, PlanInput, ReplayInput
from modelyard.gateway.admin.model_calls import Calls, Latency
from modelyard.gateway.admin.request_records import Requests
from modelyard.gateway.admin.routing import (
    CooldownsRoute,
    PlanRoute,
    ResponseCacheRoute,
)
from modelyard.gateway.admin.rows import LIMIT, OFFSET, SPAN, row
from modelyard.gateway.admin.usage import Usage
from modelyard.gateway.admin.weights import Weights
from modelyard.gateway.schemas import INTEGER, NUMBER
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
from modelyard.models.types import JSON
from modelyard.runtime.request_table import OUTCOMES
from modelyard.runtime.usage_table import GROUPINGS

_TYPE = Query("type", "Only this model type.")
_FILTERS = (
    Query("provider", "Only this provider."),
    Query("model", "Only this model."),
    _TYPE,
    Query("credential", "Only this credential id."),
    Query("key", "Only this API key id."),
    Query("user", "Only this user."),
    Query("call", "Only this call id."),
    Query("status", "Status in the ledger, or `failed` for all unsuccessful attempts."),
)
_REQUEST_FILTERS = (
    Query("id", "Only this id, the `x-request-id` of a response."),
    Query("outcome", f"One of {', '.join(OUTCOMES)}."),
    Query("status", "Status in the ledger, or the code of an error."),
    Query("provider", "Only this provider."),
    Query("model", "Only this model, or what a refused call named instead of one."),
    _TYPE,
    Query("credential", "Only this credential id."),
    Query("key", "Only this API key id."),
    Query("user", "Only this user."),
    Query("session", "Only this session."),
    Query("project", "Only this project."),
    Query(
        "unauthenticated",
        "true for the refused calls of callers without a valid key, which belong to no"
        " tenant; for the default tenant's owner only.",
        "boolean",
    ),
)
_TOTAL: JSON = {
    "type": "object",
    "description": "The counts of all calls, the same for every grouping.",
    "required": list(shapes.CallTotals.__struct_fields__),
    "properties": dict.fromkeys(shapes.CallTotals.__struct_fields__, INTEGER),
}
_BY = Query("by", f"Fields to group by, comma-separated: {', '.join(GROUPINGS)}.")
_READY = Query("ready", "true for only the models that can be called now.", "boolean")
_ROWS = OneOf((Content("application/x-ndjson"), Content("text/csv")))


def rows(parts: AdminParts) -> Iterator[Row]:
    """Yield the routes, in the order of the documentation."""
    manage = parts.manage
    yield from _provider_rows(
        Providers(manage.models, manage.directory, manage.plugins, manage.check)
    )
    catalogue = Catalogue(manage.models, manage.directory)
    yield row(
        "GET",
        "/catalogue",
        DEVELOPER,
        catalogue.listed,
        "List models, ready or not, with rules and prices.",
        Listed(shapes.CatalogueModel),
        query=(_TYPE, _READY),
    )
    yield from _weights_rows(Weights(manage.weights, manage.models))
    yield from _usage_rows(Usage(manage.ledger.usage), Latency(manage.ledger.usage))
    yield _request_row(Requests(manage.requests))
    budgets = Budgets(
        manage.directory, manage.counters, manage.start_counters, manage.clock
    )
    yield row(
        "GET",
        "/budgets",
        VIEWER,
        budgets.listed,
        "List limits with what is used, left and forecast.",
        Listed(shapes.BudgetView),
    )
    yield from _call_rows(Calls(manage.models, manage.ledger, manage.traces))
    plans = PlanRoute(
        manage.models,
        manage.clock,
        manage.applicable_limits,
        manage.counters,
        manage.cache_seconds,
    )
    yield row(
        "POST",
        "/plan",
        ADMIN,
        plans.make,
        "Show the routing plan of a call without calling a model.",
        shapes.RoutingPlan,
        request_body=PlanInput,
        changes_nothing=True,
    )
    yield row(
        "GET",
        "/resting",
        ADMIN,
        CooldownsRoute(manage.models.providers.health).listed,
        "List deployments and credentials in cooldown, with remaining seconds.",
        shapes.CooldownsView,
    )
    yield row(
        "DELETE",
        "/cache",
        ADMIN,
        ResponseCacheRoute(parts.answers).clear,
        "Clear the response cache.",
        shapes.CacheCleared,
    )


def _provider_rows(providers: Providers) -> Iterator[Row]:
    """Yield the routes of providers."""
    yield row(
        "GET",
        "/providers",
        ADMIN,
        providers.listed,
        "List providers and their configuration.",
        Listed(shapes.ProviderView),
    )
    yield row(
        "GET",
        "/providers/{id}",
        ADMIN,
        providers.get_provider,
        "Get a provider with its credential form and models.",
        shapes.ProviderDetail,
    )
    yield row(
        "POST",
        "/providers/{id}/check",
        ADMIN,
        providers.check,
        "Validate credentials with the provider; nothing is stored.",
        shapes.CredentialCheck,
        request_body=FormInput,
        changes_nothing=True,
    )


def _weights_rows(weights: Weights) -> Iterator[Row]:
    """Yield the routes of local models' weights."""
    yield row(
        "GET",
        "/weights",
        ADMIN,
        weights.listed,
        "List the files of local models.",
        Listed(shapes.WeightsView),
    )
    yield row(
        "POST",
        "/weights/{id}/pull",
        ADMIN,
        weights.pull,
        "Download a local model's files; streams the progress.",
        EVENTS,
    )
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
    span: dict[str, JSON] = {"since": NUMBER, "until": NUMBER, "total": _TOTAL}
    yield row(
        "GET",
        "/usage",
        VIEWER,
        usage.sums,
        "Sum up usage and cost.",
        Listed(shapes.UsageSum, span),
        query=(_BY, *SPAN),
    )
    yield row(
        "GET",
        "/usage/rows",
        VIEWER,
        usage.rows,
        "Export every attempt, as JSON lines or CSV.",
        _ROWS,
        query=(Query("format", "jsonl or csv."), *SPAN),
    )
    yield row(
        "GET",
        "/latency",
        VIEWER,
        latency.percentiles,
        "List latency percentiles by model.",
        Listed(shapes.Percentiles),
        query=SPAN,
    )


def _request_row(requests: Requests) -> Row:
    """Return the route of the records of calls."""
    return row(
        "GET",
        "/requests",
        VIEWER,
        requests.list_records,
        "List calls, refused ones too, newest first: one row for each.",
        shapes.RequestListPage,
        query=(*SPAN, LIMIT, OFFSET, *_REQUEST_FILTERS),
    )


def _call_rows(calls: Calls) -> Iterator[Row]:
    """Yield the routes of recorded calls."""
    yield row(
        "GET",
        "/calls",
        VIEWER,
        calls.list_attempts,
        "List call attempts, newest first.",
        shapes.CallPage,
        query=(*SPAN, LIMIT, OFFSET, *_FILTERS),
    )
    yield row(
        "GET",
        "/calls/{id}",
        VIEWER,
        calls.explain,
        "Show the routing decisions of a call.",
        shapes.Explanation,
    )
    yield row(
        "POST",
        "/calls/{id}/replay",
        DEVELOPER,
        calls.replay,
        "Repeat a recorded chat with another model.",
        shapes.ReplayResult,
        request_body=ReplayInput,
        changes_nothing=True,
    )
