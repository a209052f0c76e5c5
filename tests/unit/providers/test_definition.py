from decimal import Decimal
from pathlib import Path

import pytest

from modelyard.base.errors import ConfigError, NotFoundError
from modelyard.models.entities import ModelFeature
from modelyard.models.types import ModelType
from modelyard.providers.definition import load_definition
from modelyard.providers.factory import (
    ModelProviderFactory,
    catalog_definition,
    catalog_names,
)
from modelyard.testing import echo_models, echo_provider

pytestmark = pytest.mark.proof("catalogue")

NIMBUS = Path(__file__).parents[2] / "data" / "dify_nimbus"


def test_a_folder_in_difys_layout_loads_unchanged():
    definition = load_definition(NIMBUS, base_url="http://x/v1")
    entity = definition.entity
    assert (definition.name, definition.wire, definition.key_field, definition.url_field) == (
        "nimbus", "openai", "api_key", "endpoint_url",
    )  # fmt: skip
    assert [model.model for model in entity.models] == [
        "nimbus-large",
        "nimbus-small",
        "nimbus-embed",
        "nimbus-voice",
    ]
    large = entity.models[0]
    assert (large.label.zh_hans, large.context_size) == ("雨云大", 131072)
    assert large.features == [
        ModelFeature.AGENT_THOUGHT,
        ModelFeature.TOOL_CALL,
        ModelFeature.STREAM_TOOL_CALL,
    ]
    assert large.pricing
    assert (large.pricing.input, large.pricing.unit, large.pricing.currency) == (
        Decimal("0.40"),
        Decimal("0.000001"),
        "RMB",
    )
    by_name = {rule.name: rule for rule in large.parameter_rules}
    assert (by_name["temperature"].max, by_name["temperature"].label.en_us) == (
        1.5,
        "Temperature",
    )
    assert by_name["top_p"].default == 1.0
    assert by_name["enable_search"].label.en_us == "enable_search"
    small_model = entity.models[1]
    assert (
        small_model.label.en_us,
        small_model.context_size,
        small_model.deprecated,
    ) == ("nimbus-small", 32768, True)
    assert entity.is_customizable
    assert [
        credential_form.variable for credential_form in entity.credential_forms
    ] == ["api_key", "endpoint_url", "use_region", "fast"]


def test_the_provider_file_itself_may_be_named():
    assert load_definition(NIMBUS / "provider" / "nimbus.yaml").name == "nimbus"


def test_the_older_layout_without_a_manifest_loads_too(tmp_path: Path):
    (tmp_path / "llm").mkdir()
    (tmp_path / "old.yaml").write_text(
        "provider: old\nlabel: {en_US: Old}\nsupported_model_types: [llm]\n"
    )
    (tmp_path / "llm" / "_position.yaml").write_text("- b\n- a\n")
    for name in "abc":
        (tmp_path / "llm" / f"{name}.yaml").write_text(
            f"model: {name}\nmodel_type: llm\n"
        )
    assert [model.model for model in load_definition(tmp_path).entity.models] == [
        "b",
        "a",
        "c",
    ]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("label: x", "'name' of the provider is missing"),
        ("name: x\nmodels: [{model_type: llm}]", "a model has no 'name'"),
        (
            "name: x\nmodels: [{name: m, model_type: smell}]",
            "Invalid enum value 'smell'",
        ),
        ("name: x\nmodels: [{name: m, input_price: cheap}]", "x.yaml"),
        ("- a", "expected a mapping"),
        ("a: [", "invalid YAML"),
    ],
)
def test_errors_in_a_file_are_named(tmp_path: Path, text: str, part: str):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=part):
        load_definition(path)


def test_a_path_must_contain_a_provider(tmp_path: Path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_definition(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="contains no provider file"):
        load_definition(tmp_path)


@pytest.mark.parametrize("name", catalog_names())
def test_every_provider_of_the_catalogue_is_valid(name: str):
    entity = catalog_definition(name).entity
    assert entity.provider == name
    assert entity.supported_model_types
    assert {model.model_type for model in entity.models} <= set(
        entity.supported_model_types
    )
    assert len({(model.model, model.model_type) for model in entity.models}) == len(
        entity.models
    )


def test_providers_come_in_the_order_of_the_position_file():
    assert catalog_names()[:2] == ("local", "openai")
    with pytest.raises(NotFoundError, match="did you mean 'openai'"):
        catalog_definition("opnai")


def test_the_factory_names_unknown_providers():
    factory = ModelProviderFactory([echo_provider()], {"echo": echo_models})
    assert factory.get_model("echo", ModelType.TTS).model_type is ModelType.TTS
    with pytest.raises(NotFoundError, match="did you mean 'echo'"):
        factory.get_definition("ecko")
    with pytest.raises(
        ConfigError, match="unknown wire format 'echo'; expected one of 'openai'"
    ):
        ModelProviderFactory([echo_provider()], {"openai": echo_models})
    factory_without_llm = ModelProviderFactory(
        [echo_provider()], {"echo": lambda definition: {}}
    )
    with pytest.raises(NotFoundError, match="has no llm models"):
        factory_without_llm.get_model("echo", ModelType.LLM)
