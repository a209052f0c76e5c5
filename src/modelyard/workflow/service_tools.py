"""Tools and plugin strategies for nodes, each for one tenant, and apps as tools of
other apps."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError, NotFoundError, PluginError
from modelyard.base.json_types import EMPTY_OBJECT, is_array, is_mapping
from modelyard.models.types import JSON
from modelyard.plugins import conversions
from modelyard.plugins.connection import PluginCall
from modelyard.storage.scoped_store import ScopedStore
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
    model_safe_name,
    text_message,
    variable_message,
)
from modelyard.tools.manager import ToolManager, ToolRef
from modelyard.tools.result_store import StoredResults
from modelyard.workflow.agent_packages import AgentPackage
from modelyard.workflow.agent_tools import parse_tool_list
from modelyard.workflow.apps import AppRecord, Apps
from modelyard.workflow.chats import Chats
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Status
from modelyard.workflow.events import AnyEvent, NodeRunStreamChunk, TextReplaced
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.node import Models
from modelyard.workflow.nodes.start import FormField, form_of
from modelyard.workflow.runs import Runs


class TenantTools:
    """A tenant's tools, under the names that an app's DSL file uses."""

    def __init__(
        self,
        manager: ToolManager,
        tenant: str,
        user: str,
        mappings: Sequence[Mapping[str, str]],
        *,
        app: str = "",
        run: str = "",
        depth: int = 0,
        store: ScopedStore | None = None,
    ) -> None:
        self.manager = manager
        self._tenant = tenant
        self._user = user
        self._mappings = mappings
        self._app = app
        self._run = run
        self._depth = depth
        self._kept = store

    def _apply_mappings(
        self, provider_type: str, provider: str, tool: str
    ) -> tuple[str, str, str]:
        """Return (provider type, provider, tool) after the mappings of an imported app."""
        # Mappings are tried in order; the first match wins.
        for mapping in self._mappings:
            target = mapping.get(f"{provider}/{tool}") or mapping.get(tool)
            if target:
                # A mapping's target has the form `type:provider/tool`; providers may
                # contain slashes.
                provider_type, _, qualified_name = target.rpartition(":")
                provider, _, tool = qualified_name.rpartition("/")
                return provider_type, provider, tool
        return provider_type, provider, tool

    async def bind(self, ref: ToolRef) -> Tool:
        """Return a tool for an agent. Raises ToolNotFoundError."""
        provider_type, provider, name = self._apply_mappings(
            ref.kind, ref.provider, ref.name
        )
        return await self.manager.bind_tool(
            self._tenant,
            # The model knows the tool by the name in the app, even if it is mapped to
            # another one.
            msgspec.structs.replace(
                ref,
                kind=provider_type,
                provider=provider,
                name=name,
                alias=ref.alias or _tool_name(ref.name),
            ),
        )

    async def of_provider(self, kind: str, provider: str) -> list[ToolRef]:
        """Return a reference to each tool of a provider; empty if it does not exist.

        The mapping of an imported app may name a provider as `provider/*`.
        """
        mapped_kind, mapped_provider, name = self._apply_mappings(kind, provider, "*")
        if name != "*":
            return [ToolRef(kind=mapped_kind, provider=mapped_provider, name=name)]
        # Plugins have the full name of their provider here or only its last part, and
        # a plugin's tool may be built in here.
        names = {mapped_provider, mapped_provider.rpartition("/")[2]}
        plain_kinds = ("builtin", "plugin", "function")
        kinds = plain_kinds if mapped_kind in plain_kinds else (mapped_kind,)
        return [
            ToolRef(kind=entity.kind, provider=entity.provider, name=entity.name)
            for entity in await self.manager.list(self._tenant)
            if entity.provider in names and (entity.kind in kinds or not mapped_kind)
        ]

    def results(self, key: str) -> StoredResults | None:
        """Return the store of long results for one agent run; None if nothing is
        stored."""
        return (
            StoredResults(self._kept, self._tenant, f"{self._run}/{key}")
            if self._kept is not None
            else None
        )

    async def invoke(
        self,
        provider_type: str,
        provider: str,
        tool: str,
        parameters: Mapping[str, Any],
        *,
        credential: str,
        key: str,
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Call a tool and yield its messages. Raises ModelyardError."""
        provider_type, provider, tool = self._apply_mappings(
            provider_type, provider, tool
        )
        # The key makes repeated calls recognisable for the tool.
        context = ToolContext(
            tenant=self._tenant,
            user=self._user,
            app=self._app,
            key=key,
            depth=self._depth,
            credential=credential,
        )
        resolved_tool = await self.manager.find(
            self._tenant, provider_type, provider, tool
        )
        async with aclosing(
            self.manager.invoke(resolved_tool, parameters, context, is_form=True)
        ) as messages:
            async for message in messages:
                yield message


def _tool_name(name: str) -> str:
    """Return a name that every model API accepts."""
    return model_safe_name(name).strip("_") or "tool"


class TenantAgents:
    """Agent strategies of the tenant's plugins."""

    def __init__(
        self,
        plugins: Plugins,
        tools: TenantTools,
        models: Models,
        tenant: str,
        user: str,
    ) -> None:
        self._plugins = plugins
        self._tools = tools
        self._models = models
        self._tenant = tenant
        self._user = user

    def serves(self, provider: str, strategy: str) -> bool:
        """Return whether a plugin of the tenant provides the strategy."""
        try:
            # The provider may belong to a plugin that is not installed.
            plugin, _ = self._plugins.provider(self._tenant, provider)
        except NotFoundError:
            return False
        declared = plugin.declaration.agent_strategy
        strategies = declared.strategies if declared is not None else ()
        return strategy in {declared.identity.name for declared in strategies}

    async def run(
        self, strategy: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Run a plugin's strategy and yield its messages. Raises NotFoundError or
        PluginError."""
        plugin, provider_name = self._plugins.provider(
            self._tenant, str(strategy["provider"])
        )
        # Unset parameters are omitted, so that the strategy uses its defaults.
        arguments: JSON = {
            name: value for name, value in parameters.items() if value is not None
        }
        # Strategies receive complete descriptions of the model and the tools, as Dify
        # sends them.
        if isinstance(arguments.get("model"), Mapping):
            arguments["model"] = self._model(arguments["model"])
        if isinstance(arguments.get("tools"), Sequence):
            arguments["tools"] = [
                await self._tool(ref) for ref in parse_tool_list(arguments["tools"])
            ]
        data = {
            "agent_strategy_provider": provider_name,
            "agent_strategy": strategy["name"],
            "agent_strategy_params": arguments,
        }
        answers = self._plugins.call(
            self._tenant,
            plugin.plugin_id,
            "agent_strategy",
            "invoke_agent_strategy",
            data,
            user=self._user,
            extra={"context": {"depth": 1, "idempotency_key": strategy.get("key", "")}},
        )
        # Closing the generator cancels the strategy in the plugin.
        async with aclosing(answers):
            async for answer in answers:
                yield answer

    def _model(self, model_value: Mapping[str, Any]) -> JSON:
        """Return the model with its catalogue entry, as strategies expect it."""
        # Defaults that strategies rely on; the configured values override them.
        model: JSON = {
            "model_type": "llm",
            "mode": "chat",
            "completion_params": {},
            "history_prompt_messages": [],
            **model_value,
        }
        try:
            model_instance: Any = self._models.find(
                str(model_value.get("provider") or ""),
                str(model_value.get("model") or ""),
                "llm",
            )
        except ModelyardError:
            # An unknown model is passed on: the plugin reports the error when it calls
            # it.
            return model
        if model_instance.schema is not None:
            model["entity"] = conversions.dump_entity(model_instance.schema)
        return model

    async def _tool(self, ref: ToolRef) -> JSON:
        """Return a complete tool description with its configured values. Raises
        PluginError."""
        try:
            # Without settings, so that the description contains all parameters.
            tool = await self._tools.bind(msgspec.structs.replace(ref, settings={}))
        except (ToolNotFoundError, NotFoundError) as error:
            raise PluginError(f"Tool {ref.provider}/{ref.name}: {error}") from error
        entity = tool.entity
        label = entity.label or {"en_US": entity.name}
        # Dify's strategies expect this structure.
        return {
            "identity": {
                "author": entity.author or "modelyard",
                "name": ref.name,
                "label": label,
                "provider": entity.provider or ref.provider,
            },
            "parameters": [
                _dump_parameter(parameter)
                for parameter in entity.parameters or _parameters(tool.schema)
            ],
            "description": {
                "human": entity.human_description or label,
                "llm": entity.description,
            },
            "output_schema": entity.output_schema,
            "has_runtime_parameters": False,
            "provider_type": (
                "builtin"
                if entity.kind in ("builtin", "plugin", "function")
                else entity.kind
            ),
            "runtime_parameters": dict(ref.settings),
            "credential_id": ref.credential or None,
            "credential_type": "api-key",
        }


def _parameters(schema: Mapping[str, Any]) -> list[ToolParameter]:
    """Return the properties of a JSON schema as tool parameters."""
    kinds = {
        "integer": "number",
        "number": "number",
        "boolean": "boolean",
        "array": "array",
        "object": "object",
    }
    # Optional properties are not in this list.
    required = set(schema.get("required") or ())
    return [
        ToolParameter(
            name=name,
            type=kinds.get(str(rule.get("type")), "string"),
            required=name in required,
            llm_description=str(rule.get("description") or name),
            default=rule.get("default"),
            input_schema=dict(rule),
        )
        for name, rule in (schema.get("properties") or EMPTY_OBJECT).items()
        if is_mapping(rule)
    ]


def _dump_parameter(parameter: ToolParameter) -> JSON:
    """Return a tool parameter in Dify's format."""
    label = parameter.label or {"en_US": parameter.name}
    return {
        "name": parameter.name,
        "label": label,
        "type": parameter.type,
        "form": parameter.form,
        "required": parameter.required,
        "human_description": parameter.human_description or label,
        "llm_description": parameter.llm_description,
        "default": parameter.default,
        "min": parameter.min,
        "max": parameter.max,
        "input_schema": parameter.input_schema,
        "options": [
            {"value": option.value, "label": option.label or {"en_US": option.value}}
            for option in parameter.options
        ],
    }


# ------------------------------------------------------------------------ apps as tools


class AppTool(Tool):
    """An app as a tool: its start form is the parameters, its outputs are the result.
    An agent app lets agents call agents."""

    def __init__(self, apps: AppTools, app_record: AppRecord, app: App) -> None:
        self._apps = apps
        self._found = app_record
        self._app = app
        form_fields = form_of(app.graph(app.roots[0]).nodes[app.roots[0]])
        # Hidden fields are set by the app itself.
        parameters = [
            _parameter_from_field(form_field)
            for form_field in form_fields
            if not form_field.hide
        ]
        # Chat apps take the question as an additional parameter.
        if app.is_chat:
            query = ToolParameter(
                name="query",
                required=True,
                llm_description="What is asked or to be done.",
            )
            parameters = [query, *parameters]
        self.entity = ToolEntity(
            name=_tool_name(app_record.name),
            provider=app_record.id,
            kind="workflow",
            label={"en_US": app_record.name},
            description=app_record.stored.description or f"The app {app_record.name}.",
            parameters=parameters,
            seconds=1200.0,
        )

    async def invoke(
        self, parameters: Mapping[str, Any], context: ToolContext
    ) -> AsyncGenerator[Message, None]:
        """Run the app and yield its outputs. Raises ToolInvokeError if it does not
        succeed."""
        # The tool object may be cached; it must never cross tenants.
        if context.tenant != self._found.tenant:
            raise ToolNotFoundError(f"Tool {self.name!r} not found")
        run = await self._start(parameters, context)
        runs = self._apps.runs
        try:
            # The caller waits until the called app has finished.
            ended = await runs.wait_until_ended(context.tenant, run.id)
        except BaseException:
            # Also on cancellation: the called run must not outlive its caller.
            await runs.stop(context.tenant, run.id, "the calling run was stopped")
            raise
        if ended.status not in (Status.SUCCEEDED, Status.PARTIAL):
            raise ToolInvokeError(
                f"App {self._found.name!r} {ended.status.value}:"
                f" {ended.error or 'the run waits for human input'}"
            )
        # Names with two underscores are internal outputs of nodes.
        outputs = {
            name: value
            for name, value in ended.outputs.items()
            if not name.startswith("__")
        }
        if self._app.is_chat:
            # A chat app has one answer; other apps have named outputs.
            yield text_message(str(outputs.get("answer") or ""))
            return
        yield text_message(msgspec.json.encode(outputs).decode())
        for file in _files(outputs):
            yield {"type": "file", "message": {}, "meta": {"file": file}}
        yield json_message(outputs)
        for name, value in outputs.items():
            yield variable_message(name, value)

    async def _start(
        self, parameters: Mapping[str, Any], context: ToolContext
    ) -> RunRecord:
        """Start the app with the tool's parameters as its inputs."""
        inputs = dict(parameters)
        chats = self._apps.chats
        if not self._app.is_chat:
            return await chats.run(
                self._found,
                self._app,
                inputs=inputs,
                user=context.user,
                depth=context.depth + 1,
                created_from="tool",
            )
        # The query is a separate argument of a chat run.
        query = str(inputs.pop("query", ""))
        run, _ = await chats.send(
            self._found,
            self._app,
            query=query,
            inputs=inputs,
            user=context.user,
            created_from="tool",
            depth=context.depth + 1,
        )
        return run


class AppTools:
    """All published apps of a tenant as tools. An app's DSL file is read only when it
    is called."""

    def __init__(self, apps: Apps, chats: Chats, runs: Runs) -> None:
        self._apps = apps
        self.chats = chats
        self.runs = runs

    async def tools(self, tenant: str) -> Sequence[ToolEntity]:
        """Return the tools without their parameters, which would need the DSL files."""
        # Unpublished apps cannot be called.
        return [
            ToolEntity(
                name=_tool_name(app_record.name),
                provider=app_record.id,
                kind="workflow",
                label={"en_US": app_record.name},
                description=app_record.stored.description,
            )
            for app_record in self._apps.list_all(tenant)
            if app_record.stored.digest
        ]

    async def find(self, tenant: str, provider: str, name: str) -> Tool:
        """Return the tool of an app by id or name. Raises ToolNotFoundError."""
        # Names are unique only after they were made safe for models.
        for app_record in self._apps.list_all(tenant):
            identifiers = {app_record.id, app_record.name}
            matches = (
                provider in identifiers
                or name in identifiers
                or _tool_name(app_record.name) == name
            )
            if app_record.stored.digest and matches:
                app = await self._apps.published_app(app_record)
                return AppTool(self, app_record, app)
        raise ToolNotFoundError(f"App {name!r} not found")


class TenantAgentApps:
    """A tenant's apps of mode `agent`, for the agent nodes of other apps."""

    def __init__(
        self, apps: Apps, tenant: str, mappings: Sequence[Mapping[str, str]]
    ) -> None:
        self._apps = apps
        self._tenant = tenant
        self._mappings = mappings

    async def package(self, reference: str) -> AgentPackage | None:
        """Return the package of an agent's app by id or name; None if there is none.

        A mapping of this reference has priority over the reference itself.
        """
        name = self._mapped_name(reference)
        for app_record in self._apps.list_all(self._tenant):
            # A draft has no version that could run.
            if name in (app_record.id, app_record.name) and app_record.stored.digest:
                app = await self._apps.published_app(app_record)
                return app.agent_package
        return None

    def _mapped_name(self, reference: str) -> str:
        """Return what the first mapping has for a reference, or the reference itself."""
        for mapping in self._mappings:
            if reference in mapping:
                return mapping[reference]
        return reference


class PluginCalls:
    """Requests of plugins to layers above them: tools of any type, and apps."""

    def __init__(
        self, manager: ToolManager, apps: Apps, chats: Chats, runs: Runs
    ) -> None:
        self._manager = manager
        self._apps = apps
        self._chats = chats
        self._runs = runs

    async def tool(
        self,
        call: PluginCall,
        provider_type: str,
        provider: str,
        name: str,
        request: JSON,
        depth: int,
    ) -> AsyncGenerator[JSON, None]:
        """Call a tool for a plugin and yield its messages as JSON."""
        resolved_tool = await self._manager.find(
            call.tenant, provider_type, provider, name
        )
        # The plugin's own depth is passed on, so that nested calls are limited.
        context = ToolContext(
            tenant=call.tenant,
            user=call.user,
            depth=depth,
            credential=str(request.get("credential_id") or ""),
        )
        tool_parameters: dict[str, Any] = request.get("tool_parameters") or {}
        async with aclosing(
            self._manager.invoke(resolved_tool, tool_parameters, context, is_form=True)
        ) as messages:
            async for message in messages:
                yield _as_json(message)

    async def app(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        """Run an app for a plugin and yield its events. Raises NotFoundError and the
        errors of starting a run."""
        app_record = self._apps.get_by_id_or_name(call.tenant, str(request["app_id"]))
        app = await self._apps.published_app(app_record)
        mode = request.get("response_mode") or "blocking"
        # `about` returns the description of the app without running it.
        if mode == "about":
            yield {
                "data": {
                    "id": app_record.id,
                    "name": app_record.name,
                    "mode": app.mode,
                    "description": app.description,
                }
            }
            return
        run = await self._start(call, request, app_record, app)
        is_streaming = mode == "streaming"
        # In blocking mode only the last event below is sent.
        if is_streaming:
            async with aclosing(self._runs.watch(call.tenant, run.id)) as events:
                async for _, event in events:
                    if (document := _text_event(event, run)) is not None:
                        yield document
        ended = await self._runs.wait_until_ended(call.tenant, run.id)
        yield _last_event(app, run, ended, is_streaming=is_streaming)

    async def _start(
        self, call: PluginCall, request: JSON, app_record: AppRecord, app: App
    ) -> RunRecord:
        """Start the app with the inputs of a plugin's request."""
        user = str(request.get("user") or call.user)
        inputs = dict(request.get("inputs") or {})
        # Counts nested calls across plugins, so that a cycle of apps ends.
        depth = int((call.context or EMPTY_OBJECT).get("depth", 0)) + 1
        if not app.is_chat:
            return await self._chats.run(
                app_record,
                app,
                inputs=inputs,
                user=user,
                depth=depth,
                created_from="plugin",
            )
        run, _ = await self._chats.send(
            app_record,
            app,
            query=str(request.get("query") or ""),
            inputs=inputs,
            user=user,
            depth=depth,
            conversation_id=str(request.get("conversation_id") or ""),
            created_from="plugin",
        )
        return run


def _text_event(event: AnyEvent, run: RunRecord) -> JSON | None:
    """Return the document for answer text; None for other events, which stay internal."""
    if isinstance(event, NodeRunStreamChunk) and event.chunk:
        name, text = "message", event.chunk
    elif isinstance(event, TextReplaced):
        name, text = "message_replace", event.text
    else:
        return None
    return {
        "event": name,
        "task_id": run.id,
        "id": run.message,
        "answer": text,
        "conversation_id": run.conversation,
    }


def _last_event(
    app: App, run: RunRecord, ended: RunRecord, *, is_streaming: bool
) -> JSON:
    """Return the event with an app's results. Event names and fields follow Dify's
    API."""
    if app.is_chat or app.mode == "completion":
        return {
            "event": "message_end" if is_streaming else "message",
            "task_id": run.id,
            "id": run.message,
            "message_id": run.message,
            "conversation_id": run.conversation,
            "mode": app.mode,
            "answer": str(ended.outputs.get("answer") or ""),
            "metadata": {},
            "created_at": int(run.created_at),
        }
    data = {
        "id": run.id,
        "status": ended.status.value,
        "outputs": ended.outputs,
        "error": ended.error or None,
    }
    event: JSON = {"task_id": run.id, "workflow_run_id": run.id, "data": data}
    return {"event": "workflow_finished", **event} if is_streaming else event


def _as_json(tool_message: Message) -> JSON:
    """Return a message with its bytes in base64."""
    message = tool_message.get("message")
    # JSON has no bytes.
    if is_mapping(message) and isinstance(message.get("blob"), bytes):
        blob = base64.b64encode(message["blob"]).decode()
        return {**tool_message, "message": {**message, "blob": blob}}
    return dict(tool_message)


def _parameter_from_field(form_field: FormField) -> ToolParameter:
    """Return a form field as a tool parameter."""
    kinds = {
        "number": "number",
        "select": "select",
        "checkbox": "boolean",
        "file": "file",
        "file-list": "files",
        "json_object": "object",
    }
    return ToolParameter(
        name=form_field.variable,
        type=kinds.get(form_field.type, "string"),
        required=form_field.required,
        default=form_field.default,
        label={"en_US": form_field.label or form_field.variable},
        llm_description=form_field.description
        or form_field.label
        or form_field.variable,
        options=[Option(value=str(option)) for option in form_field.options],
    )


def _files(value: Any) -> list[Mapping[str, Any]]:
    """Return all file objects in a nested value."""
    if is_mapping(value):
        if value.get("dify_model_identity") == "__dify__file__":
            return [value]
        elements = list(value.values())
    elif is_array(value):
        elements = value
    else:
        return []
    return [file for element in elements for file in _files(element)]
