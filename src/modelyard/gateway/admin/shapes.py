"""Response types of the admin API. The OpenAPI description and the console's types are
generated from them."""

from typing import Any, Literal

import msgspec

from modelyard.models.entities import I18nObject, ParameterRule
from modelyard.models.provider import CredentialFormSchema, ProviderHelpEntity
from modelyard.models.types import ModelType


class ResponseBase(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the response types. Times are in seconds since 1970; amounts of money are
    decimals as text."""


# ------------------------------------------------------------------------------------
# configured resources


class StoredResource(ResponseBase, frozen=True, kw_only=True):
    """A resource with its identity and times."""

    id: str
    name: str
    created_at: float = 0.0
    updated_at: float = 0.0


class ManagedResource(StoredResource, frozen=True, kw_only=True):
    """A resource that the operator can set for a tenant."""

    set_by: str = ""
    """`operator` if the operator set it and the tenant may not change it; empty if it
    is the tenant's own."""


class TenantView(ResponseBase, frozen=True, kw_only=True, omit_defaults=True):
    """A tenant. The times are missing in the list of all tenants."""

    id: str
    name: str
    label: str
    is_enabled: bool
    preferred: dict[str, str]
    """Provider → which credentials are tried first: `custom` or `system`."""
    code_network: str = ""
    """Whether code nodes may use the network: off, apps or on; empty for what the
    settings say."""
    created_at: float = 0.0
    updated_at: float = 0.0


class UserView(StoredResource, frozen=True, kw_only=True):
    """A user of a tenant."""

    role: str = ""
    email: str = ""
    groups: list[str] = []
    """Groups of the user in access lists of documents."""
    is_enabled: bool = True


class KeyView(StoredResource, frozen=True, kw_only=True):
    """An API key without its secret."""

    hint: str = ""
    role: str = ""
    user: str | None = None
    models: list[str] = []
    priority: int = 0
    expires_at: float | None = None
    revoked_at: float | None = None
    unpriced: str = ""
    speaks_for_users: bool = False


class CreatedKey(KeyView, frozen=True, kw_only=True):
    """A newly created API key."""

    key: str
    """The key itself. It is returned only in this response."""


class CredentialView(ManagedResource, frozen=True, kw_only=True):
    """A stored credential of a provider, without its values."""

    provider: str = ""
    model: str = ""
    model_type: str = ""
    weight: float = 1.0
    priority: int = 0
    domain: str = ""
    is_enabled: bool = True


class CustomModelView(ManagedResource, frozen=True, kw_only=True):
    """A custom model of a tenant."""

    provider: str = ""
    definition: dict[str, Any] = {}


class RouteTargetView(ResponseBase, frozen=True, kw_only=True):
    """A deployment target of a route."""

    model: str
    weight: float = 1.0
    priority: int = 0


class RouteView(ManagedResource, frozen=True, kw_only=True):
    """A route: a model name that is served by several targets."""

    targets: list[RouteTargetView] = []
    strategy: str = "round_robin"
    sticky: str = ""
    failover: list[str] = []
    hedge_after: float | None = None
    continue_streams: bool = False
    when_resting: str = "wait"
    cache_seconds: float = 0.0


class LimitView(ManagedResource, frozen=True, kw_only=True):
    """A limit on requests, tokens, cost or credits."""

    unit: str = "requests"
    amount: float = 0.0
    window: str = "minute"
    per: str = "tenant"
    key: str = ""
    user: str = ""
    model: str = ""
    credits: dict[str, float] = {}
    currency: str = "USD"


class DefaultModelView(ManagedResource, frozen=True, kw_only=True):
    """The default model of a model type."""

    model: str = ""


# ----------------------------------------------------------------- providers and models


class CredentialState(ResponseBase, frozen=True, kw_only=True):
    """A credential in use, whether stored or from the settings."""

    id: str
    name: str
    weight: float
    priority: int
    domain: str
    resting_seconds: float
    """Remaining cooldown in seconds; 0 if it is available."""
    is_stored: bool
    """Whether it is stored in the database rather than defined in the settings."""


class ProviderView(ResponseBase, frozen=True, kw_only=True):
    """A model provider as a tenant sees it."""

    id: str
    label: I18nObject
    description: I18nObject | None
    types: list[ModelType]
    models: int
    source: Literal["catalogue", "plugin", "settings"]
    needs_credential: bool
    is_ready: bool
    is_customizable: bool
    """Whether models that are not in its list can be called too."""
    credentials: list[CredentialState]


class CatalogueModel(ResponseBase, frozen=True, kw_only=True):
    """A model in the catalogue."""

    id: str
    """`provider/model`."""
    provider: str
    model: str
    type: ModelType
    label: I18nObject
    description: I18nObject | None
    licence: str | None
    context_size: int | None
    features: list[str]
    rules: list[ParameterRule]
    voices: list[str]
    input_price: str | None
    """For a million tokens, or for the unit in `price_per`."""
    output_price: str | None
    currency: str
    price_per: str
    is_ready: bool
    is_custom: bool


class ProviderDetail(ProviderView, frozen=True, kw_only=True):
    """A provider with its credential forms and its models."""

    help: ProviderHelpEntity | None
    forms: list[CredentialFormSchema]
    model_forms: list[CredentialFormSchema]
    """The fields of a credential for a single model; empty if it has the same."""
    offered: list[CatalogueModel]


class CredentialCheck(ResponseBase, frozen=True, kw_only=True):
    """The result of checking credentials with their provider."""

    works: bool
    models: list[str]
    message: str


class WeightsView(ResponseBase, frozen=True, kw_only=True):
    """The files of a local model."""

    id: str
    model: str
    types: list[ModelType]
    bytes: int
    is_present: bool
    licence: str
    sets: list[str]


class PlannedDeployment(ResponseBase, frozen=True, kw_only=True):
    """A deployment in a routing plan with its current state."""

    model: str
    credential: str
    weight: float
    priority: int
    resting_seconds: float
    in_flight: int
    latency: float
    """Recent seconds to the first chunk; 0 if nothing was measured yet."""
    share: float
    """Fraction of new calls, from 0 to 1."""


class RoutingTier(ResponseBase, frozen=True, kw_only=True):
    """A group of deployments in a routing plan, with the reason why it is used."""

    why: Literal["model", "route", "failover"]
    strategy: str
    deployments: list[PlannedDeployment]


class RoutingPlan(ResponseBase, frozen=True, kw_only=True):
    """The routing plan of a call: the groups that would be tried, in this order."""

    asked_for: str
    model: str
    type: ModelType
    route: str
    groups: list[RoutingTier]
    limits: list["AppliedLimit"]
    cache_seconds: float


class AppliedLimit(ResponseBase, frozen=True, kw_only=True):
    """A limit that applies to a call."""

    name: str
    unit: str
    amount: float
    window: str
    used: float | None
    """null if the amount cannot be read without charging the limit."""


class BudgetView(ResponseBase, frozen=True, kw_only=True):
    """A limit with what is used of it."""

    id: str
    name: str
    unit: str
    amount: float
    window: str
    currency: str
    per: str
    key: str
    user: str
    model: str
    used: float | None
    """In the limit's unit; null if it counts each key, user or model separately."""
    left: float | None
    is_spent: bool
    resets_at: float | None
    """When a day or month ends; null for other windows."""
    forecast: float | None
    """What will be used by then at the pace so far."""


# ------------------------------------------------------------------------------------
# usage


class UsageSum(ResponseBase, frozen=True, kw_only=True, omit_defaults=True):
    """The sum of calls and attempts with the same values of the requested groupings.

    A call counts once, where the attempt that decided how it ended belongs.
    """

    provider: str | None = None
    model: str | None = None
    model_type: str | None = None
    credential: str | None = None
    key: str | None = None
    user: str | None = None
    tenant: str | None = None
    status: str | None = None
    day: int | None = None
    """Days since 1970-01-01, UTC."""
    hour: int | None = None
    session: str | None = None
    project: str | None = None
    tag: str | None = None
    calls: int
    attempts: int
    failed: int
    """Calls that failed; neither cancelled nor refused ones are among them."""
    cancelled: int = 0
    refused: int = 0
    """Calls that were refused before any attempt."""
    failed_attempts: int = 0
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    characters: int
    seconds: float
    searches: int
    cost: str
    currency: str
    unpriced: int


class CallTotals(ResponseBase, frozen=True, kw_only=True):
    """The counts of all calls of a time range, the same for every grouping."""

    calls: int
    failed: int
    cancelled: int
    refused: int
    attempts: int
    failed_attempts: int


class Percentiles(ResponseBase, frozen=True, kw_only=True):
    """Latency percentiles of successful attempts, in seconds."""

    model: str
    calls: int
    p50: float
    p90: float
    p99: float
    first_p50: float | None
    first_p90: float | None
    first_p99: float | None


class RequestRow(ResponseBase, frozen=True, kw_only=True):
    """One call with what its attempts used together."""

    id: str
    """The id of the request, which its caller got as `x-request-id`."""
    outcome: str
    """`served`, `failed`, `cancelled` or `refused`."""
    created_at: float
    provider: str
    model: str
    """The model of the deciding attempt, or the one that was asked for."""
    type: str
    key: str
    user: str | None
    app: str
    session: str
    project: str
    tags: str
    credential: str
    status: str
    """The ledger's status of the deciding attempt, or the code of the error."""
    http_status: int | None
    """The status of the response to a call without attempts; 499 if its client
    disconnected."""
    message: str
    """The text of the error of a call without attempts."""
    route: str
    key_fingerprint: str
    """The beginning of the SHA-256 digest of a key that is not valid."""
    calls: int
    """How many calls the row stands for: more than 1 during a flood of refused calls."""
    is_counting: bool
    """Whether the row only counts calls that have no rows of their own."""
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    cost: str | None
    currency: str
    latency: float
    """Seconds that all attempts took."""


class RequestListPage(ResponseBase, frozen=True, kw_only=True):
    """A page of calls."""

    data: list[RequestRow]
    total: int
    """The number of matching rows."""
    calls: int
    """The number of calls that these rows stand for."""


class CallRow(ResponseBase, frozen=True, kw_only=True):
    """One attempt of a call."""

    id: str
    call: str
    attempt: int
    created_at: float
    provider: str
    model: str
    type: str
    credential: str
    key: str
    user: str | None
    status: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost: str | None
    currency: str
    latency: float
    first_chunk: float | None
    counted_by: str


class CallPage(ResponseBase, frozen=True, kw_only=True):
    """A page of attempts, with the total number of matches."""

    data: list[CallRow]
    total: int


class Attempt(ResponseBase, frozen=True, kw_only=True):
    """One attempt in the explanation of a call."""

    attempt: int
    model: str
    credential: str
    status: str
    started_at: float
    ms: float
    first_chunk_ms: float | None
    prompt_tokens: int
    completion_tokens: int
    counted_by: str
    cost: str | None
    currency: str


class Refusal(ResponseBase, frozen=True, kw_only=True):
    """How a call ended that made no attempt."""

    outcome: str
    """`refused`, `cancelled` or `failed`."""
    created_at: float
    status: int
    """The HTTP status of the response; 499 if the client disconnected."""
    code: str
    message: str
    route: str
    key: str
    key_fingerprint: str
    user: str | None


class Explanation(ResponseBase, frozen=True, kw_only=True, omit_defaults=True):
    """The routing decisions and attempts of a call."""

    call: str
    asked_for: str = ""
    type: str = ""
    status: str = ""
    ms: float = 0.0
    decisions: list[dict[str, Any]] = []
    attempts: list[Attempt] = []
    refusal: Refusal | None = None
    """Why the call made no attempt; missing if it made one."""
    request: Any = None
    """The recorded request, if recording is enabled."""
    answer: Any = None


class ReplayResult(ResponseBase, frozen=True, kw_only=True):
    """The result of replaying a recorded call with another model."""

    model: str
    call: str
    text: str
    thought: str
    tool_calls: list[dict[str, Any]]
    prompt_tokens: int
    completion_tokens: int
    cost: str
    currency: str
    ms: float


class CooldownsView(ResponseBase, frozen=True, kw_only=True):
    """The current cooldowns."""

    data: dict[str, float]
    """`tenant/provider/model/credential` → remaining cooldown in seconds."""


class CacheCleared(ResponseBase, frozen=True, kw_only=True):
    """Confirmation that the response cache was cleared."""

    cleared: bool


# ------------------------------------------------------------------------------------ the server


class Package(ResponseBase, frozen=True, kw_only=True):
    """An installed Python package."""

    name: str
    version: str
    licence: str


class About(ResponseBase, frozen=True, kw_only=True):
    """The state of the server."""

    version: str
    python: str
    database: str
    sandbox: str
    workers: int
    problem: str | None
    """Why the server is not ready; shortened if the caller is not an operator."""
    rejected_records: int | None
    """Number of unreadable records of killed processes; only for operators."""
    uptime: float
    records_bodies: bool
    mail_problem: str | None
    """Why forms cannot be sent by mail."""
    packages: list[Package]


class SettingsView(ResponseBase, frozen=True, kw_only=True):
    """The settings."""

    path: str
    """The settings file, or `database` if all servers share the settings."""
    text: str
    """The settings with secrets masked as `********`. A mask that is sent back keeps the
    old value."""
    schema: dict[str, Any]
    overridden: list[str]
    """Settings that environment variables override."""
    version: int
    """Number of changes in the database; 0 for a file and before the first change."""
    fixed: str
    """Why the settings cannot be changed here; empty if they can be."""


class ActionResult(ResponseBase, frozen=True, kw_only=True):
    """The result of an action."""

    done: bool
    """Whether there was anything to do."""


class Removed(ResponseBase, frozen=True, kw_only=True):
    """Confirmation that a resource was deleted."""

    id: str
    deleted: bool
