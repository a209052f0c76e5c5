"""Admin route that runs a single node of an app's file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base import cpu_work
from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.fields import optional_field, required_field
from modelyard.gateway.admin.app_runs import USER
from modelyard.gateway.admin.app_shapes import NodeTest
from modelyard.gateway.admin.requests import app_of
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.workflow.apps import AppRecord, Apps
from modelyard.workflow.dsl import App, loads
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.node import (
    Node,
    NodeContext,
    NodeError,
    NodePaused,
    RunContext,
    Services,
)
from modelyard.workflow.single_run import new_run_id, pool_for
from modelyard.workflow.variables import (
    VariablePool,
    WorkflowError,
    from_object,
    to_object,
)


@dataclass(frozen=True, slots=True)
class NodeTests:
    """Route for testing nodes of a file before it is stored."""

    apps: Apps
    services: Callable[[App, RunRecord], Services]
    clock: Clock

    async def run(self, request: Request) -> Reply:
        """Run one node and return its result.

        Raises NotFoundError, InvokeBadRequestError, DslError.
        """
        app_record = app_of(request, self.apps)
        return json_reply(
            await request.cancel_on_disconnect(self._run_node(request, app_record))
        )

    async def _run_node(self, request: Request, app_record: AppRecord) -> NodeTest:
        """Run the node `node` of the file `file`. `inputs` are the variables that it
        reads, as `start.query` → value."""
        body = await request.json()
        # The file comes from the editor, not from the database, so unsaved changes are
        # tested.
        app = await cpu_work.run_in_thread(
            loads, required_field(body, "file", str), name=app_record.name
        )
        name = required_field(body, "node", str)
        inputs = optional_field(body, "inputs", dict) or {}
        node = next(
            (candidate for candidate in app.nodes if candidate.id == name), None
        )
        if node is None:
            raise NotFoundError(f"The file has no node {name!r}", code="node_not_found")
        context = self._context(
            app, app_record, node_id=name, inputs=inputs, user=request.caller.user
        )
        started_at = self.clock.monotonic()
        result = await _result_of(node, context)
        duration_ms = round((self.clock.monotonic() - started_at) * 1000, 1)
        return msgspec.structs.replace(result, ms=duration_ms)

    def _context(
        self,
        app: App,
        app_record: AppRecord,
        *,
        node_id: str,
        inputs: Mapping[str, Any],
        user: str | None,
    ) -> NodeContext:
        """Return the context in which the node runs."""
        # The run has a record, because services are made for one, but the record is not
        # stored.
        record = RunRecord(
            tenant=app_record.tenant,
            id=new_run_id(),
            app=app_record.id,
            user=user or USER,
        )
        pool = _pool(app, inputs)
        run = RunContext(
            run_id=record.id,
            services=self.services(app, record),
            tenant=app_record.tenant,
            user=record.user,
            app=app_record.id,
            now=self.clock.time,
        )
        # The callbacks discard all events: only the final result of the node is
        # returned.
        return NodeContext(
            run=run,
            pool=pool,
            key=node_id,
            execution_id=record.id,
            idempotency_key=record.id,
            emit=lambda event: None,
            stream=lambda name, text, is_last: None,
            reason=lambda text, is_last: None,
        )


async def _result_of(node: Node, context: NodeContext) -> NodeTest:
    """Run a node and return its result, without the duration. A node that fails or
    pauses is a normal test result, not an HTTP error."""
    try:
        result = await node.run(context)
    except NodeError as error:
        return _node_test(
            "failed", str(error), inputs=error.inputs, process_data=error.process_data
        )
    except NodePaused:
        return _node_test(
            "paused", "The node waits for input: run the complete workflow to submit it"
        )
    except WorkflowError as error:
        return _node_test("failed", str(error))
    return _node_test(
        "succeeded",
        inputs=result.inputs,
        outputs=result.outputs,
        process_data=result.process_data,
    )


def _node_test(status: str, error: str = "", **details: Any) -> NodeTest:
    """Return the result of a test; `details` are its inputs, outputs and process data."""
    values = {key: _plain(value) for key, value in details.items()}
    return NodeTest(
        status=status,
        error=error,
        ms=0.0,
        inputs=values.get("inputs") or {},
        outputs=values.get("outputs") or {},
        process_data=values.get("process_data") or {},
    )


def _pool(app: App, inputs: Mapping[str, Any]) -> VariablePool:
    """Return the variables that the node can read: those of the app, overridden by the
    test's inputs.

    Raises InvokeBadRequestError for an input whose name has no dot.
    """
    try:
        pool = pool_for(app, "", {}, {})
    except ModelyardError:
        # The start node requires inputs that a test of another node need not have.
        pool = VariablePool()
    for name, value in inputs.items():
        node, dot, variable = name.partition(".")
        if not dot:
            raise InvokeBadRequestError(
                f"Input name {name!r} must have the form 'node.variable'",
                param="inputs",
            )
        pool.put(node, variable, from_object(value))
    return pool


def _plain(value: Any) -> Any:
    """Return variables as plain JSON values."""
    variables: Mapping[str, Any] = value or {}
    return {key: to_object(element) for key, element in variables.items()}
