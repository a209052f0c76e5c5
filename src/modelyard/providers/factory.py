"""Which providers there are, in which order, and the models they offer."""

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
"""Makes the callable models of a provider, one a type that it supports."""


@lru_cache(1)
def catalog_names() -> Sequence[str]:
    """The providers that come with Modelyard, in the order of `_position.yaml`, unlisted ones last."""
    listed: list[str] = yaml.safe_load((CATALOG / "_position.yaml").read_text("utf-8"))
    present = sorted(path.stem for path in CATALOG.glob("*.yaml") if not path.name.startswith("_"))
    return (*(name for name in listed if name in present), *(name for name in present if name not in listed))


@lru_cache(None)
def catalog_definition(name: str) -> ProviderDefinition:
    """One of the catalogue's providers. Raises NotFoundError with near names."""
    names = catalog_names()
    if name not in names:
        raise NotFoundError(
            f"provider {name!r} is not in the catalogue; {suggestion(name, names, label='it holds')}",
            code="provider_not_found",
        )
    return load_definition(CATALOG / f"{name}.yaml")


class ModelProviderFactory:
    """Providers by name: what each declares, and the objects that call it, built when first needed."""

    def __init__(self, definitions: Iterable[ProviderDefinition], builders: Mapping[str, Builder]) -> None:
        self._definitions = {one.name: one for one in definitions}
        self._builders = builders
        self._built: dict[str, Mapping[ModelType, AnyModel]] = {}
        self._schemas: dict[str, dict[tuple[ModelType, str], AIModelEntity]] = {}
        self._wider_than: ModelProviderFactory | None = None
        for definition in self._definitions.values():
            if definition.wire not in builders:
                raise ConfigError(
                    f"provider {definition.name!r} ({definition.source}) speaks {definition.wire!r}; "
                    + suggestion(definition.wire, builders, label="known wire formats are")
                )

    def with_more(self, definitions: Sequence[ProviderDefinition], builder: Builder) -> "ModelProviderFactory":
        """These providers, and more behind them; what was built here is shared."""
        if not definitions:
            return self
        wider = ModelProviderFactory((), {})
        wider._definitions = {**self._definitions, **{one.name: one for one in definitions}}
        wider._builders = {**self._builders, **{one.wire: builder for one in definitions}}
        wider._wider_than = self
        return wider

    def get_providers(self) -> list[ProviderEntity]:
        return [definition.entity for definition in self._definitions.values()]

    def known(self, provider: str) -> ProviderDefinition | None:
        return self._definitions.get(provider)

    def get_definition(self, provider: str) -> ProviderDefinition:
        """Raises NotFoundError with near names."""
        definition = self._definitions.get(provider)
        if definition is None:
            raise NotFoundError(
                f"provider {provider!r} is unknown; {suggestion(provider, self._definitions, label='there are')}",
                code="provider_not_found",
            )
        return definition

    def get_model(self, provider: str, model_type: ModelType) -> AnyModel:
        """The object that serves this provider's models of this type. Raises NotFoundError where it serves none."""
        if self._wider_than is not None and self._definitions.get(provider) is self._wider_than.known(provider):
            return self._wider_than.get_model(provider, model_type)
        if provider not in self._built:
            definition = self.get_definition(provider)
            self._built[provider] = self._builders[definition.wire](definition)
        model = self._built[provider].get(model_type)
        if model is None:
            raise NotFoundError(
                f"provider {provider!r} has no {model_type.value} models; "
                f"it has {', '.join(kind.value for kind in self._built[provider])}",
                code="model_type_not_supported",
            )
        return model

    def get_model_schema(self, provider: str, model_type: ModelType, model: str) -> AIModelEntity | None:
        """What is declared of a model; None for one that the provider may know and the catalogue does not."""
        known = self._schemas.get(provider)
        if known is None:  # looked up for every call, and some providers declare a hundred models
            entity = self.get_definition(provider).entity
            known = self._schemas[provider] = {(one.model_type, one.model): one for one in reversed(entity.models)}
        return known.get((model_type, model))

    def validate_credentials(
        self, provider: str, credentials: Credentials, *, model_type: ModelType | None = None
    ) -> dict[str, Any]:
        """The form's fields, checked. Raises CredentialsValidateFailedError that names each that is wrong."""
        forms = self.get_definition(provider).entity.credential_forms
        validator = ProviderCredentialSchemaValidator(forms, provider=provider)
        return validator.validate_and_filter(credentials, model_type=model_type)
