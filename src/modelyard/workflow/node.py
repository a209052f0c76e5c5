"""The node interface: its data, how it runs, and the services that it may use."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol

import msgspec

from modelyard.workflow.events import AgentToolCall, AnyEvent
from modelyard.workflow.form_mail import FormMail
from modelyard.workflow.graph import SOURCE
from modelyard.workflow.variables import File, Selector, VariablePool, WorkflowError


class NodeKind(StrEnum):
    """Role of a node type in the graph."""

    EXECUTABLE = "executable"
    RESPONSE = "response"
    BRANCH = "branch"
    CONTAINER = "container"
    ROOT = "root"


class Effect(StrEnum):
    """Effect of running a node again after a crash during its first run."""

    NONE = "none"
    """Nothing happens outside; a repetition costs only time and money."""
    REPEATABLE = "repeatable"
    """Something outside may happen twice; the node sends an idempotency key with which
    the receiver can detect it."""


# --------------------------------------------------------------------------------- data


class RetryConfig(msgspec.Struct, kw_only=True):
    """How often a failed node is run again, and the pause between attempts."""

    max_retries: int = 0
    retry_interval: float = 0
    """In milliseconds."""
    retry_enabled: bool = False


class DefaultValue(msgspec.Struct, kw_only=True):
    """An output's value for the case that the node fails with the strategy
    `default-value`."""

    key: str
    type: str = "string"
    value: Any = None


class VariableSelector(msgspec.Struct, kw_only=True):
    """A variable name for the node, bound to a selector in the variable pool."""

    variable: str
    value_selector: list[str] = []


class NodeData(msgspec.Struct, kw_only=True):
    """Fields that every node of a DSL file may have. Unknown fields belong to the graph
    editor and are ignored."""

    type: str = ""
    title: str = ""
    desc: str = ""
    version: str = "1"
    error_strategy: str = ""
    default_value: list[DefaultValue] = []
    retry_config: RetryConfig = msgspec.field(default_factory=RetryConfig)
    on_resume: str = "repeat"
    """`repeat`, or `fail` for a node whose effects must not happen a second time after
    a crash."""


DataClass = type[NodeData]

# ------------------------------------------------------------------------------ results


class NodeError(WorkflowError):
    """A node failed. `error_type` is reported to clients; the other fields appear in
    the node's events."""

    def __init__(
        self,
        message: str,
        *,
        error_type: str = "",
        inputs: Mapping[str, Any] | None = None,
        process_data: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.error_type = error_type or type(self).__name__
        # Copied, so that the error can be enriched without changing the caller's
        # dictionaries.
        self.inputs = dict(inputs or {})
        self.process_data = dict(process_data or {})
        self.outputs = dict(outputs or {})
        self.metadata = dict(metadata or {})


class NodePaused(Exception):
    """Raised by a node that cannot continue before a person has acted. `reasons` go to
    the clients."""

    def __init__(self, *reasons: Mapping[str, Any]) -> None:
        super().__init__("paused")
        self.reasons = [dict(reason) for reason in reasons]


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation variable or loop variable that a node wrote."""

    selector: list[str]
    value: Any = None
    value_type: str = ""


@dataclass(slots=True, kw_only=True)
class NodeResult:
    """The result of one node execution."""

    outputs: dict[str, Any] = field(default_factory=dict[str, Any])
    inputs: dict[str, Any] = field(default_factory=dict[str, Any])
    process_data: dict[str, Any] = field(default_factory=dict[str, Any])
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    """total_tokens, total_price, currency and other values that clients show."""
    handle: str = SOURCE
    updates: list[Update] = field(default_factory=list[Update])
    error: str = ""
    error_type: str = ""
    """Set if the node failed and its error strategy lets the run continue."""


# -------------------------------------------------------------- services of nodes


class ExtractedText(Protocol):
    """The text of a document, and how its encoding was found."""

    @property
    def text(self) -> str:
        """The text."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What the document has that the text leaves out, a sentence each."""
        ...

    @property
    def guessed_codec(self) -> str:
        """The encoding that was guessed; empty if something states it."""
        ...

    @property
    def is_certain(self) -> bool:
        """Whether the guess is much more likely than all others."""
        ...


class Sandbox(Protocol):
    """Runs untrusted code. Raises NodeError with the program's own error message if it
    fails."""

    async def run_code(
        self, language: str, code: str, inputs: Mapping[str, Any]
    ) -> Any:
        """Run a program with `inputs` as the arguments of its main function; return its
        result."""
        ...

    async def render(
        self, template: str, variables: Mapping[str, Any], *, max_chars: int
    ) -> str:
        """Render a Jinja template in the sandbox; a longer result than `max_chars` is
        an error."""
        ...

    def render_in_process(
        self, template: str, variables: Mapping[str, Any], *, max_chars: int
    ) -> str | None:
        """Render a template in this process; None if it needs the sandbox."""
        ...

    async def extract(self, extension: str, data: bytes) -> ExtractedText:
        """Return the text of a document; `extension` names its format."""
        ...


class Files(Protocol):
    """The tenant's file store."""

    async def read(self, file: File) -> bytes:
        """Return the content of a file, stored or remote."""
        ...

    async def save(self, name: str, data: bytes, mime_type: str = "") -> File:
        """Store a file and return its reference."""
        ...

    def address(self, file: File) -> str:
        """Return a URL from which the file can be downloaded."""
        ...


class Models(Protocol):
    """The tenant's models. `find` returns a ModelInstance and raises ModelyardError if
    there is none."""

    def find(self, provider: str, name: str, model_type: str) -> Any:
        """Return the model of a provider. Raises ModelyardError if it is not available."""
        ...


class Tools(Protocol):
    """The tenant's tools."""

    def invoke(
        self,
        provider_type: str,
        provider: str,
        tool: str,
        parameters: Mapping[str, Any],
        *,
        credential: str,
        key: str,
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Call a tool and yield its messages in the plugin format. Raises
        ModelyardError."""
        ...

    async def bind(self, ref: Any) -> Any:
        """Return a ToolRef's tool for an agent. Raises ToolNotFoundError."""
        ...

    async def of_provider(self, kind: str, provider: str) -> Sequence[Any]:
        """Return a ToolRef of each tool of a provider; empty if it does not exist."""
        ...

    @property
    def manager(self) -> Any:
        """The ToolManager that calls the tools of an agent."""
        ...

    def results(self, key: str) -> Any:
        """Return the store for results that are too long for a prompt, scoped to one
        agent run; None if there is none."""
        ...


class Datasets(Protocol):
    """The tenant's knowledge datasets."""

    async def retrieve(
        self, query: str, data: Any, *, files: Sequence[File]
    ) -> list[dict[str, Any]]:
        """Return segments, best first, in the output format of the knowledge retrieval
        node."""
        ...

    async def index(
        self, segments: Any, data: Any, target: "IndexTarget | None" = None
    ) -> dict[str, Any]:
        """Index segments as one document, as a knowledge index node configures it; into
        `target` if given."""
        ...


class IndexTarget(msgspec.Struct, frozen=True, kw_only=True):
    """The document that a pipeline's run creates or replaces."""

    dataset: str
    document: str
    batch: str
    name: str = ""
    source: dict[str, Any] = {}


class Sources(Protocol):
    """The sources from which pipelines load documents."""

    async def fetch(
        self, data: Any, source_type: str, source_info: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return a datasource node's outputs for one page or one drive file. Raises
        ModelyardError."""
        ...


class Agents(Protocol):
    """Agent strategies that plugins provide."""

    def serves(self, provider: str, strategy: str) -> bool:
        """Return whether a plugin of the tenant provides this strategy."""
        ...

    def run(
        self, strategy: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Run a strategy and yield its messages in the plugin format."""
        ...


class AgentApps(Protocol):
    """The tenant's apps of mode `agent`."""

    async def package(self, reference: str) -> Any:
        """Return the AgentPackage of an app by its id, its name, or the id that the
        app's mapping replaces; None if there is no such app."""
        ...


class Http(Protocol):
    """The HTTP client for requests to the outside."""

    async def fetch(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        verify: bool = True,
        connect: float = 10.0,
        read: float = 60.0,
        max_bytes: int = 10 << 20,
    ) -> Any:
        """Send a request and return the response. Timeouts are in seconds; a longer
        body than `max_bytes` is an error."""
        ...


class Thought(msgspec.Struct, frozen=True, kw_only=True):
    """A round of an agent in an earlier turn: what it said, and its tool calls with
    their results."""

    text: str = ""
    calls: list[AgentToolCall] = []


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A question of a conversation and its answer."""

    query: str
    answer: str
    files: list[File] = []
    thoughts: list[Thought] = []
    id: str = ""


class ConversationSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of a conversation up to a turn."""

    text: str
    until: str
    """The id of the last turn that the summary covers."""


class Memory(Protocol):
    """The memory of the run's conversation."""

    async def turns(self, limit: int) -> list[Turn]:
        """Return the newest turns, oldest first."""
        ...

    async def recap(self) -> ConversationSummary | None:
        """Return the latest stored recap; None if there is none."""
        ...

    async def save_recap(self, recap: ConversationSummary) -> None:
        """Store a recap in place of the previous one."""
        ...


class Forms(Protocol):
    """Human input forms of the run."""

    async def answer(self, key: str) -> Mapping[str, Any] | None:
        """Return what was submitted for a step's form; `{"expired": seconds}` after its
        deadline; None while it is open."""
        ...

    async def publish(
        self,
        key: str,
        form_definition: Mapping[str, Any],
        expires_at: float,
        mails: Sequence[FormMail] = (),
    ) -> Mapping[str, Any]:
        """Publish a form and have its mails sent; return how it can be reached (its
        token and address)."""
        ...


@dataclass(slots=True, kw_only=True)
class Services:
    """The services that nodes use. A node that needs a service that is None fails with
    an error."""

    models: Models | None = None
    sandbox: Sandbox | None = None
    http: Http | None = None
    files: Files | None = None
    tools: Tools | None = None
    datasets: Datasets | None = None
    sources: Sources | None = None
    agents: Agents | None = None
    agent_apps: AgentApps | None = None
    memory: Memory | None = None
    forms: Forms | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeLimits:
    """Limits of what code returns; each has the name of its setting."""

    characters: int = 400_000
    texts: int = 30
    objects: int = 30
    numbers: int = 1000
    depth: int = 5
    decimals: int = 20


@dataclass(slots=True, kw_only=True)
class Limits:
    """Limits of one run."""

    steps: int = 500
    seconds: float = 1200.0
    depth: int = 5
    """Maximum nesting of workflows that call workflows."""
    items: int = 10_000
    """Maximum items of one iteration."""
    rounds: int = 100
    """Maximum rounds of one loop."""
    template_characters: int = 400_000
    """Maximum characters of a rendered template."""
    code: CodeLimits = field(default_factory=CodeLimits)
    """Limits of what code returns."""
    summary_tokens: int = 500
    """Maximum length of the summary of a conversation; 0 for no summaries."""


@dataclass(slots=True, kw_only=True)
class RunContext:
    """State that all nodes of a run share: services, limits, identity and usage totals."""

    run_id: str
    services: Services = field(default_factory=Services)
    limits: Limits = field(default_factory=Limits)
    tenant: str = "default"
    user: str = ""
    app: str = ""
    depth: int = 0
    steps: int = 0
    tokens: int = 0
    exceptions: int = 0
    price: float = 0.0
    # Clock and sleep are injectable so that tests need not wait.
    now: Callable[[], float] = lambda: 0.0
    sleep: Callable[[float], Any] = asyncio.sleep


@dataclass(slots=True, kw_only=True)
class NodeContext:
    """Context of one execution of one node."""

    run: RunContext
    pool: VariablePool
    key: str
    """Identifies the step within its run, also after a crash: `summarise`, or
    `each[3]/summarise` in an iteration."""
    execution_id: str
    idempotency_key: str
    emit: Callable[[AnyEvent], None]
    stream: Callable[[str, str, bool], None]
    """Publishes a chunk of one of the node's outputs: (output name, text, is_final)."""
    reason: Callable[[str, bool], None]
    """Publishes a chunk of a model's reasoning: (text, is_final)."""
    engine: Any = None
    """The engine that runs the node; containers use it to run their inner graph."""

    @property
    def services(self) -> Services:
        """The services of the run."""
        return self.run.services

    def value(self, selector: Selector) -> Any:
        """Return the value of a selector in the variable pool."""
        return self.pool.value(selector)


class Node(ABC):
    """A node of a graph. It has no state of a run: all runs share one object."""

    type: ClassVar[str]
    kind: ClassVar[NodeKind] = NodeKind.EXECUTABLE
    Data: ClassVar[DataClass] = NodeData
    is_quick: ClassVar[bool] = False
    """Whether `compute` can return the result without waiting."""

    def __init__(
        self, id: str, data: Any, raw: Mapping[str, Any] | None = None
    ) -> None:
        self.id = id
        self.data: Any = data
        self.raw: Mapping[str, Any] = raw or {}
        # Set by the loader after the inner graph was built.
        self.graph: Any = None
        """The inner graph of a container; None for other nodes."""

    @property
    def title(self) -> str:
        """The title from the DSL file, or the node id."""
        return self.data.title or self.id

    def event_fields(self, execution_id: str) -> dict[str, Any]:
        """Return the fields that identify this node in the events of an execution."""
        return {
            "id": execution_id,
            "node_id": self.id,
            "node_type": self.type,
            "title": self.title,
        }

    @property
    def has_fail_branch(self) -> bool:
        """Whether an error leads to a fail branch."""
        return self.data.error_strategy == "fail-branch"

    @property
    def branches(self) -> bool:
        """Whether the result selects among the outgoing edges."""
        return self.kind is NodeKind.BRANCH or self.has_fail_branch

    @property
    def effect(self) -> Effect:
        """Effect of a repetition after a crash."""
        return Effect.NONE

    def compute(self, context: NodeContext) -> NodeResult | None:
        """Return the result if it is available without waiting; None otherwise."""
        return None

    @abstractmethod
    async def run(self, context: NodeContext) -> NodeResult:
        """Execute the node. Raises NodeError, NodePaused or any ModelyardError."""

    def references(self) -> "Sequence[tuple[str, ...]]":
        """Return the selectors that the node reads, for validation and diagrams."""
        return ()

    def warnings(self) -> Sequence[str]:
        """Return what of the node's settings has no effect, for the app's import."""
        return ()

    def mail_warnings(self) -> Sequence[str]:
        """Return what of the node's settings has no effect while the server cannot send
        mail."""
        return ()

    def writes(self) -> "Sequence[tuple[str, ...]]":
        """Return the conversation and loop variables that the node writes."""
        return ()

    def response(self) -> "Sequence[str | tuple[str, ...]] | None":
        """Return the texts and selectors of a response node's template in order; None
        for other nodes."""
        return None


class SyncNode(Node):
    """A node whose result is computed without waiting."""

    is_quick = True

    async def run(self, context: NodeContext) -> NodeResult:
        """Return the computed result. Raises NodeError if there is none."""
        result = self.compute(context)
        # `compute` may return None: such a subclass overrides `run` as well.
        if result is None:  # a subclass that has no result at once runs by itself
            raise NodeError(f"Node {self.title!r} returned no result")
        return result
