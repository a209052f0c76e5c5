"""Tests for app files that are wrong, old, large or malicious.

Each error names the file, the line, the node and the field.
"""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from modelyard.workflow.dsl import (
    MAX_NODES,
    AppMapping,
    DslError,
    _Loader,
    dump,
    loads,
    parse_yaml,
)  # type: ignore[attr-defined]
from modelyard.workflow.variables import WorkflowError
from tests.workflow.building import app_of, document


def import_error(text: str | bytes) -> str:
    with pytest.raises(DslError) as caught:
        loads(text, name="app.yml")
    return str(caught.value)


def scalars() -> dict[str, Any]:
    """Return plain scalars with their values, and texts that are not texts if plain."""
    path = Path(__file__).parents[1] / "data" / "yaml-scalars.json"
    return json.loads(path.read_text("utf-8"))


def test_plain_values_are_those_that_the_console_reads_and_writes():
    """The console's tests read the same file."""
    for text, value in scalars()["values"]:
        read = parse_yaml(f"a: {text}")["a"]
        # True is equal to 1 as well.
        assert (read, isinstance(read, bool)) == (value, isinstance(value, bool)), text
    for text in scalars()["texts"]:
        # What the console writes in quotes could not be plain.
        try:
            assert parse_yaml(f"a: {text}")["a"] != text
        except DslError:
            assert text in ("=", ".inf", "-.INF", ".nan")
        assert parse_yaml(f"a: '{text}'") == {"a": text}


SMALL = document(
    {"start": {"type": "start"}, "end": {"type": "end", "outputs": []}}, ["start > end"]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "app.yml:2: Invalid YAML"),
        ("- 1", "app.yml:1: An app must be a YAML mapping"),
        ("kind: app", "Missing section 'app'"),
        ("app: {name: x, mode: strange}", "app.yml:1: Unknown mode 'strange'; expected one of workflow, advanced-chat"),
        ("app: {name: x, mode: workflow}", "Missing section 'workflow', which a workflow app requires"),
        ("app: {name: x, mode: chat}", "Missing section 'model_config', which a chat app requires"),
        ("app: {name: x, mode: workflow}\nworkflow: {graph: {nodes: 3}}", "app.yml:2: 'nodes' must be a list"),
        ("app: {name: x, mode: workflow}\nversion: two", "app.yml:2: Invalid version 'two'"),
        ("app: !!python/object/apply:os.system ['true']", "could not determine a constructor for the tag"),
        (b"\xff\xfe\x00", "The file is not UTF-8"),
        (b"PK\x03\x04\x14\x00", "The file is an archive; unpack it and import its app.yaml"),
        ("[" * 100_000, "Nested deeper than 120 levels"),
        ("{a: " * 50_000, "Nested deeper than 120 levels"),
        ("- " * 20_000 + "x", "Nested deeper than 120 levels"),
        ("x" * (10 * 1024 * 1024 + 1), "larger than 10 MB"),
        ("a: &a [1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n" + "".join(
            f"{chr(99 + n)}: &{chr(99 + n)} [{','.join(['*' + chr(98 + n)] * 10)}]\n" for n in range(8)), "aliases are circular or expand to too many"),
        ("a: &a\n  b: *a", "aliases are circular or expand to too many"),
    ],
    ids=lambda parameter: str(parameter)[:24],
)  # fmt: skip
def test_an_unreadable_file_gets_a_reason(text: str | bytes, message: str):
    started_at = time.monotonic()
    assert message in import_error(text)
    assert time.monotonic() - started_at < 20


def app_with_node(**data: Any) -> str:
    app_document = document(
        {"start": {"type": "start"}, "n": {"title": "My node", **data}}, ["start > n"]
    )
    return yaml.dump(app_document, sort_keys=False)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"type": "teleport"}, r"Node 'My node': Unknown node type 'teleport'; "),
        (
            {"type": "llm", "model": [1, 2]},
            "Node 'My node': model: Expected `object`, got `array`",
        ),
        (
            {"type": "code", "code": {"a": 1}},
            "Node 'My node': code: Expected `str`, got `object`",
        ),
        (
            {
                "type": "if-else",
                "cases": [{"conditions": [{"variable_selector": ["a", "b"]}]}],
            },
            "Node 'My node': cases[0].conditions[0]: Object missing required field `comparison_operator`",
        ),
        (
            {"type": "iteration", "iterator_selector": ["a", "b"]},
            "Iteration 'My node' contains no nodes to run",
        ),
    ],
)
def test_an_invalid_node_is_named_with_its_field_and_line(
    data: dict[str, Any], message: str
):
    error_text = import_error(app_with_node(**data))
    assert message in error_text
    assert "app.yml:" in error_text


def test_all_errors_are_reported_at_once():
    app_document = document(
        {"start": {"type": "start"}, "a": {"type": "x"}, "b": {"type": "y"}}, []
    )
    assert import_error(yaml.dump(app_document)).count("Unknown node type") == 2


def test_a_cycle_names_its_nodes():
    nodes = {
        "start": {"type": "start"},
        "a": {"type": "answer", "answer": ""},
        "b": {"type": "answer", "answer": ""},
    }
    with pytest.raises(DslError, match="Cycle in graph: 'a', 'b'. Use a loop node"):
        app_of(nodes, ["start > a", "a > b", "b > a"])


def test_too_many_nodes_are_refused_and_many_are_not():
    nodes = {f"n{n}": {"type": "answer", "answer": ""} for n in range(MAX_NODES + 1)}
    with pytest.raises(DslError, match="The app has 5,002 nodes; the maximum is 5,000"):
        app_of({"start": {"type": "start"}, **nodes}, [])


def test_dangling_selectors_are_warnings():
    app = app_of(
        {
            "start": {"type": "start"},
            "a": {"type": "answer", "answer": "{{#gone.text#}}"},
        },
        ["start > a"],
    )
    assert [str(warning) for warning in app.warnings] == [
        "test.yml: Node 'a': Selector 'gone.text' refers to the unknown node 'gone'"
    ]


def test_incomplete_and_unusual_editor_output_is_read():
    app_document = document(
        {"start": {"type": "start"}, "l": {"type": "llm"}}, ["start > l"]
    )
    data = app_document["workflow"]["graph"]["nodes"][1]["data"]
    data.update(memory=None, vision={"enabled": False}, context={"enabled": False, "variable_selector": []},
                prompt_template=[{"role": "system", "text": None}], selected=True, strange={"x": [1]}, variables=[])  # fmt: skip
    app_document["workflow"]["graph"]["nodes"][1]["id"] = 12
    app_document["workflow"]["graph"]["edges"][0]["target"] = 12
    app_document["workflow"]["graph"]["nodes"].append(
        {"id": "note", "type": "custom-note", "data": {"text": "hi"}}
    )
    del app_document["kind"], app_document["version"]
    app = loads(yaml.dump(app_document))
    assert (app.version, sorted(app.levels[""].nodes), app.requirements[0].name) == (
        "0.1.0",
        ["12", "start"],
        "openai/gpt-4o",
    )


def test_selectors_with_node_titles_are_resolved():
    nodes = {"s1": {"type": "start", "title": "Start", "variables": [{"variable": "q", "type": "text-input"}]},
             "x9": {"type": "template-transform", "title": "Greet", "template": "hi", "variables": []},
             "e": {"type": "end", "outputs": [{"variable": "r", "value_selector": ["Greet", "output"]}]}}  # fmt: skip
    app = app_of(nodes, ["s1 > x9", "x9 > e"])
    assert app.warnings == []
    assert app.levels[""].nodes["e"].data.outputs[0].value_selector == ["x9", "output"]


@pytest.mark.parametrize("title", ["执行查询", "My query", "greet"])
def test_templates_with_node_titles_are_resolved(title: str):
    # No selector names the node, and its title could not be an id.
    nodes = {"start": {"type": "start"},
             "x9": {"type": "template-transform", "title": title, "template": "hi", "variables": []},
             "a": {"type": "answer", "answer": "It says {{#" + title + ".output#}}."}}  # fmt: skip
    app = app_of(nodes, ["start > x9", "x9 > a"])
    assert app.levels[""].nodes["a"].data.answer == "It says {{#x9.output#}}."


def test_references_to_nothing_stay_in_templates_as_they_are():
    nodes = {"start": {"type": "start"},
             "a": {"type": "answer", "answer": "{{#$output.x#}} {{#nobody.text#}} {{#sys.query#}} {{#context#}}"}}  # fmt: skip
    app = app_of(nodes, ["start > a"])
    assert app.levels[""].nodes["a"].data.answer == nodes["a"]["answer"]


def test_an_app_without_a_graph_imports_and_cannot_be_run():
    app = loads("app: {name: x, mode: workflow}\nworkflow: {nodes: []}")
    assert "The app has no graph" in str(app.warnings[0])
    with pytest.raises(WorkflowError, match="so it cannot run"):
        app.graph()


def test_an_app_is_exported_as_imported_without_secrets():
    variables = [
        {"name": "K", "value": "s3cret", "value_type": "secret"},
        {"name": "N", "value": 1, "value_type": "number"},
    ]
    app_document = {
        **SMALL,
        "workflow": {**SMALL["workflow"], "environment_variables": variables},
        "extra": {"kept": [1, "ü"]},
    }
    app = loads(yaml.dump(app_document, allow_unicode=True))
    exported = yaml.safe_load(dump(app))
    assert (exported["extra"], exported["version"], exported["workflow"]["graph"]) == (
        app_document["extra"],
        "0.6.0",
        app_document["workflow"]["graph"],
    )
    assert [
        variable["value"] for variable in exported["workflow"]["environment_variables"]
    ] == ["", 1]
    assert "s3cret" in dump(app, with_secrets=True)
    assert loads(dump(app)).roots == app.roots


@pytest.mark.parametrize("mode", ["chat", "completion", "agent-chat"])
def test_single_prompt_apps_become_a_graph(mode: str):
    config = {
        "model": {"provider": "openai", "name": "gpt-4o", "completion_params": {"temperature": 0.2}},
        "pre_prompt": "Speak {{lang}}, not {{other}}. <|im_start|>", "user_input_form": [
            {"text-input": {"variable": "lang", "label": "Language", "required": True}},
        ],
        "dataset_configs": {"datasets": {"datasets": [{"dataset": {"enabled": True, "id": "d1"}}]}, "top_k": 3},
        "agent_mode": {"enabled": True, "strategy": "react", "max_iteration": 4, "tools": [{"google_search": {}}]},
        "opening_statement": "Hello!",
    }  # fmt: skip
    app = loads(yaml.dump({"app": {"name": "x", "mode": mode}, "model_config": config}))
    nodes = app.levels[""].nodes
    assert app.features["opening_statement"] == "Hello!"
    if mode == "agent-chat":
        assert list(nodes) == ["start", "agent", "answer"]
        assert nodes["agent"].data.agent_strategy_name == "ReAct"
        assert app.warnings == []
        return
    assert list(nodes) == ["start", "retrieval", "llm", "answer"]
    prompt = nodes["llm"].data.templates[0]
    assert "Speak {{#start.lang#}}, not {{other}}. " in prompt.text
    assert "<|" not in prompt.text
    assert prompt.role == ("user" if mode == "completion" else "system")
    assert (nodes["llm"].data.memory is None) == (mode == "completion")


def test_a_mapping_file_is_validated():
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from modelyard.workflow.dsl import load_mapping

    with TemporaryDirectory() as folder:
        path = Path(folder) / "map.yml"
        path.write_text("models: {'openai/gpt-4o': local/x, '*': default}\ntools: {}")
        assert load_mapping(path) == AppMapping(
            models={"openai/gpt-4o": "local/x", "*": "default"}
        )
        path.write_text("model: {}")
        with pytest.raises(DslError, match="unknown field `model`"):
            load_mapping(path)


def read_or_refused(text: str, loader: Any) -> Any:
    try:
        return repr(yaml.load(text, loader))
    except (yaml.YAMLError, ValueError) as error:
        return type(error)


_SCALAR = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=8), st.integers(),
    st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none(), st.dates(),
    st.sampled_from(["=", "<<", "yes", "0x1f", "1_000", "1:30", "~", "2020-01-01", "!!str 1", "0o7", "null", ""]),
)  # fmt: skip
_DOCUMENT = st.recursive(
    _SCALAR,
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(_SCALAR.filter(lambda key: key == key), children, max_size=4)
    ),
)


@given(_DOCUMENT)
def test_yaml_is_read_as_pyyaml_reads_it(document: Any):
    """Except for non-finite numbers (`.inf`, `.nan`), which are refused."""
    text = yaml.safe_dump(document, allow_unicode=True)
    assert read_or_refused(text, _Loader) == read_or_refused(text, yaml.SafeLoader)


@pytest.mark.parametrize(
    "text",
    [
        "a: &x {b: 1}\nc: {<<: *x, d: 2}\n", "a: &x [1, *x]\n", "&x {k: *x}\n", "? [a]\n: b\n", "? {a: 1}\n: b\n",
        "!!set {a, b}\n", "!!omap [a: 1, b: 2]\n", "!!pairs [a: 1]\n", "!!map x\n", "!!str {a: 1}\n", "!!seq {a: 1}\n",
        "!unknown x\n", "!!python/name:os.system\n", "!!binary aGk=\n", "- 1\n- 0b1\n- 1e3\n- 012\n- +1\n- 'yes'\n- yes\n- No\n",
        "a: 1\na: 2\n", "=: 1\n", "<<: 1\n", "x: !!int 'a'\n", "x: !!int '7'\n", "2020-01-02: 2020-01-02 03:04:05Z\n",
        "null: ~\n", "a: |\n  one\n  two\nb: >-\n  one\n  two\n", "", "--- 1\n--- 2\n", "- &a {x: 1}\n- *a\n- {<<: [*a, {y: 2}]}\n",
    ],
)  # fmt: skip
def test_odd_yaml_is_read_as_pyyaml_reads_it(text: str):
    assert read_or_refused(text, _Loader) == read_or_refused(text, yaml.SafeLoader)


def test_the_files_are_read_as_pyyaml_reads_them():
    for path in sorted((Path(__file__).parents[1] / "data" / "dsl").rglob("*.y*ml")):
        text = path.read_text("utf-8")
        assert read_or_refused(text, _Loader) == read_or_refused(
            text, yaml.CSafeLoader
        ), path.name


def test_a_file_of_a_newer_version_is_read_as_far_as_it_is_known():
    newer = loads(yaml.dump({**SMALL, "version": "0.8.0"}))
    (warning,) = [str(problem) for problem in newer.warnings]
    assert "Version 0.8.0 is newer than 0.7.0, the newest supported" in warning
    assert yaml.safe_load(dump(newer))["version"] == "0.8.0"
    strange = {"app": {"name": "x", "mode": "oracle"}, "version": "0.8.0"}
    assert "Unknown mode 'oracle'; expected one of" in import_error(yaml.dump(strange))
