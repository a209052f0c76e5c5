"""Asking a provider whether credentials are right."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from modelyard.app.live_settings import LiveSettings
from modelyard.app.network import NetworkParts
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

_SMALLEST: Mapping[ModelType, Any] = {
    ModelType.LLM: LLMRequest(messages=[UserPromptMessage(content="hi")], model_parameters={"max_tokens": 1}),
    ModelType.TEXT_EMBEDDING: TextEmbeddingRequest(texts=["hi"]),
    ModelType.RERANK: RerankRequest(query="hi", docs=["hello"]),
}
"""The cheapest call of each type, for providers that list no models."""


class ProviderChecks:
    """Costs nothing where the provider lists its models, else a token or two."""

    def __init__(
        self,
        live: LiveSettings,
        network: NetworkParts,
        providers: ProviderManager,
        weights: WeightStore,
        plugins: Plugins,
    ) -> None:
        self._live = live
        self._network = network
        self._providers = providers
        self._weights = weights
        self._plugins = plugins

    async def provider(self, tenant: str, provider: str) -> dict[str, list[str]]:
        """Ask a provider, with each of its credentials, what it offers: credential's name → models.

        Raises the provider's own refusal; ConfigError where there is no credential.
        """
        definition = self._providers.factory_of(tenant).get_definition(provider)
        if definition.wire == "local":
            return {"weights": self._present(definition)}
        status = self._providers.get_provider(tenant, provider)
        if not status.is_ready:
            raise ConfigError(f"provider {provider!r} has no credential; `modelyard providers add {provider}` adds one")
        forms = {credential.name: credential.values for credential in status.credentials} or {"none needed": {}}
        return {name: await self._offered(definition, values) for name, values in forms.items()}

    async def credentials(self, tenant: str, provider: str, values: Mapping[str, Any]) -> list[str]:
        """What a provider offers whoever shows these credentials. Raises its refusal; nothing is kept."""
        definition = self._providers.factory_of(tenant).get_definition(provider)
        if definition.wire == "local":
            return self._present(definition)
        for plugin in self._plugins.installed(tenant):
            if plugin.installation.provider != provider or plugin.declaration.model is None:
                continue
            data = {"provider": plugin.declaration.model.name, "credentials": dict(values)}
            action = "validate_provider_credentials"
            await self._plugins.one(tenant, plugin.plugin_id, "model", action, data)
            return [model.model for model in definition.entity.models]
        return await self._offered(definition, values)

    def _present(self, definition: ProviderDefinition) -> list[str]:
        """Local models whose files are here."""
        return [model.model for model in definition.entity.models if self._weights.is_present(model.model)]

    async def _offered(self, definition: ProviderDefinition, credentials: Credentials) -> list[str]:
        """What a provider lists; where it has no list, one of its models after a call as small as can be."""
        if definition.paths.get("list") != "":
            timeouts = timeouts_of(self._live.current)
            endpoint = Endpoint(definition, self._network.clients.shared, timeouts, self._network.guarded)
            return await endpoint.list_models(credentials)
        for model in definition.entity.models:
            if (request := _SMALLEST.get(model.model_type)) is not None:
                callee: Any = self._providers.factory.get_model(definition.name, model.model_type)
                async with aclosing(callee.invoke(model.model, credentials, request)) as chunks:
                    async for _ in chunks:
                        pass
                return [model.model]
        return []
