"""Tests for apps in the format version 0.7.0: agents in packages, and agent nodes of
version 2. What a model is asked is compared as a whole."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMResultChunkDelta
from modelyard.models.messages import (
    AssistantPromptMessage,
    ToolCall,
    ToolCallFunction,
)
from modelyard.workflow.ask_human import form_of
from modelyard.workflow.declared_outputs import (
    DeclaredOutput,
    OutputFailure,
    check_outputs,
    default_values,
    describe_failures,
    retries_of,
    schema_of_outputs,
)
from modelyard.workflow.dsl import App, AppMapping, DslError, dump, load, loads
from modelyard.workflow.engine import Outcome
from modelyard.workflow.node import Services, Turn
from modelyard.workflow.nodes.human_input import HumanInputNode
from modelyard.workflow.prompt_mentions import expand_mentions, mentions_in
from modelyard.workflow.variables import File
from tests.workflow.conftest import Bench

FOLDER = Path(__file__).parents[1] / "data" / "dsl-0.7"
MAPPING = AppMapping(models={"*": "scripted/model"})


def app_in(file: str, **mapping: dict[str, str]) -> App:
    return load(FOLDER / file, AppMapping(models=MAPPING.models, **mapping))


def edited(file: str, *changes: tuple[str, Any]) -> App:
    """Return the app of a file with changes of single values, by their path."""
    document = yaml.safe_load((FOLDER / file).read_text("utf-8"))
    for path, value in changes:
        *steps, last = path.split("/")
        target = document
        for step in steps:
            target = target[int(step) if step.isdigit() else step]
        target[last] = value
    return loads(yaml.safe_dump(document), name=file, mapping=MAPPING)


def asked(request: LLMRequest) -> list[dict[str, str]]:
    return [{message.role.value: message.text} for message in request.messages]


def services_of(bench: Bench, app: App) -> Services:
    """Return the test's services, with the real tools of the server."""
    services = bench.services(app)
    services.tools = bench.yard.services.workflows.services(app).tools
    return services


def checked_run(bench: Bench, app: App, **options: Any) -> Outcome:
    """Run an app; no request to a model may have an empty message."""
    options.setdefault("services", services_of(bench, app))
    outcome, _ = bench.run(app, **options)
    for request in bench.model.requests:
        assert request.messages
        for message in request.messages:
            assert message.text.strip() or getattr(message, "tool_calls", None)
    return outcome


# ---------------------------------------------------------------------- apps of agents


def test_an_agent_app_answers_with_its_prompt_model_and_history(bench: Bench):
    app = edited(
        "agent-app.yml",
        ("agent_packages/agent_1/soul/tools/dify_tools", []),
        ("agent_packages/agent_1/soul/knowledge/sets", []),
        ("agent_packages/agent_1/soul/human/contacts", []),
    )
    bench.turns.append(Turn(query="Hi", answer="Hello."))
    bench.model.answers.append(("1042", "It is on its way."))
    outcome = checked_run(
        bench, app, inputs={"shop": "Acme"}, query="Where is order 1042?"
    )
    assert outcome.outputs["answer"] == "It is on its way."
    (request,) = bench.model.requests
    system = (
        "You answer for Acme in English. Look orders up with Find order.\n"
        "Read Handbook, use Refunds, and ask Ada before you promise anything.\n\n"
        "Never name the supplier."
    )
    assert asked(request) == [
        {"system": system},
        {"user": "Hi"},
        {"assistant": "Hello."},
        {"user": "Where is order 1042?"},
    ]
    assert request.model_parameters == {"temperature": 0.2, "max_tokens": 512}


def test_an_agent_app_has_the_tools_that_exist_and_reports_the_others(bench: Bench):
    app = app_in("agent-app.yml")
    needs = {f"{need.kind} {need.name}" for need in app.requirements}
    assert needs == {
        "model langgenius/openai/openai/gpt-4o",
        "tool langgenius/orders/orders/find_order",
        "tool time/*",
        "dataset Shop handbook",
    }
    checked_run(bench, app, inputs={"shop": "Acme"}, query="Where is it?")
    offered = [tool.name for tool in bench.model.requests[0].tools]
    # `time` is a built-in provider whose tools are offered as a whole; what does not
    # exist says so when it is called.
    assert offered[0] == "find_order"
    assert "current_time" in offered
    assert offered[-2:] == ["search_Handbook", "ask_human"]
    assert "refund" not in offered
    reply = bench.model.requests[1].messages[-1].text
    assert "Tool 'find_order' not found in provider 'langgenius/orders/orders'" in reply


def test_the_knowledge_of_an_agent_is_a_tool_with_its_settings(bench: Bench):
    app = edited(
        "agent-app.yml",
        ("agent_packages/agent_1/soul/tools/dify_tools", []),
        ("agent_packages/agent_1/soul/human/contacts", []),
    )
    checked_run(bench, app, inputs={"shop": "Acme"}, query="How do refunds work?")
    ((query, retrieval),) = bench.datasets.seen
    assert query == "sample"
    assert retrieval.dataset_ids == [
        "1f2e3d4c-0000-0000-0000-000000000001",
        "Shop handbook",
    ]
    assert retrieval.multiple_retrieval_config == {
        "top_k": 3,
        "score_threshold": 0.5,
        "reranking_mode": "reranking_model",
        "reranking_enable": False,
    }
    assert "What is known about: sample" in bench.model.requests[1].messages[-1].text


def test_knowledge_with_a_query_of_the_author_is_part_of_the_prompt(bench: Bench):
    app = edited(
        "agent-app.yml",
        ("agent_packages/agent_1/soul/tools/dify_tools", []),
        ("agent_packages/agent_1/soul/human/contacts", []),
        (
            "agent_packages/agent_1/soul/knowledge/sets/0/query",
            {"mode": "user_query", "value": "refunds {{#sys.query#}}"},
        ),
    )
    checked_run(bench, app, inputs={"shop": "Acme"}, query="for shoes")
    (request,) = bench.model.requests
    assert bench.datasets.seen[0][0] == "refunds for shoes"
    assert not request.tools
    assert request.messages[0].text.endswith(
        "From Handbook:\nWhat is known about: refunds for shoes"
    )


def test_an_agent_app_without_a_question_fails_before_a_model_is_called(bench: Bench):
    outcome = checked_run(bench, app_in("agent-smallest.yml"), query="  ")
    assert (outcome.status.value, outcome.error) == ("failed", "The message is empty")
    assert bench.model.requests == []


def test_the_features_and_the_form_of_an_agent_app_are_read():
    app = app_in("agent-app.yml")
    assert (app.is_chat, app.description) == (True, "Answers questions about orders")
    assert app.features["opening_statement"] == "How can I help you?"
    assert app.features["file_upload"]["number_limits"] == 2
    assert "speech_to_text" not in app.features
    fields = [
        (field.variable, field.type, field.required, field.default, field.options)
        for field in app.graph().nodes["start"].data.variables
    ]
    assert fields == [
        ("shop", "text-input", True, None, []),
        ("language", "select", False, "English", ["English", "German"]),
    ]
    smallest = app_in("agent-smallest.yml")
    assert smallest.features["file_upload"]["enabled"] is True


def test_everything_that_cannot_work_is_named_at_import():
    messages = [problem.message for problem in app_in("agent-app.yml").warnings]
    for part in (
        "The skill 'refunds' of the agent is not in the file",
        "The file 'prices.csv' of the agent is not in the file",
        "The program 'jq' is not available",
        "The environment variables REGION, ORDERS_TOKEN have no effect",
        "The agent's memory settings have no effect here",
        "No message is sent to Bob (slack); the agent's questions are shown",
        "No message is sent to Ada (email); the agent's questions are shown",
    ):
        assert sum(part in message for message in messages) == 1, part
    assert len(messages) == 7
    # The last of them is none once mail is set up.
    assert len(app_in("agent-app.yml").warnings_with("")) == 6
    lines = {problem.line for problem in app_in("agent-app.yml").warnings}
    assert 0 not in lines


@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("*.yml")))
def test_a_file_is_exported_as_it_was_imported(file: str):
    document = yaml.safe_load((FOLDER / file).read_text("utf-8"))
    app = app_in(file)
    exported = yaml.safe_load(dump(app))
    assert exported == document
    again = loads(dump(app), name=file, mapping=app.mapping)
    assert [str(warning) for warning in again.warnings] == [
        str(warning) for warning in loads(dump(again), name=file).warnings
    ]


def test_unknown_fields_of_a_package_are_named_and_preserved():
    app = edited(
        "agent-smallest.yml",
        ("agent_packages/agent_1/soul/telepathy", {"on": True}),
        ("agent_packages/agent_1/aura", 1),
    )
    messages = [problem.message for problem in app.warnings]
    assert "The field 'aura' is unknown here and has no effect" in messages
    assert "The field 'soul.telepathy' is unknown here and has no effect" in messages
    soul = yaml.safe_load(dump(app))["agent_packages"]["agent_1"]["soul"]
    assert soul["telepathy"] == {"on": True}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("agent", {})], ""),
        ([("agent", {"package_ref": "x"})], ": Missing agent package 'x', which"),
        ([("agent_packages", {})], "Missing agent package 'agent_1'"),
        (
            [("agent", None), ("agent_packages", None)],
            "Missing section 'agent' with the 'package_ref' of an agent app",
        ),
        (
            [("agent_packages/agent_1", {"schema_version": 1})],
            "Agent package 'agent_1': Object missing required field `soul`",
        ),
        (
            [("agent_packages/agent_1/soul/prompt", 3)],
            "Agent package 'agent_1': Expected `object`, got `int`",
        ),
    ],
)
def test_an_agent_app_without_its_package_is_refused(
    changes: list[tuple[str, Any]], message: str
):
    if not message:
        # With one package there is no doubt which one is meant.
        assert edited("agent-smallest.yml", *changes).agent_package is not None
        return
    with pytest.raises(DslError) as caught:
        edited("agent-smallest.yml", *changes)
    assert message in str(caught.value)
    assert "agent-smallest.yml:" in str(caught.value)


# ----------------------------------------------------------------------- agent nodes

FINDINGS = {
    "findings": [{"claim": "Cats sleep", "is_certain": True}],
    "confidence": 0.9,
}


def run_report(bench: Bench, app: App, **inputs: str) -> Outcome:
    inputs = {"topic": "cats", "sources": "the library", **inputs}
    return checked_run(bench, app, inputs=inputs)


def test_agent_nodes_get_tasks_and_return_declared_outputs(bench: Bench):
    bench.model.answers += [
        ("^Research", f"```json\n{json.dumps(FINDINGS)}\n```"),
        ("^Shorten", '{"short": "Cats sleep."}'),
        ("findings", "A long report about cats."),
    ]
    outcome = run_report(bench, app_in("agent-workflow.yml"))
    assert outcome.outputs == {
        **FINDINGS,
        "report": '{"short": "Cats sleep."}',
        "data": {"short": "Cats sleep."},
    }
    research, write, shorten = bench.model.requests
    system, task = asked(research)
    assert task == {
        "user": "Research cats with start.sources. Fill in findings (array).\n\n"
        "What earlier steps returned:\n- start.sources: the library"
    }
    before, _, schema = system["system"].partition(" this JSON schema,")
    assert before.startswith("You research. Say what you do not know.\n\nWhen the task")
    assert json.loads(schema.partition("\n")[2]) == {
        "type": "object",
        "properties": {
            "findings": {
                "type": "array",
                "description": "What was found",
                "items": {
                    "type": "object",
                    "properties": {
                        "claim": {"type": "string"},
                        "is_certain": {"type": "boolean"},
                    },
                    "required": ["claim"],
                },
            },
            "confidence": {"type": "number", "description": "From 0 to 1"},
        },
        "required": ["findings", "confidence"],
    }
    assert asked(write) == [
        {"system": "You write."},
        {
            "user": "What earlier steps returned:\n- research.findings: "
            "[{'claim': 'Cats sleep', 'is_certain': True}]\n\n"
            "Do what your instructions say."
        },
    ]
    assert asked(shorten)[1] == {"user": "Shorten this: A long report about cats."}


RESEARCH = "workflow/graph/nodes/1/data"


def test_an_output_that_does_not_fit_is_asked_for_again_and_then_replaced(bench: Bench):
    """Twice within an attempt, and in as many attempts as its strategy says."""
    output = f"{RESEARCH}/agent_job/declared_outputs"
    app = edited(
        "agent-workflow.yml",
        (f"{output}/0/required", False),
        (f"{output}/1/failure_strategy/retry/retry_interval_ms", 0),
    )
    bench.model.answers += [("^Research|fits this schema", "No idea."), (".", "Text.")]
    outcome = run_report(bench, app)
    assert (outcome.outputs["findings"], outcome.outputs["confidence"]) == (None, 0.5)
    assert len(bench.model.requests) == 2 * 3 + 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"confidence": 0.9}, "findings: it is missing"),
        ({**FINDINGS, "findings": "none"}, "findings: expected array, got string"),
        (
            {**FINDINGS, "findings": ["Cats"]},
            "findings: element 0: expected object, got string",
        ),
        ({}, "findings: it is missing; confidence: it is missing"),
        (
            {**FINDINGS, "confidence": "high"},
            "confidence: expected number, got string",
        ),
    ],
)
def test_a_node_whose_outputs_do_not_fit_fails(
    bench: Bench, answer: dict[str, Any], error: str
):
    app = edited(
        "agent-workflow.yml",
        (f"{RESEARCH}/agent_job/declared_outputs/1/failure_strategy", None),
    )
    bench.model.answers.append((".", json.dumps(answer)))
    outcome = run_report(bench, app)
    assert (outcome.status.value, outcome.error, outcome.error_type) == (
        "failed",
        f"The agent's outputs do not fit: {error}",
        "AgentOutputError",
    )


def test_a_default_value_replaces_only_the_output_that_does_not_fit(bench: Bench):
    retry = "agent_job/declared_outputs/1/failure_strategy/retry/enabled"
    app = edited("agent-workflow.yml", (f"{RESEARCH}/{retry}", False))
    bench.model.answers += [
        ("^Research|fits this schema", json.dumps({**FINDINGS, "confidence": "high"})),
        (".", "Text."),
    ]
    outcome = run_report(bench, app)
    assert outcome.outputs["findings"] == FINDINGS["findings"]
    assert outcome.outputs["confidence"] == 0.5


def test_a_failed_agent_takes_its_fail_branch(bench: Bench):
    app = edited(
        "agent-workflow.yml",
        (f"{RESEARCH}/agent_job/declared_outputs/1/failure_strategy", None),
        (f"{RESEARCH}/error_strategy", "fail-branch"),
        ("workflow/graph/edges/1/sourceHandle", "fail-branch"),
        ("workflow/graph/edges/1/target", "end"),
    )
    bench.model.answers.append((".", "No idea."))
    outcome = run_report(bench, app)
    assert outcome.status.value == "partial-succeeded"
    assert len(bench.model.requests) == 2


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            [(f"{RESEARCH}/agent_binding/package_ref", "agent_9")],
            "The file has no agent package 'agent_9'",
        ),
        (
            [(f"{RESEARCH}/agent_binding", None)],
            "No agent is bound to the node ('agent_binding' is missing)",
        ),
        (
            [(f"{RESEARCH}/agent_job/workflow_prompt", "Read {{#shorten.text#}}")],
            "The task refers to 'shorten.text', which no earlier step has returned",
        ),
        (
            [
                (f"{RESEARCH}/agent_job/workflow_prompt", ""),
                (f"{RESEARCH}/agent_job/previous_node_output_refs", []),
                ("agent_packages/agent_1/soul/prompt/system_prompt", " "),
            ],
            "The agent has neither a prompt nor a task, so there is nothing to ask it",
        ),
    ],
)
def test_a_node_that_cannot_work_fails_and_asks_no_model(
    bench: Bench, changes: list[tuple[str, Any]], error: str
):
    outcome = run_report(bench, edited("agent-workflow.yml", *changes))
    assert (outcome.status.value, outcome.error) == ("failed", error)
    assert bench.model.requests == []


def test_a_node_whose_agent_says_nothing_fails(bench: Bench):
    app = edited("agent-workflow.yml", (f"{RESEARCH}/agent_job/declared_outputs", []))
    bench.model.answers.append((".", " "))
    outcome = run_report(bench, app)
    assert outcome.error == "The agent gave no answer (it ended by 'answer')"


def test_a_missing_package_is_named_at_import():
    app = edited(
        "agent-workflow.yml", (f"{RESEARCH}/agent_binding/package_ref", "agent_9")
    )
    (warning,) = app.warnings
    assert str(warning).endswith(
        "Node 'Research': The file has no agent package 'agent_9'; without it the node"
        " fails"
    )


def test_a_chat_agent_gets_the_users_message_and_files(bench: Bench):
    app = edited(
        "agent-chatflow.yml",
        ("agent_packages/agent_1/soul/human/contacts", []),
        ("workflow/graph/nodes/1/data/agent_job/human_contacts", []),
    )
    bench.files.contents["f1"] = b"png"
    picture = File(
        type="image", related_id="f1", filename="cat.png", extension=".png",
        mime_type="image/png",
    )  # fmt: skip
    bench.model.answers.append((".", "Buy it."))
    outcome = checked_run(bench, app, query="Shall I?", files=[picture])
    assert outcome.outputs["answer"] == "Buy it."
    (request,) = bench.model.requests
    assert asked(request) == [
        {"system": "You advise."},
        {"user": "Give advice. In doubt ask Ada.\n\nThe user's message: Shall I?"},
    ]
    (image,) = request.messages[1].files
    assert image.filename == "cat.png"


class DeskApps:
    """Agent apps of a tenant with one app, `desk`."""

    async def package(self, reference: str) -> Any:
        return (
            app_in("agent-smallest.yml").agent_package if reference == "desk" else None
        )


def test_an_agent_may_be_another_app(bench: Bench):
    document = yaml.safe_load((FOLDER / "agent-by-id.yml").read_text("utf-8"))
    binding = document["workflow"]["graph"]["nodes"][1]["data"]["agent_binding"]
    foreign_id = binding["agent_id"]
    outcome = checked_run(bench, app_in("agent-by-id.yml"), inputs={"question": "Who?"})
    assert f"The agent {foreign_id!r} is not in the file" in outcome.error
    assert "'agents'" in outcome.error
    binding["agent_id"] = "desk"
    app = loads(yaml.safe_dump(document), mapping=MAPPING)
    services = services_of(bench, app)
    services.agent_apps = DeskApps()
    outcome = checked_run(bench, app, inputs={"question": "Who?"}, services=services)
    assert outcome.outputs == {"answer": "Answer to: Who?"}
    mapped = app_in("agent-by-id.yml", agents={foreign_id: "desk"})
    assert mapped.warnings == []


# ------------------------------------------------------------------ questions to people


def test_an_agent_asks_a_person_and_goes_on_with_the_answer(bench: Bench):
    app = app_in("agent-chatflow.yml")
    bench.model.answers.append(("submitted", "Ada says yes."))
    outcome = checked_run(bench, app, query="May I?")
    assert outcome.status.value == "paused"
    (reason,) = outcome.reasons
    assert reason["TYPE"] == "human_input_required"
    assert reason["node_title"] == "Advise"
    assert reason["actions"] == [
        {"id": "sample", "title": "sample", "button_style": "default"}
    ]
    (request,) = bench.model.requests
    (tool,) = request.tools
    assert (tool.name, "Ada (email)" in tool.description) == ("ask_human", True)
    (key,) = bench.forms.asked
    (mail,) = bench.forms.mails[key]
    assert (mail.addresses, mail.body[1]) == (["ada@shop.example"], None)
    bench.forms.answers[key] = {"action": "sample", "inputs": {"sample": "Yes."}}
    bench.model.requests.clear()
    outcome = checked_run(bench, app, query="May I?")
    assert outcome.outputs["answer"] == "Ada says yes."
    assert json.loads(bench.model.requests[-1].messages[-1].text) == {
        "status": "submitted",
        "action": {"id": "sample", "label": "sample"},
        "values": {"sample": "Yes."},
    }


@pytest.mark.parametrize(
    ("answer", "result"),
    [({"expired": 5.0}, {"status": "timeout"}), (None, {"status": "unavailable"})],
)
def test_an_agent_learns_that_nobody_answered(
    bench: Bench, answer: dict[str, Any] | None, result: dict[str, Any]
):
    app = app_in("agent-chatflow.yml")
    checked_run(bench, app, query="May I?")
    services = services_of(bench, app)
    if answer is None:
        # The run is not stored, so it cannot wait for anybody.
        services.forms = None
    else:
        (key,) = bench.forms.asked
        bench.forms.answers[key] = answer
    outcome = checked_run(bench, app, query="May I?", services=services)
    assert outcome.status.value == "succeeded"
    assert json.loads(bench.model.requests[-1].messages[-1].text) == result


class RepeatingModel:
    """A model that numbers its calls anew in each turn: asks `turns` times, then
    answers."""

    model = "repeating"
    schema = None

    def __init__(self, turns: int) -> None:
        self.turns = turns

    def find(self, provider: str, name: str, model_type: str) -> "RepeatingModel":
        return self

    async def stream_llm(
        self, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        results = [
            message for message in request.messages if message.role.value == "tool"
        ]
        message = AssistantPromptMessage(content=f"Asked {len(results)} times.")
        if len(results) < self.turns:
            function = ToolCallFunction(
                name="ask_human", arguments=f'{{"question": "Number {len(results)}?"}}'
            )
            call = ToolCall(id="call_0", function=function, index=0)
            message = AssistantPromptMessage(tool_calls=[call])
        delta = LLMResultChunkDelta(message=message, finish_reason="stop")
        yield LLMResultChunk(model="repeating", delta=delta)


def test_an_answer_does_not_count_for_a_later_question_with_the_same_id(bench: Bench):
    app = app_in("agent-chatflow.yml")
    services = services_of(bench, app)
    services.models = RepeatingModel(turns=2)
    outcome = checked_run(bench, app, query="May I?", services=services)
    ((first, form),) = bench.forms.asked.items()
    assert form["form_content"] == "Number 0?"
    bench.forms.answers[first] = {"action": "submit", "inputs": {}}
    outcome = checked_run(bench, app, query="May I?", services=services)
    assert outcome.status.value == "paused"
    (second,) = set(bench.forms.asked) - {first}
    assert bench.forms.asked[second]["form_content"] == "Number 1?"
    bench.forms.answers[second] = {"action": "submit", "inputs": {}}
    outcome = checked_run(bench, app, query="May I?", services=services)
    assert outcome.outputs["answer"] == "Asked 2 times."


def test_a_provider_may_be_mapped_to_one_tool(bench: Bench):
    app = app_in("agent-app.yml", tools={"time/*": "builtin:calculator/calculate"})
    checked_run(bench, app, inputs={"shop": "Acme"}, query="Where is it?")
    offered = [tool.name for tool in bench.model.requests[0].tools]
    assert "calculate" in offered
    assert "current_time" not in offered


def test_a_missing_provider_says_so_when_it_is_called(bench: Bench):
    tool = {"provider_type": "plugin", "provider_id": "a/gone/gone"}
    app = edited(
        "agent-app.yml",
        ("agent_packages/agent_1/soul/tools/dify_tools", [tool]),
    )
    checked_run(bench, app, inputs={"shop": "Acme"}, query="Where is it?")
    assert "No tools of 'a/gone/gone' exist" in (
        bench.model.requests[1].messages[-1].text
    )


def test_a_question_becomes_a_form_that_can_be_filled_in():
    """Models invent names: what a form cannot show is left out."""
    form = form_of(
        {
            "title": "Refund",
            "question": "May I refund 20 €?",
            "markdown": "Order *1042*",
            "fields": [
                {"type": "paragraph", "name": "why", "label": "Reason", "default": "-"},
                {
                    "type": "select",
                    "name": "how",
                    "label": "How",
                    "required": True,
                    "options": ["card", {"value": "cash", "label": "Cash"}],
                },
                {"type": "file-list", "name": "proofs", "label": "Proofs"},
                {"type": "hologram", "name": "x", "label": "X"},
                {"type": "paragraph", "name": "not a name", "label": "X"},
                "odd",
            ],
            "actions": [
                {"id": "refuse", "label": "Refuse", "style": "destructive"},
                {"id": "1", "label": "?"},
            ],
        }
    )
    assert form["form_content"] == (
        "## Refund\n\nMay I refund 20 €?\n\nOrder *1042*\n\n"
        "**Reason**\n\n{{#$output.why#}}\n\n**How ***\n\n{{#$output.how#}}\n\n"
        "**Proofs**\n\n{{#$output.proofs#}}"
    )
    assert [(field["type"], field.get("options")) for field in form["inputs"]] == [
        ("paragraph", None),
        ("select", ["card", "cash"]),
        ("file-list", None),
    ]
    assert form["actions"] == [
        {"id": "refuse", "title": "Refuse", "button_style": "accent"}
    ]
    assert form["resolved_default_values"] == {"why": "-", "proofs": []}
    assert form_of({"question": "Ok?"})["actions"] == [
        {"id": "submit", "title": "Submit", "button_style": "primary"}
    ]


# ------------------------------------------------------------------- declared outputs


def outputs_of(*declarations: dict[str, Any]) -> list[DeclaredOutput]:
    return msgspec.convert(declarations, list[DeclaredOutput])


def test_declared_outputs_have_the_schema_that_the_console_shows():
    """The console's tests read the same file."""
    cases = json.loads((FOLDER.parent / "declared-outputs.json").read_text("utf-8"))
    assert len(cases) > 3
    for case in cases:
        outputs = msgspec.convert(case["outputs"], list[DeclaredOutput])
        assert schema_of_outputs(outputs) == case["schema"]


def test_files_are_named_by_the_model_or_come_from_its_tools():
    outputs = outputs_of(
        {"name": "report", "type": "file"},
        {"name": "all", "type": "array", "array_item": {"type": "file"}},
    )
    pdf = File(type="document", transfer_method="tool_file", filename="a.pdf")
    csv = File(type="document", transfer_method="tool_file", filename="b.csv")
    assert "required" not in schema_of_outputs(outputs)
    assert check_outputs(outputs, {}, [pdf, csv]) == (
        {"report": csv, "all": [pdf, csv]},
        [],
    )
    named, failures = check_outputs(
        outputs,
        {
            "report": {"reference": "a.pdf"},
            "all": [{"url": "https://x.example/c.txt?d=1"}],
        },
        [pdf, csv],
    )
    assert (named["report"], failures) == (pdf, [])
    (remote,) = named["all"]
    assert (remote.remote_url, remote.filename, remote.extension) == (
        "https://x.example/c.txt?d=1",
        "c.txt",
        ".txt",
    )
    _, failures = check_outputs(outputs, {"report": {"url": "file:///etc"}}, [])
    assert describe_failures(failures) == "report: expected file, got object"


@pytest.mark.parametrize(
    ("type_name", "fitting", "other"),
    [
        ("string", "", 1),
        ("number", 1.5, True),
        ("boolean", False, 0),
        ("object", {}, []),
        ("array", [{}], {}),
        ("hologram", None, 1),
    ],
)
def test_values_of_another_type_do_not_fit(type_name: str, fitting: Any, other: Any):
    outputs = outputs_of({"name": "x", "type": type_name, "required": False})
    assert check_outputs(outputs, {"x": fitting}, []) == ({"x": fitting}, [])
    values, failures = check_outputs(outputs, {"x": other}, [])
    assert (values, len(failures)) == ({"x": None}, 1)
    assert check_outputs(outputs, None, []) == ({"x": None}, [])


def test_the_retries_of_the_most_patient_output_count():
    def failing(name: str, **strategy: Any) -> OutputFailure:
        (declared,) = outputs_of({"name": name, "failure_strategy": strategy})
        return OutputFailure(declared=declared, reason="it is missing")

    first = failing("a", retry={"enabled": True, "max_retries": 1})
    second = failing(
        "b",
        retry={"enabled": True, "max_retries": 99, "retry_interval_ms": 250},
        on_failure="default_value",
        default_value="x",
    )
    disabled = failing("c", retry={"enabled": False, "max_retries": 50})
    assert retries_of([first, second, disabled]) == (10, 0.25)
    assert retries_of([disabled]) == (0, 0.0)
    assert default_values([second]) == {"b": "x"}
    assert default_values([first, second]) is None


# ------------------------------------------------------------------------ the mentions


@given(st.text())
def test_no_mark_of_the_editor_reaches_a_model(text: str):
    prompt = f"{text}[§tool:a/b/c:The tool§]{text}[§future:x§]"
    expanded = expand_mentions(prompt, lambda mention: "")
    assert expanded.count("The tool") >= 1
    assert not list(mentions_in(expanded))


# --------------------------------------------------------------------- newer versions


def test_a_newer_file_works_but_for_what_is_unknown(bench: Bench):
    app = app_in("newer.yml")
    assert [str(problem) for problem in app.warnings] == [
        "newer.yml:1: Version 0.9.0 is newer than 0.7.0, the newest supported version",
        "newer.yml:4: The section 'snippets' is unknown here and has no effect",
        "newer.yml:20: Node 'Read minds': Nodes of the type 'telepathy' are unknown"
        " here: a run that reaches this node fails",
        "newer.yml:21: Node 'End': The fields colour are unknown here and have no"
        " effect",
    ]
    assert checked_run(bench, app).status.value == "succeeded"
    app = edited(
        "newer.yml",
        (
            "workflow/graph/nodes/1/data/cases/0/conditions/0/comparison_operator",
            "is not",
        ),
    )
    outcome = checked_run(bench, app)
    assert outcome.error == (
        "Nodes of the type 'telepathy' are not supported; the app's file is of a newer"
        " version"
    )


def test_an_unknown_node_of_a_known_version_is_a_problem():
    with pytest.raises(DslError, match="Unknown node type 'telepathy'"):
        edited("newer.yml", ("version", "0.7.0"))


# ----------------------------------------------------------------------- human input

REVIEW = "workflow/graph/nodes/1/data"
KINDS = {"draft": "Dear all", "kinds": {"names": ["letter", "note"]}}


def test_a_form_is_shown_with_its_inputs_actions_and_options(bench: Bench):
    outcome = checked_run(bench, app_in("human-input.yml"), inputs=KINDS)
    assert outcome.status.value == "paused"
    (form,) = bench.forms.asked.values()
    assert form["form_content"].startswith("Draft: Dear all")
    assert [(field["type"], field.get("options")) for field in form["inputs"]] == [
        ("paragraph", None),
        ("select", ["letter", "note"]),
        ("file", None),
        ("file-list", None),
    ]
    assert form["resolved_default_values"] == {"note": "fine"}
    assert [action["id"] for action in form["actions"]] == ["approve", "reject"]
    assert HumanInputNode is type(app_in("human-input.yml").graph().nodes["review"])


def test_a_submitted_form_gives_values_and_files(bench: Bench):
    proof = File(
        type="image", transfer_method="remote_url", filename="a.png",
        remote_url="https://x.example/a.png",
    )  # fmt: skip
    bench.forms.answers["review"] = {
        "action": "approve",
        "inputs": {
            "note": "ok",
            "kind": "letter",
            "proof": proof.to_object(),
            "annexes": [proof.to_object()],
        },
    }
    outcome = checked_run(bench, app_in("human-input.yml"), inputs=KINDS)
    assert outcome.outputs["proof"] == "a.png"
    assert outcome.outputs["annexes"][0]["remote_url"] == "https://x.example/a.png"
    assert (outcome.outputs["note"], outcome.outputs["kind"]) == ("ok", "letter")


@pytest.mark.parametrize(
    ("answer", "outputs"),
    [
        ({"action": "reject", "inputs": {}}, {"by": "Reject"}),
        ({"expired": 1.0}, {"draft": "Dear all"}),
    ],
)
def test_a_form_continues_on_the_branch_of_its_answer(
    bench: Bench, answer: dict[str, Any], outputs: dict[str, Any]
):
    bench.forms.answers["review"] = answer
    outcome = checked_run(bench, app_in("human-input.yml"), inputs=KINDS)
    assert outcome.outputs == outputs


def test_ways_to_deliver_a_form_that_do_not_work_are_named():
    app = app_in("human-input.yml")
    assert [problem.message for problem in app.warnings_with("")] == [
        "The form is not sent by slack; people see it where the app is used",
        "The form is not sent to a member of the workspace that exported the app,"
        " unless an account here has the same id; give addresses instead",
    ]
    problem = "Mail is not set up: set mail.host"
    assert [warning.message for warning in app.warnings_with(problem)][2:] == [
        "The form is not sent by e-mail to ada@shop.example; people see it where the app"
        f" is used. {problem}"
    ]
    methods = [{"type": "email", "config": {"recipients": {"whole_workspace": True}}}]
    app = edited("human-input.yml", (f"{REVIEW}/delivery_methods", methods))
    assert app.warnings_with("") == []
    (warning,) = app.warnings
    assert warning.message == (
        "The form is not sent by e-mail to all members of the workspace; no other way"
        " was chosen, so people see it where the app is used only"
    )
    assert edited("human-input.yml", (f"{REVIEW}/delivery_methods", [])).warnings == []
