"""/admin/v1/providers and /catalogue: what could be called, and with what."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.base.computing import apart
from modelyard.base.errors import ConfigError, InvokeBadRequestError, ModelyardError
from modelyard.base.fields import need
from modelyard.gateway.admin.parts import CredentialProbe
from modelyard.gateway.admin.requests import longest_rest, model_type, tenant_of
from modelyard.gateway.admin.shapes import (
    CatalogueModel,
    CredentialCheck,
    CredentialState,
    ProviderDetail,
    ProviderShown,
)
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.models.entities import AIModelEntity, ModelPropertyKey
from modelyard.models.types import ModelType, OperatorCredentials
from modelyard.providers.factory import catalog_names
from modelyard.runtime.model_manager import ModelManager
from modelyard.runtime.provider_manager import ProviderManager, ProviderStatus
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.kinds import CustomModel, StoredCredential
from modelyard.tenancy.operators import caller_is_operator
from modelyard.tenant_plugins.plugins import Plugins

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Providers:
    """What a tenant may call models of, and what it has set up of that."""

    models: ModelManager
    directory: Directory
    plugins: Plugins
    probe: CredentialProbe

    async def listed(self, request: Request) -> Reply:
        """Raises NotFoundError for a tenant that is not the caller's."""
        tenant = tenant_of(request)
        here, statuses = self._here(tenant), self.models.providers.get_providers(tenant)
        return json_reply({"data": [ProviderShown(**_about(here, status)) for status in statuses]})

    async def one(self, request: Request) -> Reply:
        """With its form and its models. Raises NotFoundError."""
        return await apart(_detail_reply, *self._one(tenant_of(request), request.names["id"]))

    async def check(self, request: Request) -> Reply:
        """Whether a filled-in form works; nothing is kept. Raises NotFoundError, InvokeBadRequestError."""
        tenant = tenant_of(request)
        values = need(await request.json(), "values", dict)
        is_operators = caller_is_operator(self.directory, request.caller, tenant)
        form = OperatorCredentials(values) if is_operators else values
        return json_reply(await request.while_here(self._checked(tenant, request.names["id"], form)))

    async def _checked(self, tenant: str, name: str, values: Mapping[str, Any]) -> CredentialCheck:
        definition = self.models.providers.factory_of(tenant).get_definition(name)
        try:
            accepted = self.models.providers.factory_of(tenant).validate_credentials(definition.name, values)
            accepted = OperatorCredentials(accepted) if isinstance(values, OperatorCredentials) else accepted
        except ConfigError as error:
            raise InvokeBadRequestError(str(error), param="values") from error
        try:
            offered = await self.probe(tenant, name, accepted)
        except ModelyardError as error:
            return CredentialCheck(works=False, models=[], message=str(error))
        return CredentialCheck(works=True, models=offered, message="")

    def _here(self, tenant: str) -> "_Here":
        directory = self.directory
        return _Here(
            stored={one.id for one, _ in directory.of(tenant, StoredCredential)},
            resting=self.models.providers.health.resting(),
            plugins={one.installation.provider for one in self.plugins.installed(tenant)},
            custom=Counter(one.provider for _, one in directory.of(tenant, CustomModel)),
            in_catalogue=frozenset(catalog_names()),
        )

    def _one(self, tenant: str, name: str) -> "tuple[_Here, ProviderStatus, list[_Offer]]":
        """What a provider's details are made of."""
        status = self.models.providers.get_provider(tenant, name)
        offered = [offer for offer in _offers(self.models.providers, self.directory, tenant) if offer.provider == name]
        return self._here(tenant), status, offered


def _detail_reply(here: "_Here", status: ProviderStatus, offered: "Sequence[_Offer]") -> Reply:
    """Made beside the loop: some have hundreds of models."""
    detail = ProviderDetail(
        **_about(here, status), help=status.entity.help, forms=status.entity.credential_forms,
        offered=[_model(offer) for offer in offered],
    )  # fmt: skip
    return json_reply(detail)


@dataclass(frozen=True, slots=True)
class _Here:
    """What a tenant has set up, looked at once for all providers."""

    stored: Collection[str]
    """Ids of credentials."""
    resting: Mapping[str, float]
    plugins: Collection[str]
    """Providers that plugins brought."""
    custom: Mapping[str, int]
    """Provider → models of the tenant's own."""
    in_catalogue: Collection[str]
    """Providers that come with the product."""


def _about(here: _Here, status: ProviderStatus) -> dict[str, Any]:
    entity = status.entity
    source = "catalogue" if entity.provider in here.in_catalogue else "settings"
    if source == "settings" and entity.provider in here.plugins:
        source = "plugin"
    return {
        "id": entity.provider, "label": entity.label, "description": entity.description,
        "types": entity.supported_model_types, "models": len(entity.models) + here.custom.get(entity.provider, 0),
        "source": source, "needs_credential": status.needs_credential, "is_ready": status.is_ready,
        "is_customizable": entity.is_customizable,
        "credentials": [
            CredentialState(
                id=one.id, name=one.name, weight=one.weight, priority=one.priority, domain=one.domain,
                resting_seconds=longest_rest(left for place, left in here.resting.items() if one.id in place),
                is_stored=one.id in here.stored,
            )
            for one in status.credentials
        ],
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Models, those that need a credential or weights first too."""

    models: ModelManager
    directory: Directory

    async def listed(self, request: Request) -> Reply:
        """Of one `type`, or those alone that are `ready`. Raises InvokeBadRequestError, NotFoundError."""
        kind = request.query("type")
        is_ready = request.query("ready") == "true"
        wanted_type = None if kind is None else model_type(kind)
        offers = _offers(self.models.providers, self.directory, tenant_of(request), wanted_type)
        wanted = [offer for offer in offers if offer.is_ready or not is_ready]
        return await apart(_catalogue_reply, wanted)


def _catalogue_reply(offers: Sequence["_Offer"]) -> Reply:
    """Made beside the loop: there are hundreds of models."""
    return json_reply({"data": [_model(offer) for offer in offers]})


@dataclass(frozen=True, slots=True)
class _Offer:
    """A model that a provider has, as a tenant sees it."""

    provider: str
    entity: AIModelEntity
    is_ready: bool
    is_custom: bool


def _offers(
    providers: ProviderManager, directory: Directory, tenant: str, kind: ModelType | None = None
) -> list[_Offer]:
    ready = {(owner, one.model, one.model_type) for owner, one in providers.get_models(tenant, model_type=kind)}
    custom = {
        (one.provider, str(one.definition.get("model"))) for _, one in directory.of(tenant, CustomModel)
    }  # fmt: skip
    return [
        _Offer(owner, one, (owner, one.model, one.model_type) in ready, (owner, one.model) in custom)
        for owner, one in providers.get_models(tenant, model_type=kind, ready=False)
    ]


def _model(offer: _Offer) -> CatalogueModel:
    provider, one = offer.provider, offer.entity
    price = one.pricing
    voices = one.model_properties.get(ModelPropertyKey.VOICES) if one.model_properties else None

    def per_million(value: Any) -> str | None:
        return None if price is None or value is None else f"{(value * price.unit * _MILLION).normalize():f}"

    return CatalogueModel(
        id=f"{provider}/{one.model}", provider=provider, model=one.model, type=one.model_type, label=one.label,
        description=one.description, licence=one.licence, context_size=one.context_size,
        features=[each.value for each in one.features or ()], rules=one.parameter_rules,
        voices=[str(each["mode"]) for each in voices or () if isinstance(each, Mapping) and "mode" in each],
        input_price=per_million(price.input) if price else None,
        output_price=per_million(price.output) if price else None, currency=price.currency if price else "",
        price_per=price.per.value if price else "", is_ready=offer.is_ready, is_custom=offer.is_custom,
    )  # fmt: skip
