"""The rows of what models there are, what was used of them, and where calls go."""

from collections.abc import Iterator

from modelyard.gateway.admin import shapes
from modelyard.gateway.admin.catalogue import Catalogue, Providers
from modelyard.gateway.admin.inputs import FormInput, PlanInput, ReplayInput
from modelyard.gateway.admin.model_calls import Calls, Latency
from modelyard.gateway.admin.parts import AdminParts
from modelyard.gateway.admin.routing import AnswerCache, Plans, Resting
from modelyard.gateway.admin.rows import LIMIT, OFFSET, SPAN, row
from modelyard.gateway.admin.usage import Usage
from modelyard.gateway.admin.weights import Weights
from modelyard.gateway.schemas import NUMBER
from modelyard.gateway.table import ADMIN, DEVELOPER, EVENTS, VIEWER, Content, Listed, OneOf, Query, Row
from modelyard.runtime.usage_table import GROUPINGS

_TYPE = Query("type", "A model type.")
_FILTERS = (
    Query("provider", "Of this provider."), Query("model", "Of this model."), _TYPE,
    Query("credential", "With this credential, by its id."), Query("key", "With this API key, by its id."),
    Query("user", "Of this user."), Query("call", "Of this call, by its id."),
    Query("status", "As the ledger has it; failed for all that did not go well."),
)  # fmt: skip
_BY = Query("by", f"What is added up, joined by commas: {', '.join(GROUPINGS)}.")
_READY = Query("ready", "true for those alone that can be called now.", "boolean")
_ROWS = OneOf((Content("application/x-ndjson"), Content("text/csv")))


def rows(parts: AdminParts) -> Iterator[Row]:
    """Providers and their models first."""
    manage = parts.manage
    yield from _providers(Providers(manage.models, manage.directory, manage.plugins, manage.check))
    catalogue = Catalogue(manage.models, manage.directory)
    yield row("GET", "/catalogue", DEVELOPER, catalogue.listed, "List models, ready or not, with rules and prices.",
              Listed(shapes.CatalogueModel), query=(_TYPE, _READY))  # fmt: skip
    yield from _weights(Weights(manage.weights, manage.models))
    yield from _usage(Usage(manage.ledger.usage), Latency(manage.ledger.usage))
    yield from _calls(Calls(manage.models, manage.ledger, manage.traces))
    plans = Plans(manage.models, manage.clock, manage.applying, manage.counters, manage.cache_seconds)
    yield row("POST", "/plan", ADMIN, plans.make, "Say where a call would go now; nothing is called.", shapes.Planned,
              takes=PlanInput, asks=True)  # fmt: skip
    yield row("GET", "/resting", ADMIN, Resting(manage.models.providers.health).listed,
              "List what rests after failures, with the seconds that are left.", shapes.Resting)  # fmt: skip
    yield row("DELETE", "/cache", ADMIN, AnswerCache(parts.answers).clear,
              "Forget the answers that may be given again.", shapes.CacheCleared)  # fmt: skip


def _providers(providers: Providers) -> Iterator[Row]:
    yield row("GET", "/providers", ADMIN, providers.listed, "List providers, and what is set up of them.",
              Listed(shapes.ProviderShown))  # fmt: skip
    yield row("GET", "/providers/{id}", ADMIN, providers.one, "Get a provider, with its form and its models.",
              shapes.ProviderDetail)  # fmt: skip
    yield row("POST", "/providers/{id}/check", ADMIN, providers.check,
              "Ask a provider whether a filled-in form works; nothing is kept.", shapes.CredentialCheck,
              takes=FormInput, asks=True)  # fmt: skip


def _weights(weights: Weights) -> Iterator[Row]:
    yield row("GET", "/weights", ADMIN, weights.listed, "List local models' files.", Listed(shapes.WeightsShown))
    yield row("POST", "/weights/{id}/pull", ADMIN, weights.pull, "Fetch a local model's files, told as it goes.",
              EVENTS)  # fmt: skip
    yield row("DELETE", "/weights/{id}", ADMIN, weights.remove, "Remove a local model's files.", shapes.Removed)


def _usage(usage: Usage, latency: Latency) -> Iterator[Row]:
    span = {"since": NUMBER, "until": NUMBER}
    yield row("GET", "/usage", VIEWER, usage.sums, "Add up what was used.", Listed(shapes.UsageSum, span),
              query=(_BY, *SPAN))  # fmt: skip
    yield row("GET", "/usage/rows", VIEWER, usage.rows, "Export every attempt, as JSON lines or CSV.", _ROWS,
              query=(Query("format", "jsonl or csv."), *SPAN))  # fmt: skip
    yield row("GET", "/latency", VIEWER, latency.percentiles, "List how long calls took, in percentiles by model.",
              Listed(shapes.Percentiles), query=SPAN)  # fmt: skip


def _calls(calls: Calls) -> Iterator[Row]:
    yield row("GET", "/calls", VIEWER, calls.page, "List attempts at calls, newest first.", shapes.CallPage,
              query=(*SPAN, LIMIT, OFFSET, *_FILTERS))  # fmt: skip
    yield row("GET", "/calls/{id}", VIEWER, calls.explain, "Explain why a call went where it went.",
              shapes.Explanation)  # fmt: skip
    yield row("POST", "/calls/{id}/replay", DEVELOPER, calls.replay, "Ask a recorded chat again, of another model.",
              shapes.Replayed, takes=ReplayInput, asks=True)  # fmt: skip
