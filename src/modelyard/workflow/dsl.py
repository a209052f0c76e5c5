"""Exported apps: YAML in, `App` out. Every version from none to 0.6.0; what editors write beyond it is left alone.

Errors name the file, the line, the node and the field. What an app needs and is not here (a tool, a dataset, a model)
is no error: the app imports, `App.needs` lists it, and a mapping says what stands in.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml

from modelyard.base.errors import ConfigError, suggestion
from modelyard.base.numbers import FiniteLoader, check_numbers
from modelyard.workflow.graph import SOURCE, Edge, Graph
from modelyard.workflow.node import Node, NodeKind
from modelyard.workflow.nodes import node_class, node_types
from modelyard.workflow.nodes.trigger import ScheduleData
from modelyard.workflow.schedule import ScheduleError, schedule_of
from modelyard.workflow.simple_apps import nodes_of_model_config
from modelyard.workflow.variables import PSEUDO, WorkflowError

VERSION = "0.6.0"
MOST_BYTES = 10 * 1024 * 1024
MOST_NODES = 5_000
_MOST_DEPTH = 120
_MOST_VALUES = 2_000_000
_MOST_EVENTS = 200_000
"""Of the parser: one a value, and the end of each list and object."""
WORKFLOW_MODES = ("workflow", "advanced-chat")
SIMPLE_MODES = ("chat", "completion", "agent-chat")
ROOTS = ("start", "datasource", "trigger-webhook", "trigger-schedule", "trigger-plugin")
_CONTAINERS = ("iteration", "loop")
_INERT = ("", "custom-note", "note")


class DslError(WorkflowError):
    """An app's file says what cannot be. One line a problem."""

    code = "invalid_app"

    def __init__(self, problems: "Sequence[Problem]") -> None:
        super().__init__("\n".join(str(one) for one in problems))
        self.problems = list(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    message: str
    file: str = ""
    line: int = 0
    node: str = ""
    field: str = ""

    def __str__(self) -> str:
        line = f"line {self.line}: " if self.line else ""
        where = f"{self.file}{f':{self.line}' if self.line else ''}: " if self.file else line
        node = f"node {self.node!r}: " if self.node else ""
        return f"{where}{node}{f'{self.field}: ' if self.field else ''}{self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Something that the app uses and that has to be here for it to run."""

    kind: str
    """model, tool, dataset, strategy or plugin."""
    name: str
    node: str = ""


class AppMapping(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What stands in for what a file names: foreign name → ours. `*` is for all that is not named."""

    models: dict[str, str] = {}
    tools: dict[str, str] = {}
    datasets: dict[str, str] = {}


class StoredVariable(msgspec.Struct, kw_only=True):
    """An environment or conversation variable."""

    name: str
    value: Any = None
    value_type: str = "string"
    id: str = ""
    description: str = ""


@dataclass(slots=True, kw_only=True)
class App:
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
    dependencies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    levels: "Mapping[str, Level]" = field(default_factory=dict[str, "Level"])
    """Container's id → what stands in it; the empty name is the app's own level."""
    roots: list[str] = field(default_factory=list[str])
    warnings: list[Problem] = field(default_factory=list[Problem])
    mapping: AppMapping = field(default_factory=AppMapping)
    document: dict[str, Any] = field(default_factory=dict[str, Any])
    file: str = ""
    _graphs: dict[str, Graph] = field(default_factory=dict[str, Graph])

    def graph(self, root: str = "") -> Graph:
        """The graph from a root: the one that is there, or the one that fired. Raises WorkflowError."""
        if not self.roots:
            raise WorkflowError(f"app {self.name!r} has no start node: there is nothing to run")
        root = root or self.roots[0]
        if root not in self.roots:
            raise WorkflowError(f"{root!r} does not start app {self.name!r}; {suggestion(root, self.roots)}")
        if root not in self._graphs:
            self._graphs[root] = _graph_of("", root, self.levels)
        return self._graphs[root]

    @property
    def is_chat(self) -> bool:
        return self.mode in ("advanced-chat", "chat", "agent-chat")

    @property
    def nodes(self) -> list[Node]:
        """Of all levels."""
        return [node for level in self.levels.values() for node in level.nodes.values()]

    @property
    def needs(self) -> list[Need]:
        found: dict[tuple[str, str], Need] = {}
        for node in self.nodes:
            for need in _needs_of(node):
                found.setdefault((need.kind, need.name), need)
        return list(found.values())


@dataclass(slots=True)
class Level:
    nodes: dict[str, Node] = field(default_factory=dict[str, Node])
    edges: list[Edge] = field(default_factory=list[Edge])
    root: str = ""


# ---------------------------------------------------------------------------------------------- reading


def load(path: str | Path, mapping: AppMapping | None = None) -> App:
    """Raises DslError; OSError where the file cannot be read."""
    path = Path(path)
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    return loads(data, name=path.name, mapping=mapping)


def loads(data: bytes | str, *, name: str = "", mapping: AppMapping | None = None) -> App:
    """Raises DslError."""
    text = _decoded(data, name)
    document = parse_yaml(text, name)
    if not isinstance(document, dict):
        raise DslError([Problem(message="an app must be a YAML mapping with 'app' and 'workflow'", file=name, line=1)])
    return _Reader(text, document, name).app(mapping or AppMapping())


def load_mapping(path: str | Path) -> AppMapping:
    """Raises DslError."""
    path = Path(path)
    try:
        return msgspec.convert(parse_yaml(path.read_text("utf-8"), path.name) or {}, AppMapping)
    except msgspec.ValidationError as error:
        raise DslError([Problem(message=str(error), file=path.name)]) from error


def _decoded(data: bytes | str, name: str) -> str:
    size = len(data)
    if size > MOST_BYTES:
        raise DslError([Problem(message=f"the file is larger than {MOST_BYTES >> 20} MB", file=name)])
    if isinstance(data, str):
        return data
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DslError([Problem(message=f"the file is not UTF-8: {error}", file=name)]) from error


_TAG = "tag:yaml.org,2002:"
_STR, _SEQ, _MAP = f"{_TAG}str", f"{_TAG}seq", f"{_TAG}map"
_SCALARS = frozenset(_TAG + one for one in ("null", "bool", "int", "float", "binary", "timestamp"))
_SPECIAL_KEYS = frozenset((f"{_TAG}merge", f"{_TAG}value"))


class _Loader(FiniteLoader):
    """PyYAML's safe loader, with short ways for what files are made of: plain texts, lists, mappings by texts."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode and (not implicit[0] or value[:1] not in self.yaml_implicit_resolvers):
            return _STR
        return super().resolve(kind, value, implicit)

    def construct_document(self, node: Any) -> Any:
        return self._value(node, {})

    def _value(self, node: Any, known: dict[int, Any]) -> Any:
        """`known` are the lists and mappings so far, by their nodes: an alias is its node again."""
        tag = node.tag
        if type(node) is yaml.ScalarNode:
            if tag == _STR:
                return node.value
            return self.yaml_constructors[tag](self, node) if tag in _SCALARS else self.construct_object(node, True)
        if (found := known.get(id(node))) is not None:
            return found
        if tag == _SEQ and type(node) is yaml.SequenceNode:
            items: list[Any] = []
            known[id(node)] = items
            items += [self._value(one, known) for one in node.value]
            return items
        if tag != _MAP or type(node) is not yaml.MappingNode:
            return self.construct_object(node, True)
        if any(key.tag in _SPECIAL_KEYS for key, _ in node.value):
            self.flatten_mapping(node)
        if not all(type(key) is yaml.ScalarNode for key, _ in node.value):
            return self.construct_object(node, True)  # which says that such a key cannot be
        values: dict[Any, Any] = {}
        known[id(node)] = values
        for key, value in node.value:
            values[key.value if key.tag == _STR else self._value(key, known)] = self._value(value, known)
        return values


_NESTS = re.compile(r"^(?:[ \t]*[-?:] ){12,}", re.MULTILINE)


def parse_yaml(text: str, name: str = "") -> Any:
    """Plain values. Raises DslError for what is no YAML, goes too deep, or blows up by its aliases."""
    try:
        is_large = text.count("\n") + text.count(",") > _MOST_EVENTS or text.count("[") + text.count("{") > 3000
        if is_large or _NESTS.search(text) or re.search(r"^ {200}", text, re.MULTILINE):
            _check_depth(text, name)  # the parser itself would overrun its stack
        document = yaml.load(text, _Loader)  # noqa: S506  the safe one
    except yaml.YAMLError as error:
        mark: Any = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 0
        problem = getattr(error, "problem", None) or str(error)
        raise DslError(
            [Problem(message=f"this is no YAML that can be read: {problem}", file=name, line=line)]
        ) from error
    except (ValueError, RecursionError) as error:
        raise DslError([Problem(message=f"this is no YAML that can be read: {error}", file=name)]) from error
    if re.search(r"[\s\[,:-]\*[\w-]", text):
        _check_size(document, name)
    return document


def _check_depth(text: str, name: str) -> None:
    depth = 0
    for count, event in enumerate(yaml.parse(text, _Loader)):
        if count > _MOST_EVENTS:
            raise DslError([Problem(message=f"it has more than {_MOST_EVENTS:,} values", file=name)])
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            depth += 1
            if depth > _MOST_DEPTH:
                line = event.start_mark.line + 1
                raise DslError(
                    [Problem(message=f"it is nested deeper than {_MOST_DEPTH} levels", file=name, line=line)]
                )
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            depth -= 1


def _check_size(document: Any, name: str) -> None:
    """With its aliases written out."""
    count = 0
    todo: list[tuple[Any, int]] = [(document, 0)]
    while todo:
        value, depth = todo.pop()
        count += 1
        if count > _MOST_VALUES or depth > _MOST_DEPTH:
            raise DslError([Problem(message="its aliases make it too large, or go round in a circle", file=name)])
        if isinstance(value, dict):
            todo += [(one, depth + 1) for one in value.values()]
        elif isinstance(value, list):
            todo += [(one, depth + 1) for one in value]


class _Reader:
    def __init__(self, text: str, document: dict[str, Any], name: str) -> None:
        self._text = text
        self._document = document
        self._name = name
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []
        self._tree: Any = None
        self._is_renamed = False

    def app(self, mapping: AppMapping) -> App:
        document = self._document
        kind = document.get("kind")
        about = document.get("app")
        if kind == "rag_pipeline" and not isinstance(about, dict):
            about = document.get("rag_pipeline")
        if not isinstance(about, dict):
            raise self._wrong("'app' is missing: it holds the name and the mode", ())
        version = document.get("version")
        mode = str(about.get("mode") or ("workflow" if "workflow" in document else "chat"))
        if kind == "rag_pipeline":
            mode = "rag-pipeline"
        elif mode not in (*WORKFLOW_MODES, *SIMPLE_MODES):
            raise self._wrong(
                f"mode {mode!r} is not known; it is {', '.join((*WORKFLOW_MODES, *SIMPLE_MODES))}", ("app", "mode")
            )
        app = App(
            name=str(about.get("name") or Path(self._name).stem or "app"),
            mode=mode,
            version=str(version) if version else "0.1.0",
            kind=kind if kind in ("app", "rag_pipeline") else "app",
            description=str(about.get("description") or ""),
            icon=str(about.get("icon") or ""),
            icon_type=str(about.get("icon_type") or "emoji"),
            icon_background=str(about.get("icon_background") or ""),
            dependencies=[one for one in document.get("dependencies") or () if isinstance(one, dict)],
            mapping=mapping,
            document=document,
            file=self._name,
        )
        self._check_version(app.version)
        if mode in SIMPLE_MODES:
            self._simple(app)
        else:
            self._workflow(app)
        if self._problems:
            raise DslError(self._problems)
        app.warnings = self._warnings
        for root in app.roots:
            try:
                app.graph(root)
            except WorkflowError as error:
                raise self._wrong(str(error), ("workflow", "graph", "edges")) from error
        return app

    def _check_version(self, version: str) -> None:
        try:
            theirs = tuple(int(part) for part in version.split(".")[:2])
        except ValueError:
            raise self._wrong(f"version {version!r} is none; it should be like {VERSION!r}", ("version",)) from None
        if theirs > tuple(int(part) for part in VERSION.split(".")[:2]):
            self._warn(f"version {version} is newer than {VERSION}, which is the newest known here", ("version",))

    # apps with a prompt

    def _simple(self, app: App) -> None:
        config = self._document.get("model_config")
        if not isinstance(config, dict):
            raise self._wrong(f"a {app.mode} app needs 'model_config'", ())
        app.model_config = config
        app.features = {
            name: config[name]
            for name in (
                "opening_statement", "suggested_questions", "suggested_questions_after_answer", "speech_to_text",
                "text_to_speech", "retriever_resource", "sensitive_word_avoidance", "file_upload", "more_like_this",
                "annotation_reply",
            )
            if config.get(name) is not None
        }  # fmt: skip
        nodes, edges = nodes_of_model_config(app.mode, config)
        self._build(app, nodes, edges, ("model_config",))

    # apps with a graph

    def _workflow(self, app: App) -> None:
        workflow = self._document.get("workflow")
        if not isinstance(workflow, dict):
            raise self._wrong(f"a {app.mode} app needs 'workflow'", ())
        app.features = dict(workflow.get("features") or {})
        app.environment = self._variables(workflow, "environment_variables")
        app.conversation = self._variables(workflow, "conversation_variables")
        graph = workflow.get("graph")
        if not isinstance(graph, dict):
            self._warn("it has no graph ('workflow.graph' is missing): there is nothing to run", ("workflow",))
            return
        nodes = [one for one in graph.get("nodes") or () if isinstance(one, dict)]
        if len(nodes) > MOST_NODES:
            raise self._wrong(
                f"it has {len(nodes):,} nodes; {MOST_NODES:,} are allowed", ("workflow", "graph", "nodes")
            )
        edges = [one for one in graph.get("edges") or () if isinstance(one, dict)]
        self._build(app, nodes, edges, ("workflow", "graph", "nodes"))

    def _variables(self, workflow: Mapping[str, Any], name: str) -> list[StoredVariable]:
        found: list[StoredVariable] = []
        for place, one in enumerate(workflow.get(name) or ()):
            try:
                found.append(msgspec.convert(_without_nulls(one), StoredVariable, strict=False))
            except msgspec.ValidationError as error:
                self._problem(str(error), ("workflow", name, place))
        return found

    def _build(
        self, app: App, nodes: Sequence[Mapping[str, Any]], edges: Sequence[Mapping[str, Any]], path: tuple[Any, ...]
    ) -> None:
        levels: dict[str, Level] = defaultdict(Level)
        level_of: dict[str, str] = {}
        made: dict[str, tuple[Node, Mapping[str, Any]]] = {}
        for place, one in enumerate(nodes):
            node = self._node(one, (*path, place))
            if node is None:
                continue
            if node.id in made:
                self._problem(f"id {node.id!r} is there twice", (*path, place, "id"), node.title)
                continue
            made[node.id] = (node, one)
        for node, one in made.values():
            level_of[node.id] = _container_of(one, made)
            levels[level_of[node.id]].nodes[node.id] = node
        seen: set[tuple[str, str, str]] = set()
        for one in edges:
            source, target = str(one.get("source") or ""), str(one.get("target") or "")
            handle = _word(SOURCE if one.get("sourceHandle") in (None, "") else one["sourceHandle"])
            if source not in made or target not in made or level_of[source] != level_of[target]:
                continue
            if (source, target, handle) not in seen:
                seen.add((source, target, handle))
                levels[level_of[source]].edges.append(Edge(source, target, handle))
        for name, level in levels.items():
            if name:
                level.root = self._inner_root(made[name], level)
        app.levels = dict(levels)
        if not self._is_renamed and (titles := self._titles(app)):
            self._is_renamed = True
            self._problems.clear()
            self._build(app, [_renamed(one, titles) for one in nodes], edges, path)
            return
        top = levels[""].nodes.values()
        found = [one.id for one in top if one.type in ROOTS]
        app.roots = sorted(found, key=lambda name: levels[""].nodes[name].type != "start")
        if not app.roots and made:
            self._problem(f"there is no node that starts it; one of {', '.join(ROOTS)} does", path)
        self._check_selectors(app)
        self._check_schedules(levels[""].nodes, nodes, path)

    def _check_schedules(
        self, made: Mapping[str, Node], nodes: Sequence[Mapping[str, Any]], path: tuple[Any, ...]
    ) -> None:
        """A time that never comes is said, and nothing waits for it; the app can be run by hand."""
        for place, one in enumerate(nodes):
            node = made.get(str(one.get("id")))
            if node is not None and isinstance(node.data, ScheduleData):
                try:
                    schedule_of(node.data)
                except (ScheduleError, ConfigError) as error:
                    self._warn(f"it begins no run: {error}", (*path, place, "data"), node.title)

    def _node(self, raw: Mapping[str, Any], path: tuple[Any, ...]) -> Node | None:
        data = raw.get("data")
        if not isinstance(data, dict):
            data = {}
        kind = str(data.get("type") or "")
        if raw.get("type") == "custom-note" or kind in _INERT:
            return None
        title = str(data.get("title") or raw.get("id") or "")
        if not raw.get("id"):
            self._problem("it has no id", path, title)
            return None
        cls = node_class(kind, str(data.get("version") or "1"))
        if cls is None:
            self._problem(
                f"type {kind!r} is not known; {suggestion(kind, node_types(), label='there are')}",
                (*path, "data", "type"), title,
            )  # fmt: skip
            return None
        try:
            converted = _convert(data, cls.Data)
        except msgspec.ValidationError as error:
            message, _, where = str(error).partition(" - at `$")
            steps = [*_steps(where.rstrip("`"))]
            self._problem(message, (*path, "data", *steps), title, where.rstrip("`").lstrip("."))
            return None
        except (TypeError, ValueError) as error:
            self._problem(str(error), (*path, "data"), title)
            return None
        return cls(str(raw["id"]), converted, raw)

    @staticmethod
    def _inner_root(container: tuple[Node, Mapping[str, Any]], level: Level) -> str:
        node = container[0]
        named = str(getattr(node.data, "start_node_id", "") or "")
        if named in level.nodes:
            return named
        for one in level.nodes.values():
            data = one.raw.get("data") or {}
            if one.type in ("iteration-start", "loop-start") or data.get("isIterationStart") or data.get("isLoopStart"):
                return one.id
        targets = {edge.target for edge in level.edges}
        return next((name for name in level.nodes if name not in targets), "")

    def _titles(self, app: App) -> dict[str, str]:
        """Title → id, of nodes that selectors call by their titles: generators of such files do."""
        known = {node.id for node in app.nodes}
        by_title: dict[str, list[str]] = defaultdict(list)
        for node in app.nodes:
            by_title[node.title.casefold()].append(node.id)
            if node.kind is NodeKind.ROOT and node.title.casefold() != node.type:
                by_title[node.type].append(node.id)
        named = {one[0] for node in app.nodes for one in node.references()} - known - PSEUDO
        return {one: by_title[one.casefold()][0] for one in named if len(by_title.get(one.casefold(), ())) == 1}

    def _check_selectors(self, app: App) -> None:
        """Selectors to nodes that are not there are said, not refused: templates leave their names."""
        known = {node.id: node for node in app.nodes}
        for node in app.nodes:
            for selector in node.references():
                if selector[0] in PSEUDO or selector[0] in known or selector[0].startswith("$"):
                    continue
                self._warnings.append(Problem(
                    message=f"it reads {'.'.join(selector)!r}, and there is no node {selector[0]!r}",
                    file=self._name, node=node.title,
                ))  # fmt: skip

    # problems

    def _problem(self, message: str, path: tuple[Any, ...], node: str = "", where: str = "") -> None:
        self._problems.append(Problem(message=message, file=self._name, line=self._line(path), node=node, field=where))

    def _warn(self, message: str, path: tuple[Any, ...], node: str = "") -> None:
        self._warnings.append(Problem(message=message, file=self._name, line=self._line(path), node=node))

    def _wrong(self, message: str, path: tuple[Any, ...]) -> DslError:
        return DslError([*self._problems, Problem(message=message, file=self._name, line=self._line(path))])

    def _line(self, path: tuple[Any, ...]) -> int:
        """Where in the file it stands; found only once somebody asks."""
        if self._tree is None:
            self._tree = yaml.compose(self._text, _Loader)
        here: Any = self._tree
        for step in path:
            found: Any = None
            if isinstance(here, yaml.MappingNode):
                found = next((value for key, value in here.value if key.value == str(step)), None)
            elif isinstance(here, yaml.SequenceNode) and isinstance(step, int) and step < len(here.value):
                found = here.value[step]
            if found is None:
                break
            here = found
        return here.start_mark.line + 1 if here is not None else 0


# ---------------------------------------------------------------------------------------------- helpers


def _container_of(raw: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    data = raw.get("data") or {}
    parent = str(raw.get("parentId") or "")
    named = [str(data.get(name) or "") for name in ("loop_id", "iteration_id")]
    choices = [parent, *named] if parent in named else [*named, parent]
    return next((one for one in choices if one in known and known[one][0].kind is NodeKind.CONTAINER), "")


def _graph_of(container: str, root: str, levels: Mapping[str, Level]) -> Graph:
    level = levels[container]
    children: dict[str, Graph] = {}
    for name, node in level.nodes.items():
        if node.kind is NodeKind.CONTAINER:
            if name not in levels or not levels[name].root:
                raise WorkflowError(f"{node.type} {node.title!r} has nothing in it to run")
            children[name] = node.graph = _graph_of(name, levels[name].root, levels)
    return Graph(root=root, nodes=level.nodes, edges=tuple(level.edges), children=children)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A node whose selectors call others by title, with their ids."""
    if isinstance(value, str):
        for name, id_ in names.items():
            value = value.replace("{{#" + name + ".", "{{#" + id_ + ".")
        return value
    if isinstance(value, dict):
        return {key: _renamed(one, names) for key, one in value.items()}
    if isinstance(value, list):
        if len(value) > 1 and isinstance(value[0], str) and all(isinstance(one, str) for one in value):
            return [names.get(value[0], value[0]), *value[1:]]
        return [_renamed(one, names) for one in value]
    return value


def _without_nulls(value: Any) -> Any:
    """What is null is as good as not there."""
    if isinstance(value, dict):
        return {str(key): _without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value


_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")


def _steps(path: str) -> Iterable[Any]:
    """The parts of `.cases[0].conditions`."""
    for match in _STEP.finditer(path):
        if match[1] is not None:
            yield match[1]
        elif match[2] is not None:
            yield int(match[2])
        else:
            yield "..."


def _convert(data: Mapping[str, Any], kind: type[Any]) -> Any:
    """A node's data. Editors of all ages wrote it: numbers where texts belong, empty texts where lists do.

    Raises msgspec.ValidationError for what cannot be mended.
    """
    tidy = _without_nulls(data)
    for _ in range(200):
        try:
            return _finite(msgspec.convert(tidy, kind, strict=False))
        except msgspec.ValidationError as error:
            if not _mended(tidy, str(error)):
                raise
    return _finite(msgspec.convert(tidy, kind, strict=False))


def _finite(data: Any) -> Any:
    """Raises msgspec.ValidationError where a number in it is none: texts as `nan` read as numbers too."""
    check_numbers(data, is_signed=True)
    return data


def _mended(data: Any, error: str) -> bool:
    message, _, path = error.partition(" - at `$")
    steps = list(_steps(path.rstrip("`")))
    if not steps or "..." in steps:
        return False
    here = data
    try:
        for step in steps[:-1]:
            here = here[step]
        last = steps[-1]
        value = here[last]
    except (KeyError, IndexError, TypeError):
        return False
    mended = _other_shape(message, value, here)
    if mended is None:
        return False
    if mended == "gone":
        del here[last]
    elif mended != "done":
        here[last] = mended
    return True


def _other_shape(message: str, value: Any, holder: Any) -> Any:
    """The same said as it should be; None where it cannot be guessed."""
    if message.startswith("Expected `str") and isinstance(value, int | float):
        return _word(value)
    if value in ("", [], {}) and isinstance(holder, dict):
        return "gone"
    if isinstance(value, list) and isinstance(holder, list) and len(holder) == 1:  # a selector in a list of its own
        holder[:] = [str(one) for one in value]
        return "done"
    if "got `object`" in message and isinstance(value, dict) and all(isinstance(one, dict) for one in value.values()):
        return [{"name": name, **one} for name, one in value.items()]
    if "got `array`" in message and isinstance(value, list) and all(isinstance(one, dict) for one in value):
        return {}  # outputs of code as a list: what a generator of files writes, who never saw them checked
    return None


def _word(value: Any) -> str:
    """A word that YAML may have taken for a number or a truth."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _needs_of(node: Node) -> Iterable[Need]:
    data = node.data
    model = getattr(data, "model", None)
    if model is not None and getattr(model, "name", ""):
        yield Need(kind="model", name=f"{model.provider}/{model.name}".lstrip("/"), node=node.title)
    for dataset in getattr(data, "dataset_ids", ()) or ():
        yield Need(kind="dataset", name=dataset, node=node.title)
    if node.type == "tool":
        yield Need(kind="tool", name=f"{data.provider}/{data.tool_name}", node=node.title)
    if node.type == "agent":
        yield Need(
            kind="strategy", name=f"{data.agent_strategy_provider_name}/{data.agent_strategy_name}", node=node.title
        )


# ---------------------------------------------------------------------------------------------- writing


def dump(app: App, *, with_secrets: bool = False) -> str:
    """The app as YAML: what was imported, under this version."""
    document = {**app.document, "kind": app.kind, "version": VERSION if app.kind == "app" else app.version}
    workflow = document.get("workflow")
    if isinstance(workflow, dict) and not with_secrets:
        variables = [
            {**one, "value": ""} if isinstance(one, dict) and one.get("value_type") == "secret" else one
            for one in workflow.get("environment_variables") or ()
        ]
        document["workflow"] = {**workflow, "environment_variables": variables}
    return yaml.dump(document, Dumper=_Dumper, allow_unicode=True, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True
