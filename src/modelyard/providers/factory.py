"""The registry of providers: which ones exist, in which order, and the models that they
offer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from modelyard.base.errors import ConfigError, NotFoundError, suggestion
from modelyard.models.base import AnyModel
from modelyard.models.credentials import ProviderCredentialSchemaValidator
from modelyard.models.entities import AIModelEntity
from modelyard.models.provider import ProviderEntity
from modelyard.models.types import Credentials, ModelType
from modelyard.providers.definition import ProviderDefinition, load_definition

CATALOG = Path(__file__).with_name("catalog")

Builder = Callable[[ProviderDefinition], Mapping[ModelType, AnyModel]]
"""Builds the callable models of a provider, one for each supported model type."""


@lru_cache(1)
def catalog_names() -> Sequence[str]:
    """Return the names of the built-in providers, in the order of `_position.yaml`,
    unlisted ones last."""
    listed: list[str] = yaml.safe_load((CATALOG / "_position.yaml").read_text("utf-8"))
    stems = sorted(path.stem for path in CATALOG.glob("*.yaml"))
    # A file that starts with an underscore is about the catalog itself.
    present = [stem for stem in stems if not stem.startswith("_")]
    unlisted = [name for name in present if name not in listed]
    return (*(name for name in listed if name in present), *unlisted)


@lru_cache(None)
def catalog_definition(name: str) -> ProviderDefinition:
    """Return the definition of a built-in provider. Raises NotFoundError that suggests
    similar names."""
    names = catalog_names()
    if name not in names:
        raise NotFoundError(
            f"Provider {name!r} is not in the catalogue; {suggestion(name, names)}",
            code="provider_not_found",
        )
    return load_definition(CATALOG / f"{name}.yaml")


class ModelProviderFactory:
    """Providers by name: their definitions, and the model objects that call them, which
    are built on first use."""

    def __init__(
        self, definitions: Iterable[ProviderDefinition], builders: Mapping[str, Builder]
    ) -> None:
        self._definitions = {definition.name: definition for definition in definitions}
        self._builders = builders
        self._models_by_provider: dict[str, Mapping[ModelType, AnyModel]] = {}
        self._schemas: dict[str, dict[tuple[ModelType, str], AIModelEntity]] = {}
        self._base_factory: ModelProviderFactory | None = None
        # Checked at start, so that a wrong wire format is reported before the first
        # call.
        for definition in self._definitions.values():
            if definition.wire not in builders:
                hint = suggestion(definition.wire, builders, label="expected one of")
                raise ConfigError(
                    f"Provider {definition.name!r} ({definition.source}): unknown wire"
                    f" format {definition.wire!r}; {hint}"
                )

    def with_definitions(
        self, definitions: Sequence[ProviderDefinition], builder: Builder
    ) -> "ModelProviderFactory":
        """Return a factory with additional providers after these. Model objects built
        by this one are shared."""
        if not definitions:
            return self
        # Created empty, because the definitions here were already checked.
        wider = ModelProviderFactory((), {})
        wider._definitions = {
            **self._definitions,
            **{definition.name: definition for definition in definitions},
        }
        wider._builders = {
            **self._builders,
            **{definition.wire: builder for definition in definitions},
        }
        wider._base_factory = self
        return wider

    def get_providers(self) -> list[ProviderEntity]:
        """Return the entities of all providers, in order."""
        return [definition.entity for definition in self._definitions.values()]

    def find_definition(self, provider: str) -> ProviderDefinition | None:
        """Return the definition of a provider, or None if it is unknown."""
        return self._definitions.get(provider)

    def get_definition(self, provider: str) -> ProviderDefinition:
        """Return the definition of a provider. Raises NotFoundError that suggests
        similar names."""
        definition = self._definitions.get(provider)
        if definition is None:
            similar = suggestion(provider, self._definitions)
            problem = f"Unknown provider {provider!r}; {similar}"
            raise NotFoundError(problem, code="provider_not_found")
        return definition

    def get_model(self, provider: str, model_type: ModelType) -> AnyModel:
        """Return the object that calls this provider's models of this type. Raises
        NotFoundError if it has none."""
        # A shared provider is built once, by the original factory. An overridden one is
        # built here.
        if self._base_factory is not None and self._definitions.get(
            provider
        ) is self._base_factory.find_definition(provider):
            return self._base_factory.get_model(provider, model_type)
        if provider not in self._models_by_provider:
            definition = self.get_definition(provider)
            self._models_by_provider[provider] = self._builders[definition.wire](
                definition
            )
        model = self._models_by_provider[provider].get(model_type)
        if model is None:
            offered_types = ", ".join(
                offered_type.value
                for offered_type in self._models_by_provider[provider]
            )
            raise NotFoundError(
                f"Provider {provider!r} has no {model_type.value} models; available"
                f" types: {offered_types}",
                code="model_type_not_supported",
            )
        return model

    def get_model_schema(
        self, provider: str, model_type: ModelType, model: str
    ) -> AIModelEntity | None:
        """Return the declaration of a model, or None for a model that is not in the
        catalogue. The provider may still offer it."""
        schemas = self._schemas.get(provider)
        # Cached: looked up for every call, and some providers declare a hundred models.
        if schemas is None:
            entity = self.get_definition(provider).entity
            # Reversed, so that the first of two declarations of the same model remains.
            schemas = self._schemas[provider] = {
                (schema.model_type, schema.model): schema
                for schema in reversed(entity.models)
            }
        return schemas.get((model_type, model))

    def validate_credentials(
        self,
        provider: str,
        credentials: Credentials,
        *,
        model: str = "",
        model_type: ModelType | str | None = None,
    ) -> dict[str, Any]:
        """Return the checked fields of a credential form: the provider's, or that of
        its models if the credential is for one `model`.

        Raises CredentialsValidateFailedError that names each wrong field.
        """
        forms = self.get_definition(provider).entity.forms_for(model)
        # Fields of other model types are not shown; most models are language models.
        if model:
            model_type = model_type or ModelType.LLM
        validator = ProviderCredentialSchemaValidator(forms, provider=provider)
        return validator.validate_and_filter(
            credentials, model_type=ModelType(model_type) if model_type else None
        )
