"""/admin/v1/nodes, /node-parts and /subscriptions: node types, what plugins give them, what trigger plugins hear."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from modelyard.agents.strategies import STRATEGIES
from modelyard.base.errors import NotFoundError
from modelyard.base.fields import may, need
from modelyard.gateway.admin.app_shapes import (
    NodeKindShown,
    NodeParts,
    PartOption,
    PartParameter,
    PartShown,
    SubscriptionShown,
    TriggerProviderShown,
)
from modelyard.gateway.admin.requests import tenant_of
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.models.entities import I18nObject
from modelyard.plugins.declaration import Field, Identity, Parameter, Part
from modelyard.tenant_plugins.plugins import Plugins
from modelyard.tenant_plugins.subscriptions import PluginSubscriptions
from modelyard.workflow.nodes import node_class, node_types

_OWN_STRATEGIES = {
    "function_calling": ("Function calling", "函数调用"), "react": ("ReAct", "ReAct"),
    "react_completion": ("ReAct for completion models", "ReAct（补全模型）"),
    "chain_of_thought": ("Chain of thought", "思维链"), "plan_and_execute": ("Plan and execute", "规划并执行"),
}  # fmt: skip
_OWN_PARAMETERS = (
    ("model", "model-selector", True, None, "Model", "模型"), ("tools", "array[tools]", False, None, "Tools", "工具"),
    ("instruction", "string", False, None, "Instruction", "指令"), ("query", "string", True, None, "Query", "查询"),
    ("maximum_iterations", "number", False, 10, "Rounds at most", "最多轮数"),
)  # fmt: skip
"""What our own strategies take: (name, type, whether it has to be there, default, in English, in Chinese)."""


@dataclass(frozen=True, slots=True)
class NodeKinds:
    """Node types, each with a JSON schema of what it is told."""

    async def listed(self, request: Request) -> Reply:
        """The same for everybody."""
        del request
        return json_reply({"data": await asyncio.to_thread(_kinds)})


@lru_cache(1)
def _kinds() -> list[NodeKindShown]:
    found: list[NodeKindShown] = []
    for kind in node_types():
        made = node_class(kind)
        if made is None:
            continue
        schema = msgspec.json.schema(made.Data)
        found.append(NodeKindShown(type=kind, kind=made.kind.value, schema=schema))
    return found


@dataclass(frozen=True, slots=True)
class PartsOfNodes:
    """What plugins give nodes to work with."""

    plugins: Plugins

    async def listed(self, request: Request) -> Reply:
        """Raises NotFoundError for a tenant that is not the caller's."""
        events: list[PartShown] = []
        strategies = [_own(name) for name in STRATEGIES]
        datasources: list[PartShown] = []
        providers: list[TriggerProviderShown] = []
        for one in self.plugins.installed(tenant_of(request)):
            plugin, said = one.plugin_id, one.declaration
            if (trigger := said.trigger) is not None:
                provider = f"{plugin}/{trigger.identity.name}"
                events += [_part(provider, plugin, each) for each in trigger.events]
                made = trigger.subscription_constructor
                providers.append(TriggerProviderShown(
                    provider=provider, plugin=plugin, label=_label(trigger.identity.label, trigger.identity.name),
                    parameters=[_parameter(each) for each in made.parameters] if made else [],
                    credentials=[_field(each) for each in made.credentials_schema] if made else [],
                ))  # fmt: skip
            if (agent := said.agent_strategy) is not None:
                strategies += [_part(f"{plugin}/{agent.identity.name}", plugin, each) for each in agent.strategies]
            if (source := said.datasource) is not None:
                name = f"{plugin}/{source.identity.name}"
                datasources += [_part(name, plugin, each, source.provider_type) for each in source.datasources]
        return json_reply(
            NodeParts(events=events, strategies=strategies, datasources=datasources, trigger_providers=providers)
        )


@dataclass(frozen=True, slots=True)
class Subscriptions:
    """What trigger plugins listen to."""

    subscribed: PluginSubscriptions
    origin: Callable[[], str]

    async def listed(self, request: Request) -> Reply:
        """Raises NotFoundError for a tenant that is not the caller's."""
        return json_reply({"data": self._all(tenant_of(request))})

    async def add(self, request: Request) -> Reply:
        """Raises InvokeBadRequestError, NotFoundError, PluginError."""
        tenant, body = tenant_of(request), await request.json()
        made = await self.subscribed.subscribe(
            tenant, need(body, "plugin", str), need(body, "name", str), may(body, "parameters", dict) or {},
            may(body, "credentials", dict) or {}, origin=self.origin(), user=request.caller.user or "",
        )  # fmt: skip
        shown = next(subscription for subscription in self._all(tenant) if subscription.id == made)
        return json_reply(shown, status=201)

    async def remove(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        tenant, name = tenant_of(request), request.names["id"]
        if name not in {subscription.id for subscription in self._all(tenant)}:
            raise NotFoundError(f"subscription {name[:80]!r} does not exist", code="subscription_not_found")
        await self.subscribed.unsubscribe(tenant, name)
        return json_reply(Removed(id=name, deleted=True))

    def _all(self, tenant: str) -> list[SubscriptionShown]:
        return [
            SubscriptionShown(
                id=row, name=name, plugin=one.plugin, provider=f"{one.plugin}/{one.provider}",
                address=f"{self.origin()}/t/{row}",
            )
            for row, name, one in self.subscribed.all(tenant)
        ]  # fmt: skip


def _own(name: str) -> PartShown:
    english, chinese = _OWN_STRATEGIES[name]
    return PartShown(
        provider="", plugin="", name=name, label=I18nObject(en_us=english, zh_hans=chinese),
        parameters=[
            PartParameter(
                name=one, type=kind, label=I18nObject(en_us=said, zh_hans=also), help=None, required=required,
                default=default, min=None, max=None, options=[],
            )
            for one, kind, required, default, said, also in _OWN_PARAMETERS
        ],
    )  # fmt: skip


def _part(provider: str, plugin: str, one: Part, kind: str = "") -> PartShown:
    about: Identity = one.identity
    return PartShown(
        provider=provider, plugin=plugin, name=about.name, label=_label(about.label, about.name), kind=kind,
        parameters=[_parameter(each) for each in one.parameters], output_schema=one.output_schema,
    )  # fmt: skip


def _parameter(one: Parameter) -> PartParameter:
    return PartParameter(
        name=one.name, type=one.type, label=_label(one.label, one.name),
        help=_label(one.human_description, "") if one.human_description else None, required=one.required,
        default=one.default, min=one.min, max=one.max, options=_options(one.options),
    )  # fmt: skip


def _options(given: Sequence[Any]) -> list[PartOption]:
    found: list[PartOption] = []
    for one in given:
        value = str(one.get("value", "")) if isinstance(one, Mapping) else str(one)
        label: Any = one.get("label") if isinstance(one, Mapping) else None
        found.append(PartOption(value=value, label=_label(label if isinstance(label, Mapping) else {}, value)))
    return found


def _field(one: Field) -> PartParameter:
    return PartParameter(
        name=one.name, type=one.type, label=I18nObject(en_us=one.name), help=None, required=one.required,
        default=one.default, min=None, max=None, options=[],
    )  # fmt: skip


def _label(given: Mapping[str, Any], otherwise: str) -> I18nObject:
    text = str(given.get("en_US") or otherwise or next(iter(given.values()), ""))
    chinese = given.get("zh_Hans")
    return I18nObject(en_us=text, zh_hans=str(chinese) if chinese else None)
