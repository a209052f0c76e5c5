"""Tests for apps of mode `agent` (format version 0.7.0) behind the service API."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tools.show.app_clients import MODEL, serving

FOLDER = Path(__file__).parents[1] / "data" / "dsl-0.7"


def agent_app(name: str, **soul: Any) -> str:
    """Return an app of mode `agent` with a model that the server has."""
    document = yaml.safe_load((FOLDER / "agent-smallest.yml").read_text("utf-8"))
    document["app"]["name"] = name
    document["agent_packages"]["agent_1"]["soul"] |= {
        "prompt": {"system_prompt": "Be short."},
        "model": {"model_provider": MODEL["provider"], "model": MODEL["name"]},
        **soul,
    }
    return yaml.safe_dump(document)


def workflow_with(agent: str) -> str:
    """Return a workflow that gives its question to another app."""
    document = yaml.safe_load((FOLDER / "agent-by-id.yml").read_text("utf-8"))
    document["app"]["name"] = "caller"
    nodes = document["workflow"]["graph"]["nodes"]
    nodes[1]["data"]["agent_binding"]["agent_id"] = agent
    return yaml.safe_dump(document)


TOOLS = [
    {"provider_type": "builtin", "provider_id": "time", "tool_name": "weekday"},
    {"provider_type": "plugin", "plugin_id": "a/gone", "provider": "gone", "tool_name": "gone"},
]  # fmt: skip
CONTACTS = {"contacts": [{"name": "Ada", "email": "ada@shop.example"}]}
FEATURES = {"opening_statement": "Hello!", "suggested_questions": ["Why?"]}


@pytest.fixture(scope="module")
def served_apps() -> Iterator[dict[str, str]]:
    variables = [{"name": "shop", "type": "string", "required": True}]
    apps = {
        "agent": agent_app("agent", tools={"dify_tools": TOOLS}),
        "asking": agent_app("asking", human=CONTACTS),
        "caller": workflow_with("agent"),
        "toolless": agent_app("toolless", tools={"dify_tools": TOOLS[1:]}),
        "formal": agent_app("formal", app_features=FEATURES, app_variables=variables),
    }
    with serving(apps) as served:
        yield served


def client(served_apps: dict[str, str], app: str) -> httpx.Client:
    return httpx.Client(
        base_url=served_apps["base"],
        headers={"authorization": f"Bearer {served_apps[app]}"},
        timeout=30,
    )


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    return [
        json.loads(line[6:])
        for line in answer.iter_lines()
        if line.startswith("data: ")
    ]


def ask(http: httpx.Client, query: str) -> list[dict[str, Any]]:
    body = {"query": query, "inputs": {}, "user": "ada", "response_mode": "streaming"}
    with http.stream("POST", "/chat-messages", json=body) as answer:
        return events_of(answer)


def test_an_agent_app_streams_messages_and_thoughts(served_apps: dict[str, str]):
    with client(served_apps, "agent") as http:
        assert http.get("/info").json()["mode"] == "agent"
        events = ask(http, "Which day is it?")
        kinds = [event["event"] for event in events]
        assert set(kinds) == {"agent_thought", "message", "message_end"}
        thoughts = [event for event in events if event["event"] == "agent_thought"]
        assert [thought["tool"] for thought in thoughts] == ["weekday", "weekday", ""]
        text = "".join(event.get("answer", "") for event in events)
        assert text.startswith("Answer to:")
        # The second question is part of the same conversation.
        body = {
            "query": "And now?", "user": "ada", "response_mode": "blocking", "inputs": {},
            "conversation_id": events[0]["conversation_id"],
        }  # fmt: skip
        answer = http.post("/chat-messages", json=body).json()
        assert answer["mode"] == "agent" or answer["answer"]
        messages = http.get(
            "/messages",
            params={"conversation_id": body["conversation_id"], "user": "ada"},
        ).json()["data"]
        assert [message["query"] for message in messages] == [
            "Which day is it?",
            "And now?",
        ]


@pytest.mark.parametrize("mode", ["blocking", "streaming"])
def test_an_agent_app_without_any_of_its_tools_says_so(
    served_apps: dict[str, str], mode: str
):
    body = {"query": "Hi", "user": "ada", "response_mode": mode, "inputs": {}}
    with client(served_apps, "toolless") as http:
        answer = http.post("/chat-messages", json=body)
    if mode == "blocking":
        assert answer.status_code == 400
        error = answer.json()
    else:
        error = events_of(answer)[-1]
        assert error["event"] == "error"
    assert (error["status"], error["code"]) == (400, "completion_request_error")
    assert error["message"].startswith("None of the agent's tools is available: gone (")


def test_the_form_and_the_features_of_an_agent_app(served_apps: dict[str, str]):
    with client(served_apps, "formal") as http:
        parameters = http.get("/parameters").json()
        assert parameters["opening_statement"] == "Hello!"
        assert parameters["suggested_questions"] == ["Why?"]
        assert parameters["file_upload"]["number_limits"] == 3
        ((kind, control),) = parameters["user_input_form"][0].items()
        assert (kind, control["variable"], control["required"]) == (
            "text-input",
            "shop",
            True,
        )
        body = {"query": "Hi", "inputs": {}, "user": "ada"}
        refused = http.post("/chat-messages", json=body)
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_param")


def test_an_agent_app_asks_a_person_through_the_service_api(
    served_apps: dict[str, str],
):
    with client(served_apps, "asking") as http:
        events = ask(http, "May I?")
        (form,) = [
            event for event in events if event["event"] == "human_input_required"
        ]
        token = form["data"]["form_token"]
        shown = http.get(f"/form/human_input/{token}").json()
        assert shown["user_actions"][0]["id"] == "sample"
        filled = http.post(
            f"/form/human_input/{token}",
            json={"action": "sample", "inputs": {"sample": "Yes."}, "user": "boss"},
        )
        assert filled.status_code == 200
        run = form["workflow_run_id"]
        with http.stream(
            "GET", f"/workflow/{run}/events", params={"user": "ada"}
        ) as answer:
            events = events_of(answer)
        assert events[-1]["event"] == "message_end"
        text = "".join(event.get("answer", "") for event in events)
        assert "submitted" in text


def test_a_workflow_gives_a_task_to_an_agent_app(served_apps: dict[str, str]):
    with client(served_apps, "caller") as http:
        body = {
            "inputs": {"question": "Which day is it?"},
            "user": "ada",
            "response_mode": "blocking",
        }
        run = http.post("/workflows/run", json=body).json()["data"]
        assert (run["status"], run["error"]) == ("succeeded", None)
        # The agent has used its tool, and has answered.
        assert run["outputs"]["answer"].startswith("Answer to:")
