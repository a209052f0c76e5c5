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
from modelyard.providers.endpoint import Endpoint, has_api
from modelyard.providers.http_provider import HttpLargeLanguageModel
from modelyard.providers.local.weights import WeightStore
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.tenant_plugins.custom_models import CustomModels

_MINIMAL_REQUESTS: Mapping[ModelType, Any] = {
    ModelType.LLM: LLMRequest(
        messages=[UserPromptMessage(content="hi")], model_parameters={"max_tokens": 1}
    ),
    ModelType.TEXT_EMBEDDING: TextEmbeddingRequest(texts=["hi"]),
    ModelType.RERANK: RerankRequest(query="hi", docs=["hello"]),
}
"""The cheapest request of each model type, for providers that do not list their models.
"""


_OTHER_APIS: Mapping[ModelType, tuple[str, str]] = {
    ModelType.TEXT_EMBEDDING: ("embeddings", "/embeddings"),
    ModelType.SPEECH2TEXT: ("transcriptions", "/audio/transcriptions"),
    ModelType.TTS: ("speech", "/audio/speech"),
}
"""The name and the path of OpenAI's API for a model type."""


async def _other_apis(endpoint: Endpoint, credentials: Credentials) -> dict[str, bool]:
    """Return which of OpenAI's other APIs a server has: name → whether it answers."""
    definition = endpoint.definition
    answers: dict[str, bool] = {}
    for model_type, (name, usual_path) in _OTHER_APIS.items():
        wire = definition.wires_of(model_type)[0]
        is_offered = model_type in definition.entity.supported_model_types
        if wire.name == "openai" and is_offered:
            path = definition.paths.get(model_type.value, usual_path)
            url = endpoint.url(credentials, path, model="none", base=wire.base_url)
            answers[name] = await has_api(endpoint, url, credentials, {})
    return answers


class ProviderChecks:
    """Checks credentials. It is free of charge if the provider lists its models;
    otherwise it costs a token or two."""

    def __init__(
        self,
        live_settings: LiveSettings,
        network: NetworkServices,
        providers: ProviderManager,
        weights: WeightStore,
        custom_models: CustomModels,
    ) -> None:
        self._live = live_settings
        self._network = network
        self._providers = providers
        self._weights = weights
        self._custom_models = custom_models

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
        for_models = self._providers.model_credentials(tenant, provider)
        if not status.is_ready and not for_models:
            raise ConfigError(
                f"Provider {provider!r} has no credential; add one with `modelyard"
                f" providers add {provider}`"
            )
        forms: dict[str, Mapping[str, Any]] = {
            credential.name: credential.values for credential in status.credentials
        }
        # Some providers need no credentials at all.
        if not forms and not for_models:
            forms = {"none needed": {}}
        models = {
            name: await self.credentials(tenant, provider, values)
            for name, values in forms.items()
        }
        # A plugin may be able to try credentials only with the model that they are for.
        for credential, stored in for_models:
            models[credential.name] = await self.credentials(
                tenant, provider, credential.values, stored.model, stored.model_type
            )
        return models

    async def formats(self, tenant: str, provider: str) -> dict[str, dict[str, bool]]:
        """Return which chat formats a provider's server speaks, and whether it has
        OpenAI's APIs for embeddings and audio: credential name → format or API →
        whether it answers.

        Empty for providers with a single format. Makes no model call: the requests are
        empty. Raises InvokeConnectionError if the server is not reached.
        """
        definition = self._providers.factory_of(tenant).get_definition(provider)
        if ModelType.LLM not in definition.entity.supported_model_types:
            return {}
        callee: Any = self._providers.factory_of(tenant).get_model(
            definition.name, ModelType.LLM
        )
        if not isinstance(callee, HttpLargeLanguageModel) or len(callee.wires) < 2:
            return {}
        status = self._providers.get_provider(tenant, provider)
        forms = {
            credential.name: credential.values for credential in status.credentials
        } or {"none needed": {}}
        return {
            name: {
                **await callee.spoken_formats(values),
                **await _other_apis(callee.endpoint, values),
            }
            for name, values in forms.items()
        }

    async def credentials(
        self,
        tenant: str,
        provider: str,
        values: Mapping[str, Any],
        model: str = "",
        model_type: str = "",
    ) -> list[str]:
        """Return the models that a provider offers for these credentials. Plugins try
        them with a model if it is named. Raises its error. Nothing is stored."""
        definition = self._providers.factory_of(tenant).get_definition(provider)
        if definition.wire == "local":
            return self._present(definition)
        # A plugin validates the credentials itself and raises if they are refused.
        if self._custom_models.is_plugin(tenant, provider):
            await self._custom_models.check(tenant, provider, values, model, model_type)
            return [model] if model else [m.model for m in definition.entity.models]
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
