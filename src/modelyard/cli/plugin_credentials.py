"""`modelyard plugin credential`: credentials of plugins, for tools, data sources and
models."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from modelyard.base.errors import ConfigError
from modelyard.cli.assignments import assignments_option
from modelyard.cli.output import print_note, run_with_modelyard
from modelyard.cli.usage import tenant_option
from modelyard.tenancy.caller import Caller

if TYPE_CHECKING:
    from modelyard.app import Modelyard


_MODEL_CREDENTIAL = "credential_"
"""What the ids of credentials for models begin with."""


@click.group()
def credential() -> None:
    """Manage the credentials of plugins."""


@credential.command("add")
@click.argument("provider")
@assignments_option(
    "--set",
    "fields",
    help="Field of the credential form; repeatable.",
)
@click.option(
    "--label", default="default", show_default=True, help="Name of the credential."
)
@click.option(
    "--model",
    default="",
    help="For a provider of models: the model that the credential is for. The plugin"
    " describes it, and it is listed from then on.",
)
@click.option(
    "--type",
    "model_type",
    default="",
    help="Type of that model, such as text-embedding. Default: llm.",
)
@tenant_option
@click.pass_context
def add_credential(
    ctx: click.Context,
    provider: str,
    fields: Sequence[tuple[str, str]],
    label: str,
    model: str,
    model_type: str,
    tenant: str,
) -> None:
    """Validate a credential with its plugin, store it encrypted, and print its id.
    PROVIDER is author/plugin/provider; for models also its name in this tenant."""

    async def work(yard: "Modelyard") -> str:
        """Store the credential and return its id."""
        name = yard.services.plugins.models.provider_name(tenant, provider)
        if name:
            form = ModelCredentialForm(name, dict(fields), model, model_type)
            return await _add_model_credential(yard, tenant, label, form)
        return await yard.services.plugins.credentials.add(
            tenant, provider, label, dict(fields)
        )

    click.echo(run_with_modelyard(ctx, work))


class ModelCredentialForm(NamedTuple):
    """The filled-in credential form of a model provider, or of one model."""

    provider: str
    values: dict[str, str]
    model: str
    model_type: str


async def _add_model_credential(
    yard: "Modelyard", tenant: str, label: str, form: ModelCredentialForm
) -> str:
    """Let the plugin try a credential for models, store it, and return its id. What
    cannot be tried without a model is stored with a note."""
    factory = yard.services.providers.manager.factory_of(tenant)
    accepted = factory.validate_credentials(
        form.provider, form.values, model=form.model, model_type=form.model_type
    )
    try:
        await yard.services.plugins.custom_models.check(
            tenant, form.provider, accepted, form.model, form.model_type
        )
    except ConfigError as error:
        print_note(f"not checked: {error}")
    fields = form._asdict()
    stored = await yard.services.tenancy.administration.create(
        Caller(tenant=tenant), tenant, "credential", f"{form.provider}: {label}", fields
    )
    return str(stored["id"])


@credential.command("client")
@click.argument("provider")
@assignments_option(
    "--set",
    "fields",
    help="Field of the client's form; repeatable.",
)
@tenant_option
@click.pass_context
def set_client(
    ctx: click.Context, provider: str, fields: Sequence[tuple[str, str]], tenant: str
) -> None:
    """Store OAuth client settings for PROVIDER and print the redirect URI to register
    there."""

    async def work(yard: "Modelyard") -> str:
        """Store the client and return the redirect URI."""
        await yard.services.plugins.credentials.set_client(
            tenant, provider, dict(fields)
        )
        return f"{yard.services.addresses.server()}/oauth/callback/{provider}"

    click.echo(run_with_modelyard(ctx, work))


@credential.command("connect")
@click.argument("provider")
@click.option(
    "--user",
    default="",
    help="User that the credential belongs to. Default: all users of the tenant.",
)
@click.option(
    "--label", default="default", show_default=True, help="Name of the credential."
)
@tenant_option
@click.pass_context
def connect(
    ctx: click.Context, provider: str, user: str, label: str, tenant: str
) -> None:
    """Print an OAuth authorization URL for PROVIDER, to open in a browser. Valid for 15
    minutes."""

    async def work(yard: "Modelyard") -> str:
        """Return the address with a signed ticket."""
        ticket = yard.services.plugins.credentials.ticket(tenant, provider, label, user)
        return f"{yard.services.addresses.server()}/oauth/begin/{ticket}"

    click.echo(run_with_modelyard(ctx, work))


@credential.command("rename")
@click.argument("credential_id")
@click.argument("label")
@tenant_option
@click.pass_context
def rename_credential(
    ctx: click.Context, credential_id: str, label: str, tenant: str
) -> None:
    """Give the credential with the id CREDENTIAL_ID the name LABEL, which no other one
    of its provider has."""

    async def work(yard: "Modelyard") -> None:
        """Change the label, wherever the credential is stored."""
        if not credential_id.startswith(_MODEL_CREDENTIAL):
            await yard.services.plugins.credentials.rename(tenant, credential_id, label)
            return
        administration = yard.services.tenancy.administration
        stored = await administration.get(tenant, "credential", credential_id)
        name = f"{stored['provider']}: {label}"
        await administration.change(
            Caller(tenant=tenant), tenant, "credential", credential_id, {"name": name}
        )

    run_with_modelyard(ctx, work)
    print_note(f"renamed {credential_id}")


@credential.command("remove")
@click.argument("credential_id")
@tenant_option
@click.pass_context
def remove_credential(ctx: click.Context, credential_id: str, tenant: str) -> None:
    """Delete the credential with the id CREDENTIAL_ID."""
    is_for_models = credential_id.startswith(_MODEL_CREDENTIAL)
    resource = "credential" if is_for_models else "tool_credential"
    run_with_modelyard(
        ctx,
        lambda yard: yard.services.plugins.rows.remove(tenant, resource, credential_id),
    )
    print_note(f"removed {credential_id}")
