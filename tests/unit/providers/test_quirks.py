"""Tests that quirks of provider files are read as capabilities, and checked."""

import ast
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

import modelyard
from modelyard.app.provider_settings import definitions_of
from modelyard.base.errors import ConfigError
from modelyard.base.settings import ProviderSettings, Settings
from modelyard.models.capabilities import (
    Capabilities,
    InputTypeField,
    ReasoningStyle,
)
from modelyard.models.embedding import EmbeddingInputType, TextEmbeddingRequest
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import UserPromptMessage
from modelyard.providers.definition import (
    ProviderDefinition,
    load_definition,
    read_yaml,
)
from modelyard.providers.factory import CATALOG, catalog_definition, catalog_names
from modelyard.wire import openai_chat, openai_embeddings

pytestmark = pytest.mark.proof("catalogue")

SOURCE = Path(modelyard.__file__).parent
HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "add-a-provider.md"


def load(folder: Path, text: str) -> ProviderDefinition:
    """Return the provider of a file with this text."""
    path = folder / "x.yaml"
    path.write_text(text)
    return load_definition(path)


def mistake(folder: Path, text: str) -> str:
    """Return the message about a file, without its folder."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return str(caught.value).removeprefix(f"{folder}/")


@pytest.mark.parametrize("name", catalog_names())
def test_the_capabilities_of_the_catalogue_are_what_its_files_state(name: str):
    document = read_yaml(CATALOG / f"{name}.yaml")
    definition = catalog_definition(name)
    provider_quirks = document.get("quirks") or {}
    assert definition.capabilities == msgspec.convert(provider_quirks, Capabilities)
    own_quirks = {
        model["name"]: model["quirks"]
        for model in document.get("models") or ()
        if "quirks" in model
    }
    assert definition.model_capabilities.keys() == own_quirks.keys()
    assert definition.model_quirks is not None
    for model, quirks in own_quirks.items():
        assert definition.capabilities_of(model) == msgspec.convert(
            {**definition.model_quirks.of(model), **quirks}, Capabilities
        )


def test_a_model_replaces_quirks_of_its_provider(tmp_path: Path):
    definition = load(
        tmp_path,
        "name: x\n"
        "quirks: {drop: [top_k], think_tags: true, rename: {seed: random_seed}}\n"
        "models:\n"
        "  - plain\n"
        "  - {name: strict, quirks: {drop: [seed], think_tags: false}}\n"
        "  - {model: old, quirks: {max_tokens: 9}}\n",
    )
    rename = {"seed": "random_seed"}
    provider = Capabilities(drop=("top_k",), think_tags=True, rename=rename)
    assert definition.capabilities == provider
    assert definition.capabilities_of("plain") == provider
    assert definition.capabilities_of("unlisted") == provider
    strict = Capabilities(drop=("seed",), rename=rename)
    assert definition.capabilities_of("strict") == strict
    # Merged when the file is loaded: each call gets the same object.
    assert definition.capabilities_of("strict") is definition.capabilities_of("strict")
    assert definition.capabilities_of("old").max_tokens == 9


def test_quirks_apply_by_patterns_of_names(tmp_path: Path):
    definition = load(
        tmp_path,
        "name: x\n"
        "families: [claude]\n"
        "quirks: {drop: [top_k]}\n"
        "model_quirks:\n"
        '  "Big-*": {drop: [seed], max_output: 9}\n'
        '  "big-2*": {max_output: 8}\n'
        "models:\n"
        "  - {name: big-2-listed, quirks: {max_output: 7}}\n",
    )
    assert definition.capabilities == Capabilities(drop=("top_k",))
    assert definition.capabilities_of("other") == definition.capabilities
    big = Capabilities(drop=("seed",), max_output=9)
    assert definition.capabilities_of("BIG-1") == big
    assert definition.capabilities_of("big-2").max_output == 8
    listed = definition.capabilities_of("big-2-listed")
    assert (listed.drop, listed.max_output) == (("seed",), 7)
    assert definition.capabilities_of("claude-opus-9-1").sampling == "never"
    # Calls of one model get the same object.
    assert definition.capabilities_of("big-3") is definition.capabilities_of("big-3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("families: [clod]", "unknown entry of 'families' 'clod'; did you mean 'claude'"),
        ("model_quirks: [x]", "'model_quirks' must map patterns to quirks"),
        ('model_quirks: {"a*": {dorp: [x]}}', "did you mean 'drop'?"),
        ('model_quirks: {"a*": {thinking: {control: effrt}}}', "effrt"),
    ],
)  # fmt: skip
def test_a_mistake_in_patterns_is_named(tmp_path: Path, text: str, message: str):
    assert message in mistake(tmp_path, f"name: x\n{text}\n")


@pytest.mark.parametrize(
    ("quirks", "line", "message"),
    [
        ("{dorp: [seed]}", 3, "unknown field `dorp`; did you mean 'drop'?"),
        ("\n  think_tags: true\n  max_text: 3", 5, "unknown field `max_text`; did you mean 'max_texts'"),
        ("\n  think_tags: true\n  reasoning: effrt", 5, "quirks.reasoning: Invalid enum value 'effrt'; did you mean 'effort'"),
        ("{structured: json}", 3, "expected one of 'output_config', 'output_format'"),
        ("{reasoning: [effort]}", 3, "Expected `str`, got `array`; did you mean"),
        ("{drop: seed}", 3, "quirks.drop: Expected `array`, got `str`"),
        ("\n  drop:\n    - seed\n    - 3", 6, "quirks.drop[1]: Expected `str`, got `int`"),
        ("{think_tags: 1}", 3, "quirks.think_tags: Expected `bool`, got `int`"),
        ("{max_texts: -1}", 3, "quirks.max_texts: Expected `int` >= 0"),
        ("{rename: [seed]}", 3, "quirks.rename: Expected `object`, got `array`"),
        ("{input_type: {feld: f, query: q, document: d}}", 3, "quirks.input_type: Object contains unknown field `feld`; did you mean 'field'?"),
        ("{input_type: {field: f, query: q}}", 3, "missing required field `document`"),
        ("[drop]", 3, "quirks: Expected `object`, got `array`"),
        ("{3: drop}", 3, "quirks: Expected `str`"),
    ],
)  # fmt: skip
def test_a_mistake_in_quirks_is_named_with_its_line(
    tmp_path: Path, quirks: str, line: int, message: str
):
    text = f"name: x\nlabel: X\nquirks: {quirks}\n"
    error = mistake(tmp_path, text)
    assert error.startswith(f"x.yaml:{line}: quirks")
    assert message in error


def test_a_mistake_in_quirks_of_a_model_is_named_with_its_line(tmp_path: Path):
    text = (
        "name: x\n"
        "quirks: {drop: [seed]}\n"
        "models:\n"
        "  - plain\n"
        "  - {name: large, model_type: llm}\n"
        "  - name: small\n"
        "    quirks:\n"
        "      think_tag: true\n"
    )
    assert mistake(tmp_path, text) == (
        "x.yaml:8: models[2].quirks: Object contains unknown field `think_tag`;"
        " did you mean 'think_tags' or 'thinking' or 'thinking_parts'?"
    )


def attribute_reads(path: Path) -> set[str]:
    """Return the attributes that a file reads of something called `capabilities`."""
    reads: set[str] = set()
    source = path.read_text("utf-8")
    for node in ast.walk(ast.parse(source)) if "capabilities" in source else ():
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value
        # `endpoint.capabilities(model).drop` is a read too.
        if isinstance(owner, ast.Call):
            owner = owner.func
        name = getattr(owner, "id", getattr(owner, "attr", ""))
        if name == "capabilities":
            reads.add(node.attr)
    return reads


def test_every_capability_is_read_by_its_name():
    fields = {*Capabilities.__struct_fields__}
    in_writers = {
        name for path in SOURCE.glob("wire/*.py") for name in attribute_reads(path)
    }
    assert in_writers <= fields
    above = [path for path in SOURCE.rglob("*.py") if path.parent.name != "wire"]
    read_above = {name for path in above for name in attribute_reads(path)}
    assert fields == in_writers | (read_above & fields)


def test_the_how_to_describes_every_quirk():
    rows = re.findall(r"^\| (`.*?) \|", HOW_TO.read_text("utf-8"), re.M)
    described = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert described == {*Capabilities.__struct_fields__}


@pytest.mark.parametrize("style", get_args(ReasoningStyle))
def test_each_style_of_reasoning_can_be_written(style: ReasoningStyle):
    request = LLMRequest(
        messages=[UserPromptMessage(content="x")],
        model_parameters={"reasoning_effort": "low"},
    )
    body = openai_chat.dump_request(request, "m", Capabilities(reasoning=style))
    written = {"reasoning_effort", "thinking", "enable_thinking", "reasoning"}
    assert body.keys() & written


@pytest.mark.parametrize("input_type", EmbeddingInputType)
def test_each_purpose_of_an_embedding_has_the_servers_value(
    input_type: EmbeddingInputType,
):
    field = InputTypeField(field="task", query="to-find", document="to-be-found")
    expected = {"query": "to-find", "document": "to-be-found"}
    request = TextEmbeddingRequest(texts=["x"], input_type=input_type)
    body: dict[str, Any] = openai_embeddings.dump_request(
        request, "m", Capabilities(input_type=field)
    )
    assert body["task"] == expected[input_type.value]


def test_models_of_the_settings_have_quirks_of_their_own():
    model = {"name": "claude-opus-4-8-mine", "quirks": {"max_stop_sequences": 2}}
    configured = ProviderSettings(name="anthropic", models=[model])
    (definition,) = [
        definition
        for definition in definitions_of(Settings(), [configured])
        if definition.name == "anthropic"
    ]
    capabilities = definition.capabilities_of("claude-opus-4-8-mine")
    assert capabilities.max_stop_sequences == 2
    # Those of its family apply as well.
    assert capabilities.system_between


@pytest.mark.parametrize(
    ("quirks", "message"),
    [
        (
            {"max_stop_sequence": 2},
            "unknown field `max_stop_sequence`; did you mean 'max_stop_sequences'",
        ),
        ({"max_stop_sequences": "two"}, "quirks.max_stop_sequences: Expected `int"),
        ("none", "quirks: Expected `object`, got `str`"),
    ],
)
def test_mistakes_in_quirks_of_the_settings_are_errors(quirks: Any, message: str):
    configured = ProviderSettings(
        name="openai", models=[{"name": "mine", "quirks": quirks}]
    )
    with pytest.raises(ConfigError) as raised:
        definitions_of(Settings(), [configured])
    assert "Provider 'openai': model 'mine'" in str(raised.value)
    assert message in str(raised.value)
