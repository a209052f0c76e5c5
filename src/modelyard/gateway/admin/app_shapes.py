"""What the admin API answers about apps: their files, versions, runs, what people said to them, and evaluations.

Times are seconds since 1970.
"""

from typing import Any

import msgspec

from modelyard.models.entities import I18nObject


class PageShown(msgspec.Struct, frozen=True, kw_only=True):
    is_on: bool
    origins: list[str]
    url: str | None


class VersionShown(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    name: str
    note: str
    published_at: float


class AppShown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
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


class FileProblem(msgspec.Struct, frozen=True, kw_only=True):
    message: str
    line: int = 0
    node: str = ""
    field: str = ""


class ScheduleTimes(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    cron: str
    timezone: str
    next: list[float]
    """Its next times."""


class FileCheck(msgspec.Struct, frozen=True, kw_only=True):
    problems: list[FileProblem]
    warnings: list[FileProblem]
    needs: list[str]
    schedules: list[ScheduleTimes]


class TriggerShown(msgspec.Struct, frozen=True, kw_only=True):
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


class QuestionShown(msgspec.Struct, frozen=True, kw_only=True):
    question: str
    documents: list[str]
    """Names or ids of those that answer it."""


class ScoresShown(msgspec.Struct, frozen=True, kw_only=True):
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


class EvaluationShown(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    at: float
    by: str
    embedding_model: str
    scores: list[ScoresShown]
    outcomes: list[OutcomeShown]
    """Empty in lists."""


class UploadedFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's inputs name as `{transfer_method: local_file, upload_file_id: …}`."""

    id: str
    name: str
    size: int
    mime_type: str


class PartOption(msgspec.Struct, frozen=True, kw_only=True):
    value: str
    label: I18nObject


class PartParameter(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    type: str
    label: I18nObject
    help: I18nObject | None
    required: bool
    default: Any
    min: float | None
    max: float | None
    options: list[PartOption]


class PartShown(msgspec.Struct, frozen=True, kw_only=True):
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


class TriggerProviderShown(msgspec.Struct, frozen=True, kw_only=True):
    """Whose events can be subscribed to, and what that takes."""

    provider: str
    plugin: str
    label: I18nObject
    parameters: list[PartParameter]
    credentials: list[PartParameter]


class NodeParts(msgspec.Struct, frozen=True, kw_only=True):
    events: list[PartShown]
    strategies: list[PartShown]
    datasources: list[PartShown]
    trigger_providers: list[TriggerProviderShown]


class SubscriptionShown(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    plugin: str
    provider: str
    """`author/plugin/provider`."""
    address: str
    """What the provider calls."""


class InputForm(msgspec.Struct, frozen=True, kw_only=True):
    variable: str
    label: str
    type: str
    required: bool
    options: list[str]
    default: Any
    max_length: int | None


class NodeKindShown(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    kind: str
    schema: dict[str, Any]
    """A JSON schema of the node's data."""


class RunShown(msgspec.Struct, frozen=True, kw_only=True):
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


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    data: list[RunShown]
    total: int


class NodeTest(msgspec.Struct, frozen=True, kw_only=True):
    status: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    process_data: dict[str, Any]
    error: str
    ms: float


class ConversationShown(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    user: str
    created_at: float
    updated_at: float


class MessageShown(msgspec.Struct, frozen=True, kw_only=True):
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


class AnnotationShown(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    question: str
    answer: str
    hits: int


class AppKeyShown(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    hint: str
    """How it begins and ends."""


class AppKeyMade(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    key: str
    """The key itself: it is told this once."""


class SplitPiece(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a text, and which characters of it they are."""

    text: str
    start: int
    stop: int
