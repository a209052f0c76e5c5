"""Model providers of plugins: their names within a tenant, and the objects that call
their models."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import msgspec

from modelyard.models.base import AnyModel
from modelyard.models.entities import AIModelEntity
from modelyard.models.types import JSON, ModelType
from modelyard.plugins.client import plugin_models
from modelyard.plugins.connection import PluginCall
from modelyard.plugins.declaration import WIRE, Declaration
from modelyard.plugins.host import PluginHost
from modelyard.providers.definition import ProviderDefinition
from modelyard.providers.factory import Builder
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.resource_types import Installation


class ProviderNames:
    """Chooses the names of plugins' model providers."""

    def __init__(self, directory: Directory, providers: ProviderManager) -> None:
        self._directory = directory
        self._providers = providers

    def choose_name(
        self, tenant: str, declaration: Declaration, *, is_in_debug: bool = False
    ) -> str:
        """Return the name for a plugin's model provider: its own if it is free. Empty
        if the plugin has none."""
        if declaration.model is None:
            return ""
        manifest, own_name = declaration.manifest, declaration.model.name
        used_names = {
            entity.provider for entity in self._providers.factory.get_providers()
        }
        for row, installation in self._directory.of(tenant, Installation):
            # An installed plugin keeps the name it got, so that model names stay valid.
            if row.name == manifest.id:
                return installation.provider or own_name
            used_names.add(installation.provider)
        # The author and the plugin's name are added step by step until the name is
        # unique.
        choices = [
            own_name,
            f"{manifest.author}-{own_name}",
            f"{manifest.author}-{manifest.name}-{own_name}",
        ]
        otherwise = f"{own_name}-debug" if is_in_debug else choices[-1]
        return next((name for name in choices if name not in used_names), otherwise)


SchemaSource = Callable[[str, str, ModelType, str], AIModelEntity | None]
"""(tenant, provider, type, model) to the declaration of a model; None if unknown."""


class _Installed(Protocol):
    """An installed plugin."""

    @property
    def identifier(self) -> str:
        """`author/name:version@checksum`."""
        ...

    @property
    def plugin_id(self) -> str:
        """`author/name`."""
        ...

    @property
    def declaration(self) -> Declaration:
        """What the plugin declares."""
        ...

    @property
    def installation(self) -> Installation:
        """The stored installation."""
        ...


class _Plugins(Protocol):
    """The plugins of tenants."""

    def installed(self, tenant: str) -> Sequence[_Installed]:
        """Return the plugins of a tenant."""
        ...


class PluginModels:
    """The models of a tenant's plugins."""

    def __init__(
        self, plugins: _Plugins, host: PluginHost, schema_of: SchemaSource
    ) -> None:
        """`schema_of` also knows the models that the tenant has added."""
        self._plugins = plugins
        self._host = host
        self._schema_of = schema_of

    def additional_providers(
        self, tenant: str
    ) -> tuple[list[ProviderDefinition], Builder]:
        """Return the model providers of a tenant's plugins under their names in this
        tenant, and the function that builds their models."""
        owners: dict[str, tuple[_Installed, str]] = {}
        definitions: list[ProviderDefinition] = []
        for plugin in self._plugins.installed(tenant):
            model = plugin.declaration.model
            # A plugin in debug mode comes first and hides the installed one of the same
            # name.
            if model is None or plugin.installation.provider in owners:
                continue
            name = plugin.installation.provider or model.name
            entity = msgspec.structs.replace(model.entity, provider=name)
            definitions.append(replace(model, entity=entity, wire=WIRE))
            owners[name] = (plugin, model.name)

        def build(definition: ProviderDefinition) -> Mapping[ModelType, AnyModel]:
            """Return the models of a provider, which call the plugin."""
            owner, provider_name = owners[definition.name]

            def ask(call: PluginCall) -> AsyncGenerator[JSON, None]:
                """Send a call to the plugin and stream its answers."""
                return self._host.call(owner.identifier, call)

            def schema(model_type: ModelType, model: str) -> AIModelEntity | None:
                """Return the declaration of a model."""
                return self._schema_of(tenant, definition.name, model_type, model)

            return plugin_models(
                ask,
                definition,
                schema,
                tenant=tenant,
                plugin=owner.plugin_id,
                provider=provider_name,
            )

        return definitions, build

    def provider_name(self, tenant: str, provider: str) -> str:
        """Return the name in this tenant of a plugin's model provider, which may be
        named `author/plugin/provider`; empty if it is none."""
        owner, _, name = provider.rpartition("/")
        for plugin in self._plugins.installed(tenant):
            declared = plugin.declaration.model
            if declared is None:
                continue
            own_name = plugin.installation.provider or declared.name
            if (owner, name) == (plugin.plugin_id, declared.name):
                return own_name
            if not owner and name == own_name:
                return own_name
        return ""

    def model_name(self, tenant: str, provider: str, model: str) -> str:
        """Return `provider/model` under the name in this tenant. The provider may be
        named as plugins do, `author/plugin/provider`."""
        owner, _, provider_name = provider.rpartition("/")
        if owner:
            for plugin in self._plugins.installed(tenant):
                declared = plugin.declaration.model
                if (
                    declared is not None
                    and declared.name == provider_name
                    and plugin.plugin_id == owner
                ):
                    return f"{plugin.installation.provider or provider_name}/{model}"
        return f"{provider_name}/{model}"
