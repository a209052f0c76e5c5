"""What a node is: its data, how it runs, what it may ask for while it does."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol

import msgspec

from modelyard.workflow.events import AnyEvent
from modelyard.workflow.graph import SOURCE
from modelyard.workflow.variables import File, Selector, VariablePool, WorkflowError


class NodeKind(StrEnum):
    EXECUTABLE = "executable"
    RESPONSE = "response"
    BRANCH = "branch"
    CONTAINER = "container"
    ROOT = "root"


class Effect(StrEnum):
    """What running a node twice would mean, after a crash in the middle of it."""

    NONE = "none"
    """Nothing but time and money."""
    REPEATABLE = "repeatable"
    """Something outside may happen twice; the node hands on a key by which the other side can tell."""


# ---------------------------------------------------------------------------------------------- data


class RetryConfig(msgspec.Struct, kw_only=True):
    max_retries: int = 0
    retry_interval: float = 0
    """Milliseconds."""
    retry_enabled: bool = False


class DefaultValue(msgspec.Struct, kw_only=True):
    key: str
    type: str = "string"
    value: Any = None


class VariableSelector(msgspec.Struct, kw_only=True):
    variable: str
    value_selector: list[str] = []


class NodeData(msgspec.Struct, kw_only=True):
    """What every node of a file may say. What a file says beyond its node's fields is the editor's."""

    type: str = ""
    title: str = ""
    desc: str = ""
    version: str = "1"
    error_strategy: str = ""
    default_value: list[DefaultValue] = []
    retry_config: RetryConfig = msgspec.field(default_factory=RetryConfig)
    on_resume: str = "repeat"
    """`fail` for a node with effects that must not run a second time after a crash."""


DataClass = type[NodeData]

# ---------------------------------------------------------------------------------------------- results


class NodeError(WorkflowError):
    """A node could not do its work. `kind` is what apps see as `error_type`."""

    def __init__(
        self,
        message: str,
        *,
        kind: str = "",
        inputs: Mapping[str, Any] | None = None,
        process_data: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind or type(self).__name__
        self.inputs = dict(inputs or {})
        self.process_data = dict(process_data or {})
        self.outputs = dict(outputs or {})
        self.metadata = dict(metadata or {})


class NodePaused(Exception):
    """A node cannot go on before somebody says so."""

    def __init__(self, *reasons: Mapping[str, Any]) -> None:
        super().__init__("paused")
        self.reasons = [dict(one) for one in reasons]


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """A variable of the conversation or of a loop that a node wrote."""

    selector: list[str]
    value: Any = None
    value_type: str = ""


@dataclass(slots=True, kw_only=True)
class NodeResult:
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])
    inputs: dict[str, Any] = field(default_factory=dict[str, Any])
    process_data: dict[str, Any] = field(default_factory=dict[str, Any])
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    """total_tokens, total_price, currency, and what else apps show."""
    handle: str = SOURCE
    updates: list[Update] = field(default_factory=list[Update])
    error: str = ""
    error_type: str = ""
    """Where it failed and its strategy let the run go on."""


# ---------------------------------------------------------------------------------------------- what a node may ask for


class Sandbox(Protocol):
    """Runs what other people wrote. Raises NodeError with the program's own words where it fails."""

    async def run_code(self, language: str, code: str, inputs: Mapping[str, Any]) -> Any: ...

    async def render(self, template: str, variables: Mapping[str, Any], *, most: int) -> str: ...

    def render_now(self, template: str, variables: Mapping[str, Any], *, most: int) -> str | None:
        """The text at once; None where that takes the sandbox."""
        ...

    async def extract(self, extension: str, data: bytes) -> str: ...


class Files(Protocol):
    """The tenant's files."""

    async def read(self, file: File) -> bytes: ...

    async def save(self, name: str, data: bytes, mime_type: str = "") -> File: ...

    def address(self, file: File) -> str: ...


class Models(Protocol):
    """The tenant's models. `find` gives a ModelInstance; raises ModelyardError where there is none."""

    def find(self, provider: str, name: str, model_type: str) -> Any: ...


class Tools(Protocol):
    def invoke(
        self, kind: str, provider: str, tool: str, parameters: Mapping[str, Any], *, credential: str, key: str
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Messages in the shapes that plugins use. Raises ModelyardError."""
        ...

    async def bind(self, ref: Any) -> Any:
        """A tool for an agent, by a ToolRef. Raises ToolNotFoundError."""
        ...

    @property
    def manager(self) -> Any:
        """The ToolManager through which an agent's tools are called."""
        ...

    def results(self, key: str) -> Any:
        """Where results that are too long for a prompt are kept, for one agent's run; None for nowhere."""
        ...


class Datasets(Protocol):
    async def retrieve(self, query: str, data: Any, *, files: Sequence[File]) -> list[dict[str, Any]]:
        """Segments, best first, in the shape that the knowledge-retrieval node gives."""
        ...

    async def index(self, segments: Any, data: Any, target: "IndexTarget | None" = None) -> dict[str, Any]:
        """Keep segments, as the knowledge-index node says: as one document, in the target where one is named."""
        ...


class IndexTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Which document a pipeline's run makes."""

    dataset: str
    document: str
    batch: str
    name: str = ""
    source: dict[str, Any] = {}


class Sources(Protocol):
    """Where pipelines' documents come from."""

    async def fetch(self, data: Any, kind: str, about: Mapping[str, Any]) -> dict[str, Any]:
        """What a datasource node gives of one page, or of one file on a drive. Raises ModelyardError."""
        ...


class Agents(Protocol):
    def serves(self, provider: str, strategy: str) -> bool:
        """Whether a plugin of the tenant has this strategy."""
        ...

    def run(self, strategy: Mapping[str, Any], parameters: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        """Messages in the shapes that agent strategies use."""
        ...


class Http(Protocol):
    """The one client that goes out."""

    async def fetch(
        self, method: str, url: str, *, headers: Sequence[tuple[str, str]] = (), body: bytes = b"", verify: bool = True,
        connect: float = 10.0, read: float = 60.0, most_bytes: int = 10 << 20,
    ) -> Any:  # fmt: skip
        ...


class Thought(msgspec.Struct, frozen=True, kw_only=True):
    """A step of an agent in an earlier turn: what it called, and what came of it."""

    text: str = ""
    tools: list[str] = []
    inputs: str = ""
    """JSON: name → arguments."""
    results: str = ""
    """JSON: name → what was observed."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One question of a conversation and what was answered."""

    query: str
    answer: str
    files: list[File] = []
    thoughts: list[Thought] = []
    id: str = ""


class Recap(msgspec.Struct, frozen=True, kw_only=True):
    """What a conversation said up to a turn, in short."""

    text: str
    until: str
    """The id of the last turn that is in it."""


class Memory(Protocol):
    async def turns(self, most: int) -> list[Turn]:
        """The conversation's newest turns, oldest first."""
        ...

    async def recap(self) -> Recap | None:
        """The summary that was kept last."""
        ...

    async def keep(self, recap: Recap) -> None:
        """Keep a summary in the place of the one before."""
        ...


class Forms(Protocol):
    async def answer(self, key: str) -> Mapping[str, Any] | None:
        """What was sent in for a step's form; `{"expired": seconds}` where nobody did in time; None while it waits."""
        ...

    async def ask(self, key: str, form: Mapping[str, Any], expires_at: float) -> Mapping[str, Any]:
        """Lay a form out: what says where it is filled in."""
        ...


@dataclass(slots=True, kw_only=True)
class Services:
    """What nodes work with; whatever is None says so where it is asked for."""

    models: Models | None = None
    sandbox: Sandbox | None = None
    http: Http | None = None
    files: Files | None = None
    tools: Tools | None = None
    datasets: Datasets | None = None
    sources: Sources | None = None
    agents: Agents | None = None
    memory: Memory | None = None
    forms: Forms | None = None


@dataclass(slots=True, kw_only=True)
class Limits:
    steps: int = 500
    seconds: float = 1200.0
    depth: int = 5
    """Workflows that call workflows."""
    items: int = 10_000
    """Of one iteration."""
    rounds: int = 100
    """Of one loop."""
    output_bytes: int = 400_000
    """Of a rendered template, and of a text that code returns."""


@dataclass(slots=True, kw_only=True)
class RunContext:
    """What all nodes of a run share."""

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
    now: Callable[[], float] = lambda: 0.0
    sleep: Callable[[float], Any] = asyncio.sleep


@dataclass(slots=True, kw_only=True)
class NodeContext:
    """One execution of one node."""

    run: RunContext
    pool: VariablePool
    key: str
    """Names the step within its run, whatever crashes: `summarise`, or `each[3]/summarise` within an iteration."""
    execution_id: str
    idempotency_key: str
    emit: Callable[[AnyEvent], None]
    stream: Callable[[str, str, bool], None]
    """A piece of one of the node's outputs as it comes: name, text, whether it is the last."""
    reason: Callable[[str, bool], None]
    """A piece of what a model thinks."""
    engine: Any = None
    """Who runs it: what containers need to run what is in them."""

    @property
    def services(self) -> Services:
        return self.run.services

    def value(self, selector: Selector) -> Any:
        return self.pool.value(selector)


class Node(ABC):
    """One node of a graph. It holds no state of a run: one object serves all of them."""

    type: ClassVar[str]
    kind: ClassVar[NodeKind] = NodeKind.EXECUTABLE
    Data: ClassVar[DataClass] = NodeData
    is_quick: ClassVar[bool] = False
    """Whether `compute` may have the result at once, without waiting for anything."""

    def __init__(self, id: str, data: Any, raw: Mapping[str, Any] | None = None) -> None:  # noqa: A002
        self.id = id
        self.data: Any = data
        self.raw: Mapping[str, Any] = raw or {}
        self.graph: Any = None
        """What stands inside, for containers."""

    @property
    def title(self) -> str:
        return self.data.title or self.id

    def about(self, execution_id: str) -> dict[str, Any]:
        """What every event of one of its executions says of it."""
        return {"id": execution_id, "node_id": self.id, "node_type": self.type, "title": self.title}

    @property
    def has_fail_branch(self) -> bool:
        return self.data.error_strategy == "fail-branch"

    @property
    def branches(self) -> bool:
        return self.kind is NodeKind.BRANCH or self.has_fail_branch

    @property
    def effect(self) -> Effect:
        return Effect.NONE

    def compute(self, context: NodeContext) -> NodeResult | None:
        """The result, where it can be had at once."""
        return None

    @abstractmethod
    async def run(self, context: NodeContext) -> NodeResult:
        """Raises NodeError, NodePaused, or any ModelyardError."""

    def references(self) -> "Sequence[tuple[str, ...]]":
        """Selectors that the node reads, as far as its data says so: for checking and drawing."""
        return ()

    def writes(self) -> "Sequence[tuple[str, ...]]":
        """Conversation and loop variables that it changes."""
        return ()

    def response(self) -> "Sequence[str | tuple[str, ...]] | None":
        """For nodes that answer: the texts and selectors of what they say, in order."""
        return None


class QuickNode(Node):
    """One whose result is there at once."""

    is_quick = True

    async def run(self, context: NodeContext) -> NodeResult:
        result = self.compute(context)
        if result is None:  # a subclass that has no result at once runs by itself
            raise NodeError(f"node {self.title!r} has no result")
        return result
