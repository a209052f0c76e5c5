"""Which credentials a tenant has for a provider: its own, of the settings and stored, and those the operator lends."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.models.credentials import secrets_of
from modelyard.models.types import OperatorCredentials
from modelyard.providers.factory import ModelProviderFactory
from modelyard.runtime.load_balancing import Credential
from modelyard.storage.secrets import SecretError, UnknownKeyError
from modelyard.tenancy.directory import Directory, Known
from modelyard.tenancy.kinds import Limit, StoredCredential, Tenant
from modelyard.tenancy.operators import row_is_operators

logger = logging.getLogger("modelyard.providers")

_AFTER_ALL_OTHERS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A credential as the settings give it: form values, not checked yet."""

    values: Mapping[str, Any]
    name: str = ""
    weight: float = 1.0
    priority: int = 0
    domain: str = ""
    quotas: tuple[tuple[str, Limit], ...] = ()
    """With a quota it is hosted: every tenant may use it, within that."""


Unlock = Callable[[str, str, str], str]
"""(tenant, id, encrypted) → the credential's form as JSON."""


class ProviderCredentials:
    """The credentials of every tenant, read and checked when first asked for."""

    def __init__(
        self,
        factory_of: Callable[[str], ModelProviderFactory],
        directory: Directory | None,
        *,
        on_secret: Callable[[Iterable[str]], None],
        unlock: Unlock,
    ) -> None:
        self._factory_of = factory_of
        self._directory = directory
        self._on_secret = on_secret
        self._unlock = unlock
        self._own: dict[tuple[str, str], list[Credential]] = {}
        self._hosted: dict[str, list[Credential]] = defaultdict(list)
        self._stored: dict[tuple[str, str, str], list[Credential]] = {}

    def configure(self, tenant: str, provider: str, credentials: Sequence[Given]) -> None:
        """Set what the settings say. Raises CredentialsValidateFailedError, NotFoundError."""
        own = [
            _operators(self._checked(tenant, f"{tenant}/{provider}/{place}", provider, one, place))
            for place, one in enumerate(credentials, 1)
        ]
        self._own[tenant, provider] = [one for one in own if not one.quotas]
        self._hosted[provider] = [one for one in own if one.quotas]

    def clear(self) -> None:
        """None from the settings any more."""
        self._own.clear()
        self._hosted.clear()

    def forget(self) -> None:
        """Read what is stored anew."""
        self._stored.clear()

    def of(self, tenant: str, provider: str, model: str = "") -> Sequence[Credential]:
        """In the order in which they are to serve: a model's own in the place of its provider's."""
        stored = self._stored_for(tenant, provider, model) if model else []
        own = stored or [*self._own.get((tenant, provider), ()), *self._stored_for(tenant, provider, "")]
        hosted = self._hosted.get(provider, ())
        if not hosted:
            return own
        found = self._directory.one(tenant, Tenant, tenant) if self._directory else None
        is_hosted_first = found is not None and found.preferred.get(provider) == "system"
        first, then = (hosted, own) if is_hosted_first else (own, hosted)
        return [*first, *(_later(one) for one in then)]

    def _stored_for(self, tenant: str, provider: str, model: str) -> list[Credential]:
        if self._directory is None:
            return []
        key = (tenant, provider, model)
        if (known := self._stored.get(key)) is None:
            known = self._stored[key] = [
                found
                for one, value in self._directory.of(tenant, StoredCredential)
                if value.is_enabled and (value.provider, value.model) == (provider, model)
                if (found := self._opened(tenant, one, value)) is not None
            ]
        return known

    def _opened(self, tenant: str, row: Known, one: StoredCredential) -> Credential | None:
        try:
            values = msgspec.json.decode(self._unlock(tenant, row.id, one.secret), type=dict[str, Any])
        except (
            UnknownKeyError
        ):  # for the moment: a call that took another credential's way would be somebody else's cost
            raise
        except (SecretError, msgspec.MsgspecError) as error:  # damaged: the tenant's others still serve
            fields = {"tenant": tenant, "id": row.id, "error": str(error)}
            logger.error("a stored credential cannot be read", extra={"fields": fields})
            return None
        given = Given(values=values, name=row.name, weight=one.weight, priority=one.priority, domain=one.domain)
        try:
            credential = self._checked(tenant, row.id, one.provider, given, 0)
        except ModelyardError:  # the form has changed since: the tenant's others still serve
            return None
        # What a tenant calls a domain must not let the credentials of others rest.
        credential = replace(credential, owner=tenant)
        return _operators(credential) if row_is_operators(self._directory, tenant, row) else credential

    def _checked(self, tenant: str, row: str, provider: str, one: Given, place: int) -> Credential:
        factory = self._factory_of(tenant)
        forms = factory.get_definition(provider).entity.credential_forms
        accepted = factory.validate_credentials(provider, one.values)
        self._on_secret(secrets_of(forms, accepted))
        return Credential(
            row, one.name or f"credential-{place}", accepted, one.weight, one.priority, one.domain, one.quotas
        )


def _later(one: Credential) -> Credential:
    return replace(one, priority=one.priority + _AFTER_ALL_OTHERS)


def _operators(one: Credential) -> Credential:
    """Marked as filled in by the operator."""
    return replace(one, values=OperatorCredentials(one.values))
