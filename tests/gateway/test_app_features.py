"""Tests for app features around runs: agents, annotations, content moderation.

Requests go through the service API.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from tools.show.app_clients import MODEL, serving

from modelyard.app import Modelyard
from modelyard.knowledge.entities import DatasetSettings, Technique
from modelyard.testing.workflows import ScriptedModel


def _simple(mode: str, **config: Any) -> str:
    model_config = {
        "model": MODEL,
        "pre_prompt": "Be short.",
        "user_input_form": [],
        **config,
    }
    return yaml.dump(
        {
            "kind": "app",
            "version": "0.6.0",
            "app": {"name": mode, "mode": mode},
            "model_config": model_config,
        }
    )


def _words(part: str, preset: str) -> dict[str, Any]:
    return {
        "enabled": True, "type": "keywords",
        "config": {"keywords": "Geheim\nverboten", part: {"enabled": True, "preset_response": preset}},
    }  # fmt: skip


DATASET = "notes"
MODEL_DOUBLE = ScriptedModel(
    answers=[
        (
            "(?s)User: What is a quay.*Assistant:",
            'Sure:\n["A?", 2, " ", "B?", "C?", "D?"]',
        ),
        ("(?s)User: Say nothing.*Assistant:", "I have no questions."),
    ],
    delay=0.002,
)


async def _add_dataset(yard: Modelyard) -> None:
    """Add a dataset that answers by its words."""
    settings = DatasetSettings(indexing_technique=Technique.ECONOMY)
    dataset = await yard.knowledge.datasets.create(
        "default", DATASET, settings=settings
    )
    text = "A quay is a wall at which ships are loaded."
    [document] = await yard.knowledge.datasets.add_texts(dataset, [("quay.md", text)])
    await yard.knowledge.datasets.wait(dataset, document.batch, timeout=60)


def _retrieving(**features: Any) -> str:
    """Return a chat app that answers from the dataset."""
    graph = {
        "nodes": [
            {"id": "start", "data": {"type": "start", "title": "s"}},
            {"id": "search", "data": {
                "type": "knowledge-retrieval", "title": "k", "query_variable_selector": ["sys", "query"],
                "dataset_ids": [DATASET], "retrieval_mode": "multiple", "multiple_retrieval_config": {"top_k": 2},
            }},
            {"id": "llm", "data": {
                "type": "llm", "title": "l", "model": MODEL,
                "context": {"enabled": True, "variable_selector": ["search", "result"]},
                "prompt_template": [{"role": "user", "text": "{{#context#}} {{#sys.query#}}"}],
            }},
            {"id": "answer", "data": {"type": "answer", "title": "a", "answer": "{{#llm.text#}}"}},
        ],
        "edges": [
            {"source": source, "target": target}
            for source, target in (("start", "search"), ("search", "llm"), ("llm", "answer"))
        ],
    }  # fmt: skip
    app = {"name": "retrieving", "mode": "advanced-chat"}
    workflow = {"graph": graph, "features": features}
    return yaml.dump(
        {"kind": "app", "version": "0.6.0", "app": app, "workflow": workflow}
    )


TOOLS = [
    {
        "enabled": True,
        "provider_type": "builtin",
        "provider_id": "time",
        "tool_name": "weekday",
        "tool_parameters": {},
    },
    {
        "enabled": True,
        "provider_type": "builtin",
        "provider_id": "gone",
        "tool_name": "gone",
        "tool_parameters": {},
    },
]


@pytest.fixture(scope="module")
def served_apps() -> Iterator[dict[str, str]]:
    apps = {
        "agent": _simple("agent-chat", agent_mode={"enabled": True, "strategy": "function_call", "tools": TOOLS}),
        "guarded": _simple("chat", sensitive_word_avoidance=_words("inputs_config", "We do not speak of that.")),
        "careful": _simple("chat", sensitive_word_avoidance=_words("outputs_config", "Better not.")),
        "annotated": _simple("chat"),
        "guarded_completion": _simple(
            "completion", pre_prompt="{{query}}",
            sensitive_word_avoidance=_words("inputs_config", "No."),
            user_input_form=[{"paragraph": {"variable": "query", "label": "Query", "required": True}}],
        ),
    }  # fmt: skip
    apps |= {
        "suggesting": _simple("chat", suggested_questions_after_answer={"enabled": True}),
        "suggesting_by_model": _simple(
            "chat",
            opening_statement="Hello {{name}}, {{nobody}}!",
            suggested_questions_after_answer={
                "enabled": True,
                "prompt": "Suggest as a pirate would.",
                "model": {"provider": "openai", "name": "gpt-4o", "mode": "chat", "completion_params": {"temperature": 0.1, "stop": ["x"]}},
            },
        ),
        "moderated_by_model": _simple(
            "chat",
            sensitive_word_avoidance={
                "enabled": True, "type": "openai_moderation",
                "config": {"inputs_config": {"enabled": True, "preset_response": "Not here."}},
            },
        ),
        "sources_shown": _retrieving(),
        "sources_hidden": _retrieving(retriever_resource={"enabled": False}),
    }  # fmt: skip
    with serving(apps, model=MODEL_DOUBLE, prepare=_add_dataset) as served:
        yield served


class Caller:
    def __init__(self, served_apps: dict[str, str], app: str) -> None:
        self.http = httpx.Client(
            base_url=served_apps["base"],
            headers={"authorization": f"Bearer {served_apps[app]}"},
            timeout=30,
        )

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *details: object) -> None:
        self.http.close()

    def ask(self, query: str, **extra_fields: Any) -> list[dict[str, Any]]:
        body = {
            "query": query,
            "inputs": {},
            "user": "ada",
            "response_mode": "streaming",
            **extra_fields,
        }
        with self.http.stream("POST", "/chat-messages", json=body) as answer:
            return [
                json.loads(line[6:])
                for line in answer.iter_lines()
                if line.startswith("data: ")
            ]

    def end_of(self, query: str) -> dict[str, Any]:
        """Return the event that ends the message; a chatflow sends more after it."""
        events = self.ask(query)
        return next(event for event in events if event["event"] == "message_end")

    def ask_blocking(self, query: str, **extra: Any) -> dict[str, Any]:
        common = {"inputs": {}, "user": "ada", "response_mode": "blocking"}
        body = {"query": query, **common, **extra}
        return self.http.post("/chat-messages", json=body).json()


def test_an_agent_streams_and_stores_messages_and_thoughts(
    served_apps: dict[str, str],
):
    with Caller(served_apps, "agent") as caller:
        events = caller.ask("Which day is it?")
        kinds = [event["event"] for event in events]
        assert kinds[-1] == "message_end"
        assert set(kinds) == {"agent_thought", "agent_message", "message_end"}
        thoughts = [event for event in events if event["event"] == "agent_thought"]
        assert [(thought["position"], thought["tool"], bool(thought["observation"])) for thought in thoughts] == [
            (1, "weekday", False), (1, "weekday", True), (2, "", False),
        ]  # fmt: skip
        assert "is a" in json.loads(thoughts[1]["observation"])["weekday"]
        answer_text = "".join(
            event["answer"] for event in events if event["event"] == "agent_message"
        )
        assert answer_text.startswith("Answer to:")
        conversation = events[0]["conversation_id"]
        [message] = caller.http.get(
            "/messages", params={"conversation_id": conversation, "user": "ada"}
        ).json()["data"]
        assert message["answer"] == answer_text
        assert [
            (thought["position"], thought["tool"])
            for thought in message["agent_thoughts"]
        ] == [(1, "weekday"), (2, "")]


def test_an_agent_is_served_over_ag_ui(served_apps: dict[str, str]):
    with Caller(served_apps, "agent") as caller:
        body: dict[str, Any] = {
            "threadId": "mine", "runId": "run-1", "state": {}, "tools": [], "context": [], "forwardedProps": {"user": "ada"},
            "messages": [{"id": "1", "role": "user", "content": "Which day is it?"}],
        }  # fmt: skip
        with caller.http.stream("POST", "/ag-ui", json=body) as answer:
            events = [
                json.loads(line[6:])
                for line in answer.iter_lines()
                if line.startswith("data: ")
            ]
        kinds = [event["type"] for event in events]
        assert (kinds[0], kinds[-1]) == ("RUN_STARTED", "RUN_FINISHED")
        assert events[-1]["runId"] == "run-1"
        for start_event, end in (
            ("STEP_STARTED", "STEP_FINISHED"),
            ("TEXT_MESSAGE_START", "TEXT_MESSAGE_END"),
            ("TOOL_CALL_START", "TOOL_CALL_END"),
        ):
            assert kinds.count(start_event) == kinds.count(end) > 0
        assert kinds.index("TOOL_CALL_RESULT") < kinds.index("TEXT_MESSAGE_START")
        assert "".join(
            event["delta"]
            for event in events
            if event["type"] == "TEXT_MESSAGE_CONTENT"
        ).startswith("Answer to:")
        thread = events[0]["threadId"]
        body |= {
            "threadId": thread,
            "messages": [
                {
                    "id": "2",
                    "role": "user",
                    "content": [{"type": "text", "text": "And now?"}],
                }
            ],
        }
        with caller.http.stream("POST", "/ag-ui", json=body) as answer:
            next_events = [
                json.loads(line[6:])
                for line in answer.iter_lines()
                if line.startswith("data: ")
            ]
        assert next_events[0]["threadId"] == thread  # same conversation
        refused = caller.http.post(
            "/ag-ui", json={"threadId": "x", "runId": "y", "messages": []}
        )
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_param")


def test_moderation_of_chat_inputs(served_apps: dict[str, str]):
    with Caller(served_apps, "guarded") as caller:
        events = caller.ask("Tell me the GEHEIM word")
        assert [(event["event"], event.get("answer")) for event in events] == [
            ("message", "We do not speak of that."), ("message_end", None),
        ]  # fmt: skip
        assert caller.ask_blocking("something else")["answer"].startswith("Answer to:")
        assert (
            caller.ask_blocking("das ist verboten")["answer"]
            == "We do not speak of that."
        )


def test_moderation_of_completion_inputs(served_apps: dict[str, str]):
    with Caller(served_apps, "guarded_completion") as caller:
        body = {
            "inputs": {"query": "geheim"},
            "user": "ada",
            "response_mode": "blocking",
        }
        assert (
            caller.http.post("/completion-messages", json=body).json()["answer"]
            == "No."
        )


def test_moderation_of_outputs(served_apps: dict[str, str]):
    with Caller(served_apps, "careful") as caller:
        events = caller.ask("say geheim please")
        replaced = [event for event in events if event["event"] == "message_replace"]
        assert [event["answer"] for event in replaced] == ["Better not."]
        assert events[-1]["event"] == "message_end"
        conversation = events[0]["conversation_id"]
        [message] = caller.http.get(
            "/messages", params={"conversation_id": conversation, "user": "ada"}
        ).json()["data"]
        assert message["answer"] == "Better not."


def test_annotations_answer_without_a_model(served_apps: dict[str, str]):
    with Caller(served_apps, "annotated") as caller:
        response = caller.http.post(
            "/apps/annotations",
            json={"question": "When do you open?", "answer": "At nine."},
        )
        assert response.status_code == 201
        row = response.json()["id"]
        # Annotation replies are not enabled yet.
        assert caller.ask_blocking("When do you open?")["answer"].startswith(
            "Answer to:"
        )
        settings = {
            "embedding_provider_name": "",
            "embedding_model_name": "",
            "score_threshold": 0.8,
        }
        job = caller.http.post("/apps/annotation-reply/enable", json=settings).json()
        status = caller.http.get(
            f"/apps/annotation-reply/enable/status/{job['job_id']}"
        ).json()
        assert status["job_status"] == "completed", status
        events = caller.ask("At what time do you open?")
        assert events[0]["answer"] == "At nine."
        assert events[-1]["metadata"]["annotation_reply"]["id"] == row
        assert caller.ask_blocking("How tall is the Eiffel tower?")[
            "answer"
        ].startswith("Answer to:")
        listed = caller.http.get("/apps/annotations", params={"keyword": "OPEN"}).json()
        assert (listed["total"], listed["data"][0]["hit_count"]) == (1, 1)
        changed = caller.http.put(
            f"/apps/annotations/{row}",
            json={"question": "When do you close?", "answer": "At six."},
        )
        assert changed.json()["answer"] == "At six."
        assert caller.ask_blocking("when do you close?")["answer"] == "At six."
        caller.http.post("/apps/annotation-reply/disable", json={})
        assert caller.ask_blocking("when do you close?")["answer"].startswith(
            "Answer to:"
        )
        assert caller.http.delete(f"/apps/annotations/{row}").status_code == 204
        _check_invalid_annotations(caller, row)
    # Annotations belong to one app.
    with Caller(served_apps, "guarded") as other_caller:
        assert other_caller.http.get("/apps/annotations").json()["total"] == 0


def _check_invalid_annotations(caller: Caller, row: str) -> None:
    """Invalid requests, and those for a deleted annotation, are refused."""
    assert caller.http.delete(f"/apps/annotations/{row}").json()["code"] == "not_found"
    assert (
        caller.http.post("/apps/annotations", json={"question": " "}).json()["code"]
        == "invalid_param"
    )
    assert caller.http.post("/apps/annotation-reply/maybe", json={}).status_code == 400
    assert (
        caller.http.post(
            "/apps/annotation-reply/enable", json={"score_threshold": 7}
        ).status_code
        == 400
    )
    assert (
        caller.http.get("/apps/annotation-reply/enable/status/none").status_code == 400
    )


def test_a_new_conversation_is_named_by_the_model(served_apps: dict[str, str]):
    with Caller(served_apps, "annotated") as caller:
        first = caller.ask_blocking("Where do the swallows go in winter?", user="namer")
        for _ in range(100):
            [conversation] = caller.http.get(
                "/conversations", params={"user": "namer"}
            ).json()["data"]
            if conversation["name"].startswith("Answer to:"):
                break
            time.sleep(0.05)
        assert conversation["id"] == first["conversation_id"]
        assert conversation["name"].startswith("Answer to:")
        caller.ask_blocking("Unnamed, please.", user="quiet", auto_generate_name=False)
        time.sleep(0.3)
        [conversation] = caller.http.get(
            "/conversations", params={"user": "quiet"}
        ).json()["data"]
        assert conversation["name"] == "Unnamed, please."


def test_a_moderation_model_checks_inputs(served_apps: dict[str, str]):
    with Caller(served_apps, "moderated_by_model") as caller:
        flagged = caller.ask_blocking("I am going to kill you and your family tonight.")
        assert flagged["answer"] == "Not here."
        answered = caller.ask_blocking("What a lovely garden you have.")
        assert answered["answer"].startswith("Answer to:")


# ----------------------------------------------------------------- what follows an answer


def _suggested(caller: Caller, message: str) -> httpx.Response:
    return caller.http.get(f"/messages/{message}/suggested", params={"user": "ada"})


def test_next_questions_are_suggested_from_the_conversation(
    served_apps: dict[str, str],
):
    with Caller(served_apps, "suggesting") as caller:
        answer = caller.ask_blocking("What is a quay?")
        MODEL_DOUBLE.requests.clear()
        suggested = _suggested(caller, answer["message_id"]).json()
        # Three at most, and only texts.
        assert suggested == {"result": "success", "data": ["A?", "B?", "C?"]}
        [request] = MODEL_DOUBLE.requests
        assert "JSON array" in request.messages[0].text
        silent = caller.ask_blocking("Say nothing.")
        assert _suggested(caller, silent["message_id"]).json()["data"] == []
    with Caller(served_apps, "guarded") as caller:
        answer = caller.ask_blocking("hello")
        refused = _suggested(caller, answer["message_id"])
        assert refused.json()["code"] == "bad_request"


def test_the_file_names_the_prompt_and_the_model_of_suggestions(
    served_apps: dict[str, str],
):
    with Caller(served_apps, "suggesting_by_model") as caller:
        first = caller.ask_blocking("Say nothing. First.")
        second = caller.ask_blocking(
            "What is a quay?", conversation_id=first["conversation_id"]
        )
        MODEL_DOUBLE.requests.clear()
        assert len(_suggested(caller, second["message_id"]).json()["data"]) == 3
        [request] = MODEL_DOUBLE.requests
        assert request.messages[0].text.startswith("Suggest as a pirate would.")
        # The messages before belong to the exchange, oldest first.
        exchange = request.messages[1].text
        assert exchange.index("Say nothing. First.") < exchange.index("What is a quay?")
        assert request.model_parameters["temperature"] == 0.1
        assert not request.stop
        # A message that came later does not.
        assert _suggested(caller, first["message_id"]).json()["data"] == []
        assert "quay" not in MODEL_DOUBLE.requests[-1].messages[1].text


def test_a_conversation_begins_with_the_opening_statement(served_apps: dict[str, str]):
    with Caller(served_apps, "suggesting_by_model") as caller:
        caller.ask_blocking("Hello.", user="eve", inputs={"name": "{{nobody}}"})
        [conversation] = caller.http.get(
            "/conversations", params={"user": "eve"}
        ).json()["data"]
        # A placeholder inside of an input stays a text.
        assert conversation["introduction"] == "Hello {{nobody}}, {{nobody}}!"


def test_sources_are_shown_unless_the_file_switches_them_off(
    served_apps: dict[str, str],
):
    with Caller(served_apps, "sources_shown") as caller:
        end = caller.end_of("Where are ships loaded?")
        [source] = end["metadata"]["retriever_resources"]
        assert (source["position"], source["document_name"]) == (1, "quay.md")
        conversation = end["conversation_id"]
        [message] = caller.http.get(
            "/messages", params={"conversation_id": conversation, "user": "ada"}
        ).json()["data"]
        assert [row["position"] for row in message["retriever_resources"]] == [1]
    with Caller(served_apps, "sources_hidden") as caller:
        MODEL_DOUBLE.requests.clear()
        end = caller.end_of("Where are ships loaded?")
        assert end["metadata"]["retriever_resources"] == []
        # The model still gets them.
        assert "A quay is a wall" in MODEL_DOUBLE.requests[-1].messages[-1].text
        conversation = end["conversation_id"]
        [message] = caller.http.get(
            "/messages", params={"conversation_id": conversation, "user": "ada"}
        ).json()["data"]
        assert message["retriever_resources"] == []
        parameters = caller.http.get("/parameters").json()
        assert parameters["retriever_resource"] == {"enabled": False}


def test_annotation_replies_are_configured_by_either_api(served_apps: dict[str, str]):
    origin = served_apps["base"].removesuffix("/v1")
    with (
        Caller(served_apps, "annotated") as caller,
        httpx.Client(base_url=f"{origin}/admin/v1/apps/annotated", timeout=30) as admin,
    ):
        off = {"enabled": False}
        assert admin.put("/annotation-reply", json=off).status_code == 200
        assert caller.http.get("/parameters").json()["annotation_reply"] == off
        settings = {
            "enabled": True,
            "score_threshold": 0.5,
            "embedding_model": "local/embeddings",
        }
        # Without annotations there is nothing to embed.
        assert admin.put("/annotation-reply", json=settings).json() == settings
        assert admin.get("/annotation-reply").json() == settings
        assert caller.http.get("/parameters").json()["annotation_reply"] == {
            "enabled": True,
            "score_threshold": 0.5,
            "embedding_model": {
                "embedding_provider_name": "local",
                "embedding_model_name": "embeddings",
            },
        }
        added = admin.post("/annotations", json={"question": "Q?", "answer": "A."})
        path = f"/annotations/{added.json()['id']}"
        changed = admin.patch(path, json={"question": "Quay?", "answer": "B."}).json()
        assert (changed["question"], changed["answer"]) == ("Quay?", "B.")
        # Now the model is needed, and it does not exist: nothing changes.
        failed = admin.put("/annotation-reply", json={"score_threshold": 0.7})
        assert failed.status_code == 404, failed.text
        assert admin.get("/annotation-reply").json() == settings
        for body in ({"score_threshold": 2}, {"score_threshold": True}):
            refused = admin.put("/annotation-reply", json=body)
            assert "must be a number from 0 to 1" in refused.json()["error"]["message"]
        assert admin.patch("/annotations/none", json={}).status_code == 400
        admin.delete(path)
        admin.put("/annotation-reply", json={**off, "embedding_model": ""})


def test_a_job_is_known_to_every_server(served_apps: dict[str, str]):
    """The result is stored, so another process reports it too; for its app alone."""
    with Caller(served_apps, "annotated") as caller:
        job = caller.http.post("/apps/annotation-reply/disable", json={}).json()
        path = f"/apps/annotation-reply/disable/status/{job['job_id']}"
        assert caller.http.get(path).json()["job_status"] == "completed"
        with Caller(served_apps, "guarded") as other:
            assert other.http.get(path).status_code == 400
