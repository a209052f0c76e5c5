"""What comes from outside is data: it is never rendered as a template, never adds a
header, and never shows an app's secrets in the records of a run."""

import itertools
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.knowledge.answer import (
    _fill_prompt,  # pyright: ignore[reportPrivateUsage]
)
from modelyard.workflow.engine import Status
from modelyard.workflow.events import NodeRunFailed, NodeRunSucceeded, dump_event
from modelyard.workflow.node import Turn
from modelyard.workflow.secret_mask import SecretMask
from modelyard.workflow.template import render
from modelyard.workflow.variables import File, Secret, VariablePool, masked
from tests.workflow.building import app_of
from tests.workflow.conftest import Bench

pytestmark = pytest.mark.proof("workflow-cases")

SECRET = "s3cr3t-value-of-the-app"
ENVIRONMENT = [{"name": "API_SECRET", "value_type": "secret", "value": SECRET}]
REFERENCE = "{{#env.API_SECRET#}}"
# What somebody who knows the product would try.
TRIES = [
    REFERENCE,
    "{{#context#}}",
    "{{#histories#}}",
    "{{ env.API_SECRET }}",
    "{% for x in env %}{{ x }}{% endfor %}",
    "env.API_SECRET",
    "{{#$output.name#}}" + REFERENCE,
]
START = {
    "start": {"type": "start", "variables": [{"variable": "q", "type": "paragraph"}]}
}
USER = {"role": "user", "text": "Say: {{#start.q#}}"}

Nodes = dict[str, dict[str, Any]]


def _no_preparation(bench: Bench, text: str) -> None:
    del bench, text


def _segment(bench: Bench, text: str) -> None:
    bench.datasets.segments.append({"title": "t", "content": text, "metadata": {}})


def _tool_text(bench: Bench, text: str) -> None:
    bench.tools.messages["t"] = [{"type": "text", "message": {"text": text}}]


def _http_body(bench: Bench, text: str) -> None:
    bench.http.answers.append((".", 200, {"content-type": "text/plain"}, text.encode()))


def _file(bench: Bench, text: str) -> None:
    bench.files.contents["f"] = text.encode()


def _memory(bench: Bench, text: str) -> None:
    bench.turns.append(Turn(query=text, answer=text))


MODELS: list[Any] = [
    pytest.param(
        {"x": {"type": "llm", "prompt_template": [USER]}}, _no_preparation, id="user input"
    ),
    pytest.param(
        {
            "r": {"type": "knowledge-retrieval", "query_variable_selector": ["start", "q"], "dataset_ids": ["d"]},
            "x": {"type": "llm", "prompt_template": [{"role": "user", "text": "Use {{#context#}}."}], "context": {"enabled": True, "variable_selector": ["r", "result"]}},
        },
        _segment, id="context",
    ),
    pytest.param(
        {
            "r": {"type": "knowledge-retrieval", "query_variable_selector": ["start", "q"], "dataset_ids": ["d"]},
            "x": {"type": "llm", "prompt_template": {"text": "{{#histories#}} Use {{#context#}}."}, "context": {"enabled": True, "variable_selector": ["r", "result"]}, "memory": {"role_prefix": {"user": "U", "assistant": "A"}, "window": {"enabled": False}}},
        },
        _segment, id="context of a completion",
    ),
    pytest.param(
        {"x": {"type": "llm", "prompt_template": {"text": "{{#histories#}} Next."}, "memory": {"role_prefix": {"user": "U", "assistant": "A"}, "window": {"enabled": False}}}},
        _memory, id="history",
    ),
    pytest.param(
        {
            "t": {"type": "tool", "provider_id": "p", "tool_name": "t"},
            "x": {"type": "llm", "prompt_template": [{"role": "user", "text": "{{#t.text#}}"}]},
        },
        _tool_text, id="tool result",
    ),
    pytest.param(
        {
            "h": {"type": "http-request", "method": "get", "url": "http://x.example/"},
            "x": {"type": "llm", "prompt_template": [{"role": "user", "text": "{{#h.body#}}"}]},
        },
        _http_body, id="http body",
    ),
    pytest.param(
        {"x": {"type": "llm", "prompt_template": [{"role": "user", "text": "", "edition_type": "jinja2", "jinja2_text": "<{{ q }}>"}], "prompt_config": {"jinja2_variables": [{"variable": "q", "value_selector": ["start", "q"]}]}}},
        _no_preparation, id="jinja prompt",
    ),
    pytest.param(
        {"x": {"type": "question-classifier", "query_variable_selector": ["start", "q"], "classes": [{"id": "1", "name": "a"}], "instruction": "{{#start.q#}}"}},
        _no_preparation, id="classifier",
    ),
    pytest.param(
        {"x": {"type": "parameter-extractor", "query": ["start", "q"], "parameters": [{"name": "n", "type": "string", "description": "", "required": False}], "instruction": "{{#start.q#}}", "reasoning_mode": "prompt"}},
        _no_preparation, id="extractor",
    ),
]  # fmt: skip


@pytest.mark.parametrize("text", TRIES)
@pytest.mark.parametrize(("nodes", "prepare"), MODELS)
def test_outside_text_reaches_a_model_as_it_is(
    bench: Bench, nodes: Nodes, prepare: Callable[[Bench, str], None], text: str
):
    prepare(bench, text)
    names = ["start", *nodes]
    app = app_of(
        {**START, **nodes},
        [f"{first} > {second}" for first, second in itertools.pairwise(names)],
        mode="advanced-chat",
        environment_variables=ENVIRONMENT,
    )
    outcome, _ = bench.run(app, inputs={"q": text}, query="q")
    assert outcome.status is Status.SUCCEEDED, outcome.error
    sent = " ".join(
        message.text for request in bench.model.requests for message in request.messages
    )
    assert SECRET not in sent
    # The classifier and the extractor send their texts as JSON.
    assert text in sent or msgspec.json.encode(text).decode()[1:-1] in sent


@pytest.mark.parametrize("text", TRIES)
@pytest.mark.parametrize(
    ("node", "output", "prepare"),
    [
        pytest.param(
            {"type": "tool", "provider_id": "p", "tool_name": "t"},
            "text", _tool_text, id="tool",
        ),
        pytest.param(
            {"type": "http-request", "method": "get", "url": "http://x.example/"},
            "body", _http_body, id="http",
        ),
        pytest.param(
            {"type": "template-transform", "template": "{{ q }}", "variables": [{"variable": "q", "value_selector": ["start", "q"]}]},
            "output", _no_preparation, id="template",
        ),
        pytest.param(
            {"type": "document-extractor", "variable_selector": ["sys", "files"]},
            "text", _file, id="file",
        ),
        pytest.param(
            {"type": "agent", "agent_strategy_provider_name": "a/b/c", "agent_strategy_name": "s", "agent_parameters": {"query": {"type": "mixed", "value": "{{#start.q#}}"}}},
            "text", _no_preparation, id="agent",
        ),
    ],
)  # fmt: skip
def test_outside_text_reaches_the_answer_as_it_is(
    bench: Bench,
    node: dict[str, Any],
    output: str,
    prepare: Callable[[Bench, str], None],
    text: str,
):
    prepare(bench, text)
    answer = {"type": "answer", "answer": "<{{#x." + output + "#}}>"}
    app = app_of(
        {**START, "x": node, "answer": answer},
        ["start > x", "x > answer"],
        mode="advanced-chat",
        environment_variables=ENVIRONMENT,
    )
    file = File(type="document", related_id="f", filename="f.txt", extension=".txt")
    outcome, _ = bench.run(app, inputs={"q": text}, query="q", files=[file])
    assert outcome.status is Status.SUCCEEDED, outcome.error
    assert text in str(outcome.outputs["answer"])
    assert SECRET not in str(outcome.outputs)


@pytest.mark.parametrize("text", TRIES)
def test_what_a_person_enters_into_a_form_is_not_rendered(bench: Bench, text: str):
    bench.forms.answers["ask"] = {"inputs": {"name": text}, "action": "ok"}
    ask = {
        "type": "human-input",
        "form_content": "Name: {{#$output.name#}} for {{#start.q#}}",
        "inputs": [{"type": "text_input", "output_variable_name": "name"}],
        "user_actions": [{"id": "ok", "title": "OK"}],
    }
    app = app_of(
        {**START, "ask": ask, "end": {"type": "end", "outputs": [{"variable": "r", "value_selector": ["ask", "__rendered_content"]}]}},
        ["start > ask", "ask:ok > end"],
        environment_variables=ENVIRONMENT,
    )  # fmt: skip
    outcome, _ = bench.run(app, inputs={"q": text})
    assert outcome.outputs == {"r": f"Name: {text} for {text}"}


def test_a_knowledge_prompt_is_filled_once():
    prompt = _fill_prompt(
        "{context}|{question}|{not_found}", "{question}{not_found}", "{context}"
    )
    assert prompt.startswith("{question}{not_found}|{context}|")


@given(
    st.lists(st.sampled_from(["{{#a.x#}}", "{{#p#}}", "text ", "a.x"]), max_size=5),
    st.sampled_from([*TRIES, "{{#a.x#}}", "{{#p#}}"]),
)
def test_values_and_insertions_are_not_rendered(parts: list[str], value: str):
    """However a template is composed, a value is in the text as often as its selector
    and the placeholder together."""
    template = "|".join(["start", *parts, "end"])
    pool = VariablePool({"a": {"x": value}, "env": {"API_SECRET": Secret(SECRET)}})
    text = render(
        template, pool, fill=lambda part: part.replace("{{#p#}}", f"<{value}>")
    )
    assert SECRET not in text
    expected = template.replace("{{#a.x#}}", "\0").replace("{{#p#}}", f"<{value}>")
    assert text == expected.replace("\0", value)


# ------------------------------------------------------------------------------- headers


@pytest.mark.parametrize(
    "value", ["a\nX-Admin: 1", "a\r\nX-Admin: 1", "a\rX-Admin: 1", "a\x0bb", "a\x00"]
)
@pytest.mark.parametrize(
    "data",
    [
        {"headers": "X-One: {{#start.q#}}"},
        {"headers": "{{#start.q#}}: one"},
        {"authorization": {"type": "api-key", "config": {"type": "bearer", "api_key": "k{{#start.q#}}"}}},
        {"authorization": {"type": "api-key", "config": {"type": "custom", "header": "X-Key", "api_key": "{{#start.q#}}"}}},
    ],
)  # fmt: skip
def test_a_value_cannot_add_a_header(bench: Bench, data: dict[str, Any], value: str):
    node = {"type": "http-request", "method": "get", "url": "http://x.example/", **data}
    app = app_of({**START, "h": node}, ["start > h"])
    outcome, _ = bench.run(app, inputs={"q": value})
    if outcome.status is Status.FAILED:
        assert "control character" in outcome.error
        assert not bench.http.seen
        return
    # A NUL is no part of any text in a run.
    [(_, _, headers, _)] = bench.http.seen
    assert "\0" in value
    assert all("\0" not in header for header in headers)


def test_blanks_around_a_header_value_are_no_part_of_it(bench: Bench):
    node = {"type": "http-request", "method": "get", "url": "http://x.example/", "headers": "X-One: {{#start.q#}}"}  # fmt: skip
    app = app_of({**START, "h": node}, ["start > h"])
    outcome, _ = bench.run(app, inputs={"q": " key\n"})
    assert outcome.status is Status.SUCCEEDED
    assert bench.http.seen[0][2] == [("X-One", "key")]


def test_a_line_of_one_selector_stands_for_whole_headers(bench: Bench):
    node = {"type": "http-request", "method": "get", "url": "http://x.example/", "headers": "A: 1\n{{#start.q#}}"}  # fmt: skip
    app = app_of({**START, "h": node}, ["start > h"])
    outcome, _ = bench.run(app, inputs={"q": "B: 2\nC: 3"})
    assert outcome.status is Status.SUCCEEDED
    assert bench.http.seen[0][2] == [("A", "1"), ("B", "2"), ("C", "3")]


# ------------------------------------------------------------------------------- secrets


def test_a_secret_in_a_prompt_is_masked_in_the_records(bench: Bench):
    prompt = {"role": "user", "text": f"key {REFERENCE}"}
    app = app_of(
        {**START, "x": {"type": "llm", "prompt_template": [prompt]}},
        ["start > x"],
        environment_variables=ENVIRONMENT,
    )
    bench.model.answers.append((".", "fine"))
    outcome, events = bench.run(app, inputs={"q": "q"})
    assert outcome.status is Status.SUCCEEDED
    assert bench.model.requests[0].messages[-1].text == f"key {SECRET}"
    written = b"".join(dump_event(event) for event in events).decode()
    assert SECRET not in written
    assert masked(SECRET) in written


def test_a_secret_in_a_request_is_masked_in_the_records(bench: Bench):
    node = {
        "type": "http-request",
        "method": "post",
        "url": f"http://x.example/?key={REFERENCE}",
        "headers": f"X-Token: {REFERENCE}",
        "params": f"k: {REFERENCE}",
        "body": {"type": "json", "data": [{"type": "text", "value": '{"k": "' + REFERENCE + '"}'}]},
        "error_strategy": "fail-branch",
    }  # fmt: skip
    secret = 'pa/ss "w" ö+1'
    app = app_of(
        {**START, "h": node},
        ["start > h"],
        environment_variables=[{**ENVIRONMENT[0], "value": secret}],
    )
    bench.http.answers.append((".", 500, {"content-type": "text/plain"}, b"no"))
    _, events = bench.run(app, inputs={"q": "q"})
    ended = [event for event in events if hasattr(event, "process_data")]
    request = str(ended[-1].process_data["request"])  # type: ignore[union-attr]
    assert "X-Token: pa/ss ******" in request
    assert "pa%2Fss" not in request
    assert 'w\\" ö' not in request


def test_an_error_message_does_not_show_a_secret(bench: Bench):
    code = {
        "type": "code",
        "code_language": "python3",
        "variables": [{"variable": "k", "value_selector": ["env", "API_SECRET"]}],
        "code": "def main(k):\n    raise ValueError('bad key ' + k)\n",
        "outputs": {},
    }
    app = app_of({**START, "x": code}, ["start > x"], environment_variables=ENVIRONMENT)
    outcome, events = bench.run(app, inputs={"q": "q"})
    assert outcome.status is Status.FAILED
    assert SECRET not in outcome.error
    [failed] = [event for event in events if isinstance(event, NodeRunFailed)]
    assert SECRET not in dump_event(failed).decode()


def test_inner_graphs_mask_secrets_too(bench: Bench):
    app = app_of(
        {
            "start": {"type": "start", "variables": [{"variable": "l", "type": "json_object"}]},
            "it": {"type": "iteration", "iterator_selector": ["start", "l", "items"], "output_selector": ["x", "text"], "start_node_id": "x"},
            "x": {"type": "llm", "in": "it", "prompt_template": [{"role": "user", "text": f"{REFERENCE} {{{{#it.item#}}}}"}]},
        },
        ["start > it"],
        environment_variables=ENVIRONMENT,
    )  # fmt: skip
    bench.model.answers.append((".", "fine"))
    outcome, events = bench.run(app, inputs={"l": {"items": ["a"]}})
    assert outcome.status is Status.SUCCEEDED
    assert SECRET not in b"".join(dump_event(event) for event in events).decode()


def test_outputs_are_what_the_app_computed(bench: Bench):
    """An app that returns a secret does so on purpose."""
    end = {"type": "end", "outputs": [{"variable": "k", "value_selector": ["env", "API_SECRET"]}]}  # fmt: skip
    app = app_of(
        {**START, "end": end}, ["start > end"], environment_variables=ENVIRONMENT
    )
    outcome, events = bench.run(app, inputs={"q": "q"})
    assert outcome.outputs == {"k": SECRET}
    ended = [event for event in events if isinstance(event, NodeRunSucceeded)]
    assert ended[-1].outputs == {"k": SECRET}


def test_short_texts_are_no_secrets_to_search_for():
    assert SecretMask(["abc"]).text("abcdef") == "abcdef"
    assert SecretMask(["abcd", "abcdef"]).value({"k": ["abcdefg"]}) == {
        "k": [f"{masked('abcdef')}g"]
    }
