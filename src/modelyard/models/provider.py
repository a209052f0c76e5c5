"""What a provider says of itself: labels, model types, credential forms. The shapes of Dify's provider YAML."""

from enum import StrEnum
from typing import Any

import msgspec

from modelyard.models.entities import AIModelEntity, I18nObject
from modelyard.models.types import ModelType


class ConfigurateMethod(StrEnum):
    PREDEFINED_MODEL = "predefined-model"
    CUSTOMIZABLE_MODEL = "customizable-model"


class FormType(StrEnum):
    TEXT_INPUT = "text-input"
    SECRET_INPUT = "secret-input"  # noqa: S105  a kind of field
    SELECT = "select"
    RADIO = "radio"
    SWITCH = "switch"


class FormShowOnObject(msgspec.Struct, frozen=True, kw_only=True):
    """Shown only where another field has this value; the field `__model_type` stands for the model type."""

    variable: str
    value: str


class FormOption(msgspec.Struct, frozen=True, kw_only=True):
    value: str
    label: I18nObject | None = None
    show_on: list[FormShowOnObject] = []


class CredentialFormSchema(msgspec.Struct, frozen=True, kw_only=True):
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
    """The environment variable that people already keep this value in."""


class ProviderCredentialSchema(msgspec.Struct, frozen=True, kw_only=True):
    credential_form_schemas: list[CredentialFormSchema] = []


class FieldModelSchema(msgspec.Struct, frozen=True, kw_only=True):
    label: I18nObject
    placeholder: I18nObject | None = None


class ModelCredentialSchema(msgspec.Struct, frozen=True, kw_only=True):
    model: FieldModelSchema | None = None
    credential_form_schemas: list[CredentialFormSchema] = []


class ProviderHelpEntity(msgspec.Struct, frozen=True, kw_only=True):
    title: I18nObject
    url: I18nObject


class ProviderEntity(msgspec.Struct, frozen=True, kw_only=True):
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
        """True where any model name may be called, not the listed ones alone."""
        return ConfigurateMethod.CUSTOMIZABLE_MODEL in self.configurate_methods

    @property
    def credential_forms(self) -> list[CredentialFormSchema]:
        schema = self.provider_credential_schema or self.model_credential_schema
        return schema.credential_form_schemas if schema else []

    def find(self, model: str, model_type: ModelType) -> AIModelEntity | None:
        return next((one for one in self.models if one.model == model and one.model_type is model_type), None)
