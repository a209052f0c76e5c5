"""Which deployments serve a call: those of its model, its failover models, or a route."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from modelyard.base.errors import NotFoundError
from modelyard.models.entities import AIModelEntity, I18nObject, PriceConfig
from modelyard.models.provider import (
    ConfigurateMethod,
    CredentialFormSchema,
    FormType,
    ProviderCredentialSchema,
    ProviderEntity,
)
from modelyard.models.types import ModelType
from modelyard.providers.definition import ProviderDefinition
from modelyard.providers.factory import ModelProviderFactory
from modelyard.runtime.declared_models import DeclaredModels
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.load_balancing import (
    Deployment,
    DeploymentHealth,
    LBModelManager,
    Plan,
)
from modelyard.runtime.provider_credentials import (
    ConfiguredCredential,
    ProviderCredentials,
)
from modelyard.runtime.routing_plans import Plans
from modelyard.storage.resources import Resource
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.resource_types import (
    CustomModel,
    Limit,
    Route,
    StoredCredential,
    Target,
)
from modelyard.testing import FakeClock, echo_models, echo_provider

INFINITY = float("inf")
QUOTAS = (("q", Limit(unit="credits", amount=5, window="total")),)
MAX_PLANS = 4096


class _NoChanges:
    """The source of a directory that is filled from settings alone."""

    async def changed_since(self, revision: int) -> Sequence[Resource]:
        return ()


def _price(price_in: str, price_out: str | None) -> PriceConfig:
    """A price in US dollars for a million tokens."""
    return PriceConfig(
        input=Decimal(price_in),
        output=None if price_out is None else Decimal(price_out),
        unit=Decimal("0.000001"),
        currency="USD",
    )


def _cloud() -> ProviderDefinition:
    """A provider that needs an API key."""
    label = I18nObject(en_us="Cloud")
    prices = {
        "large": _price("2", "6"),
        "embedder": _price("3", None),
        "unpriced": None,
    }
    entity = ProviderEntity(
        provider="cloud",
        label=label,
        supported_model_types=list(ModelType),
        configurate_methods=[ConfigurateMethod.PREDEFINED_MODEL],
        models=[
            AIModelEntity(
                model=name, label=label, model_type=ModelType.LLM, pricing=pricing
            )
            for name, pricing in prices.items()
        ],
        provider_credential_schema=ProviderCredentialSchema(
            credential_form_schemas=[
                CredentialFormSchema(
                    variable="api_key", label=label, type=FormType.SECRET_INPUT
                )
            ]
        ),
    )
    return ProviderDefinition(entity=entity, wire="echo")


class _Setup:
    """Plans for the providers `cloud`, which needs a key, and `local`, which does not."""

    def __init__(self, *, has_directory: bool = True) -> None:
        factory = ModelProviderFactory(
            [_cloud(), echo_provider("local", pricing=_price("0", "0"))],
            {"echo": echo_models},
        )
        self.directory = Directory(_NoChanges()) if has_directory else None

        def factory_of(tenant: str) -> ModelProviderFactory:
            return factory

        self.credentials = ProviderCredentials(
            factory_of,
            self.directory,
            on_secret=lambda values: None,
            unlock=lambda tenant, row, secret: secret,
        )
        self.health = DeploymentHealth(FakeClock())
        self.plans = Plans(
            factory_of,
            self.credentials,
            DeclaredModels(factory_of, self.directory),
            self.health,
            self.directory,
        )

    def add_keys(self, *options: dict[str, Any], tenant: str = "acme") -> None:
        """Give a tenant one credential of `cloud` for each set of options."""
        credentials = [
            ConfiguredCredential(values={"api_key": f"key-{index}"}, **fields)
            for index, fields in enumerate(options)
        ]
        self.credentials.configure(tenant, "cloud", credentials)

    def add_route(self, **fields: Any) -> None:
        """Give tenant `acme` a route `fast`."""
        assert self.directory is not None
        self.directory.configure("acme", {Route.kind: {"fast": Route(**fields)}})

    def plan(self, name: str = "cloud/large", **fields: Any) -> Plan:
        """The plan for a call of `acme` to `PROVIDER/MODEL`."""
        provider, _, model = name.partition("/")
        values: dict[str, Any] = {
            "tenant": "acme",
            "provider": provider,
            "model": model,
            "model_type": ModelType.LLM,
            "request": None,
        }
        return self.plans.plan_for(Invocation(**{**values, **fields}))

    def route_plan(self) -> Plan:
        """The plan for a call of `acme` to the route `fast`."""
        return self.plan("cloud/large", route="fast")


def _first(plan: Plan) -> Sequence[Deployment]:
    return plan.groups[0].deployments


def _names(manager: LBModelManager) -> list[str]:
    return [deployment.name for deployment in manager.deployments]


# the deployments of a model


def test_each_credential_is_a_deployment_of_the_model():
    setup = _Setup()
    setup.add_keys(
        {"name": "work", "weight": 3.0, "priority": 2, "domain": "org"},
        {"name": "spare"},
    )
    work, spare = _first(setup.plan())
    assert [work.id, spare.id] == ["acme/acme/cloud/1/large", "acme/acme/cloud/2/large"]
    assert [work.provider, work.model] == ["cloud", "large"]
    assert work.credential is not None
    assert work.credential.values == {"api_key": "key-0"}
    assert [work.name, spare.name] == [
        "cloud/large with work",
        "cloud/large with spare",
    ]
    assert [work.weight, spare.weight] == [3.0, 1.0]
    assert [work.priority, spare.priority] == [2, 0]
    assert work.cooldown_keys[-1] == "quota of /org"


def test_a_provider_without_credentials_has_one_deployment():
    (deployment,) = _first(_Setup().plan("local/echo"))
    assert deployment.id == "acme/local/echo"
    assert (deployment.provider, deployment.model) == ("local", "echo")
    assert deployment.credential is None
    assert deployment.price == 0.0
    assert (deployment.weight, deployment.priority) == (1.0, 0)


def test_a_credential_of_a_provider_that_needs_none_replaces_that_deployment():
    setup = _Setup()
    setup.credentials.configure(
        "acme", "local", [ConfiguredCredential(values={}, name="own")]
    )
    assert _names(setup.plan("local/echo").groups[0]) == ["local/echo with own"]


def test_a_missing_key_leaves_the_model_without_deployments():
    plan = _Setup().plan()
    assert len(plan.groups) == 1
    assert _first(plan) == []


def test_an_unknown_provider_is_refused():
    with pytest.raises(NotFoundError, match="Unknown provider 'clod'"):
        _Setup().plan("clod/large")


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("large", 0.008),
        ("embedder", 0.003),
        ("unpriced", INFINITY),
        ("undeclared", INFINITY),
    ],
)
def test_the_price_of_a_thousand_tokens_in_and_out_is_compared(
    model: str, price: float
):
    setup = _Setup()
    setup.add_keys({})
    (deployment,) = _first(setup.plan(f"cloud/{model}"))
    assert deployment.price == pytest.approx(price)


def test_a_tenants_own_price_applies_to_its_own_credentials():
    setup = _Setup()
    setup.add_keys({})
    setup.add_keys({"quotas": QUOTAS}, tenant="default")
    assert setup.directory is not None
    definition = {
        "name": "large",
        "input_price": 100,
        "output_price": 100,
        "price_unit": "0.001",
    }
    own_model = CustomModel(provider="cloud", definition=definition)
    setup.directory.configure("acme", {CustomModel.kind: {"large": own_model}})
    own, hosted = _first(setup.plan())
    assert own.price == pytest.approx(200.0)
    assert hosted.price == pytest.approx(0.008)


def test_without_a_credential_the_operators_price_applies():
    setup = _Setup()
    assert setup.directory is not None
    definition = {"name": "echo", "input_price": 100, "output_price": 100}
    own_model = CustomModel(provider="local", definition=definition)
    setup.directory.configure("acme", {CustomModel.kind: {"echo": own_model}})
    (deployment,) = _first(setup.plan("local/echo"))
    assert deployment.price == 0.0


def test_credentials_stored_for_a_model_replace_those_of_the_provider():
    setup = _Setup()
    setup.add_keys({"name": "own"})
    assert setup.directory is not None
    stored = StoredCredential(
        provider="cloud", secret='{"api_key": "stored"}', model="large"
    )
    setup.directory.configure("acme", {StoredCredential.kind: {"special": stored}})
    assert _names(setup.plan("cloud/large").groups[0]) == ["cloud/large with special"]
    assert _names(setup.plan("cloud/unpriced").groups[0]) == ["cloud/unpriced with own"]


@pytest.mark.parametrize(("model", "hosted_count"), [("large", 1), ("undeclared", 0)])
def test_hosted_credentials_serve_the_models_that_are_offered(
    model: str, hosted_count: int
):
    setup = _Setup()
    setup.add_keys({"name": "own"})
    setup.add_keys({"name": "hosted", "quotas": QUOTAS}, tenant="default")
    names = _names(setup.plan(f"cloud/{model}").groups[0])
    assert (
        names
        == [f"cloud/{model} with own", f"cloud/{model} with hosted"][: 1 + hosted_count]
    )


@pytest.mark.parametrize(
    ("weights", "strategy"),
    [((1.0, 1.0), "round_robin"), ((1.0, 2.0), "weighted"), ((0.5,), "weighted")],
)
def test_the_weights_of_the_credentials_decide_the_strategy(
    weights: tuple[float, ...], strategy: str
):
    setup = _Setup()
    setup.add_keys(*({"weight": weight} for weight in weights))
    (manager,) = setup.plan().groups
    assert manager.strategy == strategy
    assert manager.health is setup.health
    assert manager.patience == 2.0


# failover models


def test_failover_models_follow_the_requested_one():
    setup = _Setup()
    setup.add_keys({"name": "own"})
    requests: list[tuple[object, ...]] = []

    def failover(*request: object) -> Sequence[tuple[str, str]]:
        requests.append(request)
        return [("local", "echo"), ("cloud", "unpriced")]

    setup.plans.choose_with(failover, lambda *call: ("", ""))
    plan = setup.plan()
    assert [_names(manager) for manager in plan.groups] == [
        ["cloud/large with own"],
        ["local/echo"],
        ["cloud/unpriced with own"],
    ]
    assert requests == [("acme", "cloud", "large", ModelType.LLM)]
    assert (plan.sticky, plan.hedge_after, plan.continue_streams) == ("", None, False)


def test_a_model_has_one_manager_in_all_plans():
    setup = _Setup()
    setup.plans.choose_with(lambda *call: [("local", "echo")], lambda *call: ("", ""))
    manager = setup.plan("local/echo").groups[0]
    assert setup.plan("local/echo").groups[1] is manager
    assert setup.plan("cloud/large").groups[1] is manager


# routes


def test_a_route_balances_its_targets():
    setup = _Setup()
    setup.add_keys({"name": "x", "weight": 2.0, "priority": 1}, {"name": "y"})
    setup.add_route(
        targets=[
            Target(model="cloud/large", weight=3.0, priority=4),
            Target(model="local/echo", priority=1),
        ],
        strategy="lowest_latency",
        sticky="user",
        failover=["cloud/unpriced", "local/echo"],
        hedge_after=95.0,
        continue_streams=True,
    )
    plan = setup.route_plan()
    first = plan.groups[0]
    assert [
        (peer.id, peer.provider, peer.model, peer.weight, peer.priority)
        for peer in first.deployments
    ] == [
        ("acme/acme/cloud/1/large", "cloud", "large", 6.0, 5),
        ("acme/acme/cloud/2/large", "cloud", "large", 3.0, 4),
        ("acme/local/echo", "local", "echo", 1.0, 1),
    ]
    assert [peer.price for peer in first.deployments] == pytest.approx(
        [0.008, 0.008, 0.0]
    )
    assert _names(first)[0] == "cloud/large with x"
    assert first.strategy == "lowest_latency"
    assert first.health is setup.health
    assert [_names(manager) for manager in plan.groups[1:]] == [
        ["cloud/unpriced with x", "cloud/unpriced with y"],
        ["local/echo"],
    ]
    assert (plan.sticky, plan.hedge_after, plan.continue_streams) == (
        "user",
        95.0,
        True,
    )


@pytest.mark.parametrize(("when_resting", "patience"), [("wait", 2.0), ("fail", 0.0)])
def test_a_route_may_wait_for_a_cooldown_or_fail_at_once(
    when_resting: str, patience: float
):
    setup = _Setup()
    setup.add_route(targets=[Target(model="local/echo")], when_resting=when_resting)
    assert setup.route_plan().groups[0].patience == patience


def test_a_route_ignores_the_failover_models_of_the_server():
    setup = _Setup()
    setup.plans.choose_with(
        lambda *call: [("local", "echo")], lambda tenant, name, kind: ("local", name)
    )
    setup.add_route(targets=[Target(model="echo")])
    assert [_names(manager) for manager in setup.route_plan().groups] == [
        ["local/echo"]
    ]


def test_the_names_in_a_route_are_resolved_for_the_tenant_and_model_type():
    setup = _Setup()
    requests: list[tuple[object, ...]] = []

    def resolve(*request: object) -> tuple[str, str]:
        requests.append(request)
        return "local", "echo"

    setup.plans.choose_with(lambda *call: (), resolve)
    setup.add_route(targets=[Target(model="one")], failover=["two"])
    setup.plan(route="fast", model_type=ModelType.RERANK)
    assert requests == [
        ("acme", "one", ModelType.RERANK),
        ("acme", "two", ModelType.RERANK),
    ]


def test_the_model_of_a_name_may_have_slashes():
    setup = _Setup()
    setup.add_route(targets=[Target(model="local/org/model")])
    assert _names(setup.route_plan().groups[0]) == ["local/org/model"]


def test_a_route_is_kept_apart_from_a_model_of_its_name():
    setup = _Setup()
    setup.add_route(targets=[Target(model="local/echo")])
    by_route = setup.plan("local/fast", route="fast").groups[0]
    by_model = setup.plan("local/fast").groups[0]
    assert (_names(by_route), _names(by_model)) == (["local/echo"], ["local/fast"])


def test_a_route_has_one_manager_for_each_model_type():
    setup = _Setup()
    setup.add_route(targets=[Target(model="local/echo")])
    chat = setup.plan("local/echo", route="fast").groups[0]
    again = setup.plan("local/other", route="fast").groups[0]
    speech = setup.plan("local/echo", route="fast", model_type=ModelType.TTS).groups[0]
    assert again is chat
    assert speech is not chat


def test_a_deleted_route_leaves_the_model_and_its_failover():
    setup = _Setup()
    setup.plans.choose_with(lambda *call: [("local", "echo")], lambda *call: ("", ""))
    plan = setup.plan("local/other", route="deleted")
    assert [_names(manager) for manager in plan.groups] == [
        ["local/other"],
        ["local/echo"],
    ]


def test_another_tenants_route_is_not_used():
    setup = _Setup()
    setup.add_route(targets=[Target(model="local/echo")])
    plan = setup.plan("local/other", route="fast", tenant="globex")
    assert _names(plan.groups[0]) == ["local/other"]


def test_without_a_directory_there_are_no_routes():
    plan = _Setup(has_directory=False).plan("local/other", route="fast")
    assert _names(plan.groups[0]) == ["local/other"]


# plans are built once


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "globex"},
        {"name": "cloud/echo"},
        {"name": "local/other"},
        {"model_type": ModelType.TTS},
        {"route": "fast"},
    ],
)
def test_a_plan_is_built_once_for_each_kind_of_call(other: dict[str, Any]):
    setup = _Setup()
    call: dict[str, Any] = {"name": "local/echo"}
    plan = setup.plan(**call)
    assert setup.plan(**call, user="u") is plan
    other_plan = setup.plan(**{**call, **other})
    assert other_plan is not plan
    assert setup.plan(**{**call, **other}) is other_plan


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "globex"},
        {"name": "cloud/echo"},
        {"name": "local/other"},
        {"model_type": ModelType.TTS},
    ],
)
def test_each_model_of_a_tenant_has_turns_of_its_own(other: dict[str, Any]):
    setup = _Setup()
    call: dict[str, Any] = {"name": "local/echo"}
    manager = setup.plan(**call).groups[0]
    assert setup.plan(**{**call, **other}).groups[0] is not manager


def test_plans_are_built_again_after_a_change():
    setup = _Setup()
    assert _first(setup.plan()) == []
    setup.add_keys({"name": "own"})
    assert _first(setup.plan()) == []
    setup.plans.forget()
    assert _names(setup.plan().groups[0]) == ["cloud/large with own"]


def test_invented_model_names_do_not_fill_the_memory():
    setup = _Setup()
    plan = setup.plan("local/echo")
    for number in range(MAX_PLANS - 1):
        setup.plan(f"local/invented-{number}")
    assert setup.plan("local/echo") is plan
    setup.plan("local/one-more")
    assert setup.plan("local/echo") is not plan
