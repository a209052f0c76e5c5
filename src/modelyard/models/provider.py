"""A provider's declarations about itself: labels, model types, credential forms. The
structure of Dify's provider YAML."""

from enum import StrEnum
from typing import Any

import msgspec

from modelyard.models.entities import AIModelEntity, I18nObject
from modelyard.models.types import ModelType


class ConfigurateMethod(StrEnum):
    """How models of a provider become available: listed by the provider, or named by
    the user."""

    PREDEFINED_MODEL = "predefined-model"
    CUSTOMIZABLE_MODEL = "customizable-model"


class FormType(StrEnum):
    """Input type of a form field."""

    TEXT_INPUT = "text-input"
    SECRET_INPUT = "secret-input"  # noqa: S105
    SELECT = "select"
    RADIO = "radio"
    SWITCH = "switch"


class FormShowOnObject(msgspec.Struct, frozen=True, kw_only=True):
    """Condition for showing a field: another field has this value. `__model_type`
    stands for the model type."""

    variable: str
    value: str


class FormOption(msgspec.Struct, frozen=True, kw_only=True):
    """A choice of a select or radio field."""

    value: str
    label: I18nObject | None = None
    show_on: list[FormShowOnObject] = []


class CredentialFormSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A field of a credential form."""

    variable: str
    label: I18nObject
    type: FormType
    required: bool = True
    default: str | None = None
    options: list[FormOption] | None = None
    placeholder: I18nObject | None = None
    max_length: int = 0
    show_on: list[FormShowOnObject] = []
    env: str | None = None
    """Environment variable that commonly holds this value."""


class ProviderCredentialSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The credential form of a provider."""

    credential_form_schemas: list[CredentialFormSchema] = []


class FieldModelSchema(msgspec.Struct, frozen=True, kw_only=True):
    """Labels of the field for the model name."""

    label: I18nObject
    placeholder: I18nObject | None = None


class ModelCredentialSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The credential form of a single model."""

    model: FieldModelSchema | None = None
    credential_form_schemas: list[CredentialFormSchema] = []


class ProviderHelpEntity(msgspec.Struct, frozen=True, kw_only=True):
    """A link to the provider's help page."""

    title: I18nObject
    url: I18nObject


class ProviderEntity(msgspec.Struct, frozen=True, kw_only=True):
    """The complete declaration of a provider."""

    provider: str
    label: I18nObject
    description: I18nObject | None = None
    icon_small: I18nObject | None = None
    icon_large: I18nObject | None = None
    icon_small_dark: I18nObject | None = None
    icon_large_dark: I18nObject | None = None
    background: str | None = None
    help: ProviderHelpEntity | None = None
    supported_model_types: list[ModelType] = []
    configurate_methods: list[ConfigurateMethod] = []
    models: list[AIModelEntity] = []
    provider_credential_schema: ProviderCredentialSchema | None = None
    model_credential_schema: ModelCredentialSchema | None = None
    position: dict[str, Any] = {}

    @property
    def is_customizable(self) -> bool:
        """Return whether any model name may be called, not only the listed ones."""
        return ConfigurateMethod.CUSTOMIZABLE_MODEL in self.configurate_methods

    @property
    def credential_forms(self) -> list[CredentialFormSchema]:
        """Return the fields of the provider's form, or else of its model form."""
        schema = self.provider_credential_schema or self.model_credential_schema
        return schema.credential_form_schemas if schema else []

    @property
    def model_forms(self) -> list[CredentialFormSchema]:
        """Return the fields of a credential for a single model; empty if it has the
        provider's own."""
        schema = self.model_credential_schema
        return schema.credential_form_schemas if schema else []

    def forms_for(self, model: str) -> list[CredentialFormSchema]:
        """Return the fields of a credential for one model; with an empty name, for all
        models of the provider."""
        schema = self.model_credential_schema
        if model and schema is not None and schema.credential_form_schemas:
            return schema.credential_form_schemas
        return self.credential_forms

    def find(self, model: str, model_type: ModelType) -> AIModelEntity | None:
        """Return the listed model of this name and type, or None."""
        for candidate in self.models:
            # The same name may be listed for several types of model.
            if candidate.model == model and candidate.model_type is model_type:
                return candidate
        return None
