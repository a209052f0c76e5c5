"""What the admin API answers with. The description of the API, and with it the console's types, are made from these."""

from typing import Any, Literal

import msgspec

from modelyard.models.entities import I18nObject, ParameterRule
from modelyard.models.provider import CredentialFormSchema, ProviderHelpEntity
from modelyard.models.types import ModelType


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Times are seconds since 1970; money is a decimal as text."""


# ------------------------------------------------------------------------------------ what is set up


class Stored(Shape, frozen=True, kw_only=True):
    id: str
    name: str
    created_at: float = 0.0
    updated_at: float = 0.0


class Kept(Stored, frozen=True, kw_only=True):
    set_by: str = ""
    """`operator` where the operator set it, and the tenant may not change it; empty where it is the tenant's own."""


class TenantShown(Stored, frozen=True, kw_only=True):
    is_enabled: bool = True


class UserShown(Stored, frozen=True, kw_only=True):
    role: str = ""
    email: str = ""
    is_enabled: bool = True


class KeyShown(Stored, frozen=True, kw_only=True):
    hint: str = ""
    role: str = ""
    user: str | None = None
    models: list[str] = []
    priority: int = 0
    expires_at: float | None = None
    revoked_at: float | None = None
    key: str = ""
    """The key itself, once: in the answer that made it."""


class CredentialShown(Kept, frozen=True, kw_only=True):
    provider: str = ""
    model: str = ""
    model_type: str = ""
    weight: float = 1.0
    priority: int = 0
    domain: str = ""
    is_enabled: bool = True


class ModelShown(Kept, frozen=True, kw_only=True):
    provider: str = ""
    definition: dict[str, Any] = {}


class TargetShown(Shape, frozen=True, kw_only=True):
    model: str
    weight: float = 1.0
    priority: int = 0


class RouteShown(Kept, frozen=True, kw_only=True):
    targets: list[TargetShown] = []
    strategy: str = "round_robin"
    sticky: str = ""
    failover: list[str] = []
    hedge_after: float | None = None
    continue_streams: bool = False
    when_resting: str = "wait"
    cache_seconds: float = 0.0


class LimitShown(Kept, frozen=True, kw_only=True):
    unit: str = "requests"
    amount: float = 0.0
    window: str = "minute"
    per: str = "tenant"
    key: str = ""
    user: str = ""
    model: str = ""
    credits: dict[str, float] = {}
    currency: str = "USD"


class DefaultShown(Kept, frozen=True, kw_only=True):
    model: str = ""


# ------------------------------------------------------------------------------------ providers and models


class CredentialState(Shape, frozen=True, kw_only=True):
    """A credential in use, from wherever it comes."""

    id: str
    name: str
    weight: float
    priority: int
    domain: str
    resting_seconds: float
    """Until it is tried again; 0 for now."""
    is_stored: bool
    """Whether it was added here, and not in the settings."""


class ProviderShown(Shape, frozen=True, kw_only=True):
    id: str
    label: I18nObject
    description: I18nObject | None
    types: list[ModelType]
    models: int
    source: Literal["catalogue", "plugin", "settings"]
    needs_credential: bool
    is_ready: bool
    is_customizable: bool
    """Whether models that are not listed may be called too."""
    credentials: list[CredentialState]


class CatalogueModel(Shape, frozen=True, kw_only=True):
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
    """For a million tokens, or what else the price is for."""
    output_price: str | None
    currency: str
    price_per: str
    is_ready: bool
    is_custom: bool


class ProviderDetail(ProviderShown, frozen=True, kw_only=True):
    help: ProviderHelpEntity | None
    forms: list[CredentialFormSchema]
    offered: list[CatalogueModel]


class CredentialCheck(Shape, frozen=True, kw_only=True):
    works: bool
    models: list[str]
    message: str


class WeightsShown(Shape, frozen=True, kw_only=True):
    """A local model's files."""

    id: str
    model: str
    types: list[ModelType]
    bytes: int
    is_present: bool
    licence: str
    sets: list[str]


class PlannedDeployment(Shape, frozen=True, kw_only=True):
    model: str
    credential: str
    weight: float
    priority: int
    resting_seconds: float
    in_flight: int
    latency: float
    """Seconds to the first chunk, lately; 0 while nothing is known."""
    share: float
    """Of the calls that come now, from 0 to 1."""


class PlannedGroup(Shape, frozen=True, kw_only=True):
    why: Literal["model", "route", "failover"]
    strategy: str
    deployments: list[PlannedDeployment]


class Planned(Shape, frozen=True, kw_only=True):
    """Where a call would go, and what else would be tried, in this order."""

    asked_for: str
    model: str
    type: ModelType
    route: str
    groups: list[PlannedGroup]
    limits: list["AppliedLimit"]
    cache_seconds: float


class AppliedLimit(Shape, frozen=True, kw_only=True):
    name: str
    unit: str
    amount: float
    window: str
    used: float | None
    """None where that cannot be told without taking of it."""


# ------------------------------------------------------------------------------------ what was used


class UsageSum(Shape, frozen=True, kw_only=True, omit_defaults=True):
    """Attempts added up by what was asked for."""

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
    calls: int
    attempts: int
    failed: int
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


class Percentiles(Shape, frozen=True, kw_only=True):
    """Seconds, of attempts that went well."""

    model: str
    calls: int
    p50: float
    p90: float
    p99: float
    first_p50: float | None
    first_p90: float | None
    first_p99: float | None


class CallRow(Shape, frozen=True, kw_only=True):
    """An attempt at a call."""

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


class CallPage(Shape, frozen=True, kw_only=True):
    data: list[CallRow]
    total: int


class Attempt(Shape, frozen=True, kw_only=True):
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


class Explanation(Shape, frozen=True, kw_only=True, omit_defaults=True):
    """Why a call went where it went."""

    call: str
    asked_for: str = ""
    type: str = ""
    status: str = ""
    ms: float = 0.0
    decisions: list[dict[str, Any]] = []
    attempts: list[Attempt] = []
    request: Any = None
    """What was asked, where calls are recorded."""
    answer: Any = None


class Replayed(Shape, frozen=True, kw_only=True):
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


# ------------------------------------------------------------------------------------ plugins


class PluginShown(Shape, frozen=True, kw_only=True):
    id: str
    plugin_id: str
    identifier: str
    version: str
    author: str
    label: I18nObject
    description: I18nObject | None
    kinds: list[str]
    """models, tools, endpoints, agent_strategies, datasources, triggers."""
    runtime: str
    source: str
    asked: list[str]
    granted: list[str]
    has_icon: bool
    processes: int
    memory_bytes: int
    cpu_seconds: float
    tools: list[str]
    created_at: float


class PluginsShown(Shape, frozen=True, kw_only=True):
    data: list[PluginShown]
    debug_address: str
    """Where plugins that their authors run connect to; empty where that is off."""
    debug_key: str


class InstallStep(Shape, frozen=True, kw_only=True):
    plugin_id: str
    status: str
    message: str


class InstallTask(Shape, frozen=True, kw_only=True):
    id: str
    status: str
    plugins: list[InstallStep]


class MarketPlugin(Shape, frozen=True, kw_only=True):
    id: str
    version: str
    label: str
    description: str


# ------------------------------------------------------------------------------------ apps and runs


class PageShown(Shape, frozen=True, kw_only=True):
    is_on: bool
    origins: list[str]
    url: str | None


class VersionShown(Shape, frozen=True, kw_only=True):
    digest: str
    name: str
    note: str
    published_at: float


class AppShown(Shape, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    name: str
    mode: str
    description: str
    icon: str
    is_enabled: bool
    is_published: bool
    has_draft: bool
    digest: str
    """Of the draft, or of what is published where there is none."""
    page: PageShown
    versions: list[VersionShown] = []
    mapping: dict[str, dict[str, str]] = {}


class AppImported(AppShown, frozen=True, kw_only=True):
    warnings: list[str] = []
    needs: list[str] = []
    replaced: bool = False
    dataset: str = ""


class FileProblem(Shape, frozen=True, kw_only=True):
    message: str
    line: int = 0
    node: str = ""
    field: str = ""


class ScheduleTimes(Shape, frozen=True, kw_only=True):
    node: str
    cron: str
    timezone: str
    next: list[float]
    """Its next times."""


class FileCheck(Shape, frozen=True, kw_only=True):
    problems: list[FileProblem]
    warnings: list[FileProblem]
    needs: list[str]
    schedules: list[ScheduleTimes]


class TriggerShown(Shape, frozen=True, kw_only=True):
    """A node that begins runs of its app by itself."""

    node: str
    title: str
    type: str
    """webhook, schedule, plugin."""
    is_live: bool
    """Whether it is published as it stands here."""
    method: str = ""
    address: str = ""
    """What calls a webhook calls."""
    draft_address: str = ""
    """The same for what is not published yet."""
    cron: str = ""
    timezone: str = ""
    next: list[float] = []
    provider: str = ""
    event: str = ""
    subscription: str = ""


class QuestionShown(Shape, frozen=True, kw_only=True):
    question: str
    documents: list[str]
    """Names or ids of those that answer it."""


class ScoresShown(Shape, frozen=True, kw_only=True):
    """Means over an evaluation's questions; `ndcg`, `recall` and `mrr` are at 10."""

    settings: str
    questions: int
    ndcg: float
    recall: float
    mrr: float
    hit_1: float
    hit_5: float
    milliseconds: float
    """Median of a question."""


class OutcomeShown(QuestionShown, frozen=True, kw_only=True):
    places: dict[str, int]
    """Way to search → the place of the first that answers it, from 1; 0 where none is among ten."""


class EvaluationShown(Shape, frozen=True, kw_only=True):
    id: str
    at: float
    by: str
    embedding_model: str
    scores: list[ScoresShown]
    outcomes: list[OutcomeShown]
    """Empty in lists."""


class UploadedFile(Shape, frozen=True, kw_only=True):
    """What a run's inputs name as `{transfer_method: local_file, upload_file_id: …}`."""

    id: str
    name: str
    size: int
    mime_type: str


class PartOption(Shape, frozen=True, kw_only=True):
    value: str
    label: I18nObject


class PartParameter(Shape, frozen=True, kw_only=True):
    name: str
    type: str
    label: I18nObject
    help: I18nObject | None
    required: bool
    default: Any
    min: float | None
    max: float | None
    options: list[PartOption]


class PartShown(Shape, frozen=True, kw_only=True):
    """An event, a strategy or a datasource: what a node of a workflow can name."""

    provider: str
    """`author/plugin/provider`; empty for what comes with the server."""
    plugin: str
    name: str
    label: I18nObject
    kind: str = ""
    """Of a datasource: local_file, online_document, website_crawl or online_drive."""
    parameters: list[PartParameter]
    output_schema: dict[str, Any] | None = None
    """A JSON schema of what it gives."""


class TriggerProviderShown(Shape, frozen=True, kw_only=True):
    """Whose events can be subscribed to, and what that takes."""

    provider: str
    plugin: str
    label: I18nObject
    parameters: list[PartParameter]
    credentials: list[PartParameter]


class NodeParts(Shape, frozen=True, kw_only=True):
    events: list[PartShown]
    strategies: list[PartShown]
    datasources: list[PartShown]
    trigger_providers: list[TriggerProviderShown]


class SubscriptionShown(Shape, frozen=True, kw_only=True):
    id: str
    name: str
    plugin: str
    provider: str
    """`author/plugin/provider`."""
    address: str
    """What the provider calls."""


class InputForm(Shape, frozen=True, kw_only=True):
    variable: str
    label: str
    type: str
    required: bool
    options: list[str]
    default: Any
    max_length: int | None


class NodeKindShown(Shape, frozen=True, kw_only=True):
    type: str
    kind: str
    schema: dict[str, Any]
    """A JSON schema of the node's data."""


class RunShown(Shape, frozen=True, kw_only=True):
    id: str
    app: str
    status: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    error: str
    created_at: float
    finished_at: float | None
    elapsed: float
    total_tokens: int
    total_steps: int
    created_from: str
    user: str


class RunPage(Shape, frozen=True, kw_only=True):
    data: list[RunShown]
    total: int


class NodeTest(Shape, frozen=True, kw_only=True):
    status: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    process_data: dict[str, Any]
    error: str
    ms: float


class ConversationShown(Shape, frozen=True, kw_only=True):
    id: str
    name: str
    user: str
    created_at: float
    updated_at: float


class MessageShown(Shape, frozen=True, kw_only=True):
    id: str
    query: str
    answer: str
    status: str
    error: str
    run: str
    rating: str
    created_at: float
    thoughts: list[dict[str, Any]]
    usage: dict[str, Any]


class AnnotationShown(Shape, frozen=True, kw_only=True):
    id: str
    question: str
    answer: str
    hits: int


class AppKeyShown(Shape, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    hint: str = ""
    key: str = ""


class SplitPiece(Shape, frozen=True, kw_only=True):
    """A piece of a text, and which characters of it they are."""

    text: str
    start: int
    stop: int


# ------------------------------------------------------------------------------------ the server


class Package(Shape, frozen=True, kw_only=True):
    name: str
    version: str
    licence: str


class About(Shape, frozen=True, kw_only=True):
    version: str
    python: str
    database: str
    jail: str
    workers: int
    problem: str | None
    """Why the server is not ready; in short for whoever is not the operator."""
    rejected_records: int | None
    """How many records of processes that were killed could not be taken over; said to the operator alone."""
    uptime: float
    records_bodies: bool
    packages: list[Package]


class SettingsShown(Shape, frozen=True, kw_only=True):
    path: str
    text: str
    """The file, with secrets struck out as `********`; what is sent back with that keeps what was there."""
    schema: dict[str, Any]
    overridden: list[str]
    """What variables of the environment say over the file."""


class Accepted(Shape, frozen=True, kw_only=True, omit_defaults=True):
    id: str = ""
    deleted: bool = False
