"""/admin/v1/providers, /catalogue, /weights and /plan: what could be called, with what, and where a call would go."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.base.computing import apart
from modelyard.base.errors import ConfigError, InvokeBadRequestError, ModelyardError, NotFoundError, suggestion
from modelyard.base.fields import may, need, wrong
from modelyard.gateway.admin.parts import ManageParts
from modelyard.gateway.admin.requests import PREFIX, broken_stream, tenant_of
from modelyard.gateway.admin.shapes import (
    AppliedLimit,
    CatalogueModel,
    CredentialCheck,
    CredentialState,
    Planned,
    PlannedDeployment,
    PlannedGroup,
    ProviderDetail,
    ProviderShown,
    WeightsShown,
)
from modelyard.gateway.http import Reply, Request, StreamReply, encode, json_reply, sse_reply
from modelyard.models.entities import AIModelEntity, ModelPropertyKey
from modelyard.models.types import ModelType, OperatorCredentials
from modelyard.providers.factory import catalog_names
from modelyard.providers.local.weights import manifest
from modelyard.runtime.caller import Caller
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.limits import Estimate, Subject, charge
from modelyard.runtime.load_balancing import Deployment, LBModelManager
from modelyard.runtime.model_manager import ALIASES
from modelyard.runtime.operators import caller_is_operator
from modelyard.runtime.provider_manager import ProviderStatus
from modelyard.runtime.tenancy import CustomModel, StoredCredential

_MILLION = 1_000_000
_LONGEST_NAME = 500


@dataclass(frozen=True, slots=True)
class ProvidersRoute:
    """GET providers; GET providers/NAME; POST providers/NAME/check with `values`."""

    parts: ManageParts

    async def __call__(self, request: Request) -> Reply:
        tenant = tenant_of(request)
        name, _, action = request.path.removeprefix(f"{PREFIX}providers").strip("/").partition("/")
        match request.method, bool(name), action:
            case "GET", False, "":
                here, statuses = self._here(tenant), self.parts.models.providers.get_providers(tenant)
                return json_reply({"data": [ProviderShown(**_about(here, one)) for one in statuses]})
            case "GET", True, "":
                return json_reply(await apart(_detail, *self._one(tenant, name)))
            case "POST", True, "check":
                values = need(await request.json(), "values", dict)
                is_operators = caller_is_operator(self.parts.directory, request.caller, tenant)
                form = OperatorCredentials(values) if is_operators else values
                return json_reply(await request.while_here(self._checked(tenant, name, form)))
            case _:
                raise request.not_offered()

    async def _checked(self, tenant: str, name: str, values: Mapping[str, Any]) -> CredentialCheck:
        definition = self.parts.models.providers.factory_of(tenant).get_definition(name)
        try:
            accepted = self.parts.models.providers.factory_of(tenant).validate_credentials(definition.name, values)
            accepted = OperatorCredentials(accepted) if isinstance(values, OperatorCredentials) else accepted
        except ConfigError as error:
            raise InvokeBadRequestError(str(error), param="values") from error
        try:
            offered = await self.parts.check(tenant, name, accepted)
        except ModelyardError as error:
            return CredentialCheck(works=False, models=[], message=str(error))
        return CredentialCheck(works=True, models=offered, message="")

    def _here(self, tenant: str) -> "_Here":
        directory = self.parts.directory
        return _Here(
            stored={one.id for one, _ in directory.of(tenant, StoredCredential)},
            resting=self.parts.models.providers.health.resting(),
            plugins={one.installation.provider for one in self.parts.plugins.installed(tenant)},
            custom=Counter(one.provider for _, one in directory.of(tenant, CustomModel)),
            in_catalogue=frozenset(catalog_names()),
        )

    def _one(self, tenant: str, name: str) -> "tuple[_Here, ProviderStatus, list[_Offer]]":
        """What a provider's details are made of."""
        status = self.parts.models.providers.get_provider(tenant, name)
        offered = [offer for offer in _offers(self.parts, tenant) if offer.provider == name]
        return self._here(tenant), status, offered


def _detail(here: "_Here", status: ProviderStatus, offered: "Sequence[_Offer]") -> ProviderDetail:
    return ProviderDetail(
        **_about(here, status), help=status.entity.help, forms=status.entity.credential_forms,
        offered=[_model(offer) for offer in offered],
    )  # fmt: skip


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
                resting_seconds=_most(left for place, left in here.resting.items() if one.id in place),
                is_stored=one.id in here.stored,
            )
            for one in status.credentials
        ],
    }  # fmt: skip


def _most(seconds: Iterable[float]) -> float:
    """Of rests; one that waits for its probe's end is as a day: JSON knows no infinity."""
    return round(min(max(seconds, default=0.0), 86_400.0), 1)


@dataclass(frozen=True, slots=True)
class CatalogueRoute:
    """GET catalogue: models, those that need a credential or weights first too. `type`, `ready`."""

    parts: ManageParts

    async def __call__(self, request: Request) -> Reply:
        kind = request.query("type")
        is_ready = request.query("ready") == "true"
        offers = _offers(self.parts, tenant_of(request), None if kind is None else _kind(kind))
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


def _offers(parts: ManageParts, tenant: str, kind: ModelType | None = None) -> list[_Offer]:
    providers = parts.models.providers
    ready = {(owner, one.model, one.model_type) for owner, one in providers.get_models(tenant, model_type=kind)}
    custom = {
        (one.provider, str(one.definition.get("model"))) for _, one in parts.directory.of(tenant, CustomModel)
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


@dataclass(frozen=True, slots=True)
class WeightsRoute:
    """GET weights; POST weights/NAME/pull, told as it goes; DELETE weights/NAME."""

    parts: ManageParts

    async def __call__(self, request: Request) -> Reply | StreamReply:
        store = self.parts.weights
        name, _, action = request.path.removeprefix(f"{PREFIX}weights").strip("/").partition("/")
        if request.method == "GET" and not name:
            return json_reply({"data": await asyncio.to_thread(self._all)})
        if not request.caller.is_operator:
            raise NotFoundError("local models are the operator's to fetch and remove", code="unknown_url")
        if name not in manifest().models:
            raise NotFoundError(
                f"{name!r} is no local model; {suggestion(name, manifest().models)}", code="model_not_found"
            )
        match request.method, action:
            case "POST", "pull":
                return sse_reply(_pulled(self.parts, name), broken_stream)
            case "DELETE", "":
                removed = await asyncio.to_thread(store.remove, name)
                return json_reply({"id": name, "deleted": bool(removed)})
            case _:
                raise request.not_offered()

    def _all(self) -> list[WeightsShown]:
        known = manifest()
        entities: dict[str, list[AIModelEntity]] = {}
        local = next(
            (one for one in self.parts.models.providers.factory.get_providers() if one.provider == "local"), None
        )
        if local is None:  # switched off
            return []
        for one in local.models:
            entities.setdefault(one.model, []).append(one)
        return [
            WeightsShown(
                id=name, model=f"local/{name}", types=[one.model_type for one in entities.get(name, ())],
                bytes=sum(file.size for file in known.files_of(name)), is_present=self.parts.weights.is_present(name),
                licence=", ".join(sorted({file.licence for file in known.files_of(name)})),
                sets=[label for label, models in known.sets.items() if name in models],
            )
            for name, model in known.models.items() if model.files
        ]  # fmt: skip


async def _pulled(parts: ManageParts, name: str) -> AsyncGenerator[bytes, None]:
    """What has come, four times a second; the work goes on where nobody watches any more."""
    at: dict[str, tuple[int, int]] = {}

    def told(file: str, done: int, total: int, note: str = "") -> None:
        at[file] = done, total

    work = asyncio.ensure_future(asyncio.to_thread(parts.weights.pull, [name], told))
    while not work.done():
        await asyncio.wait([work], timeout=0.25)
        files = [{"file": file, "done": done, "total": total} for file, (done, total) in sorted(at.items())]
        yield b"data: " + encode({"files": files, "is_done": False}) + b"\n\n"
    notes = work.result()
    parts.models.forget()
    yield b"data: " + encode({"files": [], "is_done": True, "notes": notes}) + b"\n\n"


@dataclass(frozen=True, slots=True)
class PlanRoute:
    """POST plan: where a call to `model` would go now, by `user` and `key` where they matter. Calls nothing."""

    parts: ManageParts

    async def __call__(self, request: Request) -> Reply:
        body = await request.json()
        name, tenant = need(body, "model", str), tenant_of(request)
        if len(name) > _LONGEST_NAME:
            raise wrong("model", name, f"at most {_LONGEST_NAME} characters")
        kind = ALIASES.get(name) or _kind(may(body, "type", str) or "llm")
        found = self.parts.models.find(Caller(tenant=tenant), name, kind)
        user, key = may(body, "user", str) or "", may(body, "key", str) or ""
        invocation = Invocation(
            tenant=tenant, provider=found.provider, model=found.model, model_type=kind, request=None, route=found.route
        )
        plan = self.parts.models.providers.plan(invocation)
        first = "route" if found.route else "model"
        groups = [self._group(first if place == 0 else "failover", one) for place, one in enumerate(plan.groups)]
        subject, now = Subject(tenant, key, user, found.name), self.parts.clock.time()
        applied = self.parts.applying(subject)
        names = [charge(one, subject, Estimate(0, 0), now).name for one in applied]
        levels = await self.parts.counters.levels(names)
        return json_reply(
            Planned(
                asked_for=name, model=found.name, type=kind, route=found.route, groups=groups,
                limits=[
                    AppliedLimit(
                        name=one.name, unit=one.limit.unit, amount=one.limit.amount, window=one.limit.window,
                        used=_used(levels.get(counter), one.limit.unit),
                    )
                    for one, counter in zip(applied, names, strict=True)
                ],
                cache_seconds=self.parts.cache_seconds(tenant, found.route),
            )
        )  # fmt: skip

    def _group(self, why: Any, manager: LBModelManager) -> PlannedGroup:
        health = manager.health
        shares = _shares(manager)
        return PlannedGroup(
            why=why, strategy=manager.strategy,
            deployments=[
                PlannedDeployment(
                    model=f"{one.provider}/{one.model}", credential=one.credential.name if one.credential else "",
                    weight=one.weight, priority=one.priority, resting_seconds=_most([health.wait(one)]),
                    in_flight=health.in_flight(one), latency=health.latency(one), share=shares.get(one.id, 0.0),
                )
                for one in manager.deployments
            ],
        )  # fmt: skip


def _kind(text: str) -> ModelType:
    if text not in {*ModelType}:
        raise InvokeBadRequestError(f"'type' is one of {', '.join(ModelType)}, not {text!r}", param="type")
    return ModelType(text)


def _used(level: float | None, unit: str) -> float | None:
    return None if level is None else level / 1e9 if unit == "cost" else level


def _shares(manager: LBModelManager) -> dict[str, float]:
    """What each would get of the calls that come now."""
    free: Sequence[Deployment] = [one for one in manager.deployments if manager.health.wait(one) <= 0]
    if not free:
        return {}
    first = min(one.priority for one in free)
    free = [one for one in free if one.priority == first]
    match manager.strategy:
        case "weighted":
            total = sum(one.weight for one in free) or 1.0
            return {one.id: one.weight / total for one in free}
        case "lowest_cost":
            best = min(one.price for one in free)
            free = [one for one in free if one.price == best]
        case "least_in_flight":
            fewest = min(manager.health.in_flight(one) for one in free)
            free = [one for one in free if manager.health.in_flight(one) == fewest]
        case _:
            pass
    return {one.id: 1 / len(free) for one in free}
