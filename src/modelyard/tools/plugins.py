"""Tools of plugins: described as their YAML says, run in the plugin's own process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from modelyard.base.errors import NotFoundError, PluginError
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

_SECONDS = 300.0


class PluginTool(Tool):
    def __init__(
        self, plugins: Plugins, credentials: PluginCredentials, tenant: str, owner: Installed, provider: str, part: Part
    ) -> None:  # fmt: skip
        self._plugins = plugins
        self._credentials = credentials
        self._tenant = tenant
        self._owner = owner
        self._provider = provider
        self.entity = entity_of(f"{owner.plugin_id}/{provider}", part)

    async def invoke(self, parameters: Mapping[str, Any], context: ToolContext) -> AsyncGenerator[Message, None]:
        if context.tenant != self._tenant:
            raise ToolNotFoundError(f"there is not a tool named {self.name}")
        try:
            credentials, kind = await self._credentials.find(
                self._tenant, f"{self._owner.plugin_id}/{self._provider}", context.credential, context.user
            )
        except (NotFoundError, PluginError) as error:
            raise ToolCredentialsError(str(error)) from error
        data = {
            "provider": self._provider, "tool": self.name, "credentials": credentials, "credential_type": kind,
            "tool_parameters": cast_all(self.entity.parameters, parameters),
        }  # fmt: skip
        answers = self._plugins.call(
            self._tenant, self._owner.plugin_id, "tool", "invoke_tool", data, user=context.user,
            more={"context": {"depth": context.depth + 1, "idempotency_key": context.key}},
        )  # fmt: skip
        try:
            async with aclosing(answers):
                async for answer in answers:
                    yield answer
        except PluginError as error:
            kinds = {
                "ToolProviderCredentialValidationError": ToolCredentialsError,
                "ToolParameterValidationError": ToolParameterError,
            }
            raise kinds.get(error.kind, ToolInvokeError)(str(error)) from error


class PluginTools:
    """Those of all plugins that a tenant has installed."""

    def __init__(self, plugins: Plugins, credentials: PluginCredentials) -> None:
        self._plugins = plugins
        self._credentials = credentials

    async def tools(self, tenant: str) -> Sequence[ToolEntity]:
        return [
            entity_of(f"{one.plugin_id}/{provider.identity.name}", part)
            for one in self._plugins.installed(tenant)
            if (provider := one.declaration.tool) is not None
            for part in provider.tools
        ]

    async def find(self, tenant: str, provider: str, name: str) -> Tool:
        for one in self._plugins.installed(tenant):
            if (declared := one.declaration.tool) is None:
                continue
            bare = declared.identity.name
            if provider not in ("", bare, one.plugin_id, f"{one.plugin_id}/{bare}"):
                continue
            part = next((each for each in declared.tools if each.identity.name == name), None)
            if part is not None:
                return PluginTool(self._plugins, self._credentials, tenant, one, bare, part)
        raise ToolNotFoundError(f"there is not a tool named {name}")


def entity_of(provider: str, part: Part) -> ToolEntity:
    told: Mapping[str, Any] = part.description if isinstance(part.description, Mapping) else {}
    human = told.get("human")
    return ToolEntity(
        name=part.identity.name, provider=provider, kind="plugin", label=part.identity.label,
        description=str(told.get("llm") or part.identity.description.get("en_US", "")),
        human_description=dict(human) if isinstance(human, Mapping) else {},
        author=part.identity.author, icon=part.identity.icon,
        parameters=[_parameter(one) for one in part.parameters], seconds=_SECONDS,
    )  # fmt: skip


def _parameter(one: Parameter) -> ToolParameter:
    options = [
        Option(value=str(each.get("value")), label=dict(each.get("label") or {}))
        if isinstance(each, Mapping)
        else Option(value=str(each))
        for each in one.options
    ]
    return ToolParameter(
        name=one.name, type=one.type, form=one.form, label=one.label, human_description=one.human_description,
        llm_description=one.llm_description or "", required=one.required, default=one.default, min=one.min, max=one.max,
        options=options,
    )  # fmt: skip
