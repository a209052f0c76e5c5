"""One node of an app's file, run alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.base import computing
from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.fields import may, need
from modelyard.gateway.admin.app_runs import USER
from modelyard.gateway.admin.app_shapes import NodeTest
from modelyard.gateway.admin.requests import app_of
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.workflow.apps import Apps, FoundApp
from modelyard.workflow.dsl import App, loads
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.node import NodeContext, NodeError, NodePaused, RunContext, Services
from modelyard.workflow.single_run import new_run_id, pool_for
from modelyard.workflow.variables import VariablePool, WorkflowError, from_object, to_object


@dataclass(frozen=True, slots=True)
class NodeTests:
    """Tries of nodes, before a file is kept."""

    apps: Apps
    services: Callable[[App, RunRecord], Services]
    clock: Clock

    async def run(self, request: Request) -> Reply:
        """Raises NotFoundError, InvokeBadRequestError, DslError."""
        found = app_of(request, self.apps)
        return json_reply(await request.while_here(self._tested(request, found)))

    async def _tested(self, request: Request, found: FoundApp) -> NodeTest:
        """Run `node` of `file` alone; `inputs` are what it reads, as `start.query` → value."""
        body = await request.json()
        app = await computing.apart(loads, need(body, "file", str), name=found.name)
        name, given = need(body, "node", str), may(body, "inputs", dict) or {}
        node = next((one for one in app.nodes if one.id == name), None)
        if node is None:
            raise NotFoundError(f"the file has no node {name!r}", code="node_not_found")
        record = RunRecord(tenant=found.tenant, id=new_run_id(), app=found.id, user=request.caller.user or USER)
        pool = _pool(app, given)
        run = RunContext(
            run_id=record.id, services=self.services(app, record), tenant=found.tenant, user=record.user,
            app=found.id, now=self.clock.time,
        )  # fmt: skip
        context = NodeContext(
            run=run, pool=pool, key=name, execution_id=record.id, idempotency_key=record.id, emit=lambda event: None,
            stream=lambda name, text, is_last: None, reason=lambda text, is_last: None,
        )  # fmt: skip
        began = self.clock.monotonic()

        def came_to(status: str, error: str = "", **more: Any) -> NodeTest:
            values = {key: _plain(value) for key, value in more.items()}
            ms = round((self.clock.monotonic() - began) * 1000, 1)
            return NodeTest(
                status=status, error=error, ms=ms, inputs=values.get("inputs") or {},
                outputs=values.get("outputs") or {}, process_data=values.get("process_data") or {},
            )  # fmt: skip

        try:
            result = await node.run(context)
        except NodeError as error:
            return came_to("failed", str(error), inputs=error.inputs, process_data=error.process_data)
        except NodePaused:
            return came_to("paused", "it waits for somebody: run the whole workflow to answer it")
        except WorkflowError as error:
            return came_to("failed", str(error))
        return came_to("succeeded", inputs=result.inputs, outputs=result.outputs, process_data=result.process_data)


def _pool(app: App, given: Mapping[str, Any]) -> VariablePool:
    """What a node reads: the app's own variables, and what was given for others."""
    try:
        pool = pool_for(app, "", {}, {})
    except ModelyardError:  # the start asks for what a test of one node need not have
        pool = VariablePool()
    for name, value in given.items():
        node, dot, rest = name.partition(".")
        if not dot:
            raise InvokeBadRequestError(f"{name!r} must read 'node.variable'", param="inputs")
        pool.put(node, rest, from_object(value))
    return pool


def _plain(value: Any) -> Any:
    return {key: to_object(one) for key, one in (value or {}).items()}
