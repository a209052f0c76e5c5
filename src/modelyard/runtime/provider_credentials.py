"""The credentials that a tenant has for a provider: its own, from the settings and from
the database, and the operator's hosted ones."""

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
from modelyard.tenancy.directory import CachedResource, Directory
from modelyard.tenancy.operators import row_is_operators
from modelyard.tenancy.resource_types import (
    COMPLETED_FIELDS,
    Limit,
    StoredCredential,
    Tenant,
)

logger = logging.getLogger("modelyard.providers")

# Added to the priority of the second group, so that it sorts after every credential of
# the first.
# Priorities themselves end at 100,000.
_FALLBACK_PRIORITY = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredCredential:
    """A credential as configured: form values that are not validated yet."""

    values: Mapping[str, Any]
    name: str = ""
    weight: float = 1.0
    priority: int = 0
    domain: str = ""
    model: str = ""
    """The model that it is for; empty for all models of the provider."""
    model_type: str = ""
    quotas: tuple[tuple[str, Limit], ...] = ()
    """A credential with quotas is hosted: every tenant may use it, within its quota."""


Unlock = Callable[[str, str, str], str]
"""(tenant, id, encrypted) to the credential's form values as JSON."""


class ProviderCredentials:
    """The credentials of all tenants, decrypted and validated on first use."""

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
        self._stored: dict[tuple[str, str, str, str], list[Credential]] = {}
        self._deferred: dict[tuple[str, str], Sequence[ConfiguredCredential]] = {}
        """Credentials from the settings for providers of plugins."""
        self._of_plugins: dict[tuple[str, str], list[Credential]] = {}

    def configure(
        self, tenant: str, provider: str, credentials: Sequence[ConfiguredCredential]
    ) -> None:
        """Set the credentials from the settings. Raises CredentialsValidateFailedError
        or NotFoundError."""
        configured = [
            # Credentials from the settings come from the operator, so their addresses
            # are trusted.
            _mark_as_operators(
                self._validate(
                    tenant,
                    f"{tenant}/{provider}/{position}",
                    provider,
                    credential,
                    position,
                )
            )
            for position, credential in enumerate(credentials, 1)
        ]
        self._own[tenant, provider] = [
            credential for credential in configured if not credential.quotas
        ]
        self._hosted[provider] = [
            credential for credential in configured if credential.quotas
        ]

    def configure_later(
        self, tenant: str, provider: str, credentials: Sequence[ConfiguredCredential]
    ) -> None:
        """Set the credentials from the settings for a provider of a plugin. They are
        validated on first use, because the plugin may come and go."""
        self._deferred[tenant, provider] = credentials

    def clear(self) -> None:
        """Drop all credentials that came from the settings."""
        self._own.clear()
        self._hosted.clear()
        self._deferred.clear()
        self._of_plugins.clear()

    def forget(self) -> None:
        """Drop the stored credentials and those of plugins, so that they are read and
        validated again."""
        self._stored.clear()
        self._of_plugins.clear()

    def credentials_for(
        self, tenant: str, provider: str, model: str = "", model_type: str = ""
    ) -> Sequence[Credential]:
        """Return the credentials in the order of use. Those stored for the model
        replace the provider's own; with `model_type`, only those of that type."""
        model_credentials = (
            self._stored_for(tenant, provider, model, model_type) if model else []
        )
        own_credentials = model_credentials or [
            *self._own.get((tenant, provider), ()),
            *self._of_plugin(tenant, provider),
            *self._stored_for(tenant, provider, "", ""),
        ]
        hosted = self._hosted.get(provider, ())
        if not hosted:
            return own_credentials
        tenant_settings = (
            self._directory.one(tenant, Tenant, tenant) if self._directory else None
        )
        # A tenant may prefer the hosted credentials ("system") to its own; the others
        # serve as fallback.
        is_hosted_first = (
            tenant_settings is not None
            and tenant_settings.preferred.get(provider) == "system"
        )
        first, fallback_credentials = (
            (hosted, own_credentials) if is_hosted_first else (own_credentials, hosted)
        )
        return [
            *first,
            *(_as_fallback(credential) for credential in fallback_credentials),
        ]

    def _of_plugin(self, tenant: str, provider: str) -> list[Credential]:
        """Return the credentials from the settings for a plugin's provider; cached.

        Empty while the plugin is not installed. A credential that does not fit its form
        is logged and left out.
        """
        key = (tenant, provider)
        if key not in self._deferred:
            return []
        if (cached := self._of_plugins.get(key)) is None:
            cached = list[Credential]()
            for position, credential in enumerate(self._deferred[key], 1):
                row = f"{tenant}/{provider}/{position}"
                try:
                    valid = self._validate(tenant, row, provider, credential, position)
                except ModelyardError as error:
                    fields = {"provider": provider, "error": str(error)}
                    logger.error(
                        "credential of a plugin in the settings not usable",
                        extra={"fields": fields},
                    )
                    continue
                # They come from the settings, so their addresses are trusted.
                cached.append(_mark_as_operators(valid))
            self._of_plugins[key] = cached
        return cached

    def models_with_own(self, tenant: str) -> Mapping[str, set[str]]:
        """Return the models that have a stored credential of their own, by provider."""
        models: dict[str, set[str]] = defaultdict(set)
        stored = self._directory.of(tenant, StoredCredential) if self._directory else ()
        for _, value in stored:
            if value.model and value.is_enabled:
                models[value.provider].add(value.model)
        return models

    def of_models(
        self, tenant: str, provider: str
    ) -> list[tuple[Credential, StoredCredential]]:
        """Return the enabled credentials of a provider that are for one model each, with
        what is stored of them; those that cannot be read are left out."""
        stored = self._directory.of(tenant, StoredCredential) if self._directory else ()
        return [
            (credential, value)
            for row, value in stored
            if value.model and value.is_enabled and value.provider == provider
            if (credential := self._decrypt(tenant, row, value)) is not None
        ]

    def _stored_for(
        self, tenant: str, provider: str, model: str, model_type: str
    ) -> list[Credential]:
        """Return the enabled credentials in the database for a provider or one model;
        cached."""
        if self._directory is None:
            return []
        # Two models of one name but different types have forms of their own.
        types = ("", model_type) if model_type else None
        key = (tenant, provider, model, model_type)
        if (cached := self._stored.get(key)) is None:
            cached = self._stored[key] = [
                credential
                for row, value in self._directory.of(tenant, StoredCredential)
                if value.is_enabled
                and (value.provider, value.model) == (provider, model)
                and (types is None or value.model_type in types)
                if (credential := self._decrypt(tenant, row, value)) is not None
            ]
        return cached

    def _decrypt(
        self, tenant: str, row: CachedResource, stored_credential: StoredCredential
    ) -> Credential | None:
        """Decrypt and validate a stored credential; None if it is damaged or no longer
        fits the form."""
        try:
            values = msgspec.json.decode(
                self._unlock(tenant, row.id, stored_credential.secret),
                type=dict[str, Any],
            )
        except (
            UnknownKeyError
            # The master key may be missing only for the moment. Falling back to another
            # credential would charge another account.
        ):
            raise
        # Damaged; the tenant's other credentials still serve.
        except (SecretError, msgspec.MsgspecError) as error:
            fields = {"tenant": tenant, "id": row.id, "error": str(error)}
            logger.error("stored credential not readable", extra={"fields": fields})
            return None
        completed: dict[str, Any] = values.pop(COMPLETED_FIELDS, None) or {}
        configured = ConfiguredCredential(
            values=values,
            name=row.name,
            weight=stored_credential.weight,
            priority=stored_credential.priority,
            domain=stored_credential.domain,
            model=stored_credential.model,
            model_type=stored_credential.model_type,
        )
        try:
            credential = self._validate(
                tenant, row.id, stored_credential.provider, configured, 0
            )
        # The form has changed since it was stored; the tenant's other credentials still
        # serve.
        except ModelyardError:
            return None
        # The form's own values come first, as a person has entered them.
        all_values = {**completed, **credential.values}
        # A domain that a tenant names must not put other tenants' credentials in
        # cooldown.
        credential = replace(credential, owner=tenant, values=all_values)
        return (
            _mark_as_operators(credential)
            if row_is_operators(self._directory, tenant, row)
            else credential
        )

    def _validate(
        self,
        tenant: str,
        row: str,
        provider: str,
        configured: ConfiguredCredential,
        label: int,
    ) -> Credential:
        """Validate the form values of a credential, and register its secrets for
        redaction in logs."""
        factory = self._factory_of(tenant)
        forms = factory.get_definition(provider).entity.forms_for(configured.model)
        accepted = factory.validate_credentials(
            provider,
            configured.values,
            model=configured.model,
            model_type=configured.model_type,
        )
        # Registered before the first call, whose error could already repeat the secret.
        self._on_secret(secrets_of(forms, accepted))
        return Credential(
            row,
            configured.name or f"credential-{label}",
            accepted,
            configured.weight,
            configured.priority,
            configured.domain,
            configured.quotas,
        )


def _as_fallback(credential: Credential) -> Credential:
    """Return the credential with a priority after all credentials of the first group."""
    return replace(credential, priority=credential.priority + _FALLBACK_PRIORITY)


def _mark_as_operators(credential: Credential) -> Credential:
    """Mark the values as entered by the operator."""
    return replace(credential, values=OperatorCredentials(credential.values))
