"""Tools of plugins. Their entities come from the plugin's YAML declaration; calls run
in the plugin's process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from modelyard.base.errors import NotFoundError, PluginError
from modelyard.base.json_types import is_mapping
from modelyard.tools.entities import (
    Message,
    Option,
    Tool,
    ToolContext,
    ToolCredentialsError,
    ToolEntity,
    ToolInvokeError,
    ToolNotFoundError,
    ToolParameter,
    ToolParameterError,
)
from modelyard.tools.values import cast_all

if TYPE_CHECKING:
    from modelyard.plugins.declaration import Parameter, Part
    from modelyard.tenant_plugins.credentials import PluginCredentials
    from modelyard.tenant_plugins.plugins import Installed, Plugins

# A plugin may wait for a slow API of its own.
_TIMEOUT_SECONDS = 300.0


class PluginTool(Tool):
    """One tool of an installed plugin, bound to a tenant."""

    def __init__(
        self,
        plugins: Plugins,
        credentials: PluginCredentials,
        tenant: str,
        owner: Installed,
        provider: str,
        part: Part,
    ) -> None:
        self._plugins = plugins
        self._credentials = credentials
        self._tenant = tenant
        self._owner = owner
        self._provider = provider
        self.entity = tool_entity(f"{owner.plugin_id}/{provider}", part)

    async def invoke(
        self, parameters: Mapping[str, Any], context: ToolContext
    ) -> AsyncGenerator[Message, None]:
        """Call the tool in the plugin and yield its messages.

        Raises ToolNotFoundError for another tenant, ToolCredentialsError,
        ToolParameterError or ToolInvokeError.
        """
        if context.tenant != self._tenant:
            # The tool object holds this tenant's credentials; another tenant must not
            # use them.
            raise ToolNotFoundError(f"Tool {self.name!r} not found")
        try:
            credentials, credential_type = await self._credentials.find(
                self._tenant,
                f"{self._owner.plugin_id}/{self._provider}",
                context.credential,
                context.user,
            )
        except (NotFoundError, PluginError) as error:
            raise ToolCredentialsError(str(error)) from error
        data = {
            "provider": self._provider,
            "tool": self.name,
            "credentials": credentials,
            "credential_type": credential_type,
            "tool_parameters": cast_all(self.entity.parameters, parameters),
        }
        answers = self._plugins.call(
            self._tenant,
            self._owner.plugin_id,
            "tool",
            "invoke_tool",
            data,
            user=context.user,
            # The depth is passed on so that a tool that calls an agent cannot recurse
            # without limit.
            extra={
                "context": {"depth": context.depth + 1, "idempotency_key": context.key}
            },
        )
        try:
            # Closing the generator cancels the call in the plugin's process.
            async with aclosing(answers):
                async for answer in answers:
                    yield answer
        except PluginError as error:
            # The plugin reports the name of its exception class; it decides how the
            # failure is classified.
            kinds = {
                "ToolProviderCredentialValidationError": ToolCredentialsError,
                "ToolParameterValidationError": ToolParameterError,
            }
            raise kinds.get(error.kind, ToolInvokeError)(str(error)) from error


class PluginTools:
    """A tool source: the tools of all plugins that a tenant has installed."""

    def __init__(self, plugins: Plugins, credentials: PluginCredentials) -> None:
        self._plugins = plugins
        self._credentials = credentials

    async def tools(self, tenant: str) -> Sequence[ToolEntity]:
        """Return the entities of all plugin tools of a tenant."""
        return [
            tool_entity(f"{plugin.plugin_id}/{provider.identity.name}", part)
            for plugin in self._plugins.installed(tenant)
            if (provider := plugin.declaration.tool) is not None
            for part in provider.tools
        ]

    async def find(self, tenant: str, provider: str, name: str) -> Tool:
        """Return a tool by name. An empty `provider` searches all plugins. Raises
        ToolNotFoundError."""
        for plugin in self._plugins.installed(tenant):
            if (declared := plugin.declaration.tool) is None:
                continue
            provider_name = declared.identity.name
            # A provider may be specified by its own name, by the plugin's id or by
            # both.
            if provider not in (
                "",
                provider_name,
                plugin.plugin_id,
                f"{plugin.plugin_id}/{provider_name}",
            ):
                continue
            part = next(
                (
                    candidate
                    for candidate in declared.tools
                    if candidate.identity.name == name
                ),
                None,
            )
            if part is not None:
                return PluginTool(
                    self._plugins,
                    self._credentials,
                    tenant,
                    plugin,
                    provider_name,
                    part,
                )
        raise ToolNotFoundError(f"Tool {name!r} not found")


def tool_entity(provider: str, part: Part) -> ToolEntity:
    """Build a tool entity from a plugin's declaration of the tool."""
    description: Mapping[str, Any] = (
        part.description if is_mapping(part.description) else {}
    )
    # `human` is for the console, `llm` for the model.
    human = description.get("human")
    return ToolEntity(
        name=part.identity.name,
        provider=provider,
        kind="plugin",
        label=part.identity.label,
        description=str(
            description.get("llm") or part.identity.description.get("en_US", "")
        ),
        human_description=dict(human) if is_mapping(human) else {},
        author=part.identity.author,
        icon=part.identity.icon,
        parameters=[_tool_parameter(parameter) for parameter in part.parameters],
        seconds=_TIMEOUT_SECONDS,
    )


def _tool_parameter(parameter: Parameter) -> ToolParameter:
    """Return a tool parameter from a plugin's declaration.

    Options may be plain values, or objects with `value` and `label`.
    """
    options = [
        # Options may be plain values or objects with a label.
        Option(value=str(option.get("value")), label=dict(option.get("label") or {}))
        if is_mapping(option)
        else Option(value=str(option))
        for option in parameter.options
    ]
    return ToolParameter(
        name=parameter.name,
        type=parameter.type,
        form=parameter.form,
        label=parameter.label,
        human_description=parameter.human_description,
        llm_description=parameter.llm_description or "",
        required=parameter.required,
        default=parameter.default,
        min=parameter.min,
        max=parameter.max,
        options=options,
    )
