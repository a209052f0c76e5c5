"""Tools and plugins' strategies as nodes see them, each for one tenant; and apps as tools of other apps."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError, NotFoundError, PluginError
from modelyard.models.types import JSON
from modelyard.plugins import shapes
from modelyard.plugins.conversation import PluginCall
from modelyard.storage.kept import Kept
from modelyard.tenant_plugins.plugins import Plugins
from modelyard.tools.entities import (
    Message,
    Option,
    Tool,
    ToolContext,
    ToolEntity,
    ToolInvokeError,
    ToolNotFoundError,
    ToolParameter,
    json_message,
    plain_name,
    text_message,
    variable_message,
)
from modelyard.tools.manager import ToolManager, ToolRef
from modelyard.tools.results import KeptResults
from modelyard.workflow.agent_tools import tools_in
from modelyard.workflow.apps import Apps, FoundApp
from modelyard.workflow.chats import Chats
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Status
from modelyard.workflow.events import NodeRunStreamChunk
from modelyard.workflow.node import Models
from modelyard.workflow.nodes.start import Variable, form_of
from modelyard.workflow.runs import Runs


class TenantTools:
    """A tenant's tools, under the names that an app's file has for them."""

    def __init__(
        self, manager: ToolManager, tenant: str, user: str, mappings: Sequence[Mapping[str, str]],
        *, app: str = "", run: str = "", depth: int = 0, kept: Kept | None = None,
    ) -> None:  # fmt: skip
        self.manager = manager
        self._tenant = tenant
        self._user = user
        self._mappings = mappings
        self._app = app
        self._run = run
        self._depth = depth
        self._kept = kept

    def _mapped(self, kind: str, provider: str, tool: str) -> tuple[str, str, str]:
        for mapping in self._mappings:
            named = mapping.get(f"{provider}/{tool}") or mapping.get(tool)
            if named:
                kind, _, rest = named.rpartition(":")
                provider, _, tool = rest.rpartition("/")
                return kind, provider, tool
        return kind, provider, tool

    async def bind(self, ref: ToolRef) -> Tool:
        kind, provider, name = self._mapped(ref.kind, ref.provider, ref.name)
        return await self.manager.bind(
            self._tenant,
            msgspec.structs.replace(ref, kind=kind, provider=provider, name=name, alias=ref.alias or _plain(ref.name)),
        )

    def results(self, key: str) -> KeptResults | None:
        return KeptResults(self._kept, self._tenant, f"{self._run}/{key}") if self._kept is not None else None

    async def invoke(
        self, kind: str, provider: str, tool: str, parameters: Mapping[str, Any], *, credential: str, key: str
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        kind, provider, tool = self._mapped(kind, provider, tool)
        context = ToolContext(
            tenant=self._tenant, user=self._user, app=self._app, key=key, depth=self._depth, credential=credential
        )
        found = await self.manager.find(self._tenant, kind, provider, tool)
        async with aclosing(self.manager.invoke(found, parameters, context, is_form=True)) as messages:
            async for one in messages:
                yield one


def _plain(name: str) -> str:
    """A name that every model's API takes."""
    return plain_name(name).strip("_") or "tool"


class TenantAgents:
    """Strategies of the tenant's plugins."""

    def __init__(self, plugins: Plugins, tools: TenantTools, models: Models, tenant: str, user: str) -> None:
        self._plugins = plugins
        self._tools = tools
        self._models = models
        self._tenant = tenant
        self._user = user

    def serves(self, provider: str, strategy: str) -> bool:
        try:
            one, _ = self._plugins.provider(self._tenant, provider)
        except NotFoundError:
            return False
        declared = one.declaration.agent_strategy
        return declared is not None and any(each.identity.name == strategy for each in declared.strategies)

    async def run(
        self, strategy: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        one, bare = self._plugins.provider(self._tenant, str(strategy["provider"]))
        given: JSON = {name: value for name, value in parameters.items() if value is not None}
        if isinstance(given.get("model"), Mapping):
            given["model"] = self._model(given["model"])
        if isinstance(given.get("tools"), Sequence):
            given["tools"] = [await self._tool(ref) for ref in tools_in(given["tools"])]
        data = {
            "agent_strategy_provider": bare, "agent_strategy": strategy["name"], "agent_strategy_params": given,
        }  # fmt: skip
        answers = self._plugins.call(
            self._tenant, one.plugin_id, "agent_strategy", "invoke_agent_strategy", data, user=self._user,
            more={"context": {"depth": 1, "idempotency_key": strategy.get("key", "")}},
        )  # fmt: skip
        async with aclosing(answers):
            async for answer in answers:
                yield answer

    def _model(self, given: Mapping[str, Any]) -> JSON:
        """The model with what the catalogue says of it, as strategies expect it."""
        model = {"model_type": "llm", "mode": "chat", "completion_params": {}, "history_prompt_messages": [], **given}
        try:
            found: Any = self._models.find(str(given.get("provider") or ""), str(given.get("model") or ""), "llm")
        except ModelyardError:
            return model
        if found.schema is not None:
            model["entity"] = shapes.dump_entity(found.schema)
        return model

    async def _tool(self, ref: ToolRef) -> JSON:
        """A tool as strategies expect it: described whole, with what whoever set it up filled in."""
        try:
            tool = await self._tools.bind(msgspec.structs.replace(ref, settings={}))
        except (ToolNotFoundError, NotFoundError) as error:
            raise PluginError(f"tool {ref.provider}/{ref.name}: {error}") from error
        entity = tool.entity
        label = entity.label or {"en_US": entity.name}
        return {
            "identity": {
                "author": entity.author or "modelyard", "name": ref.name, "label": label,
                "provider": entity.provider or ref.provider,
            },
            "parameters": [_dump_parameter(one) for one in entity.parameters or _parameters(tool.schema)],
            "description": {"human": entity.human_description or label, "llm": entity.description},
            "output_schema": entity.output_schema, "has_runtime_parameters": False,
            "provider_type": "builtin" if entity.kind in ("builtin", "plugin", "function") else entity.kind,
            "runtime_parameters": dict(ref.settings), "credential_id": ref.credential or None,
            "credential_type": "api-key",
        }  # fmt: skip


def _parameters(schema: Mapping[str, Any]) -> list[ToolParameter]:
    """A JSON schema's properties as parameters."""
    kinds = {"integer": "number", "number": "number", "boolean": "boolean", "array": "array", "object": "object"}
    required = set(schema.get("required") or ())
    return [
        ToolParameter(
            name=name, type=kinds.get(str(rule.get("type")), "string"), required=name in required,
            llm_description=str(rule.get("description") or name), default=rule.get("default"), input_schema=dict(rule),
        )
        for name, rule in (schema.get("properties") or {}).items()
        if isinstance(rule, Mapping)
    ]  # fmt: skip


def _dump_parameter(one: ToolParameter) -> JSON:
    label = one.label or {"en_US": one.name}
    return {
        "name": one.name, "label": label, "type": one.type, "form": one.form, "required": one.required,
        "human_description": one.human_description or label, "llm_description": one.llm_description,
        "default": one.default, "min": one.min, "max": one.max, "input_schema": one.input_schema,
        "options": [{"value": each.value, "label": each.label or {"en_US": each.value}} for each in one.options],
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- apps as tools


class AppTool(Tool):
    """An app that another calls: its start form is what it takes, its outputs are what it gives. An agent app is one
    too: so agents call agents."""

    def __init__(self, apps: AppTools, found: FoundApp, app: App) -> None:
        self._apps = apps
        self._found = found
        self._app = app
        form = form_of(app.graph(app.roots[0]).nodes[app.roots[0]])
        parameters = [_of_variable(one) for one in form if not one.hide]
        if app.is_chat:
            query = ToolParameter(name="query", required=True, llm_description="What is asked or to be done.")
            parameters = [query, *parameters]
        self.entity = ToolEntity(
            name=_plain(found.name), provider=found.id, kind="workflow", label={"en_US": found.name},
            description=found.stored.description or f"The app {found.name}.", parameters=parameters, seconds=1200.0,
        )  # fmt: skip

    async def invoke(self, parameters: Mapping[str, Any], context: ToolContext) -> AsyncGenerator[Message, None]:
        if context.tenant != self._found.tenant:
            raise ToolNotFoundError(f"there is not a tool named {self.name}")
        given = dict(parameters)
        chats, runs = self._apps.chats, self._apps.runs
        query = str(given.pop("query", "")) if self._app.is_chat else ""
        if self._app.is_chat:
            run, _ = await chats.send(
                self._found, self._app, query=query, inputs=given, user=context.user, created_from="tool",
                depth=context.depth + 1,
            )  # fmt: skip
        else:
            run = await chats.run(
                self._found, self._app, inputs=given, user=context.user, depth=context.depth + 1, created_from="tool"
            )
        try:
            ended = await runs.ended(context.tenant, run.id)
        except BaseException:
            await runs.stop(context.tenant, run.id, "the run that called it was stopped")
            raise
        if ended.status not in (Status.SUCCEEDED, Status.PARTIAL):
            raise ToolInvokeError(
                f"app {self._found.name!r} {ended.status.value}: {ended.error or 'it waits for somebody'}"
            )
        outputs = {name: value for name, value in ended.outputs.items() if not name.startswith("__")}
        if self._app.is_chat:
            yield text_message(str(outputs.get("answer") or ""))
            return
        yield text_message(msgspec.json.encode(outputs).decode())
        for one in _files(outputs):
            yield {"type": "file", "message": {}, "meta": {"file": one}}
        yield json_message(outputs)
        for name, value in outputs.items():
            yield variable_message(name, value)


class AppTools:
    """All apps of a tenant. What an app's file says is read when it is first called for."""

    def __init__(self, apps: Apps, chats: Chats, runs: Runs) -> None:
        self._apps = apps
        self.chats = chats
        self.runs = runs

    async def tools(self, tenant: str) -> Sequence[ToolEntity]:
        return [
            ToolEntity(
                name=_plain(one.name), provider=one.id, kind="workflow", label={"en_US": one.name},
                description=one.stored.description,
            )
            for one in self._apps.all(tenant)
            if one.stored.digest
        ]  # fmt: skip

    async def find(self, tenant: str, provider: str, name: str) -> Tool:
        for one in self._apps.all(tenant):
            is_meant = {one.id, one.name} & {provider, name} or _plain(one.name) == name
            if one.stored.digest and is_meant:
                return AppTool(self, one, await self._apps.app(one))
        raise ToolNotFoundError(f"there is no app {name!r}")


class PluginCalls:
    """What plugins ask for that lies above them: tools of any kind, and apps."""

    def __init__(self, manager: ToolManager, apps: Apps, chats: Chats, runs: Runs) -> None:
        self._manager = manager
        self._apps = apps
        self._chats = chats
        self._runs = runs

    async def tool(
        self, call: PluginCall, kind: str, provider: str, name: str, request: JSON, depth: int
    ) -> AsyncGenerator[JSON, None]:
        found = await self._manager.find(call.tenant, kind, provider, name)
        context = ToolContext(
            tenant=call.tenant, user=call.user, depth=depth, credential=str(request.get("credential_id") or "")
        )
        given = request.get("tool_parameters") or {}
        async with aclosing(self._manager.invoke(found, given, context, is_form=True)) as messages:
            async for one in messages:
                yield _as_json(one)

    async def app(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        """Raises NotFoundError, and what starting a run raises."""
        found = self._apps.find(call.tenant, str(request["app_id"]))
        app = await self._apps.app(found)
        mode = request.get("response_mode") or "blocking"
        if mode == "about":
            yield {"data": {"id": found.id, "name": found.name, "mode": app.mode, "description": app.description}}
            return
        user, inputs = str(request.get("user") or call.user), dict(request.get("inputs") or {})
        depth = int((call.context or {}).get("depth", 0)) + 1
        if app.is_chat:
            run, _ = await self._chats.send(
                found, app, query=str(request.get("query") or ""), inputs=inputs, user=user, depth=depth,
                conversation_id=str(request.get("conversation_id") or ""), created_from="plugin",
            )  # fmt: skip
        else:
            run = await self._chats.run(found, app, inputs=inputs, user=user, depth=depth, created_from="plugin")
        if mode == "streaming":
            async with aclosing(self._runs.watch(call.tenant, run.id)) as events:
                async for _, event in events:
                    if isinstance(event, NodeRunStreamChunk) and event.chunk:
                        yield {"event": "message", "task_id": run.id, "id": run.message, "answer": event.chunk,
                               "conversation_id": run.conversation}  # fmt: skip
        ended = await self._runs.ended(call.tenant, run.id)
        data = {"id": run.id, "status": ended.status.value, "outputs": ended.outputs, "error": ended.error or None}
        if app.is_chat or app.mode == "completion":
            yield {
                "event": "message_end" if mode == "streaming" else "message", "task_id": run.id, "id": run.message,
                "message_id": run.message, "conversation_id": run.conversation, "mode": app.mode,
                "answer": str(ended.outputs.get("answer") or ""), "metadata": {}, "created_at": int(run.created_at),
            }  # fmt: skip
        elif mode == "streaming":
            yield {"event": "workflow_finished", "task_id": run.id, "workflow_run_id": run.id, "data": data}
        else:
            yield {"task_id": run.id, "workflow_run_id": run.id, "data": data}


def _as_json(one: Message) -> JSON:
    """A message with its bytes as plugins know them."""
    message = one.get("message")
    if isinstance(message, Mapping) and isinstance(message.get("blob"), bytes):
        blob = base64.b64encode(message["blob"]).decode()
        return {**one, "message": {**message, "blob": blob}}
    return dict(one)


def _of_variable(one: Variable) -> ToolParameter:
    kinds = {
        "number": "number", "select": "select", "checkbox": "boolean", "file": "file", "file-list": "files",
        "json_object": "object",
    }  # fmt: skip
    return ToolParameter(
        name=one.variable, type=kinds.get(one.type, "string"), required=one.required, default=one.default,
        label={"en_US": one.label or one.variable}, llm_description=one.description or one.label or one.variable,
        options=[Option(value=str(each)) for each in one.options],
    )  # fmt: skip


def _files(value: Any) -> list[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if value.get("dify_model_identity") == "__dify__file__":
            return [value]
        return [one for each in value.values() for one in _files(each)]
    return [one for each in value for one in _files(each)] if isinstance(value, list) else []
