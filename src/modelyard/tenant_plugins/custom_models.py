"""Models that a tenant names itself and a plugin serves: checking their credentials, and
what the plugin says of them."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from modelyard.base.errors import (
    ConfigError,
    InvokeBadRequestError,
    InvokeError,
    PluginError,
)
from modelyard.base.json_types import is_object
from modelyard.models.types import JSON, ModelType
from modelyard.plugins.declaration import Declaration
from modelyard.plugins.model_errors import as_invoke_error
from modelyard.providers.definition import read_model
from modelyard.storage.resources import Resources
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.resource_types import CustomModel

logger = logging.getLogger("modelyard.plugins")

_COMPLETION_SECONDS = 20.0
# Limits what a plugin may add to a stored credential.
_MAX_BYTES = 65_536


class _Installed(Protocol):
    """An installed plugin that serves models."""

    @property
    def plugin_id(self) -> str:
        """`author/name`."""
        ...

    @property
    def declaration(self) -> Declaration:
        """What the plugin declares."""
        ...


class _Plugins(Protocol):
    """The plugins of tenants."""

    def model_provider(self, tenant: str, provider: str) -> _Installed | None:
        """Return the plugin behind a model provider; None if there is none."""
        ...

    async def call_once(
        self, tenant: str, plugin: str, kind: str, action: str, data: Mapping[str, Any]
    ) -> JSON:
        """Call a plugin and return its first answer."""
        ...


class CustomModels:
    """Asks plugins about credentials and about models that they do not list."""

    def __init__(
        self, plugins: _Plugins, resources: Resources, directory: Directory
    ) -> None:
        self._plugins = plugins
        self._resources = resources
        self._directory = directory

    def is_plugin(self, tenant: str, provider: str) -> bool:
        """Return whether a plugin serves a provider."""
        return self._plugins.model_provider(tenant, provider) is not None

    async def check(
        self,
        tenant: str,
        provider: str,
        values: Mapping[str, Any],
        model: str = "",
        model_type: str = "",
    ) -> None:
        """Let the plugin try credentials, for one model if it is named.

        Raises InvokeError if they are refused, and ConfigError if the plugin could not
        refuse them: many accept models by name only, and have nothing to try otherwise.
        """
        if model:
            await self._ask(
                tenant,
                provider,
                "validate_model_credentials",
                values,
                {"model": model, "model_type": _type_of(model_type).value},
            )
            return
        plugin = self._plugins.model_provider(tenant, provider)
        declared = plugin.declaration.model if plugin is not None else None
        form = declared.entity.provider_credential_schema if declared else None
        if form is None or not form.credential_form_schemas:
            raise ConfigError(
                f"Provider {provider!r} can try credentials only with a model; name it"
                " in 'model', with its 'model_type'"
            )
        await self._ask(tenant, provider, "validate_provider_credentials", values, {})

    async def complete(
        self,
        tenant: str,
        provider: str,
        values: Mapping[str, Any],
        model: str = "",
        model_type: str = "",
    ) -> JSON:
        """Return the fields that the plugin adds to credentials when it tries them.

        Dify stores these with the form, and some plugins rely on that. Empty if there
        are none, or the plugin could not try them within some seconds: a vendor that is
        not reached now is no reason to refuse a credential.
        """
        if not self.is_plugin(tenant, provider):
            return {}
        data: JSON = {}
        action = "validate_provider_credentials"
        if model:
            action = "validate_model_credentials"
            data = {"model": model, "model_type": _type_of(model_type).value}
        try:
            async with asyncio.timeout(_COMPLETION_SECONDS):
                answer = await self._ask(tenant, provider, action, values, data)
        except (InvokeError, TimeoutError) as error:
            fields = {"provider": provider, "error": str(error)}
            logger.info("credentials not completed", extra={"fields": fields})
            return {}
        returned = answer.get("credentials")
        if not is_object(returned) or len(msgspec.json.encode(returned)) > _MAX_BYTES:
            return {}
        # What a person has entered wins: the plugin must not replace it.
        return {name: value for name, value in returned.items() if name not in values}

    async def describe(
        self,
        tenant: str,
        provider: str,
        values: Mapping[str, Any],
        model: str,
        model_type: str,
    ) -> JSON | None:
        """Return the definition of a model that the plugin does not list: its context
        size, features, parameters and limits. None if the plugin lists it or knows
        nothing about it.

        Raises InvokeError if the plugin refuses the values.
        """
        plugin = self._plugins.model_provider(tenant, provider)
        declared = plugin.declaration.model if plugin is not None else None
        kind = _type_of(model_type)
        if declared is None or declared.entity.find(model, kind) is not None:
            return None
        # Many plugins accept any model of a server, and describe it when they are
        # asked.
        answer = await self._ask(
            tenant,
            provider,
            "get_ai_model_schemas",
            values,
            {"model": model, "model_type": kind.value},
        )
        schema = answer.get("model_schema")
        return _definition(schema, provider, model) if is_object(schema) else None

    async def store(self, tenant: str, provider: str, definition: JSON) -> None:
        """Store what a plugin says of a model, replacing what it said before. A
        definition that the tenant wrote itself stays."""
        key = (provider, definition["model"], definition["model_type"])
        name = f"{key[0]}/{key[1]} ({key[2]})"
        body = msgspec.json.encode(
            CustomModel(provider=provider, definition=definition)
        ).decode()
        for row, value in self._directory.of(tenant, CustomModel):
            if _key_of(value) != key:
                continue
            # Under another name it is a definition that the tenant wrote itself.
            if row.name == name:
                # The directory's copy lacks what a change needs, so the row is read.
                old = await self._resources.get(tenant, CustomModel.kind, row.id)
                await self._resources.change(old, name=name, body=body)
            return
        await self._resources.add(tenant, CustomModel.kind, name, lambda _: body)

    async def _ask(
        self,
        tenant: str,
        provider: str,
        action: str,
        values: Mapping[str, Any],
        data: JSON,
    ) -> JSON:
        """Call the plugin of a provider and return its first answer.

        `data` has the fields besides the provider and the credentials. Raises
        InvokeError, and InvokeBadRequestError if no plugin serves the provider.
        """
        plugin = self._plugins.model_provider(tenant, provider)
        if plugin is None or plugin.declaration.model is None:
            raise InvokeBadRequestError(f"No plugin serves provider {provider!r}")
        data = {
            # The plugin does not know the name that its provider has in this tenant.
            "provider": plugin.declaration.model.name,
            "credentials": dict(values),
            **data,
        }
        try:
            return await self._plugins.call_once(
                tenant, plugin.plugin_id, "model", action, data
            )
        except PluginError as error:
            raise as_invoke_error(error, provider) from error


def _type_of(name: str) -> ModelType:
    """Return a model type; `llm` if the name is empty. Raises InvokeBadRequestError."""
    try:
        return ModelType(name or ModelType.LLM)
    except ValueError as error:
        raise InvokeBadRequestError(
            f"Unknown model type {name[:50]!r}; expected one of {', '.join(ModelType)}",
            param="model_type",
        ) from error


def _key_of(value: CustomModel) -> tuple[str, Any, Any]:
    """Return (provider, model, type) of a stored model."""
    definition = value.definition
    name = definition.get("name") or definition.get("model")
    return value.provider, name, definition.get("model_type", "llm")


def _definition(schema: JSON, provider: str, model: str) -> JSON:
    """Return a plugin's schema as a definition of ours. Raises ConfigError."""
    definition: JSON = {
        name: value for name, value in schema.items() if value is not None
    }
    # Calls use the name that was entered, whatever the plugin's schema says.
    definition["model"] = model
    pricing = definition.get("pricing")
    # Plugins write zeros if nobody has entered a price; the call is not free then.
    if is_object(pricing) and not _has_price(pricing):
        del definition["pricing"]
    # Called for its checks: an invalid definition must not be stored.
    read_model(definition, provider)
    return definition


def _has_price(pricing: Mapping[str, Any]) -> bool:
    """Return whether a price is above zero."""
    names = ("input", "output")
    try:
        return any(float(pricing.get(name) or 0) > 0 for name in names) and (
            float(pricing.get("unit") or 0) > 0
        )
    except (TypeError, ValueError):
        return False
