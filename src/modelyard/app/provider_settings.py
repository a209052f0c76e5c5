"""Providers as the settings give them: the catalogue, changed and added to; credentials; what `providers add` wrote."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from modelyard.administration.inputs import check_limit
from modelyard.base.errors import ConfigError, InvokeBadRequestError, NotFoundError
from modelyard.base.modes import private_folder
from modelyard.base.numbers import check_numbers
from modelyard.base.settings import CredentialSettings, ProviderSettings, Settings
from modelyard.models.types import ModelType
from modelyard.providers.definition import ProviderDefinition, Wire, load_definition, read_model
from modelyard.providers.factory import catalog_definition, catalog_names
from modelyard.providers.formats import CHAT
from modelyard.runtime.provider_manager import Given, ProviderManager
from modelyard.tenancy.caller import DEFAULT_TENANT
from modelyard.tenancy.kinds import Limit
from modelyard.transport.egress import EgressRules
from modelyard.transport.http import Timeouts

ADDED_PROVIDERS = "providers.yaml"
"""In the home folder: what `modelyard providers add` wrote. Holds secrets; readable by its owner alone."""


def added_providers(home: Path) -> list[ProviderSettings]:
    """What `modelyard providers add` wrote."""
    path = home / ADDED_PROVIDERS
    if not path.is_file():
        return []
    try:
        found = msgspec.yaml.decode(path.read_bytes(), type=list[ProviderSettings], strict=False)
        check_numbers(found)
        return found
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def configured_providers(settings: Settings) -> list[ProviderSettings]:
    """Those of the settings' file, then those that `modelyard providers add` wrote."""
    return [*settings.providers, *added_providers(settings.home_path)]


def add_provider(home: Path, provider: ProviderSettings) -> None:
    """Write a provider down, beside the others; its credentials go behind those that it has already."""
    known = added_providers(home)
    before = next((one for one in known if one.name == provider.name), None)
    if before is not None:
        provider = msgspec.structs.replace(provider, credentials=[*before.credentials, *provider.credentials])
    private_folder(home)
    path = home / ADDED_PROVIDERS
    partial_path = path.with_suffix(".partial")
    descriptor = os.open(partial_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(msgspec.yaml.encode([*(one for one in known if one.name != provider.name), provider]))
    partial_path.replace(path)


def timeouts_of(settings: Settings) -> Timeouts:
    limits = settings.timeouts
    return Timeouts(connect=limits.connect, first_byte=limits.first_byte, between_bytes=limits.between_bytes)


def egress_rules(settings: Settings) -> EgressRules:
    """What addresses of tenants may reach."""
    return EgressRules(
        ports=frozenset(settings.egress.ports),
        private=frozenset(one.lower() for one in settings.egress.private),
        seconds=settings.egress.seconds,
    )


def definitions_of(settings: Settings, configured: Sequence[ProviderSettings]) -> list[ProviderDefinition]:
    """The catalogue, then what the settings add or change."""
    found = {name: catalog_definition(name) for name in catalog_names() if name != "local" or settings.local.enabled}
    for one in configured:
        definition = _definition(one, found)
        found[definition.name] = _with_models(definition, one)
    return list(found.values())


def _definition(one: ProviderSettings, known: Mapping[str, ProviderDefinition]) -> ProviderDefinition:
    if one.path:
        definition = load_definition(Path(one.path).expanduser(), wire=one.wire, base_url=one.base_url)
        return _relaxed(_renamed(definition, one.name) if one.name else definition)
    if not one.name:
        raise ConfigError("a provider in the settings needs a 'name' from the catalogue, or a 'path'")
    if one.name in known:
        definition = known[one.name]
        changed = replace(definition, base_url=one.base_url or definition.base_url)
        changed = _spoken(changed, one.wire)
        return _relaxed(_moved(changed)) if one.base_url else changed
    if not one.base_url:
        catalog_definition(one.name)  # says which names there are
        raise NotFoundError(f"provider {one.name!r} is switched off; set local.enabled", code="provider_not_found")
    # A new name with an address: one more server that speaks OpenAI's API.
    template = catalog_definition("openai_api_compatible")
    return _relaxed(_spoken(replace(_renamed(template, one.name), base_url=one.base_url), one.wire))


def _spoken(definition: ProviderDefinition, wire: str) -> ProviderDefinition:
    """With another wire format for its chat models, where the settings name one; for all, where they all can."""
    if not wire:
        return definition
    if wire not in CHAT:
        return replace(definition, wire=wire, wires={}, paths={})
    others = {kind: definition.wires_of(kind) for kind in ModelType if kind is not ModelType.LLM}
    paths = {name: path for name, path in definition.paths.items() if not name.startswith("llm")}
    return replace(definition, wire=wire, wires={**others, ModelType.LLM: (Wire(wire),)}, paths=paths)


def _moved(definition: ProviderDefinition) -> ProviderDefinition:
    """With another address for the provider, that is where all its formats are spoken: a key goes nowhere else."""
    wires = {
        kind: [wire for wire in many if not wire.base_url] or [Wire(wire.name) for wire in many]
        for kind, many in definition.wires.items()
    }
    return replace(definition, wires=wires)


def _renamed(definition: ProviderDefinition, name: str) -> ProviderDefinition:
    label = msgspec.structs.replace(definition.entity.label, en_us=name)
    return replace(definition, entity=msgspec.structs.replace(definition.entity, provider=name, label=label))


def _relaxed(definition: ProviderDefinition) -> ProviderDefinition:
    """With the address known, no credential needs to say it."""
    field, schema = definition.url_field, definition.entity.provider_credential_schema
    if not definition.base_url or field is None or schema is None:
        return definition
    forms = [
        msgspec.structs.replace(form, required=False, default=None) if form.variable == field else form
        for form in schema.credential_form_schemas
    ]
    entity = msgspec.structs.replace(
        definition.entity,
        provider_credential_schema=msgspec.structs.replace(schema, credential_form_schemas=forms),
    )
    return replace(definition, entity=entity)


def _with_models(definition: ProviderDefinition, one: ProviderSettings) -> ProviderDefinition:
    if not one.models:
        return definition
    entity = definition.entity
    models = [read_model(model, definition.name) for model in one.models]
    return replace(definition, entity=msgspec.structs.replace(entity, models=[*models, *entity.models]))


def configure_credentials(
    providers: ProviderManager, configured: Sequence[ProviderSettings], environ: Mapping[str, str]
) -> None:
    """Credentials from the settings; for providers without any there, from the variables people keep keys in."""
    given: dict[str, list[CredentialSettings]] = {}
    for one in configured:
        name = one.name or load_definition(Path(one.path).expanduser()).name
        given.setdefault(name, []).extend(one.credentials)
    for entity in providers.factory.get_providers():
        credentials = [_given(entity.provider, one) for one in given.get(entity.provider, ())]
        if not credentials:
            found = {
                form.variable: environ[form.env] for form in entity.credential_forms if form.env and form.env in environ
            }
            required = {form.variable for form in entity.credential_forms if form.required}
            if found and required <= found.keys():
                credentials = [Given(values=found, name="environment")]
        if credentials:
            providers.configure(DEFAULT_TENANT, entity.provider, credentials)


def _given(provider: str, one: CredentialSettings) -> Given:
    quotas: tuple[tuple[str, Limit], ...] = ()
    if one.quota:
        try:
            limit = msgspec.convert({"window": "total", **one.quota}, Limit)
            check_numbers(limit)
            check_limit(limit)
        except (msgspec.ValidationError, InvokeBadRequestError) as error:
            raise ConfigError(f"the quota of a credential of {provider!r}: {error}") from error
        quotas = ((f"hosted:{provider}:{one.name}", limit),)
    return Given(
        values=one.values, name=one.name, weight=one.weight, priority=one.priority, domain=one.domain, quotas=quotas
    )
