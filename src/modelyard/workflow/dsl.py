"""Parsing of exported apps: YAML to `App`. All format versions up to 0.7.0; unknown
additions of editors are preserved.

Errors name the file, the line, the node and the field. A tool, dataset or model that
the tenant does not have is not an error: the app can be imported, `App.requirements`
lists it, and a mapping can name a substitute.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from typing import Any

import msgspec
import yaml

from modelyard.base.errors import ConfigError, suggestion
from modelyard.base.json_types import EMPTY_OBJECT, is_array, is_mapping, is_object
from modelyard.base.number_bounds import FiniteLoader, check_numbers
from modelyard.workflow.agent_packages import (
    AgentJobData,
    AgentPackage,
    describe_missing_agent,
    features_of_agent_app,
    is_agent_job,
    job_warnings,
    mail_warnings,
    nodes_of_agent_app,
    package_ref_of,
    package_warnings,
    requirements_of_package,
)
from modelyard.workflow.agent_tools import requirements_of_parameters
from modelyard.workflow.graph import SOURCE, Edge, Graph
from modelyard.workflow.node import Node, NodeKind
from modelyard.workflow.nodes import node_class, node_types
from modelyard.workflow.nodes.knowledge_retrieval import RetrievalData
from modelyard.workflow.nodes.trigger import ScheduleData
from modelyard.workflow.nodes.unknown import UnknownNode
from modelyard.workflow.schedule import ScheduleError, schedule_of
from modelyard.workflow.simple_apps import nodes_of_model_config
from modelyard.workflow.variables import NAMESPACES, WorkflowError

_yaml: Any = yaml  # its `parse` and `compose` have no types

VERSION = "0.7.0"
_VERSION_WITHOUT_AGENTS = "0.6.0"
"""The version of files without agent packages: older versions of Dify read it too."""
# Dify's limit for such files.
MAX_BYTES = 10 * 1024 * 1024
_ARCHIVE_MARK = b"PK\x03\x04"
# The largest real apps have some hundred nodes.
MAX_NODES = 5_000
# Values are built recursively, so a deeper file could exhaust the stack.
_MAX_DEPTH = 120
# Aliases repeat values, so the size of a file does not limit their number.
_MAX_VALUES = 2_000_000
_MAX_EVENTS = 200_000
"""Maximum number of parser events: one per value, and the end of each list and object.
"""
WORKFLOW_MODES = ("workflow", "advanced-chat")
SIMPLE_MODES = ("chat", "completion", "agent-chat")
AGENT_MODE = "agent"
MODES = (*WORKFLOW_MODES, *SIMPLE_MODES, AGENT_MODE)
CHAT_MODES = ("advanced-chat", "chat", "agent-chat", AGENT_MODE)
ROOTS = ("start", "datasource", "trigger-webhook", "trigger-schedule", "trigger-plugin")
_CONTAINERS = ("iteration", "loop")
# Notes of the editor are stored like nodes.
_IGNORED_NODE_TYPES = ("", "custom-note", "note")
_SECTIONS = frozenset(
    (
        "app",
        "kind",
        "version",
        "dependencies",
        "workflow",
        "model_config",
        "agent",
        "agent_packages",
        "rag_pipeline",
    )
)
_EDITOR_FIELDS = frozenset(
    (
        "selected",
        "isInIteration",
        "isInLoop",
        "iteration_id",
        "loop_id",
        "isIterationStart",
        "isLoopStart",
        "width",
        "height",
    )
)
"""Fields of a node's data that only Dify's editor uses, or that are read elsewhere."""


class DslError(WorkflowError):
    """An app file is invalid. The message has one line per problem."""

    code = "invalid_app"

    def __init__(self, problems: "Sequence[Problem]") -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = list(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem in an app file and its position."""

    message: str
    file: str = ""
    line: int = 0
    node: str = ""
    field: str = ""
    is_without_mail: bool = False
    """Whether this is a problem only on a server that cannot send mail."""

    def __str__(self) -> str:
        line = f"Line {self.line}: " if self.line else ""
        if self.file:
            # A compiler's form, which editors turn into a link.
            line = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        node = f"Node {self.node!r}: " if self.node else ""
        field = f"{self.field}: " if self.field else ""
        return f"{line}{node}{field}{self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """Something that the app uses and that must exist for it to run."""

    kind: str
    """One of model, tool, dataset, strategy or plugin."""
    name: str
    node: str = ""


class AppMapping(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Substitutes for names in a file: foreign name to local name. `*` stands for all
    names that are not listed."""

    models: dict[str, str] = {}
    tools: dict[str, str] = {}
    datasets: dict[str, str] = {}
    agents: dict[str, str] = {}
    """Agent id in a file to the app of mode `agent` that replaces it."""


class StoredVariable(msgspec.Struct, kw_only=True):
    """An environment or conversation variable of an app."""

    name: str
    value: Any = None
    value_type: str = "string"
    id: str = ""
    description: str = ""


@dataclass(slots=True, kw_only=True)
class App:
    """A parsed app."""

    name: str
    mode: str
    version: str = ""
    kind: str = "app"
    description: str = ""
    icon: str = ""
    icon_type: str = "emoji"
    icon_background: str = ""
    features: dict[str, Any] = field(default_factory=dict[str, Any])
    environment: list[StoredVariable] = field(default_factory=list[StoredVariable])
    conversation: list[StoredVariable] = field(default_factory=list[StoredVariable])
    model_config: dict[str, Any] = field(default_factory=dict[str, Any])
    agent_package: AgentPackage | None = None
    """The agent of an app of mode `agent`; None for other apps."""
    dependencies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    levels: "Mapping[str, Level]" = field(default_factory=dict[str, "Level"])
    """Nodes and edges by container id; the empty id is the top level."""
    roots: list[str] = field(default_factory=list[str])
    warnings: list[Problem] = field(default_factory=list[Problem])
    mapping: AppMapping = field(default_factory=AppMapping)
    document: dict[str, Any] = field(default_factory=dict[str, Any])
    file: str = ""
    _graphs: dict[str, Graph] = field(default_factory=dict[str, Graph])

    def graph(self, root: str = "") -> Graph:
        """Return the graph that starts at a root node, by default the first. Raises
        WorkflowError."""
        if not self.roots:
            raise WorkflowError(
                f"App {self.name!r} has no start node, so it cannot run"
            )
        root = root or self.roots[0]
        if root not in self.roots:
            raise WorkflowError(
                f"App {self.name!r} has no start node {root!r};"
                f" {suggestion(root, self.roots, label='expected one of')}"
            )
        # An app may have several triggers; a graph is built for each on first use.
        if root not in self._graphs:
            self._graphs[root] = _graph_of("", root, self.levels)
        return self._graphs[root]

    @property
    def is_chat(self) -> bool:
        """Whether the app has conversations."""
        return self.mode in CHAT_MODES

    @property
    def nodes(self) -> list[Node]:
        """The nodes of all levels."""
        return [node for level in self.levels.values() for node in level.nodes.values()]

    def warnings_with(self, mail_problem: str) -> list[Problem]:
        """Return the warnings for a server. `mail_problem` says why it cannot send mail;
        empty if it can."""
        if not mail_problem:
            return [warning for warning in self.warnings if not warning.is_without_mail]
        return [_with_reason(warning, mail_problem) for warning in self.warnings]

    @property
    def has_secrets(self) -> bool:
        """Whether a secret environment variable has a value."""
        return any(
            variable.value_type == "secret" and variable.value
            for variable in self.environment
        )

    @property
    def missing_secrets(self) -> list[str]:
        """The names of the secret environment variables that have no value."""
        return [
            variable.name
            for variable in self.environment
            if variable.value_type == "secret" and not variable.value
        ]

    @property
    def requirements(self) -> list[Requirement]:
        """The models, tools, datasets and strategies the app uses, each once."""
        requirements: dict[tuple[str, str], Requirement] = {}
        for node in self.nodes:
            for requirement in _requirements_of(node):
                requirements.setdefault(
                    (requirement.kind, requirement.name), requirement
                )
        return list(requirements.values())


@dataclass(slots=True)
class Level:
    """The nodes and edges of one container, or of the top level."""

    nodes: dict[str, Node] = field(default_factory=dict[str, Node])
    edges: list[Edge] = field(default_factory=list[Edge])
    root: str = ""


# ----------------------------------------------------------------------------------------------
# Parsing


def load(path: str | Path, mapping: AppMapping | None = None) -> App:
    """Load an app file. Raises DslError, or OSError if the file cannot be read."""
    path = Path(path)
    with path.open("rb") as file:
        # One byte more than allowed, so that the size check detects larger files.
        data = file.read(MAX_BYTES + 1)
    return loads(data, name=path.name, mapping=mapping)


def loads(
    data: bytes | str, *, name: str = "", mapping: AppMapping | None = None
) -> App:
    """Parse the text of an app file.

    `name` is the file's name in messages; `mapping` holds substitutes for models, tools
    and datasets. Raises DslError with all problems found, each with its line if known.
    """
    text = _decode_utf8(data, name)
    document = parse_yaml(text, name)
    if not is_object(document):
        raise DslError(
            [
                Problem(
                    message="An app must be a YAML mapping with 'app' and 'workflow'",
                    file=name,
                    line=1,
                )
            ]
        )
    return _AppParser(text, document, name).parse(mapping or AppMapping())


def load_mapping(path: str | Path) -> AppMapping:
    """Load a mapping file. Raises DslError."""
    path = Path(path)
    try:
        return msgspec.convert(
            parse_yaml(path.read_text("utf-8"), path.name) or {}, AppMapping
        )
    except msgspec.ValidationError as error:
        raise DslError([Problem(message=str(error), file=path.name)]) from error


def _decode_utf8(data: bytes | str, name: str) -> str:
    """Return an app file's text, without a byte order mark.

    Raises DslError if it is larger than 10 MB or not UTF-8.
    """
    size = len(data)
    if size > MAX_BYTES:
        raise DslError(
            [
                Problem(
                    message=f"The file is larger than {MAX_BYTES >> 20} MB", file=name
                )
            ]
        )
    if isinstance(data, str):
        return data
    # Newer versions of Dify also export archives, with the app's file in them.
    if data.startswith(_ARCHIVE_MARK):
        raise DslError(
            [
                Problem(
                    message="The file is an archive; unpack it and import its app.yaml",
                    file=name,
                )
            ]
        )
    try:
        # Some editors write a byte order mark.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DslError(
            [Problem(message=f"The file is not UTF-8: {error}", file=name)]
        ) from error


_TAG = "tag:yaml.org,2002:"
_STR, _SEQ, _MAP = f"{_TAG}str", f"{_TAG}seq", f"{_TAG}map"
_SCALARS = frozenset(
    _TAG + type_name
    for type_name in ("null", "bool", "int", "float", "binary", "timestamp")
)
_SPECIAL_KEYS = frozenset((f"{_TAG}merge", f"{_TAG}value"))


class _Loader(FiniteLoader):
    """PyYAML's safe loader, with shortcuts for the most frequent values: plain strings,
    lists, and mappings with string keys."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """Return the tag of a scalar. Values whose first character cannot start a
        number or similar are strings."""
        # PyYAML tries its expressions for each value; most values can be excluded by
        # the first character.
        if kind is yaml.ScalarNode and (
            not implicit[0] or value[:1] not in self.yaml_implicit_resolvers
        ):
            return _STR
        # PyYAML's loaders have no types.
        return super().resolve(kind, value, implicit)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

    def construct_document(self, node: Any) -> Any:
        """Return the Python value of a document."""
        return self._value(node, {})

    def _value(self, node: Any, built_values: dict[int, Any]) -> Any:
        """Return the Python value of a node. `built_values` holds the lists and
        mappings by node: an alias refers to the same node."""
        tag = node.tag
        if type(node) is yaml.ScalarNode:
            return node.value if tag == _STR else self._scalar(node)
        if (built_value := built_values.get(id(node))) is not None:
            return built_value
        if tag == _SEQ and type(node) is yaml.SequenceNode:
            # Registered before the elements are built, so that a circular alias finds
            # it.
            items: list[Any] = []
            built_values[id(node)] = items
            items += [self._value(child, built_values) for child in node.value]
            return items
        if not self._is_plain_mapping(node):
            return self.construct_object(node, True)
        values: dict[Any, Any] = {}
        built_values[id(node)] = values
        for key, value in node.value:
            values[key.value if key.tag == _STR else self._value(key, built_values)] = (
                self._value(value, built_values)
            )
        return values

    def _scalar(self, node: Any) -> Any:
        """Return the value of a scalar that is not a string."""
        if node.tag in _SCALARS:
            return self.yaml_constructors[node.tag](self, node)
        return self.construct_object(node, True)

    def _is_plain_mapping(self, node: Any) -> bool:
        """Resolve the mapping's merge keys. Returns False if PyYAML must construct the
        node: it has a special tag, or a key for which PyYAML raises an error."""
        if node.tag != _MAP or type(node) is not yaml.MappingNode:
            return False
        # Merge keys (`<<`) are resolved by PyYAML.
        if any(key.tag in _SPECIAL_KEYS for key, _ in node.value):
            self.flatten_mapping(node)
        return all(type(key) is yaml.ScalarNode for key, _ in node.value)


_NESTED_LINE = re.compile(r"^(?:[ \t]*[-?:] ){12,}", re.MULTILINE)


def parse_yaml(text: str, name: str = "") -> Any:
    """Parse YAML into plain values. Raises DslError for invalid YAML, deep nesting, and
    excessive aliases."""
    try:
        # The checks below are cheap heuristics: only suspicious texts are scanned event
        # by event.
        is_large = (
            text.count("\n") + text.count(",") > _MAX_EVENTS
            or text.count("[") + text.count("{") > 3000
        )
        if (
            is_large
            or _NESTED_LINE.search(text)
            or re.search(r"^ {200}", text, re.MULTILINE)
        ):
            # The parser is recursive, and would overflow its stack.
            _check_depth(text, name)
        document = yaml.load(text, _Loader)  # noqa: S506
    except yaml.YAMLError as error:
        mark: Any = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 0
        problem = getattr(error, "problem", None) or str(error)
        raise DslError(
            [
                Problem(
                    message=f"Invalid YAML: {problem}",
                    file=name,
                    line=line,
                )
            ]
        ) from error
    except (ValueError, RecursionError) as error:
        raise DslError(
            [Problem(message=f"Invalid YAML: {error}", file=name)]
        ) from error
    # Without an alias the values cannot be larger than the text.
    if re.search(r"[\s\[,:-]\*[\w-]", text):
        _check_size(document, name)
    return document


def _check_depth(text: str, name: str) -> None:
    """Raise DslError if the text has too many values or too many levels."""
    depth = 0
    # Counted while parsing: aliases and deep nesting can make a small file enormous
    # before it is a document.
    for count, event in enumerate(_yaml.parse(text, _Loader)):
        if count > _MAX_EVENTS:
            raise DslError(
                [
                    Problem(
                        message=f"The file has more than {_MAX_EVENTS:,} values",
                        file=name,
                    )
                ]
            )
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                line = event.start_mark.line + 1
                raise DslError(
                    [
                        Problem(
                            message=f"Nested deeper than {_MAX_DEPTH} levels",
                            file=name,
                            line=line,
                        )
                    ]
                )
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            depth -= 1


def _check_size(document: Any, name: str) -> None:
    """Raise DslError if the document is too large with its aliases expanded."""
    count = 0
    # Explicit stack: the document may be deeper than Python's recursion limit, or
    # circular.
    todo: list[tuple[Any, int]] = [(document, 0)]
    while todo:
        value, depth = todo.pop()
        count += 1
        if count > _MAX_VALUES or depth > _MAX_DEPTH:
            raise DslError(
                [
                    Problem(
                        message=(
                            "The file's aliases are circular or expand to too many"
                            " values"
                        ),
                        file=name,
                    )
                ]
            )
        children: Iterable[Any] = ()
        if is_object(value):
            children = value.values()
        elif is_array(value):
            children = value
        todo += [(child, depth + 1) for child in children]


class _AppParser:
    """Parses one app document, collecting problems and warnings."""

    def __init__(self, text: str, document: dict[str, Any], name: str) -> None:
        self._text = text
        self._document = document
        self._name = name
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []
        self._tree: Any = None
        self._has_renamed_titles = False
        self._is_newer = False
        """Whether the file's version is newer than the newest one known here."""
        self._packages: dict[str, AgentPackage] = {}
        self._mapping = AppMapping()

    def parse(self, mapping: AppMapping) -> App:
        """Return the parsed app. Raises DslError with all problems found."""
        document = self._document
        self._mapping = mapping
        document_kind = document.get("kind")
        app_section = document.get("app")
        # Pipelines have their metadata under another key.
        if document_kind == "rag_pipeline" and not is_object(app_section):
            app_section = document.get("rag_pipeline")
        if not is_object(app_section):
            raise self._error("Missing section 'app' with the app's name and mode", ())
        version = document.get("version")
        # Old files have no mode; it is derived from the presence of a workflow.
        mode = str(
            app_section.get("mode")
            or ("workflow" if "workflow" in document else "chat")
        )
        if document_kind == "rag_pipeline":
            mode = "rag-pipeline"
        elif mode not in MODES:
            raise self._error(
                f"Unknown mode {mode!r}; expected one of {', '.join(MODES)}",
                ("app", "mode"),
            )
        app = App(
            name=str(app_section.get("name") or Path(self._name).stem or "app"),
            mode=mode,
            version=str(version) if version else "0.1.0",
            kind=document_kind if document_kind in ("app", "rag_pipeline") else "app",
            description=str(app_section.get("description") or ""),
            icon=str(app_section.get("icon") or ""),
            icon_type=str(app_section.get("icon_type") or "emoji"),
            icon_background=str(app_section.get("icon_background") or ""),
            dependencies=[
                dependency
                for dependency in self._list_in(document, "dependencies", ())
                if is_object(dependency)
            ],
            mapping=mapping,
            document=document,
            file=self._name,
        )
        self._check_version(app.version)
        self._packages = self._parse_packages()
        if mode in SIMPLE_MODES:
            self._parse_simple(app)
        elif mode == AGENT_MODE:
            self._parse_agent(app)
        else:
            self._parse_workflow(app)
        if self._problems:
            raise DslError(self._problems)
        app.warnings = self._warnings
        self._build_graphs(app)
        return app

    def _build_graphs(self, app: App) -> None:
        """Build the app's graphs once, so that errors in the edges are reported at
        import. Raises DslError."""
        for root in app.roots:
            try:
                app.graph(root)
            except WorkflowError as error:
                raise self._error(str(error), ("workflow", "graph", "edges")) from error

    def _check_version(self, version: str) -> None:
        """Warn if the file's format is newer than the supported one. Raises DslError
        for an invalid version."""
        try:
            is_newer = _is_newer_version(version)
        except ValueError:
            raise self._error(
                f"Invalid version {version!r}; expected a version like {VERSION!r}",
                ("version",),
            ) from None
        if is_newer:
            self._is_newer = True
            self._add_warning(
                f"Version {version} is newer than {VERSION}, the newest supported"
                " version",
                ("version",),
            )
            self._check_sections()

    def _check_sections(self) -> None:
        """Warn about the sections of a newer file that are not known here."""
        for name in self._document:
            if name not in _SECTIONS:
                self._add_warning(
                    f"The section {name!r} is unknown here and has no effect", (name,)
                )

    # Agents

    def _parse_packages(self) -> dict[str, AgentPackage]:
        """Return the file's agent packages by name. Invalid ones are recorded as
        problems, settings without effect as warnings."""
        raw_packages = self._document.get("agent_packages")
        packages: dict[str, AgentPackage] = {}
        for name, raw in raw_packages.items() if is_object(raw_packages) else ():
            path = ("agent_packages", name)
            try:
                package = _convert(raw if is_object(raw) else {}, AgentPackage)
            except msgspec.ValidationError as error:
                # msgspec states the path in its message alone.
                message, _, where = str(error).partition(" - at `$")
                steps = _path_steps(where.rstrip("`"))
                self._add_problem(f"Agent package {name!r}: {message}", (*path, *steps))
                continue
            packages[str(name)] = package
            for steps, message in package_warnings(package, raw):
                self._add_warning(
                    message,
                    (*path, *steps),
                    package.metadata.name,
                )
            for steps, message in mail_warnings(package):
                self._add_warning(
                    message,
                    (*path, *steps),
                    package.metadata.name,
                    is_without_mail=True,
                )
        return packages

    def _parse_agent(self, app: App) -> None:
        """Build the app of mode `agent`: the package that it names becomes a small
        graph. Raises DslError if the file has no such package."""
        name = package_ref_of(self._document)
        package = self._packages.get(name)
        # An invalid package is missing, too, but its problems say more than that.
        if self._problems:
            raise DslError(self._problems)
        if package is None:
            raise self._error(
                f"Missing agent package {name!r}, which an agent app requires"
                if name
                else "Missing section 'agent' with the 'package_ref' of an agent app",
                ("agent", "package_ref"),
            )
        app.agent_package = package
        app.features = features_of_agent_app(package)
        metadata = package.metadata
        app.description = app.description or metadata.description
        if metadata.name and not self._document["app"].get("name"):
            app.name = metadata.name
        nodes, edges = nodes_of_agent_app(package)
        self._build_levels(app, nodes, edges, ("agent",))
        for node in app.nodes:
            if isinstance(node.data, AgentJobData):
                node.data.package = package

    def _bind_agent(
        self, node: Node, raw_data: Mapping[str, Any], path: tuple[Any, ...]
    ) -> None:
        """Give an agent node of version 2 its package, and warn about what it lacks."""
        data = node.data
        if not isinstance(data, AgentJobData) or data.query:
            return
        binding = data.agent_binding
        if binding is not None and binding.package_ref:
            data.package = self._packages.get(binding.package_ref)
        # An operator can map the agent of another server to one of this server.
        is_mapped = binding is not None and binding.agent_id in self._mapping.agents
        if data.package is None and not is_mapped:
            self._add_warning(
                f"{describe_missing_agent(binding)}; without it the node fails",
                (*path, "data", "agent_binding"),
                node.title,
            )
        for steps, message in job_warnings(data.agent_job, raw_data):
            self._add_warning(
                message,
                (*path, "data", *steps),
                node.title,
            )

    # Apps with a prompt

    def _parse_simple(self, app: App) -> None:
        """Build the app of a simple mode: its prompt settings are converted into a
        small graph."""
        config = self._document.get("model_config")
        if not is_object(config):
            raise self._error(
                f"Missing section 'model_config', which a {app.mode} app requires", ()
            )
        app.model_config = config
        app.features = {
            name: config[name]
            for name in (
                "opening_statement",
                "suggested_questions",
                "suggested_questions_after_answer",
                "speech_to_text",
                "text_to_speech",
                "retriever_resource",
                "sensitive_word_avoidance",
                "file_upload",
                "more_like_this",
                "annotation_reply",
            )
            if config.get(name) is not None
        }
        # From here on, the app is a workflow like any other.
        nodes, edges = nodes_of_model_config(app.mode, config)
        self._build_levels(app, nodes, edges, ("model_config",))

    # Apps with a graph

    def _parse_workflow(self, app: App) -> None:
        """Read the section `workflow` into the app: features, variables and levels.

        A missing graph gives a warning only. Raises DslError if the section is missing
        or has too many nodes; other mistakes are collected as problems.
        """
        workflow = self._document.get("workflow")
        if not is_object(workflow):
            raise self._error(
                f"Missing section 'workflow', which a {app.mode} app requires", ()
            )
        features = workflow.get("features")
        app.features = dict(features) if is_object(features) else {}
        app.environment = self._parse_variables(workflow, "environment_variables")
        app.conversation = self._parse_variables(workflow, "conversation_variables")
        graph = workflow.get("graph")
        # An app without a graph can be imported, as a draft that is being edited.
        if not is_object(graph):
            self._add_warning(
                "The app has no graph ('workflow.graph' is missing), so it cannot run",
                ("workflow",),
            )
            return
        nodes = [
            raw_node
            for raw_node in self._list_in(graph, "nodes", ("workflow", "graph"))
            if is_object(raw_node)
        ]
        # The limit bounds the time of the later passes.
        if len(nodes) > MAX_NODES:
            raise self._error(
                f"The app has {len(nodes):,} nodes; the maximum is {MAX_NODES:,}",
                ("workflow", "graph", "nodes"),
            )
        edges = [
            raw_edge
            for raw_edge in self._list_in(graph, "edges", ("workflow", "graph"))
            if is_object(raw_edge)
        ]
        self._build_levels(
            app,
            nodes,
            edges,
            ("workflow", "graph", "nodes"),
        )

    def _list_in(
        self, section: Mapping[str, Any], name: str, path: tuple[Any, ...]
    ) -> list[Any]:
        """Return the list of a section, which is at `path`; empty if it is missing. A
        value of another type is recorded as a problem."""
        value = section.get(name)
        if is_array(value):
            return value
        # Editors write empty values in any form.
        if value:
            self._add_problem(f"{name!r} must be a list", (*path, name))
        return []

    def _parse_variables(
        self, workflow: Mapping[str, Any], name: str
    ) -> list[StoredVariable]:
        """Return the workflow's variables in the field `name`.

        Invalid ones are recorded as problems.
        """
        variables: list[StoredVariable] = []
        raw_variables = self._list_in(workflow, name, ("workflow",))
        for index, raw_variable in enumerate(raw_variables):
            try:
                variables.append(
                    msgspec.convert(
                        _without_nulls(raw_variable), StoredVariable, strict=False
                    )
                )
            except msgspec.ValidationError as error:
                self._add_problem(str(error), ("workflow", name, index))
        return variables

    def _build_levels(
        self,
        app: App,
        nodes: Sequence[Mapping[str, Any]],
        edges: Sequence[Mapping[str, Any]],
        path: tuple[Any, ...],
    ) -> None:
        """Build the levels from raw nodes and edges, and check references."""
        warnings_before = list(self._warnings)
        built_nodes = self._parse_nodes(nodes, path)
        levels = self._group_by_level(built_nodes, edges)
        app.levels = dict(levels)
        # Some generators reference nodes by title: replace titles by ids and build
        # again, once.
        if not self._has_renamed_titles and (titles := self._ids_by_title(app)):
            self._has_renamed_titles = True
            self._problems.clear()
            self._warnings = warnings_before
            self._build_levels(
                app,
                [_replace_titles(raw_node, titles) for raw_node in nodes],
                edges,
                path,
            )
            return
        top_nodes = levels[""].nodes
        root_ids = [node.id for node in top_nodes.values() if node.type in ROOTS]
        # A start node is the default root if there are triggers, too.
        app.roots = sorted(root_ids, key=lambda name: top_nodes[name].type != "start")
        if not app.roots and built_nodes:
            self._add_problem(
                "The app has no start node; expected a node of type"
                f" {', '.join(ROOTS)}",
                path,
            )
        self._check_selectors(app)
        self._check_schedules(top_nodes, nodes, path)

    def _group_by_level(
        self,
        built_nodes: Mapping[str, tuple[Node, Mapping[str, Any]]],
        edges: Sequence[Mapping[str, Any]],
    ) -> defaultdict[str, Level]:
        """Return the levels by container id, with their nodes, edges and roots."""
        levels: defaultdict[str, Level] = defaultdict(Level)
        level_of: dict[str, str] = {}
        # Containers may come after their content, so levels are assigned when all nodes
        # are known.
        for node, raw_node in built_nodes.values():
            level_of[node.id] = _container_of(raw_node, built_nodes)
            levels[level_of[node.id]].nodes[node.id] = node
        for edge in _parse_edges(edges, level_of):
            levels[level_of[edge.source]].edges.append(edge)
        for name, level in levels.items():
            if name:
                level.root = self._inner_root(built_nodes[name], level)
        return levels

    def _parse_nodes(
        self, nodes: Sequence[Mapping[str, Any]], path: tuple[Any, ...]
    ) -> dict[str, tuple[Node, Mapping[str, Any]]]:
        """Return the valid nodes by id, each with its raw form. Invalid and duplicate
        nodes are recorded as problems."""
        built_nodes: dict[str, tuple[Node, Mapping[str, Any]]] = {}
        for index, raw_node in enumerate(nodes):
            node = self._parse_node(raw_node, (*path, index))
            if node is None:
                continue
            # Two nodes with one id would share their variables.
            if node.id in built_nodes:
                self._add_problem(
                    f"Duplicate node id {node.id!r}",
                    (*path, index, "id"),
                    node.title,
                )
                continue
            built_nodes[node.id] = (node, raw_node)
        return built_nodes

    def _check_schedules(
        self,
        nodes_by_id: Mapping[str, Node],
        nodes: Sequence[Mapping[str, Any]],
        path: tuple[Any, ...],
    ) -> None:
        """Warn about schedules that never fire; the app can still be run manually."""
        for index, raw_node in enumerate(nodes):
            node = nodes_by_id.get(str(raw_node.get("id")))
            if node is not None and isinstance(node.data, ScheduleData):
                try:
                    schedule_of(node.data)
                except (ScheduleError, ConfigError) as error:
                    self._add_warning(
                        f"The schedule starts no runs: {error}",
                        (*path, index, "data"),
                        node.title,
                    )

    def _parse_node(self, raw: Mapping[str, Any], path: tuple[Any, ...]) -> Node | None:
        """Return the node, or None for notes and for invalid nodes, which are recorded
        as problems."""
        data = raw.get("data")
        if not is_object(data):
            data = {}
        node_type = str(data.get("type") or "")
        if raw.get("type") == "custom-note" or node_type in _IGNORED_NODE_TYPES:
            return None
        title = str(data.get("title") or raw.get("id") or "")
        if not raw.get("id"):
            self._add_problem("The node has no id", path, title)
            return None
        cls = node_class(node_type, _node_version(node_type, data))
        if cls is None and self._is_newer:
            self._add_warning(
                f"Nodes of the type {node_type!r} are unknown here: a run that reaches"
                " this node fails",
                (*path, "data", "type"),
                title,
            )
            cls = UnknownNode
        if cls is None:
            self._add_problem(
                f"Unknown node type {node_type!r};"
                f" {suggestion(node_type, node_types(), label='expected one of')}",
                (*path, "data", "type"),
                title,
            )
            return None
        try:
            converted = _convert(data, cls.Data)
        except msgspec.ValidationError as error:
            # msgspec appends the path of the invalid value to its message.
            message, _, where = str(error).partition(" - at `$")
            steps = [*_path_steps(where.rstrip("`"))]
            self._add_problem(
                message, (*path, "data", *steps), title, where.rstrip("`").lstrip(".")
            )
            return None
        except (TypeError, ValueError) as error:
            self._add_problem(
                str(error),
                (*path, "data"),
                title,
            )
            return None
        node = cls(str(raw["id"]), converted, raw)
        self._bind_agent(node, data, path)
        self._check_settings(node, data, path)
        return node

    def _check_settings(
        self, node: Node, data: Mapping[str, Any], path: tuple[Any, ...]
    ) -> None:
        """Warn about settings of a node that have no effect here; in a newer file also
        about the fields that are not known."""
        for message in node.warnings():
            self._add_warning(
                message,
                (*path, "data"),
                node.title,
            )
        for message in node.mail_warnings():
            self._add_warning(
                message,
                (*path, "data"),
                node.title,
                is_without_mail=True,
            )
        known = {field.encode_name for field in msgspec.structs.fields(node.data)}
        unknown = [
            str(name)
            for name in data
            if name not in known | _EDITOR_FIELDS and not str(name).startswith("_")
        ]
        # A node of an unknown type was reported as a whole.
        if unknown and self._is_newer and not isinstance(node, UnknownNode):
            self._add_warning(
                f"The fields {', '.join(unknown)} are unknown here and have no effect",
                (*path, "data", unknown[0]),
                node.title,
            )

    @staticmethod
    def _inner_root(container: tuple[Node, Mapping[str, Any]], level: Level) -> str:
        """Return the id of a container's first node: the declared one, a marked one, or
        one without incoming edges."""
        node = container[0]
        start_node_id = str(getattr(node.data, "start_node_id", "") or "")
        if start_node_id in level.nodes:
            return start_node_id
        for inner_node in level.nodes.values():
            data: dict[str, Any] = inner_node.raw.get("data") or {}
            if (
                inner_node.type in ("iteration-start", "loop-start")
                or data.get("isIterationStart")
                or data.get("isLoopStart")
            ):
                return inner_node.id
        targets = {edge.target for edge in level.edges}
        return next((name for name in level.nodes if name not in targets), "")

    def _ids_by_title(self, app: App) -> dict[str, str]:
        """Return title to id for nodes that selectors reference by title, as generated
        files do. Ambiguous titles are left out."""
        node_ids = {node.id for node in app.nodes}
        by_title: dict[str, list[str]] = defaultdict(list)
        for node in app.nodes:
            by_title[node.title.casefold()].append(node.id)
            # Generators also use the type of the start node as its name.
            if node.kind is NodeKind.ROOT and node.title.casefold() != node.type:
                by_title[node.type].append(node.id)
        # A title may have characters that an id cannot have, so that the nodes do not
        # see references to it in their templates.
        in_templates = {
            name for node in app.nodes for name in _names_in_templates(node.raw)
        }
        in_selectors = {
            selector[0] for node in app.nodes for selector in node.references()
        }
        referenced_names = (in_templates | in_selectors) - node_ids - NAMESPACES
        return {
            name: by_title[name.casefold()][0]
            for name in referenced_names
            if len(by_title.get(name.casefold(), ())) == 1
        }

    def _check_selectors(self, app: App) -> None:
        """Warn about selectors of missing nodes. Templates leave such references
        unchanged, so this is no error."""
        nodes_by_id = {node.id: node for node in app.nodes}
        for node in app.nodes:
            for selector in node.references():
                if (
                    selector[0] in NAMESPACES
                    or selector[0] in nodes_by_id
                    or selector[0].startswith("$")
                ):
                    continue
                self._warnings.append(
                    Problem(
                        message=(
                            f"Selector {'.'.join(selector)!r} refers to the unknown"
                            f" node {selector[0]!r}"
                        ),
                        file=self._name,
                        node=node.title,
                    )
                )

    # Problems

    def _add_problem(
        self, message: str, path: tuple[Any, ...], node: str = "", where: str = ""
    ) -> None:
        """Record a problem that prevents the import.

        `path` leads to the place in the document and gives the line; `node` is a node's
        title, `where` the field in it.
        """
        self._problems.append(
            Problem(
                message=message,
                file=self._name,
                line=self._line_number(path),
                node=node,
                field=where,
            )
        )

    def _add_warning(
        self,
        message: str,
        path: tuple[Any, ...],
        node: str = "",
        *,
        is_without_mail: bool = False,
    ) -> None:
        """Record a warning; the app can be imported nevertheless."""
        self._warnings.append(
            Problem(
                message=message,
                file=self._name,
                line=self._line_number(path),
                node=node,
                is_without_mail=is_without_mail,
            )
        )

    def _error(self, message: str, path: tuple[Any, ...]) -> DslError:
        """Return an error with all problems so far and one more, which ends parsing."""
        return DslError(
            [
                *self._problems,
                Problem(
                    message=message,
                    file=self._name,
                    line=self._line_number(path),
                ),
            ]
        )

    def _line_number(self, path: tuple[Any, ...]) -> int:
        """Return the line of a path in the file; 0 if unknown. The text is parsed for
        positions on the first call."""
        if self._tree is None:
            self._tree = _yaml.compose(self._text, _Loader)
        yaml_node: Any = self._tree
        # Follow the path as far as it exists, so that a missing field gets the line of
        # its parent.
        for step in path:
            child_node = _yaml_child(yaml_node, step)
            if child_node is None:
                break
            yaml_node = child_node
        return yaml_node.start_mark.line + 1 if yaml_node is not None else 0


# ----------------------------------------------------------------------------------------------
# Helpers


def _parse_edges(
    raw_edges: Sequence[Mapping[str, Any]], level_of: Mapping[str, str]
) -> Iterable[Edge]:
    """Yield the edges between nodes of one level, each once. `level_of` is the level of
    each node by its id."""
    seen_edges: set[Edge] = set()
    for raw_edge in raw_edges:
        edge = _parse_edge(raw_edge)
        # Editors leave edges of deleted nodes behind; they are ignored.
        if edge.source not in level_of or edge.target not in level_of:
            continue
        if level_of[edge.source] == level_of[edge.target] and edge not in seen_edges:
            seen_edges.add(edge)
            yield edge


def _parse_edge(raw_edge: Mapping[str, Any]) -> Edge:
    """Return an edge from its raw form; without a handle it is the ordinary output."""
    handle = raw_edge.get("sourceHandle")
    # Dify itself writes this handle in both ways.
    if handle == "__timeout__":
        handle = "__timeout"
    return Edge(
        source=str(raw_edge.get("source") or ""),
        target=str(raw_edge.get("target") or ""),
        handle=_to_text(SOURCE if handle in (None, "") else handle),
    )


def _yaml_child(yaml_node: Any, step: Any) -> Any:
    """Return the node of a mapping's key or of a list's index; None if it does not
    exist."""
    if isinstance(yaml_node, yaml.MappingNode):
        return next(
            (value for key, value in yaml_node.value if key.value == str(step)), None
        )
    if (
        isinstance(yaml_node, yaml.SequenceNode)
        and isinstance(step, int)
        and step < len(yaml_node.value)
    ):
        return yaml_node.value[step]
    return None


def _container_of(raw: Mapping[str, Any], built_nodes: Mapping[str, Any]) -> str:
    """Return the id of the container that a raw node is in; empty for the top level."""
    data: dict[str, Any] = raw.get("data") or {}
    parent = str(raw.get("parentId") or "")
    container_ids = [str(data.get(name) or "") for name in ("loop_id", "iteration_id")]
    # After copying, some editors leave an outdated id in one of the three fields:
    # agreement of two wins.
    choices = (
        [parent, *container_ids]
        if parent in container_ids
        else [*container_ids, parent]
    )
    return next(
        (
            candidate
            for candidate in choices
            if candidate in built_nodes
            and built_nodes[candidate][0].kind is NodeKind.CONTAINER
        ),
        "",
    )


def _graph_of(container: str, root: str, levels: Mapping[str, Level]) -> Graph:
    """Build the graph of a level, with the graphs of its containers. Raises
    WorkflowError for an empty container."""
    level = levels[container]
    children: dict[str, Graph] = {}
    for name, node in level.nodes.items():
        if node.kind is NodeKind.CONTAINER:
            if name not in levels or not levels[name].root:
                raise WorkflowError(
                    f"{node.type.capitalize()} {node.title!r} contains no nodes to run"
                )
            children[name] = node.graph = _graph_of(name, levels[name].root, levels)
    return Graph(
        root=root,
        nodes=level.nodes,
        edges=tuple(level.edges),
        children=children,
    )


def _names_in_templates(value: Any) -> Iterator[str]:
    """Yield what stands before the first full stop of each reference in the texts of a
    node."""
    if isinstance(value, str):
        for match in _REFERENCED_NAME.finditer(value):
            yield match[1]
    elif is_object(value):
        for member in value.values():
            yield from _names_in_templates(member)
    elif is_array(value):
        for element in value:
            yield from _names_in_templates(element)


def _replace_titles(value: Any, names: Mapping[str, str]) -> Any:
    """Replace node titles by ids in a node's selectors and templates."""
    if isinstance(value, str):
        return _replace_titles_in_template(value, names)
    if is_object(value):
        return {key: _replace_titles(member, names) for key, member in value.items()}
    if not is_array(value):
        return value
    # A list of strings may be a selector; its first element is then the node.
    if len(value) > 1 and all(isinstance(element, str) for element in value):
        return [names.get(value[0], value[0]), *value[1:]]
    return [_replace_titles(element, names) for element in value]


def _replace_titles_in_template(template: str, names: Mapping[str, str]) -> str:
    """Replace node titles by ids in the selectors of a template."""
    for title, node_id in names.items():
        template = template.replace("{{#" + title + ".", "{{#" + node_id + ".")
    return template


def _without_nulls(value: Any) -> Any:
    """Remove members that are null: they mean the same as missing ones."""
    if is_object(value):
        return {
            str(key): _without_nulls(member)
            for key, member in value.items()
            if member is not None
        }
    if is_array(value):
        return [_without_nulls(element) for element in value]
    return value


_REFERENCED_NAME = re.compile(r"\{\{#([^{}#.]{1,200})\.")
_PATH_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")


def _path_steps(path: str) -> Iterable[Any]:
    """Yield the steps of a msgspec error path, as `.cases[0].conditions`. A wildcard
    becomes "..."."""
    for match in _PATH_STEP.finditer(path):
        if match[1] is not None:
            yield match[1]
        elif match[2] is not None:
            yield int(match[2])
        else:
            yield "..."


def _node_version(node_type: str, data: Mapping[str, Any]) -> str:
    """Return the version of a node's type; for agents, which tell it otherwise, "2" for
    those that run a package."""
    if node_type == "agent":
        return "2" if is_agent_job(data) else "1"
    return str(data.get("version") or "1")


def _convert(data: Mapping[str, Any], data_type: type[Any]) -> Any:
    """Convert a node's data. Files of old editors contain numbers in place of texts, or
    empty texts in place of lists.

    Raises msgspec.ValidationError if the data cannot be corrected.
    """
    tidy = _without_nulls(data)
    # Each pass corrects the value that msgspec complains about first.
    for _ in range(200):
        try:
            return _check_finite(msgspec.convert(tidy, data_type, strict=False))
        except msgspec.ValidationError as error:
            if not _coerce(tidy, str(error)):
                raise
    return _check_finite(msgspec.convert(tidy, data_type, strict=False))


def _check_finite(data: Any) -> Any:
    """Return the data. Raises msgspec.ValidationError if it contains NaN or infinity,
    which texts can be converted to."""
    check_numbers(data, is_signed=True)
    return data


def _coerce(data: Any, error: str) -> bool:
    """Correct the value that a validation error names, in place. Returns False if that
    is not possible."""
    message, _, path = error.partition(" - at `$")
    steps = list(_path_steps(path.rstrip("`")))
    # A wildcard names no single value.
    if not steps or "..." in steps:
        return False
    container = data
    try:
        for step in steps[:-1]:
            container = container[step]
        last = steps[-1]
        value = container[last]
    except (KeyError, IndexError, TypeError):
        return False
    corrected = _coerce_by_type(message, value, container)
    if corrected is None:
        return False
    if corrected is _Correction.REMOVE_MEMBER:
        del container[last]
    elif corrected is not _Correction.DONE:
        container[last] = corrected
    return True


class _Correction(Enum):
    """Results of `_coerce_by_type` that are not a new value."""

    REMOVE_MEMBER = auto()
    """The member is to be removed from its container."""
    DONE = auto()
    """The container was corrected in place."""


def _coerce_by_type(message: str, value: Any, container: Any) -> Any:
    """Return the value in the expected type, or a `_Correction` of its container; None
    if it cannot be derived. `message` is msgspec's."""
    if message.startswith("Expected `str") and isinstance(value, int | float):
        return _to_text(value)
    if (correction := _correct_container(value, container)) is not None:
        return correction
    if "got `object`" in message and _is_object_of_objects(value):
        # An object of named objects in place of a list.
        return [{"name": name, **fields} for name, fields in value.items()]
    if "got `array`" in message and _is_list_of_objects(value):
        # Outputs of a code node as a list, as some generators write them; they cannot
        # be interpreted.
        return {}
    return None


def _correct_container(value: Any, container: Any) -> _Correction | None:
    """Correct an empty member, or a selector within another list; None for other
    values."""
    if value in ("", [], {}) and is_object(container):
        return _Correction.REMOVE_MEMBER
    if is_array(value) and is_array(container) and len(container) == 1:
        container[:] = [str(part) for part in value]
        return _Correction.DONE
    return None


def _is_object_of_objects(value: Any) -> bool:
    """Return whether a value is an object whose members are objects."""
    return is_object(value) and all(is_object(member) for member in value.values())


def _is_list_of_objects(value: Any) -> bool:
    """Return whether a value is a list of objects."""
    return is_array(value) and all(is_object(element) for element in value)


def _to_text(value: Any) -> str:
    """Return a text that YAML may have parsed as a number or boolean."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _requirements_of(node: Node) -> Iterable[Requirement]:
    """Yield the requirements of a node."""
    data = node.data
    for name in _models_of(data):
        yield Requirement(
            kind="model",
            # A name without a provider starts with a slash.
            name=name.lstrip("/"),
            node=node.title,
        )
    for dataset in getattr(data, "dataset_ids", ()) or ():
        yield Requirement(kind="dataset", name=dataset, node=node.title)
    if node.type == "tool":
        yield Requirement(
            kind="tool",
            name=f"{data.provider}/{data.tool_name}",
            node=node.title,
        )
    if isinstance(data, AgentJobData):
        if data.package is not None:
            for kind, name in requirements_of_package(data.package):
                yield Requirement(kind=kind, name=name, node=node.title)
    elif node.type == "agent":
        yield from _requirements_of_agent(node)


def _models_of(data: Any) -> Iterator[str]:
    """Yield the models of a node's data as `provider/name`."""
    model = getattr(data, "model", None)
    if model is not None and getattr(model, "name", ""):
        yield f"{model.provider}/{model.name}"
    for model_value in _retrieval_models(data):
        yield f"{model_value.get('provider') or ''}/{model_value['name']}"


def _retrieval_models(data: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the models that choose a dataset or a filter for a knowledge retrieval
    node."""
    if not isinstance(data, RetrievalData):
        return
    single: Any = (data.single_retrieval_config or EMPTY_OBJECT).get("model")
    choices = (
        (data.retrieval_mode == "single", single),
        (data.metadata_filtering_mode == "automatic", data.metadata_model_config),
    )
    for is_used, model_value in choices:
        if is_used and is_mapping(model_value) and model_value.get("name"):
            yield model_value


def _requirements_of_agent(node: Node) -> Iterable[Requirement]:
    """Yield the requirements of an agent node of version 1."""
    data = node.data
    # Without a provider the strategy is built in.
    if data.agent_strategy_provider_name:
        name = f"{data.agent_strategy_provider_name}/{data.agent_strategy_name}"
        yield Requirement(kind="strategy", name=name, node=node.title)
    for kind, name in requirements_of_parameters(data.agent_parameters):
        yield Requirement(kind=kind, name=name, node=node.title)


# ----------------------------------------------------------------------------------------------
# Writing


def dump(app: App, *, with_secrets: bool = False) -> str:
    """Return the app as YAML: the imported document, with the format version that its
    content needs.

    Values of secret environment variables are empty unless `with_secrets` is set.
    Fields that are unknown here are preserved.
    """
    document = {
        **app.document,
        "kind": app.kind,
        "version": _written_version(app),
    }
    workflow = document.get("workflow")
    if is_object(workflow) and not with_secrets:
        variables: list[Any] = [
            # Secret values are exported only on request.
            (
                {**variable, "value": ""}
                if is_object(variable) and variable.get("value_type") == "secret"
                else variable
            )
            for variable in workflow.get("environment_variables") or ()
        ]
        document["workflow"] = {**workflow, "environment_variables": variables}
    return yaml.dump(
        document,
        Dumper=_Dumper,
        allow_unicode=True,
        sort_keys=False,
    )


def dump_with_environment(app: App, values: Mapping[str, Any]) -> str:
    """Return the imported document as YAML with other values of some environment
    variables."""
    workflow: Any = app.document.get("workflow") or {}
    variables = [
        {**variable, "value": values[variable["name"]]}
        if is_object(variable) and variable.get("name") in values
        else variable
        for variable in workflow.get("environment_variables") or ()
    ]
    document = {
        **app.document,
        "workflow": {**workflow, "environment_variables": variables},
    }
    return yaml.dump(
        document,
        Dumper=_Dumper,
        allow_unicode=True,
        sort_keys=False,
    )


def _written_version(app: App) -> str:
    """Return the format version of an exported file: the one that its content needs, or
    its own if that is newer, since the content may be of that version."""
    if app.kind != "app":
        return app.version
    has_agents = app.mode == AGENT_MODE or any(
        isinstance(node.data, AgentJobData) for node in app.nodes
    )
    needed = VERSION if has_agents else _VERSION_WITHOUT_AGENTS
    return max(app.version, needed, key=_major_and_minor)


def _is_newer_version(version: str) -> bool:
    """Return whether a valid version is newer than the newest one known here."""
    return _major_and_minor(version) > _major_and_minor(VERSION)


def _major_and_minor(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version. Raises ValueError."""
    return tuple(int(part) for part in version.split(".")[:2])


class _Dumper(yaml.SafeDumper):
    """A YAML writer without aliases, which other tools may not support."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return True: repeated values are written out."""
        return True


def _with_reason(warning: Problem, mail_problem: str) -> Problem:
    """Return a warning that also says why mails cannot be sent, if it is about mails."""
    if not warning.is_without_mail:
        return warning
    return replace(warning, message=f"{warning.message}. {mail_problem}")
