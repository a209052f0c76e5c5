"""What administrators let plugins do: the permissions of a manifest, described, asked
for and granted."""

from collections.abc import Sequence
from dataclasses import dataclass

from modelyard.base.errors import InvokeBadRequestError
from modelyard.plugins.manifest import Manifest, Permissions
from modelyard.tenancy.resource_types import Installation

NETWORK = "network"
DESCRIPTIONS = {
    "tool": "call the tools of the tenant",
    "node": "run nodes that extract parameters and classify questions",
    "endpoint": "serve HTTP endpoints under an address of this server",
    "app": "run the apps of the tenant",
    "storage": "store data on this server",
    "model.llm": "call the tenant's language models, which may cost money",
    "model.text_embedding": "call the tenant's embedding models, which may cost money",
    "model.rerank": "call the tenant's rerank models, which may cost money",
    "model.tts": "call the tenant's speech models, which may cost money",
    "model.speech2text": "call the tenant's transcription models, which may cost money",
    "model.moderation": "call the tenant's moderation models, which may cost money",
}
"""Permission → what a plugin can do with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """An administrator's decision on the permissions that a plugin requests."""

    permissions: Sequence[str] | None = None
    """The granted permissions; None for all that the plugin requests, now and in later
    versions."""
    has_network: bool = True
    """Whether it may connect to the hosts that its manifest asks for."""
    is_default: bool = False
    """Whether it applies to a first installation only: an upgrade keeps what was
    granted before."""


ALL_REQUESTS = Grant(is_default=True)
"""For programs that leave the permissions to manifests, as Dify does."""


def describe_requests(manifest: Manifest) -> dict[str, str]:
    """Return what a plugin requests: each permission, and the network, with what it can
    do with it."""
    requested = {
        name: DESCRIPTIONS[name] for name in manifest.permissions.allowed_names()
    }
    if "storage" in requested:
        size = manifest.permissions.storage.size
        requested["storage"] = f"{DESCRIPTIONS['storage']}, up to {size:,} bytes"
    hosts = manifest.permissions.hosts
    if hosts is None:
        requested[NETWORK] = "connect to any host that the operator permits"
    elif hosts:
        requested[NETWORK] = f"connect to {', '.join(hosts)}"
    return requested


def check_grant(manifest: Manifest, permissions: Sequence[str] | None) -> None:
    """Raise InvokeBadRequestError if a permission is not among those that the manifest
    requests."""
    requested = manifest.permissions.allowed_names()
    unknown = [name for name in permissions or () if name not in requested]
    if unknown:
        raise InvokeBadRequestError(
            f"{manifest.id!r} does not request {unknown[0][:100]!r}; it requests"
            f" {', '.join(requested) or 'nothing'}"
        )


def granted_fields(
    manifest: Manifest, previous: Installation | None, grant: Grant | None
) -> tuple[list[str] | None, bool]:
    """Return `granted` and `has_network` of an installation that is about to be stored.

    Without a decision, a first installation grants what the manifest requests now, and
    an upgrade what was granted before. So a later version gets no permission that
    nobody has seen. Raises InvokeBadRequestError for a permission that is not
    requested.
    """
    # An upgrade without a decision changes nothing.
    if previous is not None and (grant is None or grant.is_default):
        return previous.granted, previous.has_network
    # A list, not None: what later versions request is not included.
    if grant is None:
        return manifest.permissions.allowed_names(), True
    check_grant(manifest, grant.permissions)
    names = None if grant.permissions is None else list(grant.permissions)
    return names, grant.has_network


def granted_permissions(manifest: Manifest, installation: Installation) -> Permissions:
    """Return the permissions in force: those that a manifest requests and the tenant
    has granted."""
    permissions = manifest.permissions
    if installation.granted is not None:
        permissions = permissions.restricted_to(installation.granted)
    return permissions if installation.has_network else permissions.without_network()
