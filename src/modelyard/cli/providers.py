"""`modelyard providers`: list providers, show their credential forms, add and check
credentials."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from modelyard.app.provider_settings import add_provider
from modelyard.base.errors import ConfigError, suggestion
from modelyard.base.settings import CredentialSettings, ProviderSettings
from modelyard.cli.assignments import Assignment
from modelyard.cli.output import (
    failure_text,
    json_option,
    print_json,
    print_note,
    print_table,
    run_with_modelyard,
    settings_of,
    success_text,
)
from modelyard.models.credentials import ProviderCredentialSchemaValidator
from modelyard.models.provider import CredentialFormSchema, FormType, ProviderEntity
from modelyard.providers.definition import ProviderDefinition
from modelyard.providers.factory import catalog_definition, catalog_names
from modelyard.tenancy.caller import DEFAULT_TENANT

if TYPE_CHECKING:
    from modelyard.app import Modelyard
    from modelyard.runtime.provider_manager import ProviderStatus


@click.group()
def providers() -> None:
    """Manage providers and their credentials: list, show, add, check."""


@providers.command("list")
@json_option
@click.pass_context
def list_providers(ctx: click.Context, as_json: bool) -> None:
    """List all providers and whether each is ready to be called."""

    async def rows(yard: "Modelyard") -> list[dict[str, Any]]:
        """Return the providers as rows for the table and for JSON."""
        manager = yard.services.providers.manager
        return [
            _provider_as_dict(status)
            for status in manager.get_providers(DEFAULT_TENANT)
        ]

    provider_rows = run_with_modelyard(ctx, rows)
    if as_json:
        print_json(provider_rows)
        return
    print_table(
        "",
        ("provider", "types", "credentials", "ready"),
        [_provider_row(provider_row) for provider_row in provider_rows],
    )


def _provider_as_dict(status: "ProviderStatus") -> dict[str, Any]:
    """Return a provider as printed with --json."""
    return {
        "provider": status.entity.provider,
        "label": status.entity.label.en_us,
        "types": [
            model_type.value for model_type in status.entity.supported_model_types
        ],
        "credentials": [credential.name for credential in status.credentials],
        "ready": status.is_ready,
    }


def _provider_row(provider: dict[str, Any]) -> tuple[Any, ...]:
    """Return a provider as a row of the table, with the command that makes it ready."""
    command = f"modelyard providers add {provider['provider']}"
    return (
        provider["provider"],
        ", ".join(provider["types"]),
        ", ".join(provider["credentials"]) or "-",
        success_text("yes") if provider["ready"] else failure_text(command),
    )


@providers.command()
@click.argument("name")
@json_option
@click.pass_context
def show(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show a provider's models and required credential fields."""

    async def entity_of(yard: "Modelyard") -> ProviderEntity:
        """Return the provider's definition. Raises NotFoundError."""
        # Unlike the catalogue, a tenant's factory knows the providers of its plugins.
        factory = yard.services.providers.manager.factory_of(DEFAULT_TENANT)
        return factory.get_definition(name).entity

    entity = run_with_modelyard(ctx, entity_of)
    if as_json:
        print_json(entity)
        return
    click.echo(f"{entity.label.en_us} ({entity.provider})")
    if entity.description:
        click.echo(entity.description.en_us)
    if entity.help:
        click.echo(f"{entity.help.title.en_us}: {entity.help.url.en_us}")
    rows = [
        (
            field_schema.variable,
            field_schema.label.en_us,
            "yes" if field_schema.required else "no",
            field_schema.env or "",
        )
        for field_schema in entity.credential_forms
    ]
    if rows:
        click.echo()
        print_table(
            "Credential", ("field", "label", "required", "environment variable"), rows
        )
    if entity.models:
        click.echo()
        print_table(
            "Models",
            ("model", "type"),
            [(model.model, model.model_type.value) for model in entity.models],
        )
    if entity.is_customizable:
        print_note("other model names are accepted and sent to the provider unchanged")


@providers.command()
@click.argument("name")
@click.option(
    "--set",
    "fields",
    multiple=True,
    metavar="FIELD=VALUE",
    type=Assignment("FIELD=VALUE"),
    help="Field of the credential form; repeatable.",
)
@click.option(
    "--api-key",
    help="API key; the same as --set api_key=…. Prompted for if required and omitted.",
)
@click.option(
    "--base-url",
    help=(
        "Base URL of the server. With a NAME that is not in the catalogue, it adds an"
        " OpenAI-compatible server."
    ),
)
@click.option(
    "--as",
    "credential",
    metavar="NAME",
    default="",
    help="Name of the credential. Default: credential-N.",
)
@json_option
@click.pass_context
def add(
    ctx: click.Context,
    name: str,
    fields: tuple[tuple[str, str], ...],
    api_key: str | None,
    base_url: str | None,
    credential: str,
    as_json: bool,
) -> None:
    """Add a credential for a provider. Several credentials of a provider are load
    balanced.

    \b
      modelyard providers add openai
      modelyard providers add ollama --base-url http://127.0.0.1:11434/v1
      modelyard providers add my-vllm --base-url http://127.0.0.1:8000/v1

    NAME may also be a provider of a plugin that is installed.
    """
    settings = settings_of(ctx)
    # A file would hold on this server only.
    if settings.are_stored:
        raise ConfigError(
            "The settings of this installation are in the database: add the provider"
            " under 'providers' on the console's page Settings or with PUT"
            " /admin/v1/settings, or a tenant's credential with POST"
            " /admin/v1/credentials"
        )
    # A name outside the catalogue adds an OpenAI-compatible server under that name.
    is_new = name not in catalog_names() and bool(base_url)
    if is_new:
        definition = catalog_definition("openai_api_compatible")
    elif name in catalog_names():
        definition = catalog_definition(name)
    else:
        definition = _plugin_definition(ctx, name)
    # Providers name their key and URL fields differently; the definition knows which
    # they are.
    values = dict(fields)
    if api_key:
        values[definition.key_field or "api_key"] = api_key
    if base_url and definition.url_field:
        values[definition.url_field] = base_url
    accepted = _complete_credential(name, definition.entity.credential_forms, values)
    credential_settings = CredentialSettings(name=credential, values=accepted)
    add_provider(
        settings.home_path,
        ProviderSettings(
            name=name,
            # Known providers keep the URL in a field of the credential instead.
            base_url=(base_url or "") if is_new else "",
            credentials=[credential_settings],
        ),
    )
    if as_json:
        print_json({"provider": name, "credential": credential or None})
    else:
        print_note(
            f"added {name}. `modelyard providers check {name}` validates the credential."
        )


def _plugin_definition(ctx: click.Context, name: str) -> ProviderDefinition:
    """Return the definition of a provider that an installed plugin offers. Raises
    ConfigError if there is none of this name."""

    async def find(yard: "Modelyard") -> ProviderDefinition | None:
        """Return the definition of the provider, or None."""
        factory = yard.services.providers.manager.factory_of(DEFAULT_TENANT)
        return factory.find_definition(name)

    definition = run_with_modelyard(ctx, find)
    if definition is None:
        raise ConfigError(
            f"Provider {name!r} is not in the catalogue, and no installed plugin offers"
            f" it; {suggestion(name, catalog_names(), label='the catalogue has')}; for an"
            " OpenAI-compatible server under this name set --base-url"
        )
    return definition


def _complete_credential(
    name: str, forms: Sequence[CredentialFormSchema], values: dict[str, str]
) -> dict[str, str]:
    """Return the values of a provider's credential, with required fields from prompts.
    Raises ConfigError for unknown, missing or invalid fields."""
    if not forms:
        raise ConfigError(f"Provider {name!r} does not use credentials")
    # Only required fields are prompted for; optional ones are set with --set.
    completed = values | {
        field_schema.variable: _ask(field_schema)
        for field_schema in forms
        if field_schema.required and field_schema.variable not in values
    }
    field_names = [field_schema.variable for field_schema in forms]
    # The validator ignores unknown fields, so a mistyped name must fail here.
    if unknown := completed.keys() - set(field_names):
        raise ConfigError(
            f"Provider {name!r} has no credential field {', '.join(sorted(unknown))};"
            f" expected some of {', '.join(field_names)}"
        )
    # Validate before writing, so that the settings never contain an invalid credential.
    validator = ProviderCredentialSchemaValidator(forms, provider=name)
    return validator.validate_and_filter(completed)


def _ask(field_schema: CredentialFormSchema) -> str:
    """Return a required field's value: its default, or from a prompt. Raises
    ConfigError without a terminal."""
    if field_schema.default is not None:
        return field_schema.default
    # Nobody could answer a prompt then, so the message names the option instead.
    if not sys.stdin.isatty():
        raise ConfigError(
            f"{field_schema.variable!r} ({field_schema.label.en_us}) is required; pass"
            f" --set {field_schema.variable}=…"
        )
    # A secret that is echoed would stay visible in the terminal's scrollback.
    return click.prompt(
        field_schema.label.en_us, hide_input=field_schema.type is FormType.SECRET_INPUT
    )


@providers.command()
@click.argument("name")
@json_option
@click.pass_context
def check(ctx: click.Context, name: str, as_json: bool) -> None:
    """Validate each credential by listing the provider's models, and show which chat
    formats its server speaks. Makes no model call."""

    async def checked(
        yard: "Modelyard",
    ) -> tuple[dict[str, list[str]], dict[str, dict[str, bool]]]:
        """Return the models and the formats of each credential."""
        return await yard.check_provider(name), await yard.provider_formats(name)

    models_by_credential, formats_by_credential = run_with_modelyard(ctx, checked)
    if as_json:
        print_json(models_by_credential)
        return
    for credential, model_names in models_by_credential.items():
        shown_names = ", ".join(model_names[:6])
        if len(model_names) > 6:
            shown_names += f" and {len(model_names) - 6} more"
        click.echo(f"{credential}: valid, {len(model_names)} models: {shown_names}")
        if formats := formats_by_credential.get(credential):
            click.echo(f"{credential}: {_formats_text(formats)}")


def _formats_text(formats: dict[str, bool]) -> str:
    """Return the formats that a server speaks and those that it does not."""
    spoken = [name for name, is_spoken in formats.items() if is_spoken]
    missing = [name for name, is_spoken in formats.items() if not is_spoken]
    text = f"formats found: {', '.join(spoken) or 'none'}"
    return f"{text}; not found: {', '.join(missing)}" if missing else text
