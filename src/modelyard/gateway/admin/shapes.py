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


class TenantShown(Shape, frozen=True, kw_only=True, omit_defaults=True):
    """Where an operator lists all of them, the times are missing."""

    id: str
    name: str
    label: str
    is_enabled: bool
    preferred: dict[str, str]
    """Provider → whose credentials go first: `custom` or `system`."""
    created_at: float = 0.0
    updated_at: float = 0.0


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


class KeyMade(KeyShown, frozen=True, kw_only=True):
    key: str
    """The key itself: it is told this once."""


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


class Resting(Shape, frozen=True, kw_only=True):
    data: dict[str, float]
    """What rests after failures, as `tenant/provider/model/credential` → seconds that are left."""


class CacheCleared(Shape, frozen=True, kw_only=True):
    cleared: bool


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


class Done(Shape, frozen=True, kw_only=True):
    done: bool
    """Whether there was anything to do."""


class Removed(Shape, frozen=True, kw_only=True):
    id: str
    deleted: bool
