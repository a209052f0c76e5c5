"""A run as the file describes it: which nodes run in which order, what they ask outside,
and what the app returns."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.show.app_files.agents import agent_job
from tools.show.app_files.conditions import NodeFailure, holds
from tools.show.app_files.contract import Step
from tools.show.app_files.reading import ReadApp, ReadEdge, ReadNode
from tools.show.app_files.rules import RULES
from tools.show.app_files.values import MISSING, look_up, value_at
from tools.show.app_files.world import Script, Turn, comparable_body

_QUICK = ("start", "end", "answer", "assigner", "if-else", "variable-aggregator")
"""Nodes that do not wait for anything. Where branches share a conversation variable, the
order of the others would be a matter of chance."""
_RESPONSES = ("end", "answer", "knowledge-index")
"""Nodes whose outputs are those of the run."""


@dataclass(frozen=True, slots=True)
class ExpectedCall:
    """A call that the file makes the run do."""

    node: str
    target: str
    asked: Any
    is_exact: bool
    """Whether `asked` is the call; otherwise it is a list of texts in it."""


@dataclass(slots=True)
class Reviewed:
    """What people have read in a file, for what the reader cannot work out."""

    code: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The outputs of a code node: one mapping for all executions, or a list of them.
    A key `ID turn NUMBER` is for one turn of a chat."""
    fails: Mapping[str, str] = field(default_factory=dict[str, str])
    """Nodes that have to fail, with a pattern of the error."""
    empty: Mapping[str, str] = field(default_factory=dict[str, str])
    """Outputs that cannot have a value, each with its reason."""
    ends: str = "succeeded"
    """The status with which the run has to end."""
    error: str = ""
    """A pattern of the error with which it ends."""
    reason: str = ""
    """Why it ends otherwise than by success, or is not run."""
    script: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(slots=True)
class Observed:
    """What a run of the product has shown of its nodes."""

    outputs: dict[str, list[Mapping[str, Any]]] = field(
        default_factory=dict[str, list[Mapping[str, Any]]]
    )
    errors: dict[str, list[tuple[str, str]]] = field(
        default_factory=dict[str, list[tuple[str, str]]]
    )


@dataclass(slots=True)
class Expected:
    """What the run of a file has to show."""

    status: str
    outputs: dict[str, Any]
    calls: list[ExpectedCall]
    ran: list[str]
    """The nodes that ran, in an order that the edges allow."""
    problems: list[str]
    """What the file or the reviewed data does not allow to expect."""
    is_chat: bool = False
    """Whether the run streams an answer."""
    said: str = ""
    """The answer that the client of a chat sees."""
    conversation: dict[str, Any] = field(default_factory=dict[str, Any])
    """The conversation variables at the end."""
    turn: int = 1
    """The number of the turn in a chat."""


class Walk:
    """One reading of a run."""

    def __init__(
        self,
        app: ReadApp,
        script: Script,
        reviewed: Reviewed,
        observed: Observed,
        turn: Turn,
    ) -> None:
        self.app, self.script, self.pool = app, script, {}
        self.turn, self.history = turn, turn.history
        self._conversation = copy.deepcopy({**app.conversation, **turn.conversation})
        self.reviewed, self.observed = reviewed, observed
        self.calls: list[ExpectedCall] = []
        self.ran: list[str] = []
        self.problems: list[str] = []
        self._outputs: dict[str, Any] = {}
        self._said: list[str] = []
        self._executions: dict[str, int] = {}
        self._exceptions = 0

    def expected(
        self, root: str, inputs: Mapping[str, Any], system: Mapping[str, Any]
    ) -> Expected:
        """Return what a run that starts at a node has to show."""
        self.pool = {
            "sys": dict(system),
            "env": dict(self.app.environment),
            "conversation": self._conversation,
            root: dict(inputs),
        }
        for variable in self.app.pipeline_variables:
            name, owner = str(variable["variable"]), str(variable["belong_to_node_id"])
            self.pool.setdefault("rag", {}).setdefault(owner, {})[name] = inputs[name]
        # Old files read the system variables from the start node.
        self.pool[root] |= {f"sys.{name}": value for name, value in system.items()}
        status = "succeeded"
        try:
            self._run_graph("", root)
        except NodeFailure:
            status = "failed"
        if status == "succeeded" and self._exceptions:
            status = "partial-succeeded"
        outputs = self._outputs if status != "failed" else {}
        return Expected(
            status,
            outputs,
            self.calls,
            self.ran,
            self.problems,
            is_chat=self.app.is_chat,
            conversation=self._conversation,
            turn=self.turn.number,
            said="".join(self._said),
        )

    # What the rules use

    def ask(self, node: ReadNode, target: str, asked: Any) -> None:
        """Note a call of which everything is known from the file."""
        self.calls.append(ExpectedCall(node.id, target, asked, True))

    def ask_about(self, node: ReadNode, target: str, texts: Sequence[str]) -> None:
        """Note a call that the product words itself; it contains these texts."""
        visible_texts = [text for text in texts if text.strip()]
        self.calls.append(ExpectedCall(node.id, target, visible_texts, False))

    def reviewed_code(self, node: ReadNode) -> Mapping[str, Any]:
        """Return the reviewed outputs of this execution of a code node."""
        in_turn = self.reviewed.code.get(f"{node.id} turn {self.turn.number}")
        reviewed = in_turn or self.reviewed.code.get(node.id)
        if reviewed is None:
            self.problems.append(
                f"the outputs of the code node {node.id} are not reviewed"
            )
            return {}
        if isinstance(reviewed, Mapping):
            return reviewed
        index = self._executions[node.id] - 1
        if index >= len(reviewed):
            self.problems.append(
                f"the code node {node.id} runs more often than reviewed"
            )
            return {}
        return reviewed[index]

    def observed_outputs(self, node: ReadNode) -> Mapping[str, Any]:
        """Return the outputs of this execution in the run of the product."""
        index = self._executions[node.id] - 1
        outputs = self.observed.outputs.get(node.id, [])
        return outputs[index] if index < len(outputs) else {}

    def note(self, problem: str) -> None:
        """Note what does not allow to expect a value."""
        self.problems.append(problem)

    # Graphs

    def _run_graph(self, container: str, root: str) -> list[str]:
        """Run the nodes of a graph; return the ids of those that ran. Raises
        NodeFailure."""
        edges = self._reachable_edges(container, root)
        edge_states: dict[ReadEdge, bool] = {}
        ready, ran, visited = [root], list[str](), {root}
        while ready:
            node = self.app.nodes[self._next_of(ready)]
            step = self._execute(node)
            ran.append(node.id)
            for edge in edges:
                if edge.source == node.id:
                    edge_states[edge] = _is_taken(edge, step.handle)
            # Several skipped ways may lead to the same node.
            for name in self._newly_ready(node.id, edges, edge_states):
                if name not in visited:
                    visited.add(name)
                    ready.append(name)
        return ran

    def _next_of(self, ready: list[str]) -> str:
        """Take the node that runs next: one that waits for nothing is ahead of others."""
        quick = [name for name in ready if self.app.nodes[name].type in _QUICK]
        chosen = (quick or ready)[0]
        ready.remove(chosen)
        return chosen

    def _newly_ready(
        self, source: str, edges: Sequence[ReadEdge], edge_states: dict[ReadEdge, bool]
    ) -> list[str]:
        """Return the nodes after a node that can run now; mark what is skipped."""
        ready: list[str] = []
        for target in _targets_of(source, edges):
            states = {edge_states.get(edge) for edge in edges if edge.target == target}
            # A node waits until all its edges are decided.
            if states == {False}:
                edge_states |= {edge: False for edge in edges if edge.source == target}
                ready += self._newly_ready(target, edges, edge_states)
            elif None not in states:
                ready.append(target)
        return ready

    def _reachable_edges(self, container: str, root: str) -> list[ReadEdge]:
        """Return the edges of a graph on the ways from its root, each once."""
        inside = {node.id for node in self.app.inside(container)}
        edges = [
            edge
            for edge in dict.fromkeys(self.app.edges)
            if edge.source in inside and edge.target in inside
        ]
        reached, waiting = {root}, [root]
        while waiting:
            source = waiting.pop()
            targets = {edge.target for edge in edges if edge.source == source}
            waiting += targets - reached
            reached |= targets
        return [edge for edge in edges if edge.source in reached]

    def _execute(self, node: ReadNode) -> Step:
        """Run a node; apply its error strategy if it fails. Raises NodeFailure."""
        self.ran.append(node.id)
        self._executions[node.id] = self._executions.get(node.id, 0) + 1
        try:
            self._fail_if_reviewed(node)
            step = self._rule_of(node)
        except NodeFailure as failure:
            step = self._after_failure(node, failure)
        self.pool.setdefault(node.id, {}).update(step.outputs)
        if node.type == "answer":
            self._said.append(str(step.outputs["answer"]))
        # What is answered inside of a container is sent, but is no output of the run.
        if node.type in _RESPONSES and not node.container:
            self._add_outputs(step.outputs)
        return step

    def _rule_of(self, node: ReadNode) -> Step:
        """Return the step of a node by the rule of its type."""
        if node.type == "agent" and "agent_binding" in node.data:
            return agent_job(node, self)
        return RULES[node.type](node, self)

    def _fail_if_reviewed(self, node: ReadNode) -> None:
        """Raise NodeFailure if people have read that the node fails here."""
        pattern = self.reviewed.fails.get(node.id)
        if pattern is None:
            return
        recorded_errors = self.observed.errors.get(node.id, [])
        index = self._executions[node.id] - 1
        # Of executions that fail and others that do not, the pattern counts those.
        message, error_type = (
            recorded_errors[min(index, len(recorded_errors) - 1)]
            if recorded_errors
            else ("", "")
        )
        if not re.search(pattern, message):
            self.problems.append(
                f"{node.id} has to fail with {pattern!r}, not {message!r}"
            )
        raise NodeFailure(message, error_type)

    def _after_failure(self, node: ReadNode, failure: NodeFailure) -> Step:
        """Return the step of a failed node with an error strategy. Raises NodeFailure."""
        strategy = node.data.get("error_strategy")
        errors = {"error_message": str(failure), "error_type": failure.error_type}
        # The exact words of an error are the product's own.
        if recorded_errors := self.observed.errors.get(node.id):
            errors = {
                "error_message": recorded_errors[0][0],
                "error_type": recorded_errors[0][1],
            }
        if strategy not in ("fail-branch", "default-value"):
            raise failure
        self._exceptions += 1
        if strategy == "fail-branch":
            return Step(errors, "fail-branch")
        defaults = {
            str(entry["key"]): _default_value(entry)
            for entry in node.list_of("default_value")
        }
        return Step({**defaults, **errors})

    def _add_outputs(self, outputs: Mapping[str, Any]) -> None:
        """Add what an end or answer node returns to the run's outputs."""
        for name, value in outputs.items():
            # Texts of several answers follow each other.
            if name == "answer" and name in self._outputs:
                self._outputs[name] = f"{self._outputs[name]}{value}"
            else:
                self._outputs[name] = value

    # Iterations and loops

    def run_rounds(self, node: ReadNode) -> dict[str, Any]:
        """Run the inside of an iteration or a loop and return the node's outputs."""
        return self._iterate(node) if node.type == "iteration" else self._loop(node)

    def _iterate(self, node: ReadNode) -> dict[str, Any]:
        """Return the outputs of an iteration. Raises NodeFailure."""
        items = look_up(self.pool, node.data.get("iterator_selector"))
        if items is MISSING or not isinstance(items, list | None):
            raise NodeFailure("iterator variable not found or no list")
        outputs: list[Any] = []
        for index, item in enumerate(items or ()):
            outputs += self._output_of_item(node, index, item)
        is_flat = node.data.get("flatten_output", True)
        return {"output": _flattened(outputs) if is_flat else outputs}

    def _output_of_item(self, node: ReadNode, index: int, item: Any) -> list[Any]:
        """Return the output for one item in a list; what a failure leaves of it depends
        on the node. Raises NodeFailure."""
        mode = str(node.data.get("error_handle_mode") or "terminated")
        try:
            return [self._one_item(node, index, item)]
        except NodeFailure:
            if mode == "terminated":
                raise
        return [None] if mode == "continue-on-error" else []

    def _one_item(self, node: ReadNode, index: int, item: Any) -> Any:
        """Return the output for one item; what its nodes write stays in it."""
        outer = self.pool
        shared = {name: outer[name] for name in ("sys", "env", "conversation")}
        self.pool = {**copy.deepcopy(outer), **shared}
        self.pool.setdefault(node.id, {}).update(item=item, index=index)
        try:
            self._run_graph(node.id, self.app.first_inside(node))
            return value_at(self.pool, node.data.get("output_selector"))
        finally:
            self.pool = outer

    def _loop(self, node: ReadNode) -> dict[str, Any]:
        """Return the outputs of a loop. Raises NodeFailure."""
        variables = {
            str(variable["label"]): self._initial(variable)
            for variable in node.list_of("loop_variables")
        }
        self.pool.setdefault(node.id, {}).update(variables)
        rounds = 0
        is_ended = self._breaks(node)
        while not is_ended and rounds < int(node.data.get("loop_count") or 0):
            for inner in self.app.inside(node.id):
                self.pool.pop(inner.id, None)
            ran = self._run_graph(node.id, self.app.first_inside(node))
            rounds += 1
            is_ended = self._breaks(node) or any(
                self.app.nodes[name].type == "loop-end" for name in ran
            )
        return {
            **{name: self.pool[node.id][name] for name in variables},
            "loop_round": rounds,
        }

    def _initial(self, variable: Mapping[str, Any]) -> Any:
        """Return the initial value of a loop variable."""
        value = variable.get("value")
        if variable.get("value_type") == "variable":
            return value_at(self.pool, value)
        if isinstance(value, str) and variable.get("var_type") != "string":
            return comparable_body(value)
        return value

    def _breaks(self, node: ReadNode) -> bool:
        """Return whether the break conditions of a loop hold."""
        conditions = node.list_of("break_conditions")
        try:
            return holds(
                conditions, str(node.data.get("logical_operator") or "and"), self.pool
            )
        except (NodeFailure, TypeError, ValueError):
            return False


def _targets_of(source: str, edges: Sequence[ReadEdge]) -> list[str]:
    """Return the nodes to which edges lead from a node, each once."""
    return list(dict.fromkeys(edge.target for edge in edges if edge.source == source))


def _flattened(outputs: list[Any]) -> list[Any]:
    """Return outputs that are lists as one list; others as they are."""
    lists = [output for output in outputs if output is not None]
    if not lists or not all(isinstance(output, list) for output in lists):
        return outputs
    return [element for output in lists for element in output]


def _is_taken(edge: ReadEdge, handle: str) -> bool:
    """Return whether an edge is followed after a node that took a branch."""
    if handle:
        return edge.handle == handle
    return edge.handle != "fail-branch"


def _default_value(entry: Mapping[str, Any]) -> Any:
    """Return the default value of an output, which may be written as text."""
    value = entry.get("value")
    if isinstance(value, str) and entry.get("type") != "string":
        return comparable_body(value)
    return value
