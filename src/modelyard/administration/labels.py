"""Labels of providers' credentials, which are unique within a provider."""

from typing import Any

from modelyard.administration.inputs import CredentialInput
from modelyard.base.errors import InvokeBadRequestError
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.resource_types import StoredCredential


def check_label(
    directory: Directory, tenant: str, name: str, value: Any, *, but: str = ""
) -> None:
    """Check that a provider has no other credential with this label. `but` is the id of
    the credential that is changed. Values of other types are accepted.

    Raises InvokeBadRequestError, which names the credential that exists.
    """
    if not isinstance(value, CredentialInput):
        return
    label = credential_label(name, value.provider)
    for row, other in directory.of(tenant, StoredCredential):
        if row.id == but:
            continue
        # Names are unique in a tenant, whichever provider they belong to.
        if row.name == name or (
            other.provider == value.provider
            and credential_label(row.name, other.provider) == label
        ):
            raise InvokeBadRequestError(
                f"Provider {other.provider!r} has a credential"
                f" {credential_label(row.name, other.provider)!r} already, with the id"
                f" {row.id!r}; choose another name",
                param="name",
            )


def credential_label(name: str, provider: str) -> str:
    """Return the label of a credential; the command line puts the provider before it."""
    return name.removeprefix(f"{provider}: ")
