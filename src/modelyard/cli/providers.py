"""`modelyard providers`: which there are, what they want, adding and checking credentials."""

import sys
from typing import Any

import click

from modelyard.app.provider_settings import add_provider
from modelyard.base.errors import ConfigError, suggestion
from modelyard.base.settings import CredentialSettings, ProviderSettings
from modelyard.cli.show import bad, good, json_option, note, print_json, print_table, run_with_yard, settings_of
from modelyard.models.credentials import ProviderCredentialSchemaValidator
from modelyard.models.provider import CredentialFormSchema, FormType, ProviderEntity
from modelyard.providers.factory import catalog_definition, catalog_names
from modelyard.tenancy.caller import DEFAULT_TENANT


@click.group()
def providers() -> None:
    """Providers: list, show, add, check."""


@providers.command("list")
@json_option
@click.pass_context
def list_providers(ctx: click.Context, as_json: bool) -> None:
    """Every provider, and whether it is ready."""

    async def rows(yard: Any) -> list[dict[str, Any]]:
        return [
            {
                "provider": status.entity.provider,
                "label": status.entity.label.en_us,
                "types": [kind.value for kind in status.entity.supported_model_types],
                "credentials": [one.name for one in status.credentials],
                "ready": status.is_ready,
            }
            for status in yard.services.providers.manager.get_providers(DEFAULT_TENANT)
        ]

    found = run_with_yard(ctx, rows)
    if as_json:
        print_json(found)
        return
    print_table(
        "",
        ("provider", "types", "credentials", "ready"),
        [
            (
                one["provider"],
                ", ".join(one["types"]),
                ", ".join(one["credentials"]) or "-",
                good("yes") if one["ready"] else bad(f"modelyard providers add {one['provider']}"),
            )
            for one in found
        ],
    )


@providers.command()
@click.argument("name")
@json_option
@click.pass_context
def show(ctx: click.Context, name: str, as_json: bool) -> None:
    """What a provider offers, and what its credential form asks for."""

    async def entity_of(yard: Any) -> ProviderEntity:
        return yard.services.providers.manager.factory.get_definition(name).entity

    entity = run_with_yard(ctx, entity_of)
    if as_json:
        print_json(entity)
        return
    click.echo(f"{entity.label.en_us} ({entity.provider})")
    if entity.description:
        click.echo(entity.description.en_us)
    if entity.help:
        click.echo(f"{entity.help.title.en_us}: {entity.help.url.en_us}")
    rows = [
        (form.variable, form.label.en_us, "yes" if form.required else "no", form.env or "")
        for form in entity.credential_forms
    ]
    if rows:
        click.echo()
        print_table("Credential", ("field", "label", "required", "or from variable"), rows)
    if entity.models:
        click.echo()
        print_table("Models", ("model", "type"), [(model.model, model.model_type.value) for model in entity.models])
    if entity.is_customizable:
        note("any other model name is passed on as it is")


@providers.command()
@click.argument("name")
@click.option("--set", "fields", multiple=True, metavar="FIELD=VALUE", help="A field of the credential form.")
@click.option("--api-key", help="Short for --set api_key=…; asked for where it is needed and not given.")
@click.option("--base-url", help="Where the server is. With a new NAME: one more server that speaks OpenAI's API.")
@click.option("--as", "credential", default="", help="What to call this credential; several are balanced.")
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
    is_new = name not in catalog_names()
    if is_new and not base_url:
        raise ConfigError(
            f"provider {name!r} is not in the catalogue; {suggestion(name, catalog_names(), label='it holds')}; "
            "or give --base-url for a server that speaks OpenAI's API"
        )
    definition = catalog_definition("openai_api_compatible" if is_new else name)
    values = dict(_split(field) for field in fields)
    if api_key:
        values[definition.key_field or "api_key"] = api_key
    if base_url and definition.url_field:
        values[definition.url_field] = base_url
    forms = definition.entity.credential_forms
    if not forms:
        raise ConfigError(f"provider {name!r} needs no credential")
    values |= {form.variable: _ask(form) for form in forms if form.required and form.variable not in values}
    unknown = values.keys() - {form.variable for form in forms}
    if unknown:
        known = ", ".join(form.variable for form in forms)
        raise ConfigError(f"the form of {name!r} has no field {', '.join(sorted(unknown))}; it has {known}")
    accepted = ProviderCredentialSchemaValidator(forms, provider=name).validate_and_filter(values)
    one = CredentialSettings(name=credential, values=accepted)
    add_provider(
        settings.home_path, ProviderSettings(name=name, base_url=(base_url or "") if is_new else "", credentials=[one])
    )
    if as_json:
        print_json({"provider": name, "credential": credential or None})
    else:
        note(f"{name} is set up. `modelyard providers check {name}` asks whether it works.")


def _split(field: str) -> tuple[str, str]:
    name, equals, value = field.partition("=")
    if not equals:
        raise click.UsageError(f"--set wants FIELD=VALUE, not {field!r}")
    return name, value


def _ask(form: CredentialFormSchema) -> str:
    if form.default is not None:
        return form.default
    if not sys.stdin.isatty():
        raise ConfigError(f"{form.variable!r} ({form.label.en_us}) is required; give it with --set {form.variable}=…")
    return click.prompt(form.label.en_us, hide_input=form.type is FormType.SECRET_INPUT)


@providers.command()
@click.argument("name")
@json_option
@click.pass_context
def check(ctx: click.Context, name: str, as_json: bool) -> None:
    """Ask a provider, with each credential, what it offers. Calls no model and costs nothing."""
    found = run_with_yard(ctx, lambda yard: yard.check_provider(name))
    if as_json:
        print_json(found)
        return
    for credential, offered in found.items():
        head = ", ".join(offered[:6]) + (f" and {len(offered) - 6} more" if len(offered) > 6 else "")
        click.echo(f"{credential}: works, {len(offered)} models: {head}")
