"""Whose word an address is: the operator's own, or a tenant's. The one place that decides it.

An address may lead into the private network where the operator wrote it:

- in `modelyard.yaml`, in the environment, or with `modelyard providers add`;
- in the catalogue, which comes with the product;
- through the admin API or the console, as an owner of the default tenant (`Caller.is_operator`): the row's `set_by`
  says so.

Where the default tenant is the only one, as on a laptop, whoever administers it is the operator.

Everything else is a tenant's word, whatever the address looks like. It is called through the egress guard, which
reaches the public network and what the operator listed under `egress.private`.
"""

from modelyard.tenancy.caller import DEFAULT_TENANT, Caller
from modelyard.tenancy.directory import Directory, Known


def is_alone(directory: Directory | None) -> bool:
    """Whether the default tenant is the only one."""
    return directory is None or all(tenant == DEFAULT_TENANT for tenant, _ in directory.tenants())


def caller_is_operator(directory: Directory | None, caller: Caller, tenant: str) -> bool:
    """Whether an address that this caller names for a tenant is the operator's word."""
    return caller.is_operator or (tenant == DEFAULT_TENANT and is_alone(directory))


def row_is_operators(directory: Directory | None, tenant: str, row: Known) -> bool:
    """Whether an address in a stored row is the operator's word."""
    return bool(row.set_by) or (tenant == DEFAULT_TENANT and is_alone(directory))
