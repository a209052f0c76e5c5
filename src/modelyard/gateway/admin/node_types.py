"""/admin/v1/nodes, /node-parts and /subscriptions: node types, the components that
plugins provide for nodes, and trigger subscriptions."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from modelyard.agents.strategies import STRATEGIES
from modelyard.base.errors import NotFoundError
from modelyard.base.fields import optional_field, required_field
from modelyard.base.json_types import is_mapping
from modelyard.gateway.admin.app_shapes import (
    ComponentOption,
    ComponentParameter,
    ComponentView,
    NodeComponents,
    NodeTypeView,
    SubscriptionView,
    TriggerProviderView,
)
from modelyard.gateway.admin.requests import tenant_of
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.models.entities import I18nObject
from modelyard.plugins.declaration import (
    Declaration,
    Field,
    Identity,
    Parameter,
    Part,
    TriggerProvider,
)
from modelyard.tenant_plugins.plugins import Plugins
from modelyard.tenant_plugins.subscriptions import PluginSubscriptions
from modelyard.workflow.nodes import node_class, node_types

# English and Chinese labels of the built-in strategies.
_BUILTIN_STRATEGIES = {
    "function_calling": ("Function calling", "函数调用"),
    "react": ("ReAct", "ReAct"),
    "react_completion": ("ReAct for completion models", "ReAct（补全模型）"),
    "chain_of_thought": ("Chain of thought", "思维链"),
    "plan_and_execute": ("Plan and execute", "规划并执行"),
}
_BUILTIN_PARAMETERS = (
    ("model", "model-selector", True, None, "Model", "模型"),
    ("tools", "array[tools]", False, None, "Tools", "工具"),
    ("instruction", "string", False, None, "Instruction", "指令"),
    ("query", "string", True, None, "Query", "查询"),
    ("maximum_iterations", "number", False, 10, "Maximum rounds", "最多轮数"),
)
"""Parameters of the built-in strategies: (name, type, required, default, English label,
Chinese label)."""


@dataclass(frozen=True, slots=True)
class NodeTypes:
    """Route for the node types, each with the JSON schema of its data."""

    async def listed(self, request: Request) -> Reply:
        """List the node types. They are the same for all tenants."""
        del request
        # The first call imports all node modules, which blocks.
        return json_reply({"data": await asyncio.to_thread(_node_type_views)})


@lru_cache(1)
def _node_type_views() -> list[NodeTypeView]:
    """Return the views of all node types. The result does not change while the server
    runs."""
    views: list[NodeTypeView] = []
    for node_type in node_types():
        implementation = node_class(node_type)
        # A type without an implementation cannot be used in a workflow.
        if implementation is None:
            continue
        schema = msgspec.json.schema(implementation.Data)
        views.append(
            NodeTypeView(type=node_type, kind=implementation.kind.value, schema=schema)
        )
    return views


@dataclass(frozen=True, slots=True)
class NodeComponentsRoute:
    """Route for the components that plugins provide for workflow nodes."""

    plugins: Plugins

    async def listed(self, request: Request) -> Reply:
        """List the events, strategies, datasources and trigger providers of a tenant's
        plugins.

        Raises NotFoundError for a tenant that the caller may not access.
        """
        components = NodeComponents(
            events=[],
            # The built-in strategies come first.
            strategies=[_builtin_strategy(name) for name in STRATEGIES],
            datasources=[],
            trigger_providers=[],
        )
        for installed in self.plugins.installed(tenant_of(request)):
            _add_components(components, installed.plugin_id, installed.declaration)
        return json_reply(components)


def _add_components(
    components: NodeComponents, plugin: str, declaration: Declaration
) -> None:
    """Add what one plugin declares to `components`."""
    if (trigger := declaration.trigger) is not None:
        provider = f"{plugin}/{trigger.identity.name}"
        components.events.extend(
            _component(provider, plugin, event) for event in trigger.events
        )
        components.trigger_providers.append(
            _trigger_provider(provider, plugin, trigger)
        )
    if (agent := declaration.agent_strategy) is not None:
        provider = f"{plugin}/{agent.identity.name}"
        components.strategies.extend(
            _component(provider, plugin, strategy) for strategy in agent.strategies
        )
    # All datasources of one plugin provider have the same type.
    if (source := declaration.datasource) is not None:
        provider = f"{plugin}/{source.identity.name}"
        components.datasources.extend(
            _component(provider, plugin, datasource, source.provider_type)
            for datasource in source.datasources
        )


def _trigger_provider(
    provider: str, plugin: str, trigger: TriggerProvider
) -> TriggerProviderView:
    """Return the view of a trigger provider, with the fields of its subscription form."""
    # Only plugins with a constructor subscribe by themselves; at all other providers
    # a person enters the address, and the properties here.
    constructor = trigger.subscription_constructor
    parameters = constructor.parameters if constructor else ()
    credentials = constructor.credentials_schema if constructor else ()
    return TriggerProviderView(
        provider=provider,
        plugin=plugin,
        label=_label(trigger.identity.label, trigger.identity.name),
        parameters=[_parameter(parameter) for parameter in parameters],
        credentials=[_field(credential_field) for credential_field in credentials],
        properties=[
            _field(property_field) for property_field in trigger.subscription_schema
        ],
        can_subscribe=constructor is not None,
    )


@dataclass(frozen=True, slots=True)
class Subscriptions:
    """Routes for the subscriptions of trigger plugins."""

    subscriptions: PluginSubscriptions
    origin: Callable[[], str]

    async def listed(self, request: Request) -> Reply:
        """List the subscriptions of a tenant.

        Raises NotFoundError for a tenant that the caller may not access.
        """
        return json_reply({"data": self._views(tenant_of(request))})

    async def add(self, request: Request) -> Reply:
        """Subscribe to the events of a trigger provider.

        Raises InvokeBadRequestError, NotFoundError, PluginError.
        """
        tenant, body = tenant_of(request), await request.json()
        subscription_id = await self.subscriptions.subscribe(
            tenant,
            required_field(body, "plugin", str),
            required_field(body, "name", str),
            optional_field(body, "parameters", dict) or {},
            optional_field(body, "credentials", dict) or {},
            origin=self.origin(),
            properties=optional_field(body, "properties", dict),
            user=request.caller.user or "",
        )
        view = next(
            subscription
            for subscription in self._views(tenant)
            if subscription.id == subscription_id
        )
        return json_reply(view, status=201)

    async def remove(self, request: Request) -> Reply:
        """End a subscription.

        Raises NotFoundError.
        """
        tenant, name = tenant_of(request), request.names["id"]
        # The lookup is limited to the tenant, so that no one can end another tenant's
        # subscription.
        if name not in {subscription.id for subscription in self._views(tenant)}:
            raise NotFoundError(
                f"Subscription {name[:80]!r} does not exist",
                code="subscription_not_found",
            )
        await self.subscriptions.unsubscribe(tenant, name)
        return json_reply(Removed(id=name, deleted=True))

    def _views(self, tenant: str) -> list[SubscriptionView]:
        """Return the views of all subscriptions of a tenant."""
        return [
            SubscriptionView(
                id=row,
                name=name,
                plugin=subscription.plugin,
                provider=f"{subscription.plugin}/{subscription.provider}",
                address=f"{self.origin()}/t/{row}",
                is_manual=subscription.is_manual,
            )
            for row, name, subscription in self.subscriptions.all(tenant)
        ]


def _builtin_strategy(name: str) -> ComponentView:
    """Return the view of a built-in strategy."""
    english, chinese = _BUILTIN_STRATEGIES[name]
    return ComponentView(
        provider="",
        plugin="",
        name=name,
        label=I18nObject(en_us=english, zh_hans=chinese),
        parameters=[
            ComponentParameter(
                name=parameter_name,
                type=parameter_type,
                label=I18nObject(en_us=label_en, zh_hans=label_zh),
                help=None,
                required=required,
                default=default,
                min=None,
                max=None,
                options=[],
            )
            for parameter_name, parameter_type, required, default, label_en, label_zh in (
                _BUILTIN_PARAMETERS
            )
        ],
    )


def _component(
    provider: str, plugin: str, component: Part, datasource_type: str = ""
) -> ComponentView:
    """Return the view of a component that a plugin declares."""
    identity: Identity = component.identity
    return ComponentView(
        provider=provider,
        plugin=plugin,
        name=identity.name,
        label=_label(identity.label, identity.name),
        kind=datasource_type,
        parameters=[_parameter(parameter) for parameter in component.parameters],
        output_schema=component.output_schema,
    )


def _parameter(parameter: Parameter) -> ComponentParameter:
    """Return the view of a declared parameter."""
    return ComponentParameter(
        name=parameter.name,
        type=parameter.type,
        label=_label(parameter.label, parameter.name),
        help=(
            _label(parameter.human_description, "")
            if parameter.human_description
            else None
        ),
        required=parameter.required,
        default=parameter.default,
        min=parameter.min,
        max=parameter.max,
        options=_options(parameter.options),
    )


def _options(declared_options: Sequence[Any]) -> list[ComponentOption]:
    """Return the options of a parameter. A plugin declares them as plain values or as
    objects with a label."""
    options: list[ComponentOption] = []
    for option in declared_options:
        value = str(option.get("value", "")) if is_mapping(option) else str(option)
        label: Any = option.get("label") if is_mapping(option) else None
        options.append(
            ComponentOption(
                value=value,
                label=_label(label if is_mapping(label) else {}, value),
            )
        )
    return options


def _field(field: Field) -> ComponentParameter:
    """Return a credential field in the form of a parameter."""
    return ComponentParameter(
        name=field.name,
        type=field.type,
        label=I18nObject(en_us=field.name),
        help=None,
        required=field.required,
        default=field.default,
        min=None,
        max=None,
        options=_options(field.options or ()),
    )


def _label(translations: Mapping[str, Any], otherwise: str) -> I18nObject:
    """Return a translated label. Without English, uses the fallback, then any language."""
    text = str(
        translations.get("en_US") or otherwise or next(iter(translations.values()), "")
    )
    chinese = translations.get("zh_Hans")
    return I18nObject(en_us=text, zh_hans=str(chinese) if chinese else None)
