"""Tests for apps as A2A agents: both revisions, with errors.

Each response is validated against the official types.
"""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from a2a.compat.v0_3 import types as old
from tools.show.app_api import apps
from tools.show.app_clients import serving
from tools.show.proof import ROOT

from tests.gateway.a2a_official import hold, hold_card

pytestmark = pytest.mark.proof("a2a")


class Agent:
    def __init__(self, served_apps: dict[str, str]) -> None:
        self.origin = served_apps["base"].removesuffix("/v1")
        self.served_apps = served_apps
        self.admin = httpx.Client(base_url=f"{self.origin}/admin/v1/apps", timeout=30)
        self.ids = {app["name"]: app["id"] for app in self.admin.get("").json()["data"]}

    def post(self, app: str, content: Any, key: str = "") -> httpx.Response:
        headers = {
            "authorization": f"Bearer {key or self.served_apps[app]}",
            "content-type": "application/json",
        }
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        return httpx.post(
            f"{self.origin}/a2a/{self.ids[app]}",
            content=data,
            headers=headers,
            timeout=30,
        )

    def call(self, app: str, method: str, **params: Any) -> Any:
        request = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        response = self.post(app, request)
        assert response.status_code == 200
        body = response.json()
        assert (body["jsonrpc"], body["id"]) == ("2.0", 7)
        hold(method, body)
        return body.get("result") or body["error"]

    def stream(self, app: str, method: str, **params: Any) -> list[Any]:
        response = self.post(
            app, {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        )
        events = [
            json.loads(line[6:])
            for line in response.text.splitlines()
            if line.startswith("data: ")
        ]
        for event in events:
            hold(method, event)
        return [event["result"] for event in events]


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with serving(apps()) as served_apps:
        a2a_agent = Agent(served_apps)
        yield a2a_agent
        a2a_agent.admin.close()


def text(message_text: str, **extra_fields: Any) -> dict[str, Any]:
    return {
        "messageId": "m",
        "role": "user",
        "parts": [{"kind": "text", "text": message_text}],
        **extra_fields,
    }


def test_clients_of_revision_0_3_are_served(agent: Agent):
    task = agent.call("chat", "message/send", message=text("hello"))
    assert (task["kind"], task["status"]["state"]) == ("task", "completed")
    assert task["artifacts"][0]["parts"] == [
        {"kind": "text", "text": "Answer to: hello"}
    ]
    events = agent.stream(
        "chat", "message/stream", message=text("again", contextId=task["contextId"])
    )
    assert [event["kind"] for event in events][:1] == ["task"]
    assert {event["kind"] for event in events[1:-1]} == {"artifact-update"}
    assert (events[-1]["kind"], events[-1]["final"], events[-1]["status"]["state"]) == (
        "status-update",
        True,
        "completed",
    )
    stored_task = agent.call("chat", "tasks/get", id=task["id"])
    assert stored_task["artifacts"] == task["artifacts"]
    assert (
        agent.stream("chat", "tasks/resubscribe", id=task["id"])[-1]["status"]["state"]
        == "completed"
    )


def test_a_non_blocking_task_is_polled(agent: Agent):
    params = {"message": text("hello"), "configuration": {"returnImmediately": True}}
    task = agent.call("chat", "SendMessage", **params)["task"]
    assert task["status"]["state"] == "TASK_STATE_WORKING"
    agent.stream("chat", "SubscribeToTask", id=task["id"])
    assert (
        agent.call("chat", "GetTask", id=task["id"])["status"]["state"]
        == "TASK_STATE_COMPLETED"
    )


def test_files_and_data_are_passed_on(agent: Agent):
    raw = {
        "raw": base64.b64encode(b"hello").decode(),
        "filename": "a.txt",
        "mediaType": "text/plain",
    }
    data = {"kind": "data", "data": {"n": 3.0}}
    file = {
        "kind": "file",
        "file": {"uri": "https://files.example/a.pdf", "mimeType": "application/pdf"},
    }
    message = {"messageId": "m", "role": "ROLE_USER", "parts": [raw, data, file]}
    task = agent.call("workflow", "SendMessage", message=message)["task"]
    assert task["artifacts"][0]["parts"] == [{"text": "3:[]"}]
    run = agent.served_apps["workflow"]
    stored_run = httpx.get(
        f"{agent.origin}/v1/workflows/run/{task['id']}",
        headers={"authorization": f"Bearer {run}"},
    ).json()
    assert stored_run["status"] == "succeeded"


def test_a_paused_task_describes_its_form_and_accepts_text(
    agent: Agent,
):
    task = agent.call("form", "SendMessage", message=text("go"))["task"]
    parts = task["status"]["message"]["parts"]
    assert (task["status"]["state"], parts[0]["text"]) == (
        "TASK_STATE_INPUT_REQUIRED",
        "Go on?",
    )
    assert parts[1]["data"] == {
        "inputs": ["note"],
        "actions": [{"id": "yes", "title": "Yes"}],
    }
    completed_task = agent.call(
        "form", "SendMessage", message=text("that is fine", taskId=task["id"])
    )["task"]
    assert completed_task["artifacts"][0]["parts"] == [{"text": "that is fine"}]
    error_reply = agent.call(
        "form", "SendMessage", message=text("yes", taskId=task["id"])
    )
    assert (
        error_reply["code"],
        "is not waiting for input" in error_reply["message"],
    ) == (
        -32004,
        True,
    )


def test_the_card_is_public_if_the_page_is(agent: Agent):
    url = f"{agent.origin}/a2a/{agent.ids['talking']}"
    auth_headers = {"authorization": f"Bearer {agent.served_apps['talking']}"}
    card = httpx.get(f"{url}/.well-known/agent-card.json", headers=auth_headers).json()
    hold_card(card)
    assert card["supportedInterfaces"][0] == {
        "url": url,
        "protocolBinding": "JSONRPC",
        "protocolVersion": "1.0",
    }
    assert httpx.get(f"{url}/.well-known/agent-card.json").status_code == 401
    page = agent.admin.patch(
        f"/{agent.ids['talking']}", json={"page": {"is_on": True}}
    ).json()["page"]["url"]
    token = page.rpartition("/")[2]
    public = httpx.get(f"{agent.origin}/a2a/{token}/.well-known/agent-card.json")
    assert (public.status_code, public.json()["url"]) == (200, url)
    assert (
        httpx.post(f"{agent.origin}/a2a/{token}", json={"jsonrpc": "2.0"}).status_code
        == 401
    )


@pytest.mark.case("9.6")
@pytest.mark.parametrize(("body", "code", "expected_text"), [
    (b"{", -32700, "not valid JSON"), ([], -32600, "jsonrpc '2.0'"), ({"jsonrpc": "2.0", "id": 1}, -32600, "'method' is required"),
    ({"jsonrpc": "2.0", "id": 1, "method": "Dance"}, -32601, "'Dance'"),
    ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": []}, -32602, "'params' must be"),
    ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage"}, -32602, "params.message"),
    ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": {"parts": []}}}, -32602, "parts must be"),
    ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": {"parts": [7]}}}, -32602, "parts[0]"),
    ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": {"parts": [{"raw": "%"}]}}}, -32602, "invalid base64"),
    ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": {"parts": [{}]}}}, -32602, "must have text, data, url or raw"),
    ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": text("x", contextId="7")}}, -32602, "Context '7' not found"),
    ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": text("x", taskId="7")}}, -32001, "Task '7' not found"),
    ({"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage", "params": {"message": {"parts": [{"data": {}}]}}}, -32602, "must have a text part"),
    ({"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {}}, -32602, "params.id"),
    ({"jsonrpc": "2.0", "id": 1, "method": "CancelTask", "params": {"id": "7"}}, -32001, "not found"),
    ({"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {"pageSize": 0}}, -32602, "pageSize"),
    ({"jsonrpc": "2.0", "id": 1, "method": "CreateTaskPushNotificationConfig", "params": {}}, -32003, "Push"),
    ({"jsonrpc": "2.0", "id": 1, "method": "tasks/pushNotificationConfig/set", "params": {}}, -32003, "Push"),
    ({"jsonrpc": "2.0", "id": 1, "method": "GetExtendedAgentCard"}, -32004, "extended agent card"),
])  # fmt: skip
def test_errors_have_their_numbers(
    agent: Agent, body: Any, code: int, expected_text: str
):
    answer = agent.post("chat", body).json()
    hold("", answer)
    error = answer["error"]
    assert (error["code"], expected_text in error["message"]) == (code, True), error


def test_tasks_of_other_apps_are_not_found(agent: Agent):
    task = agent.call("chat", "SendMessage", message=text("hello"))["task"]
    assert agent.call("talking", "GetTask", id=task["id"])["code"] == -32001
    assert agent.post("talking", {}, key=agent.served_apps["chat"]).status_code == 401
    assert agent.call("chat", "CancelTask", id=task["id"])["code"] == -32002


def test_messages_of_the_official_0_3_types_are_accepted(agent: Agent):
    parts = [
        old.Part(root=old.DataPart(data={"n": 3})),
        old.Part(root=old.FilePart(file=old.FileWithBytes(bytes="aGVsbG8=", name="a.txt", mime_type="text/plain"))),
        old.Part(root=old.FilePart(file=old.FileWithUri(uri="https://files.example/a.pdf", mime_type="application/pdf"))),
    ]  # fmt: skip
    message = old.Message(message_id="m", role=old.Role.user, parts=parts)
    params = old.MessageSendParams(
        message=message, configuration=old.MessageSendConfiguration(blocking=True)
    )
    task = agent.call(
        "workflow",
        "message/send",
        **params.model_dump(by_alias=True, exclude_none=True, mode="json"),
    )
    assert (task["status"]["state"], task["artifacts"][0]["parts"][0]["text"]) == (
        "completed",
        "3:[]",
    )
    query_params = old.TaskQueryParams(id=task["id"]).model_dump(
        by_alias=True, exclude_none=True
    )
    assert agent.call("workflow", "tasks/get", **query_params)["id"] == task["id"]


@pytest.mark.case("9.6")
def test_the_official_client_is_answered(agent: Agent):
    ids = {f"{name}.id": value for name, value in agent.ids.items()}
    config_json = json.dumps({**agent.served_apps, **ids, "origin": agent.origin})
    script = ROOT / "tools" / "show" / "app_client_scripts" / "calls_a2a.py"
    ended = subprocess.run(
        [sys.executable, str(script), config_json],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    checks = json.loads(ended.stdout)
    assert len(checks) > 10
    assert [check for check in checks if not check[1]] == []
