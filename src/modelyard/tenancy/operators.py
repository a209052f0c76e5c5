"""Decides whether an address comes from the operator or from a tenant. No other code
makes this decision.

An address may lead into the private network if the operator wrote it:

- in `modelyard.yaml`, in the environment, or with `modelyard providers add`;
- in the catalogue, which is part of the product;
- through the admin API or the console, as an owner of the default tenant
    (`Caller.is_operator`), recorded in the row's `set_by`.

If the default tenant is the only one, as on a laptop, whoever administers it is the
operator.

Any other address is a tenant's. It is called through the egress guard, which reaches
only the public network and what the operator lists under `egress.private`.
"""

from modelyard.tenancy.caller import DEFAULT_TENANT, Caller
from modelyard.tenancy.directory import CachedResource, Directory


def is_single_tenant(directory: Directory | None) -> bool:
    """Return whether the default tenant is the only one."""
    return directory is None or all(
        tenant == DEFAULT_TENANT for tenant, _ in directory.tenants()
    )


def caller_is_operator(
    directory: Directory | None, caller: Caller, tenant: str
) -> bool:
    """Return whether an address that this caller enters for a tenant counts as the
    operator's."""
    return caller.is_operator or (
        tenant == DEFAULT_TENANT and is_single_tenant(directory)
    )


def row_is_operators(
    directory: Directory | None, tenant: str, row: CachedResource
) -> bool:
    """Return whether an address in a stored row counts as the operator's."""
    return bool(row.set_by) or (
        tenant == DEFAULT_TENANT and is_single_tenant(directory)
    )
