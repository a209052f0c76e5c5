"""The model providers of tenants' plugins: under which names they are called here, and who makes their models."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import msgspec

from modelyard.models.base import AnyModel
from modelyard.models.types import JSON, ModelType
from modelyard.plugins.client import plugin_models
from modelyard.plugins.conversation import PluginCall
from modelyard.plugins.declaration import WIRE, Declaration
from modelyard.plugins.host import PluginHost
from modelyard.providers.definition import ProviderDefinition
from modelyard.providers.factory import Builder
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.kinds import Installation


class ProviderNames:
    """What plugins' model providers are called here."""

    def __init__(self, directory: Directory, providers: ProviderManager) -> None:
        self._directory = directory
        self._providers = providers

    def free(self, tenant: str, declaration: Declaration, *, is_in_debug: bool = False) -> str:
        """What a plugin's model provider is called: its own name, where nobody has it. Empty where it has none."""
        if declaration.model is None:
            return ""
        manifest, bare = declaration.manifest, declaration.model.name
        taken = {entity.provider for entity in self._providers.factory.get_providers()}
        for known, installation in self._directory.of(tenant, Installation):
            if known.name == manifest.id:
                return installation.provider or bare
            taken.add(installation.provider)
        choices = [bare, f"{manifest.author}-{bare}", f"{manifest.author}-{manifest.name}-{bare}"]
        otherwise = f"{bare}-debug" if is_in_debug else choices[-1]
        return next((name for name in choices if name not in taken), otherwise)


class _Installed(Protocol):
    @property
    def identifier(self) -> str: ...

    @property
    def plugin_id(self) -> str: ...

    @property
    def declaration(self) -> Declaration: ...

    @property
    def installation(self) -> Installation: ...


class _Plugins(Protocol):
    def installed(self, tenant: str) -> Sequence[_Installed]: ...


class PluginModels:
    """The models of the plugins that a tenant has."""

    def __init__(self, plugins: _Plugins, host: PluginHost) -> None:
        self._plugins = plugins
        self._host = host

    def added(self, tenant: str) -> tuple[list[ProviderDefinition], Builder]:
        """The model providers of a tenant's plugins, under the names that they have here, and who makes their
        models."""
        owners: dict[str, tuple[_Installed, str]] = {}
        definitions: list[ProviderDefinition] = []
        for plugin in self._plugins.installed(tenant):
            model = plugin.declaration.model
            if model is None or plugin.installation.provider in owners:
                continue
            name = plugin.installation.provider or model.name
            entity = msgspec.structs.replace(model.entity, provider=name)
            definitions.append(replace(model, entity=entity, wire=WIRE))
            owners[name] = (plugin, model.name)

        def build(definition: ProviderDefinition) -> Mapping[ModelType, AnyModel]:
            owner, bare = owners[definition.name]

            def ask(call: PluginCall) -> AsyncGenerator[JSON, None]:
                return self._host.call(owner.identifier, call)

            return plugin_models(ask, definition, tenant=tenant, plugin=owner.plugin_id, provider=bare)

        return definitions, build

    def model_name(self, tenant: str, provider: str, model: str) -> str:
        """`provider/model` as it is called here, of a provider that may be named as plugins name them."""
        owner, _, bare = provider.rpartition("/")
        if owner:
            for plugin in self._plugins.installed(tenant):
                declared = plugin.declaration.model
                if declared is not None and declared.name == bare and plugin.plugin_id == owner:
                    return f"{plugin.installation.provider or bare}/{model}"
        return f"{bare}/{model}"
