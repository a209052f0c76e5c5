"""JSON mode and structured output on plugin models, for every way in which plugins
declare them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from openai import BadRequestError, OpenAI

from modelyard.workflow.prompts import ModelConfig, parameters_of
from tests.plugins.conftest import PluginGateway, played_gateway

pytestmark = pytest.mark.proof("plugin-kinds")

Ask = Callable[..., dict[str, Any]]

_FORMAT = "parameter_rules:\n  - {name: response_format, type: string, label: {en_US: F}, options: [%s]}\n"
_SCHEMA = "  - {name: json_schema, use_template: json_schema}\n"
# The ways in which plugins declare the format of answers.
VARIANTS = {
    "none": "features: [tool-call]\n",
    "object": _FORMAT % "text, json_object",
    "all": _FORMAT % "text, json_object, json_schema" + _SCHEMA,
    "no-text": _FORMAT % "json_object, json_schema" + _SCHEMA,
    "schema": _FORMAT % "text, json_schema" + _SCHEMA,
    "block": "parameter_rules:\n  - {name: response_format, use_template: response_format}\n",
    "block-schema": "parameter_rules:\n  - {name: response_format, use_template: response_format}\n" + _SCHEMA,
    "gemini-like": "parameter_rules:\n" + _SCHEMA,
    "text-only": _FORMAT % "text",
    "images": _FORMAT % "url, b64_json",
    "renamed": _FORMAT.replace("response_format", "res_format") % "text, json_object",
}  # fmt: skip
SCHEMA = {
    "type": "object",
    "properties": {"additionalProperties": {"type": "string"}},
    "additionalProperties": True,
}
BY_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
WRAPPED = {"name": "x", "schema": SCHEMA}
BARE = {key: value for key, value in SCHEMA.items() if key != "additionalProperties"}


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, weights_folder: Path, environments: Path
) -> Iterator[PluginGateway]:
    home = tmp_path_factory.mktemp("formats")
    with played_gateway(home, weights_folder, environments, VARIANTS) as started:
        yield started


@pytest.fixture(scope="module")
def ask(gateway: PluginGateway) -> Iterator[Ask]:
    """Returns what the plugin received for a chat request."""
    with OpenAI(
        base_url=gateway.running.url, api_key="any", max_retries=0, timeout=60
    ) as client:

        def received(variant: str, **fields: Any) -> dict[str, Any]:
            completion = client.chat.completions.create(
                model=f"played/{variant}",
                messages=[{"role": "user", "content": "a JSON please"}],
                **fields,
            )
            return json.loads(str(completion.choices[0].message.content))

        yield received


def instructions(received: dict[str, Any]) -> str:
    first = received["prompt_messages"][0]
    return first["content"] if first["role"] == "system" else ""


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("object", {"response_format": "json_object"}),
        ("all", {"response_format": "json_object"}),
        ("no-text", {"response_format": "json_object"}),
        ("block", {"response_format": "JSON"}),
        ("block-schema", {"response_format": "JSON"}),
        ("renamed", {"res_format": "json_object"}),
        # These have no JSON mode, so the prompt asks for it.
        ("schema", {}),
        ("gemini-like", {}),
        ("text-only", {}),
        ("images", {}),
        ("none", {}),
    ],
)
def test_json_mode_is_the_option_of_the_model(
    ask: Ask, variant: str, parameters: dict[str, Any]
):
    for stated in ({"type": "json_object"}, "json_object", "JSON"):
        received = ask(variant, response_format=stated)
        assert received["model_parameters"] == parameters
        assert bool(instructions(received)) == (not parameters)


@pytest.mark.parametrize(
    ("variant", "option", "schema"),
    [
        ("all", "json_schema", WRAPPED),
        ("no-text", "json_schema", WRAPPED),
        ("schema", "json_schema", WRAPPED),
        # Plugins for Gemini read the schema itself, and its servers refuse the keyword.
        ("gemini-like", None, BARE),
    ],
)
def test_a_schema_is_the_text_that_the_plugin_reads(
    ask: Ask, variant: str, option: str | None, schema: dict[str, Any]
):
    received = ask(variant, response_format=BY_SCHEMA)
    parameters = received["model_parameters"]
    assert parameters.get("response_format") == option
    assert json.loads(parameters["json_schema"]) == schema
    assert not instructions(received)
    assert received["stream"] is False


@pytest.mark.parametrize(
    "variant", ["none", "object", "block", "block-schema", "text-only", "renamed"]
)
def test_a_schema_is_in_the_prompt_of_other_models(ask: Ask, variant: str):
    received = ask(variant, response_format=BY_SCHEMA)
    assert json.dumps(SCHEMA) in instructions(received)
    assert received["model_parameters"] == {}
    # The protocol cannot force the call of a tool, so none is offered.
    assert received["tools"] is None


def test_other_options_are_passed_on_and_unknown_ones_are_refused(ask: Ask):
    assert ask("block", response_format="xml")["model_parameters"] == {
        "response_format": "XML"
    }
    assert ask("all", response_format="text")["model_parameters"] == {}
    for variant, stated in (("all", "XML"), ("none", "yaml"), ("all", "json_schema")):
        with pytest.raises(BadRequestError, match="json_schema") as error:
            ask(variant, response_format=stated)
        assert error.value.code == "invalid_parameter" or error.value.param


def test_an_answer_that_breaks_the_schema_is_asked_for_again(gateway: PluginGateway):
    body = {
        "model": "played/none",
        "messages": [{"role": "user", "content": '{"deltas": []}'}],
        "response_format": BY_SCHEMA,
    }
    url = f"{gateway.running.url}/chat/completions"
    answered = httpx.post(url, json=body, timeout=60)
    # The correction is the last message then, which the plugin answers with an object.
    document = json.loads(answered.json()["choices"][0]["message"]["content"])
    assert "does not satisfy the schema" in document["prompt_messages"][-1]["content"]


def test_parameters_that_only_the_plugin_knows_are_passed_on(ask: Ask):
    received = ask("images", extra_body={"response_format": "url", "unknown": 1})
    assert received["model_parameters"] == {"response_format": "url"}


def test_a_workflows_node_has_structured_output(gateway: PluginGateway):
    """With a schema in Dify's own form, on models with and without a parameter for it."""
    schema = {"type": "object", "properties": {"model_parameters": {"type": "object"}}}

    async def run(model: str) -> Any:
        node = {
            "type": "llm",
            "model": {"provider": "odd/played/played", "name": model, "mode": "chat", "completion_params": {}},
            "prompt_template": [{"role": "user", "text": "a JSON please"}],
            "structured_output_enabled": True,
            "structured_output": {"schema": schema},
        }  # fmt: skip
        outputs = [{"variable": "it", "value_selector": ["llm", "structured_output"]}]
        nodes = {"start": {"type": "start"}, "llm": node, "end": {"type": "end", "outputs": outputs}}  # fmt: skip
        graph = {
            "nodes": [
                {"id": name, "data": {"title": name, **data}}
                for name, data in nodes.items()
            ],
            "edges": [
                {"source": "start", "target": "llm"},
                {"source": "llm", "target": "end"},
            ],
        }
        document = {
            "kind": "app",
            "version": "0.6.0",
            "app": {"name": model, "mode": "workflow"},
            "workflow": {"graph": graph},
        }
        record, app, _ = await gateway.yard.apps.add("default", yaml.dump(document))
        chats = gateway.yard.services.workflows.chats
        started = await chats.run(record, app, inputs={}, user="ada")
        return await gateway.yard.runs.wait_until_ended("default", started.id)

    for model in ("all", "schema", "block", "none"):
        ended = gateway.run_on_loop(run(model))
        assert ended.error == ""
        received = ended.outputs["it"]
        is_passed = "json_schema" in received["model_parameters"]
        assert is_passed == (model in ("all", "schema"))
        assert is_passed != bool(instructions(received))


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"response_format": "JSON"}, {"type": "json_object"}),
        (
            {"response_format": "json_schema", "json_schema": json.dumps(SCHEMA)},
            {
                "type": "json_schema",
                "json_schema": {"name": "response", "schema": SCHEMA},
            },
        ),
        ({"json_schema": json.dumps(WRAPPED)}, BY_SCHEMA),
        ({"response_format": BY_SCHEMA}, BY_SCHEMA),
        ({"response_format": "XML"}, None),
        ({"response_format": "text", "json_schema": "{}"}, None),
        ({}, None),
    ],
)
def test_the_parameters_of_a_workflows_model_name_a_format(
    parameters: dict[str, Any], expected: Any
):
    context: Any = None
    converted, _ = parameters_of(ModelConfig(completion_params=parameters), context)
    assert converted.get("response_format") == expected
