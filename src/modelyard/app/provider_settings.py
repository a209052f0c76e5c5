"""Providers from the settings: changes and additions to the catalogue, credentials, and
the file of `providers add`."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from modelyard.administration.inputs import check_limit
from modelyard.base.errors import (
    ConfigError,
    InvokeBadRequestError,
    NotFoundError,
    suggestion,
)
from modelyard.base.number_bounds import check_numbers
from modelyard.base.private_files import private_folder
from modelyard.base.settings import CredentialSettings, ProviderSettings, Settings
from modelyard.models.provider import ProviderEntity
from modelyard.models.types import ModelType
from modelyard.providers.definition import (
    ProviderDefinition,
    Wire,
    load_definition,
    read_model,
)
from modelyard.providers.factory import catalog_definition, catalog_names
from modelyard.providers.formats import CHAT
from modelyard.providers.quirks import capabilities_with
from modelyard.runtime.provider_manager import ConfiguredCredential, ProviderManager
from modelyard.tenancy.caller import DEFAULT_TENANT
from modelyard.tenancy.resource_types import Limit
from modelyard.transport.egress import EgressRules
from modelyard.transport.http import Timeouts

ADDED_PROVIDERS = "providers.yaml"
"""File in the home folder that `modelyard providers add` writes. It holds secrets; only
its owner can read it."""


def added_providers(home: Path) -> list[ProviderSettings]:
    """Return the providers that `modelyard providers add` wrote. Raises ConfigError."""
    path = home / ADDED_PROVIDERS
    if not path.is_file():
        return []
    try:
        providers = msgspec.yaml.decode(
            path.read_bytes(), type=list[ProviderSettings], strict=False
        )
        # Huge numbers pass the decoder but overflow later.
        check_numbers(providers)
        return providers
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def configured_providers(settings: Settings) -> list[ProviderSettings]:
    """Return the providers of the settings file, then those of `modelyard providers
    add`."""
    return [*settings.providers, *added_providers(settings.home_path)]


def add_provider(home: Path, provider: ProviderSettings) -> None:
    """Add a provider to the file. Credentials of an existing provider are kept, the new
    ones follow."""
    existing_providers = added_providers(home)
    # A provider is identified by its name.
    existing = next(
        (
            candidate
            for candidate in existing_providers
            if candidate.name == provider.name
        ),
        None,
    )
    if existing is not None:
        provider = msgspec.structs.replace(
            provider, credentials=[*existing.credentials, *provider.credentials]
        )
    # The folder must not be readable by others.
    private_folder(home)
    path = home / ADDED_PROVIDERS
    partial_path = path.with_suffix(".partial")
    # Written to a temporary file first, so that a crash never leaves half a file.
    descriptor = os.open(partial_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as partial_file:
        partial_file.write(
            msgspec.yaml.encode(
                [
                    *(
                        candidate
                        for candidate in existing_providers
                        if candidate.name != provider.name
                    ),
                    provider,
                ]
            )
        )
    partial_path.replace(path)


def timeouts_of(settings: Settings) -> Timeouts:
    """Return the timeouts of provider calls."""
    limits = settings.timeouts
    return Timeouts(
        connect=limits.connect,
        first_byte=limits.first_byte,
        between_bytes=limits.between_bytes,
    )


def egress_rules(settings: Settings) -> EgressRules:
    """Return the rules for connections to addresses of tenants."""
    return EgressRules(
        ports=frozenset(settings.egress.ports),
        private=frozenset(host.lower() for host in settings.egress.private),
        seconds=settings.egress.seconds,
    )


def definitions_of(
    settings: Settings, configured: Sequence[ProviderSettings]
) -> list[ProviderDefinition]:
    """Return the catalogue with the additions and changes of the settings."""
    definitions = {
        name: catalog_definition(name)
        for name in catalog_names()
        if name != "local" or settings.local.enabled
    }
    deferred = plugin_providers(settings, configured)
    for provider in configured:
        if provider in deferred:
            continue
        # A later entry may change a provider that an earlier one added.
        definition = _definition(provider, definitions)
        definitions[definition.name] = _with_models(definition, provider)
    return list(definitions.values())


def plugin_providers(
    settings: Settings, configured: Sequence[ProviderSettings]
) -> list[ProviderSettings]:
    """Return the entries whose names can only be those of plugins' providers: nothing
    else has the name, and the entry describes no provider of its own.

    Plugins are known once the database has been read; `check_plugin_providers` then
    finds the names that are wrong.
    """
    names = {*catalog_names()}
    for entry in configured:
        if entry.base_url and entry.name:
            names.add(entry.name)
        elif entry.path:
            definition = load_definition(Path(entry.path).expanduser())
            names.add(entry.name or definition.name)
    return [
        entry
        for entry in configured
        if entry.name
        and entry.name not in names
        and not (entry.path or entry.base_url or entry.wire or entry.models)
    ]


def check_plugin_providers(
    names: Iterable[str], installed: Collection[str], callable_names: Collection[str]
) -> None:
    """Raise NotFoundError for the first name that is neither that of a plugin's
    provider nor that of a provider added by a program.

    `installed` are the providers of the plugins that the default tenant has installed,
    whether or not their files can be read; `callable_names` those that can be called.
    """
    for name in names:
        if name not in installed and name not in callable_names:
            raise NotFoundError(
                f"Provider {name!r} is neither in the catalogue nor that of an"
                f" installed plugin; {suggestion(name, [*catalog_names(), *installed])}",
                code="provider_not_found",
            )


def _definition(
    provider: ProviderSettings, catalogue: Mapping[str, ProviderDefinition]
) -> ProviderDefinition:
    """Return the definition of one configured provider. Raises ConfigError or
    NotFoundError."""
    # A definition file that the operator wrote.
    if provider.path:
        definition = load_definition(
            Path(provider.path).expanduser(),
            wire=provider.wire,
            base_url=provider.base_url,
        )
        return _with_optional_base_url(
            _renamed(definition, provider.name) if provider.name else definition
        )
    if not provider.name:
        raise ConfigError(
            "providers: each entry needs a 'name' from the catalogue or a 'path'"
        )
    if provider.name in catalogue:
        definition = catalogue[provider.name]
        changed = replace(definition, base_url=provider.base_url or definition.base_url)
        changed = _with_wire_format(changed, provider.wire)
        # With a custom base URL, the catalogue's URLs of single formats must not be
        # used.
        return (
            _with_optional_base_url(_with_base_url(changed))
            if provider.base_url
            else changed
        )
    if not provider.base_url:
        # A known provider that is disabled gives a different error than an unknown one.
        # Raises for an unknown name, with similar ones.
        catalog_definition(provider.name)
        raise NotFoundError(
            f"Provider {provider.name!r} is disabled; set local.enabled to true",
            code="provider_not_found",
        )
    # An unknown name with an address is a server with an OpenAI-compatible API.
    template = catalog_definition("openai_api_compatible")
    return _with_optional_base_url(
        _with_wire_format(
            replace(_renamed(template, provider.name), base_url=provider.base_url),
            provider.wire,
        )
    )


def _with_wire_format(definition: ProviderDefinition, wire: str) -> ProviderDefinition:
    """Return the definition with another wire format, for chat models only if it is a
    chat format."""
    if not wire:
        return definition
    # Not a chat format: all model types use it.
    if wire not in CHAT:
        return replace(definition, wire=wire, wires={}, paths={})
    # Other model types keep their formats.
    other_wires = {
        model_type: definition.wires_of(model_type)
        for model_type in ModelType
        if model_type is not ModelType.LLM
    }
    paths = {
        name: path
        for name, path in definition.paths.items()
        if not name.startswith("llm")
    }
    return replace(
        definition,
        wire=wire,
        wires={**other_wires, ModelType.LLM: (Wire(wire),)},
        paths=paths,
    )


def _with_base_url(definition: ProviderDefinition) -> ProviderDefinition:
    """Return the definition with its base URL for all formats, so that the key is sent
    to no other server."""
    wires = {
        model_type: [wire for wire in wires_of_type if not wire.base_url]
        or [Wire(wire.name) for wire in wires_of_type]
        for model_type, wires_of_type in definition.wires.items()
    }
    return replace(definition, wires=wires)


def _renamed(definition: ProviderDefinition, name: str) -> ProviderDefinition:
    """Return the definition under another name."""
    label = msgspec.structs.replace(definition.entity.label, en_us=name)
    return replace(
        definition,
        entity=msgspec.structs.replace(definition.entity, provider=name, label=label),
    )


def _with_optional_base_url(definition: ProviderDefinition) -> ProviderDefinition:
    """Return the definition without the required URL field in credentials if the base
    URL is known."""
    field, schema = definition.url_field, definition.entity.provider_credential_schema
    # Nothing to relax without a base URL or a credential form.
    if not definition.base_url or field is None or schema is None:
        return definition
    forms = [
        msgspec.structs.replace(form_field, required=False, default=None)
        if form_field.variable == field
        else form_field
        for form_field in schema.credential_form_schemas
    ]
    entity = msgspec.structs.replace(
        definition.entity,
        provider_credential_schema=msgspec.structs.replace(
            schema, credential_form_schemas=forms
        ),
    )
    return replace(definition, entity=entity)


def _with_models(
    definition: ProviderDefinition, provider: ProviderSettings
) -> ProviderDefinition:
    """Return the definition with the models of the settings in front of its own."""
    if not provider.models:
        # The settings' models come before those of the catalogue.
        return definition
    entity = definition.entity
    models = [read_model(model, definition.name) for model in provider.models]
    source = f"Provider {definition.name!r}"
    capabilities = {
        entry.model: capabilities_with(
            model["quirks"], entry.model, definition.model_quirks, source
        )
        for entry, model in zip(models, provider.models, strict=True)
        if model.get("quirks")
    }
    return replace(
        definition,
        entity=msgspec.structs.replace(entity, models=[*models, *entity.models]),
        model_capabilities={**definition.model_capabilities, **capabilities},
    )


def configure_credentials(
    providers: ProviderManager,
    configured: Sequence[ProviderSettings],
    environ: Mapping[str, str],
) -> None:
    """Set the credentials of the settings; of providers without any, those in
    well-known environment variables."""
    # Several entries may name the same provider.
    credentials_by_provider: dict[str, list[CredentialSettings]] = {}
    present = {entity.provider for entity in providers.factory.get_providers()}
    for provider in configured:
        name = provider.name or load_definition(Path(provider.path).expanduser()).name
        credentials_by_provider.setdefault(name, []).extend(provider.credentials)
    for entity in providers.factory.get_providers():
        credentials = [
            _configured_credential(entity.provider, credential)
            for credential in credentials_by_provider.get(entity.provider, ())
        ] or _environment_credentials(entity, environ)
        if credentials:
            providers.configure(DEFAULT_TENANT, entity.provider, credentials)
    # What is left can only be providers of plugins, which come and go.
    for name, deferred in credentials_by_provider.items():
        if name not in present and deferred:
            providers.configure_later(
                DEFAULT_TENANT, name, _plugin_credentials(name, deferred)
            )


def _plugin_credentials(
    name: str, credentials: Sequence[CredentialSettings]
) -> list[ConfiguredCredential]:
    """Return the credentials of a plugin's provider. Raises ConfigError for a quota,
    which would offer it to tenants that do not have the plugin."""
    # With a quota, it would be offered to tenants without the plugin.
    if any(credential.quota for credential in credentials):
        raise _plugin_quota_error(name)
    return [_configured_credential(name, credential) for credential in credentials]


def _plugin_quota_error(name: str) -> ConfigError:
    """Return the error for a quota of a provider that is a plugin's."""
    return ConfigError(
        f"Credentials of provider {name!r} cannot have a 'quota', because it is"
        " that of a plugin; give each tenant a credential of its own"
    )


def _environment_credentials(
    entity: ProviderEntity, environ: Mapping[str, str]
) -> list[ConfiguredCredential]:
    """Return the credential in a provider's well-known environment variables; empty if
    a required one is not set."""
    values = {
        form_field.variable: environ[form_field.env]
        for form_field in entity.credential_forms
        if form_field.env and form_field.env in environ
    }
    required = {
        form_field.variable
        for form_field in entity.credential_forms
        if form_field.required
    }
    # Incomplete environment variables would give a provider that fails at each call.
    if not values or not required <= values.keys():
        return []
    return [ConfiguredCredential(values=values, name="environment")]


def _configured_credential(
    provider: str, credential: CredentialSettings
) -> ConfiguredCredential:
    """Return a credential with its quota. Raises ConfigError for an invalid quota."""
    quotas: tuple[tuple[str, Limit], ...] = ()
    # A quota without a window counts since the beginning.
    if credential.quota:
        try:
            limit = msgspec.convert({"window": "total", **credential.quota}, Limit)
            check_numbers(limit)
            check_limit(limit)
        except (msgspec.ValidationError, InvokeBadRequestError) as error:
            raise ConfigError(
                f"Invalid quota of a credential of provider {provider!r}: {error}"
            ) from error
        quotas = ((f"hosted:{provider}:{credential.name}", limit),)
    return ConfiguredCredential(
        values=credential.values,
        name=credential.name,
        weight=credential.weight,
        priority=credential.priority,
        domain=credential.domain,
        quotas=quotas,
    )
