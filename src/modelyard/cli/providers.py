"""`modelyard providers`: list providers, show their credential forms, add and check
credentials."""

import sys
from typing import TYPE_CHECKING, Any

import click

from modelyard.app.provider_settings import add_provider
from modelyard.base.errors import ConfigError, suggestion
from modelyard.base.settings import CredentialSettings, ProviderSettings
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
from modelyard.providers.factory import catalog_definition, catalog_names
from modelyard.tenancy.caller import DEFAULT_TENANT

if TYPE_CHECKING:
    from modelyard.app import Modelyard


@click.group()
def providers() -> None:
    """Providers: list, show, add, check."""


@providers.command("list")
@json_option
@click.pass_context
def list_providers(ctx: click.Context, as_json: bool) -> None:
    """List all providers and whether each is ready to be called."""

    async def rows(yard: "Modelyard") -> list[dict[str, Any]]:
        """Return the providers as rows for the table and for JSON."""
        return [
            {
                "provider": status.entity.provider,
                "label": status.entity.label.en_us,
                "types": [
                    model_type.value
                    for model_type in status.entity.supported_model_types
                ],
                "credentials": [credential.name for credential in status.credentials],
                "ready": status.is_ready,
            }
            for status in yard.services.providers.manager.get_providers(DEFAULT_TENANT)
        ]

    provider_rows = run_with_modelyard(ctx, rows)
    if as_json:
        print_json(provider_rows)
        return
    print_table(
        "",
        ("provider", "types", "credentials", "ready"),
        [
            (
                provider_row["provider"],
                ", ".join(provider_row["types"]),
                ", ".join(provider_row["credentials"]) or "-",
                (
                    success_text("yes")
                    if provider_row["ready"]
                    else failure_text(
                        f"modelyard providers add {provider_row['provider']}"
                    )
                ),
            )
            for provider_row in provider_rows
        ],
    )


@providers.command()
@click.argument("name")
@json_option
@click.pass_context
def show(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show a provider's models and the fields of its credential form."""

    async def entity_of(yard: "Modelyard") -> ProviderEntity:
        """Return the provider's definition. Raises NotFoundError."""
        return yard.services.providers.manager.factory.get_definition(name).entity

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
            "Credential", ("field", "label", "required", "or from variable"), rows
        )
    if entity.models:
        click.echo()
        print_table(
            "Models",
            ("model", "type"),
            [(model.model, model.model_type.value) for model in entity.models],
        )
    if entity.is_customizable:
        print_note("any other model name is passed on as it is")


@providers.command()
@click.argument("name")
@click.option(
    "--set",
    "fields",
    multiple=True,
    metavar="FIELD=VALUE",
    help="A field of the credential form.",
)
@click.option(
    "--api-key",
    help="Short for --set api_key=…; asked for where it is needed and not given.",
)
@click.option(
    "--base-url",
    help=(
        "Where the server is. With a new NAME: one more server that speaks OpenAI's"
        " API."
    ),
)
@click.option(
    "--as",
    "credential",
    default="",
    help="What to call this credential; several are balanced.",
)
@json_option
@click.pass_context
def add(
    ctx: click.Context,
    name: str,
    fields: tuple[str, ...],
    api_key: str | None,
    base_url: str | None,
    credential: str,
    as_json: bool,
) -> None:
    """Add a credential for a provider; a second one is balanced with the first.

    \b
      modelyard providers add openai
      modelyard providers add ollama --base-url http://127.0.0.1:11434/v1
      modelyard providers add my-vllm --base-url http://127.0.0.1:8000/v1
    """
    settings = settings_of(ctx)
    # A name outside the catalogue adds an OpenAI-compatible server under that name.
    is_new = name not in catalog_names()
    if is_new and not base_url:
        raise ConfigError(
            f"provider {name!r} is not in the catalogue;"
            f" {suggestion(name, catalog_names(), label='it holds')}; or give"
            " --base-url for a server that speaks OpenAI's API"
        )
    # Providers name their key and URL fields differently; the definition knows which
    # they are.
    definition = catalog_definition("openai_api_compatible" if is_new else name)
    values = dict(_split(field) for field in fields)
    if api_key:
        values[definition.key_field or "api_key"] = api_key
    if base_url and definition.url_field:
        values[definition.url_field] = base_url
    forms = definition.entity.credential_forms
    if not forms:
        raise ConfigError(f"provider {name!r} needs no credential")
    # Only required fields are prompted for; optional ones are set with --set.
    values |= {
        field_schema.variable: _ask(field_schema)
        for field_schema in forms
        if field_schema.required and field_schema.variable not in values
    }
    unknown = values.keys() - {field_schema.variable for field_schema in forms}
    if unknown:
        field_names = ", ".join(field_schema.variable for field_schema in forms)
        raise ConfigError(
            f"the form of {name!r} has no field {', '.join(sorted(unknown))}; it has"
            f" {field_names}"
        )
    # Validate before writing, so that the settings never contain an invalid credential.
    accepted = ProviderCredentialSchemaValidator(
        forms, provider=name
    ).validate_and_filter(values)
    credential_settings = CredentialSettings(name=credential, values=accepted)
    add_provider(
        settings.home_path,
        ProviderSettings(
            name=name,
            base_url=(base_url or "") if is_new else "",
            credentials=[credential_settings],
        ),
    )
    if as_json:
        print_json({"provider": name, "credential": credential or None})
    else:
        print_note(
            f"{name} is set up. `modelyard providers check {name}` asks whether it"
            " works."
        )


def _split(field: str) -> tuple[str, str]:
    """Split FIELD=VALUE. Raises click.UsageError."""
    name, equals, value = field.partition("=")
    if not equals:
        raise click.UsageError(f"--set wants FIELD=VALUE, not {field!r}")
    return name, value


def _ask(field_schema: CredentialFormSchema) -> str:
    """Return a required field's value: its default, or from a prompt. Raises
    ConfigError without a terminal."""
    if field_schema.default is not None:
        return field_schema.default
    if not sys.stdin.isatty():
        raise ConfigError(
            f"{field_schema.variable!r} ({field_schema.label.en_us}) is required; give"
            f" it with --set {field_schema.variable}=…"
        )
    return click.prompt(
        field_schema.label.en_us, hide_input=field_schema.type is FormType.SECRET_INPUT
    )


@providers.command()
@click.argument("name")
@json_option
@click.pass_context
def check(ctx: click.Context, name: str, as_json: bool) -> None:
    """Check each credential of a provider by listing its models. Calls no model and
    costs nothing."""
    models_by_credential = run_with_modelyard(
        ctx, lambda yard: yard.check_provider(name)
    )
    if as_json:
        print_json(models_by_credential)
        return
    for credential, offered in models_by_credential.items():
        head = ", ".join(offered[:6]) + (
            f" and {len(offered) - 6} more" if len(offered) > 6 else ""
        )
        click.echo(f"{credential}: works, {len(offered)} models: {head}")
