"""Checks whether a provider accepts credentials."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from modelyard.app.live_settings import LiveSettings
from modelyard.app.network import NetworkServices
from modelyard.app.provider_settings import timeouts_of
from modelyard.base.errors import ConfigError
from modelyard.models.embedding import TextEmbeddingRequest
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import UserPromptMessage
from modelyard.models.rerank import RerankRequest
from modelyard.models.types import Credentials, ModelType
from modelyard.providers.definition import ProviderDefinition
from modelyard.providers.endpoint import Endpoint
from modelyard.providers.local.weights import WeightStore
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.tenant_plugins.plugins import Plugins

_MINIMAL_REQUESTS: Mapping[ModelType, Any] = {
    ModelType.LLM: LLMRequest(
        messages=[UserPromptMessage(content="hi")], model_parameters={"max_tokens": 1}
    ),
    ModelType.TEXT_EMBEDDING: TextEmbeddingRequest(texts=["hi"]),
    ModelType.RERANK: RerankRequest(query="hi", docs=["hello"]),
}
"""The cheapest request of each model type, for providers that do not list their models.
"""


class ProviderChecks:
    """Checks credentials. It is free of charge if the provider lists its models;
    otherwise it costs a token or two."""

    def __init__(
        self,
        live_settings: LiveSettings,
        network: NetworkServices,
        providers: ProviderManager,
        weights: WeightStore,
        plugins: Plugins,
    ) -> None:
        self._live = live_settings
        self._network = network
        self._providers = providers
        self._weights = weights
        self._plugins = plugins

    async def provider(self, tenant: str, provider: str) -> dict[str, list[str]]:
        """Return the models that a provider offers for each of its credentials:
        credential name → models.

        Raises the provider's error, or ConfigError if there is no credential.
        """
        # Local models have no credentials: their files are what matters.
        definition = self._providers.factory_of(tenant).get_definition(provider)
        if definition.wire == "local":
            return {"weights": self._present(definition)}
        # The status includes the credentials of the settings and of the database.
        status = self._providers.get_provider(tenant, provider)
        if not status.is_ready:
            raise ConfigError(
                f"Provider {provider!r} has no credential; add one with `modelyard"
                f" providers add {provider}`"
            )
        # Some providers need no credentials at all.
        forms = {
            credential.name: credential.values for credential in status.credentials
        } or {"none needed": {}}
        return {
            name: await self._list_remote_models(definition, values)
            for name, values in forms.items()
        }

    async def credentials(
        self, tenant: str, provider: str, values: Mapping[str, Any]
    ) -> list[str]:
        """Return the models that a provider offers for these credentials. Raises its
        error. Nothing is stored."""
        definition = self._providers.factory_of(tenant).get_definition(provider)
        if definition.wire == "local":
            return self._present(definition)
        for plugin in self._plugins.installed(tenant):
            if (
                plugin.installation.provider != provider
                or plugin.declaration.model is None
            ):
                continue
            data = {
                "provider": plugin.declaration.model.name,
                "credentials": dict(values),
            }
            action = "validate_provider_credentials"
            # The plugin validates the credentials itself and raises if they are
            # refused.
            await self._plugins.call_once(
                tenant, plugin.plugin_id, "model", action, data
            )
            return [model.model for model in definition.entity.models]
        return await self._list_remote_models(definition, values)

    def _present(self, definition: ProviderDefinition) -> list[str]:
        """Return the local models whose files are present."""
        return [
            model.model
            for model in definition.entity.models
            if self._weights.is_present(model.model)
        ]

    async def _list_remote_models(
        self, definition: ProviderDefinition, credentials: Credentials
    ) -> list[str]:
        """Return the provider's list of models; if it has none, one model after a
        minimal call."""
        # An empty path in the definition means that the provider has no list.
        if definition.paths.get("list") != "":
            timeouts = timeouts_of(self._live.current)
            # The same client as for real calls, so that proxies are tested too.
            endpoint = Endpoint(
                definition,
                self._network.clients.shared,
                timeouts,
                self._network.guarded,
            )
            return await endpoint.list_models(credentials)
        for model in definition.entity.models:
            # The first model that can be called cheaply decides.
            if (request := _MINIMAL_REQUESTS.get(model.model_type)) is not None:
                callee: Any = self._providers.factory.get_model(
                    definition.name, model.model_type
                )
                async with aclosing(
                    callee.invoke(model.model, credentials, request)
                ) as chunks:
                    # The answer is irrelevant; an invalid credential raises an error.
                    async for _ in chunks:
                        pass
                return [model.model]
        return []
