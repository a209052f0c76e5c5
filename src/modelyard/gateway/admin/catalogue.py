"""/admin/v1/providers and /catalogue: the providers and models that a tenant can use,
and their credentials."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from modelyard.base.cpu_work import run_in_thread
from modelyard.base.errors import ConfigError, InvokeBadRequestError, ModelyardError
from modelyard.base.fields import optional_field, required_field
from modelyard.base.json_types import is_mapping
from modelyard.gateway.admin.dependencies import CredentialProbe
from modelyard.gateway.admin.requests import longest_cooldown, model_type, tenant_of
from modelyard.gateway.admin.shapes import (
    CatalogueModel,
    CredentialCheck,
    CredentialState,
    ProviderDetail,
    ProviderView,
)
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.models.entities import AIModelEntity, ModelPropertyKey
from modelyard.models.types import ModelType, OperatorCredentials
from modelyard.providers.factory import catalog_names
from modelyard.runtime.model_manager import ModelManager
from modelyard.runtime.provider_manager import ProviderManager, ProviderStatus
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.operators import caller_is_operator
from modelyard.tenancy.resource_types import CustomModel, StoredCredential
from modelyard.tenant_plugins.plugins import Plugins

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Providers:
    """Routes for the providers that are available to a tenant."""

    models: ModelManager
    directory: Directory
    plugins: Plugins
    probe: CredentialProbe

    async def listed(self, request: Request) -> Reply:
        """List the providers of a tenant.

        Raises NotFoundError for a tenant that the caller may not access.
        """
        tenant = tenant_of(request)
        # Load the tenant's configuration once, not once per provider.
        tenant_view, statuses = (
            self._tenant_catalogue(tenant),
            self.models.providers.get_providers(tenant),
        )
        return json_reply(
            {
                "data": [
                    ProviderView(**_provider_fields(tenant_view, status))
                    for status in statuses
                ]
            }
        )

    async def get_provider(self, request: Request) -> Reply:
        """Return one provider with its credential form and its models.

        Raises NotFoundError.
        """
        return await run_in_thread(
            _detail_reply,
            *self._provider_parts(tenant_of(request), request.names["id"]),
        )

    async def check(self, request: Request) -> Reply:
        """Check whether submitted credentials work, without storing them.

        Raises NotFoundError, InvokeBadRequestError.
        """
        tenant = tenant_of(request)
        body = await request.json()
        values = required_field(body, "values", dict)
        model = optional_field(body, "model", str) or ""
        model_type = optional_field(body, "model_type", str) or ""
        # Only the operator's credentials may point into the operator's own network; all
        # others go through the egress guard.
        is_operators = caller_is_operator(self.directory, request.caller, tenant)
        credential_values = OperatorCredentials(values) if is_operators else values
        return json_reply(
            await request.cancel_on_disconnect(
                self._checked(
                    tenant, request.names["id"], credential_values, model, model_type
                )
            )
        )

    async def _checked(
        self,
        tenant: str,
        name: str,
        values: Mapping[str, Any],
        model: str,
        model_type: str,
    ) -> CredentialCheck:
        """Validate the credentials and try them with the provider.

        Raises InvokeBadRequestError if the form is invalid; a refusal by the provider
        is a normal result.
        """
        definition = self.models.providers.factory_of(tenant).get_definition(name)
        try:
            accepted = self.models.providers.factory_of(tenant).validate_credentials(
                definition.name, values, model=model, model_type=model_type
            )
            # Validation returns a plain mapping, so the mark of an operator's
            # credential has to be restored.
            accepted = (
                OperatorCredentials(accepted)
                if isinstance(values, OperatorCredentials)
                else accepted
            )
        except (ConfigError, ValueError) as error:
            raise InvokeBadRequestError(str(error), param="values") from error
        try:
            # The probe lists the provider's models, which costs nothing but needs valid
            # credentials.
            offered = await self.probe(tenant, name, accepted, model, model_type)
        except ModelyardError as error:
            return CredentialCheck(works=False, models=[], message=str(error))
        return CredentialCheck(works=True, models=offered, message="")

    def _tenant_catalogue(self, tenant: str) -> "_TenantCatalogue":
        """Return the tenant's configuration that all provider views need."""
        directory = self.directory
        return _TenantCatalogue(
            stored={
                credential.id
                for credential, _ in directory.of(tenant, StoredCredential)
            },
            resting=self.models.providers.health.in_cooldown(),
            plugins={
                plugin.installation.provider
                for plugin in self.plugins.installed(tenant)
            },
            custom=Counter(
                custom_model.provider
                for _, custom_model in directory.of(tenant, CustomModel)
            ),
            in_catalogue=frozenset(catalog_names()),
        )

    def _provider_parts(
        self, tenant: str, name: str
    ) -> "tuple[_TenantCatalogue, ProviderStatus, list[_CatalogueEntry]]":
        """Return the parts from which the details of a provider are built.

        Raises NotFoundError.
        """
        status = self.models.providers.get_provider(tenant, name)
        offered = [
            offer
            for offer in _offers(self.models.providers, self.directory, tenant)
            if offer.provider == name
        ]
        return self._tenant_catalogue(tenant), status, offered


def _detail_reply(
    tenant_view: "_TenantCatalogue",
    status: ProviderStatus,
    offered: "Sequence[_CatalogueEntry]",
) -> Reply:
    """Build the reply with the details of a provider. Runs outside the event loop,
    because some providers have hundreds of models."""
    detail = ProviderDetail(
        **_provider_fields(tenant_view, status),
        help=status.entity.help,
        forms=status.entity.credential_forms,
        model_forms=status.entity.model_forms,
        offered=[_model(offer) for offer in offered],
    )
    return json_reply(detail)


@dataclass(frozen=True, slots=True)
class _TenantCatalogue:
    """A tenant's configuration, loaded once for all providers."""

    stored: Collection[str]
    """Ids of stored credentials."""
    resting: Mapping[str, float]
    """Cooldown key → remaining seconds."""
    plugins: Collection[str]
    """Providers that come from plugins."""
    custom: Mapping[str, int]
    """Provider → number of the tenant's custom models."""
    in_catalogue: Collection[str]
    """Providers that come with the product."""


def _provider_fields(
    tenant_view: _TenantCatalogue, status: ProviderStatus
) -> dict[str, Any]:
    """Return the fields that the list view and the detail view of a provider share."""
    entity = status.entity
    # A provider that is neither in the catalogue nor from a plugin was defined in the
    # settings.
    source = "catalogue" if entity.provider in tenant_view.in_catalogue else "settings"
    if source == "settings" and entity.provider in tenant_view.plugins:
        source = "plugin"
    return {
        "id": entity.provider,
        "label": entity.label,
        "description": entity.description,
        "types": entity.supported_model_types,
        "models": len(entity.models) + tenant_view.custom.get(entity.provider, 0),
        "source": source,
        "needs_credential": status.needs_credential,
        "is_ready": status.is_ready,
        "is_customizable": entity.is_customizable,
        "credentials": [
            CredentialState(
                id=credential.id,
                name=credential.name,
                weight=credential.weight,
                priority=credential.priority,
                domain=credential.domain,
                # A credential can be in cooldown for single models; show the longest
                # remaining time.
                resting_seconds=longest_cooldown(
                    left
                    for cooldown_key, left in tenant_view.resting.items()
                    if credential.id in cooldown_key
                ),
                is_stored=credential.id in tenant_view.stored,
            )
            for credential in status.credentials
        ],
    }


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Routes for the model catalogue, including models that still need a credential or
    weights."""

    models: ModelManager
    directory: Directory

    async def listed(self, request: Request) -> Reply:
        """List models, optionally of one `type`, or only those that are `ready`.

        Raises InvokeBadRequestError, NotFoundError.
        """
        offers = self._requested_offers(request)
        if request.query("ready") == "true":
            offers = [offer for offer in offers if offer.is_ready]
        return await run_in_thread(_catalogue_reply, offers)

    def _requested_offers(self, request: Request) -> "list[_CatalogueEntry]":
        """Return the models of the tenant, of the type that the request names."""
        type_name = request.query("type")
        requested_type = None if type_name is None else model_type(type_name)
        providers, tenant = self.models.providers, tenant_of(request)
        return _offers(providers, self.directory, tenant, requested_type)


def _catalogue_reply(offers: Sequence["_CatalogueEntry"]) -> Reply:
    """Build the catalogue reply. Runs outside the event loop, because there are
    hundreds of models."""
    return json_reply({"data": [_model(offer) for offer in offers]})


@dataclass(frozen=True, slots=True)
class _CatalogueEntry:
    """A provider's model as a tenant sees it."""

    provider: str
    entity: AIModelEntity
    is_ready: bool
    is_custom: bool


def _offers(
    providers: ProviderManager,
    directory: Directory,
    tenant: str,
    requested_type: ModelType | None = None,
) -> list[_CatalogueEntry]:
    """Return the models that the tenant can use or set up, optionally of one type."""
    ready = {
        (owner, model.model, model.model_type)
        for owner, model in providers.get_models(tenant, model_type=requested_type)
    }
    custom = {
        (custom_model.provider, str(custom_model.definition.get("model")))
        for _, custom_model in directory.of(tenant, CustomModel)
    }
    return [
        _CatalogueEntry(
            owner,
            model,
            (owner, model.model, model.model_type) in ready,
            (owner, model.model) in custom,
        )
        # The second pass also returns models that are not ready; the set tells which
        # ones are.
        for owner, model in providers.get_models(
            tenant, model_type=requested_type, ready=False
        )
    ]


def _model(offer: _CatalogueEntry) -> CatalogueModel:
    """Return the catalogue view of a model."""
    provider, entity = offer.provider, offer.entity
    price = entity.pricing
    # Only speech models list voices.
    voices = (
        entity.model_properties.get(ModelPropertyKey.VOICES)
        if entity.model_properties
        else None
    )

    def per_million(value: Decimal | None) -> str | None:
        """Return a price per million units as a decimal text, or None if there is none."""
        return (
            None
            if price is None or value is None
            else f"{(value * price.unit * _MILLION).normalize():f}"
        )

    return CatalogueModel(
        id=f"{provider}/{entity.model}",
        provider=provider,
        model=entity.model,
        type=entity.model_type,
        label=entity.label,
        description=entity.description,
        licence=entity.licence,
        context_size=entity.context_size,
        features=[feature.value for feature in entity.features or ()],
        rules=entity.parameter_rules,
        voices=[
            str(voice["mode"])
            for voice in voices or ()
            if is_mapping(voice) and "mode" in voice
        ],
        input_price=per_million(price.input) if price else None,
        output_price=per_million(price.output) if price else None,
        currency=price.currency if price else "",
        price_per=price.per.value if price else "",
        is_ready=offer.is_ready,
        is_custom=offer.is_custom,
    )
