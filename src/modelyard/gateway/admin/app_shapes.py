"""Response types of the admin API for apps: files, versions, runs, conversations and
evaluations.

Times are in seconds since 1970.
"""

from typing import Any

import msgspec

from modelyard.models.entities import I18nObject


class PageView(msgspec.Struct, frozen=True, kw_only=True):
    """The public chat page of an app."""

    is_on: bool
    origins: list[str]
    url: str | None


class CodeNetworkView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the code nodes of an app may use the network."""

    enabled: bool | None
    """The app's own value; null if the tenant or the settings decide."""
    is_on: bool
    reason: str
    """Why they may not; empty if they may."""


class VersionView(msgspec.Struct, frozen=True, kw_only=True):
    """A published version of an app."""

    digest: str
    name: str
    note: str
    published_at: float


class TagReference(msgspec.Struct, frozen=True, kw_only=True):
    """A tag of an app."""

    id: str
    name: str


class AppTagView(TagReference, frozen=True, kw_only=True):
    """A tag of a tenant with its number of apps."""

    apps: int


class AppTemplateView(msgspec.Struct, frozen=True, kw_only=True):
    """A template that apps can be created from."""

    id: str
    name: str
    mode: str
    description: str
    icon: str
    icon_background: str
    needs_dataset: bool
    """Whether the app answers from a dataset, which has to be chosen."""


class AppView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An app of a tenant. `versions` and `mapping` are set only if a single app is
    requested."""

    id: str
    name: str
    mode: str
    description: str
    icon: str
    icon_type: str
    """emoji, image or link; empty for what the file says."""
    icon_background: str
    tags: list[TagReference]
    is_enabled: bool
    is_published: bool
    has_draft: bool
    digest: str
    """Digest of the draft, or of the published version if there is no draft."""
    page: PageView
    # In a list of apps the versions would be most of the response.
    versions: list[VersionView] = []
    mapping: dict[str, dict[str, str]] = {}


class ImportedAppView(AppView, frozen=True, kw_only=True):
    """An app after an import, with the warnings and requirements of its file."""

    warnings: list[str] = []
    needs: list[str] = []
    missing_secrets: list[str] = []
    """Secret variables without a value. Set them with `secrets` of the app."""
    replaced: bool = False
    dataset: str = ""


class FileProblem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem in an app's file; `line` is 0 if it has no position."""

    message: str
    line: int = 0
    node: str = ""
    field: str = ""


class ScheduleTimes(msgspec.Struct, frozen=True, kw_only=True):
    """The next times at which a schedule node starts a run."""

    node: str
    cron: str
    timezone: str
    next: list[float]
    """Its next start times."""


class FileCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The result of checking an app's file without importing it."""

    problems: list[FileProblem]
    warnings: list[FileProblem]
    needs: list[str]
    schedules: list[ScheduleTimes]


class TriggerView(msgspec.Struct, frozen=True, kw_only=True):
    """A node that starts runs of its app without a caller."""

    node: str
    title: str
    type: str
    """One of webhook, schedule, plugin."""
    is_live: bool
    """Whether the published version contains this trigger unchanged."""
    method: str = ""
    address: str = ""
    """URL at which callers trigger a webhook."""
    draft_address: str = ""
    """URL that triggers the draft."""
    cron: str = ""
    timezone: str = ""
    next: list[float] = []
    provider: str = ""
    event: str = ""
    subscription: str = ""


class StatisticsView(msgspec.Struct, frozen=True, kw_only=True):
    """How an app was used on one day, or in the whole time range. Tests in the console
    count only for tokens and cost."""

    day: str
    """As `2026-11-30`; empty for the whole time range."""
    messages: int
    runs: int
    end_users: int
    conversations: int
    """Conversations that started."""
    interactions: float | None
    """Mean number of messages in these conversations."""
    prompt_tokens: int
    completion_tokens: int
    # As texts: clients that read numbers as floats would round money.
    costs: dict[str, str]
    """Currency → amount as a decimal text."""
    unpriced: int
    """Calls whose price is unknown; `costs` does not include them."""
    tokens_per_second: float | None
    likes: int
    dislikes: int
    likes_per_1000: float | None
    """Likes for 1,000 messages."""


class StatisticsPage(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of each day of a time range, and of the whole range."""

    data: list[StatisticsView]
    total: StatisticsView
    since: float
    until: float


class GeneratedPromptView(msgspec.Struct, frozen=True, kw_only=True):
    """A generated prompt with `{{name}}` for its variables."""

    prompt: str
    variables: list[str]
    opening_statement: str


class CodeVariableView(msgspec.Struct, frozen=True, kw_only=True):
    """An input or an output of a generated program."""

    name: str
    type: str


class GeneratedCodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A generated program for a code node."""

    language: str
    code: str
    inputs: list[CodeVariableView]
    outputs: list[CodeVariableView]


class GeneratedSchemaView(msgspec.Struct, frozen=True, kw_only=True):
    """A generated JSON schema."""

    schema: dict[str, Any]


class QuestionView(msgspec.Struct, frozen=True, kw_only=True):
    """An evaluation question with its relevant documents."""

    question: str
    documents: list[str]
    """Names or ids of the documents that answer it."""


class ScoresView(msgspec.Struct, frozen=True, kw_only=True):
    """Mean scores over the questions of an evaluation; `ndcg`, `recall` and `mrr` are
    at 10."""

    settings: str
    questions: int
    ndcg: float
    recall: float
    mrr: float
    hit_1: float
    hit_5: float
    milliseconds: float
    """Median duration of a search."""


class OutcomeView(QuestionView, frozen=True, kw_only=True):
    """The result of one evaluation question."""

    places: dict[str, int]
    """Search method → rank of the first relevant document, from 1; 0 if none is in the
    top ten."""


class EvaluationView(msgspec.Struct, frozen=True, kw_only=True):
    """A stored evaluation of a dataset."""

    id: str
    at: float
    by: str
    embedding_model: str
    scores: list[ScoresView]
    outcomes: list[OutcomeView]
    """Empty in lists."""


class UploadedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file to be named in a run's inputs as `{transfer_method: local_file,
    upload_file_id: …}`."""

    id: str
    name: str
    size: int
    mime_type: str


class ComponentOption(msgspec.Struct, frozen=True, kw_only=True):
    """An option of a select parameter."""

    value: str
    label: I18nObject


class ComponentParameter(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter of an event, strategy, datasource or trigger provider."""

    name: str
    type: str
    label: I18nObject
    help: I18nObject | None
    required: bool
    default: Any
    min: float | None
    max: float | None
    options: list[ComponentOption]


class ComponentView(msgspec.Struct, frozen=True, kw_only=True):
    """A component that a workflow node can use: an event, an agent strategy or a
    datasource."""

    provider: str
    """`author/plugin/provider`; empty for components of the server itself."""
    plugin: str
    name: str
    label: I18nObject
    kind: str = ""
    """For a datasource: local_file, online_document, website_crawl or online_drive."""
    parameters: list[ComponentParameter]
    output_schema: dict[str, Any] | None = None
    """JSON schema of its output."""


class TriggerProviderView(msgspec.Struct, frozen=True, kw_only=True):
    """A trigger provider whose events can be subscribed to, with the parameters of a
    subscription."""

    provider: str
    plugin: str
    label: I18nObject
    parameters: list[ComponentParameter]
    credentials: list[ComponentParameter]
    properties: list[ComponentParameter]
    """The form of a subscription by hand."""
    can_subscribe: bool
    """Whether the plugin subscribes at the provider; otherwise only by hand."""


class NodeComponents(msgspec.Struct, frozen=True, kw_only=True):
    """All components that are available to workflow nodes of a tenant."""

    events: list[ComponentView]
    strategies: list[ComponentView]
    datasources: list[ComponentView]
    trigger_providers: list[TriggerProviderView]


class SubscriptionView(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription to the events of a trigger provider."""

    id: str
    name: str
    plugin: str
    provider: str
    """`author/plugin/provider`."""
    address: str
    """URL that the provider calls."""
    is_manual: bool
    """Whether a person has to enter the address at the provider."""


class InputForm(msgspec.Struct, frozen=True, kw_only=True):
    """A field of the form that starts a run."""

    variable: str
    label: str
    type: str
    required: bool
    options: list[str]
    default: Any
    max_length: int | None


class NodeTypeView(msgspec.Struct, frozen=True, kw_only=True):
    """A node type that workflows can contain."""

    type: str
    kind: str
    schema: dict[str, Any]
    """JSON schema of the node's data."""


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A run of an app. Times in seconds; `finished_at` is null while it runs."""

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


class TraceDestinationView(msgspec.Struct, frozen=True, kw_only=True):
    """Where the traces of an app's runs are sent. Counts are of this process since its
    start."""

    name: str
    service: str
    url: str
    project: str
    content: bool
    is_enabled: bool
    sent: int
    dropped: int
    """Traces that did not fit into the queue, or could not be delivered."""
    error: str
    """Of the last trace; empty if it was delivered."""


class TraceServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """A service that traces can be sent to, and what it needs."""

    name: str
    default_url: str
    """The vendor's own installation; empty if an address has to be given."""
    credentials: list[str]
    """Names of the credentials that the service needs."""
    optional: list[str]
    """Names of further credentials."""
    takes_headers: bool
    """Whether the credentials are request headers of any name instead."""


class TraceDestinationList(msgspec.Struct, frozen=True, kw_only=True):
    """Where the traces of an app's runs are sent, and where they could be."""

    data: list[TraceDestinationView]
    services: list[TraceServiceView]


class TraceTestView(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a trace that tests a destination."""

    accepted: bool
    error: str
    """Why the destination did not accept it; empty if it did."""


class FormMailView(msgspec.Struct, frozen=True, kw_only=True):
    """A mail about a form that a run waits or has waited for."""

    recipient: str
    state: str
    """waiting, sent, failed, or unneeded if the form was closed before."""
    attempts: int
    error: str
    """Of the last attempt, or why none can be made."""


class RunDetails(RunView, frozen=True, kw_only=True):
    """A run with the mails of its forms."""

    mails: list[FormMailView]


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of runs, with the total number of matches."""

    data: list[RunView]
    total: int


class NodeTest(msgspec.Struct, frozen=True, kw_only=True):
    """The result of running one node alone; `ms` is its duration."""

    status: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    process_data: dict[str, Any]
    error: str
    ms: float


class ConversationView(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation of a user with an app."""

    id: str
    name: str
    user: str
    created_at: float
    updated_at: float


class MessageView(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a conversation: the user's query and the app's answer."""

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


class AnnotationView(msgspec.Struct, frozen=True, kw_only=True):
    """A fixed answer to a question, with the number of times that it was used."""

    id: str
    question: str
    answer: str
    hits: int


class AnnotationReplyView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an app answers from annotations, and how similar a question must be."""

    enabled: bool
    score_threshold: float
    """Cosine similarity from 0 to 1."""
    embedding_model: str
    """`provider/model`, or `default-text-embedding`."""


class AppKeyView(msgspec.Struct, frozen=True, kw_only=True):
    """An API key of an app, without its secret."""

    id: str
    hint: str
    """The first and last characters of the key."""
    speaks_for_users: bool = False


class CreatedAppKey(msgspec.Struct, frozen=True, kw_only=True):
    """A newly created API key of an app."""

    id: str
    key: str
    """The key itself. It is returned only in this response."""


class SplitSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A segment of a text, with its character positions."""

    text: str
    start: int
    stop: int
