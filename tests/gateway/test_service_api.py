"""Tests for the service API over HTTP.

Streams, blocking responses, conversations, files and forms.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from tools.show.app_clients import serving

from tests.workflow.building import MODEL, document


@pytest.fixture(scope="module")
def served_apps() -> Iterator[dict[str, str]]:
    form_app = document(
        {
            "start": {"type": "start", "variables": [{"variable": "q", "type": "text-input", "required": True}]},
            "ask": {
                "type": "human-input", "form_content": "May {{#start.q#}} go on? {{#$output.note#}}", "timeout": 1,
                "inputs": [{"type": "paragraph", "output_variable_name": "note"}],
                "user_actions": [{"id": "yes", "title": "Yes"}, {"id": "no", "title": "No"}],
            },
            "good": {"type": "end", "outputs": [{"variable": "note", "value_selector": ["ask", "note"]}]},
            "bad": {"type": "end", "outputs": [{"variable": "refused", "value_selector": ["ask", "__action_id"]}]},
        },
        ["start > ask", "ask:yes > good", "ask:no > bad"],
    )  # fmt: skip
    failing = document(
        {
            "start": {"type": "start"},
            "c": {
                "type": "code",
                "code": "def main():\n    raise ValueError('no luck')",
                "outputs": {},
            },
        },
        ["start > c"],
    )
    remembering = document(
        {
            "start": {"type": "start"},
            "count": {"type": "assigner", "version": "2", "items": [{"variable_selector": ["conversation", "n"], "input_type": "constant", "operation": "+=", "value": 1}]},
            "llm": {"type": "llm", "model": MODEL, "memory": {"window": {"enabled": False}}, "prompt_template": [{"role": "system", "text": "x"}]},
            "answer": {"type": "answer", "answer": "{{#conversation.n#}}: {{#llm.text#}}"},
        },
        ["start > count", "count > llm", "llm > answer"], mode="advanced-chat",
        conversation_variables=[{"name": "n", "value": 0, "value_type": "number", "description": "how often"}],
    )  # fmt: skip
    restricted = document(
        {
            "start": {"type": "start", "variables": [{"variable": "doc", "type": "file", "allowed_file_types": ["document"], "allowed_file_upload_methods": ["local_file"]}]},
            "end": {"type": "end", "outputs": [{"variable": "d", "value_selector": ["start", "doc"]}]},
        },
        ["start > end"],
    )  # fmt: skip
    broken_chat = {**failing, "app": {"name": "x", "mode": "advanced-chat"}}
    documents = {
        "form": form_app,
        "failing": failing,
        "restricted": restricted,
        "remembering": remembering,
        "broken_chat": broken_chat,
    }
    with serving(
        {
            name: yaml.dump(app_document, allow_unicode=True)
            for name, app_document in documents.items()
        }
    ) as served:
        yield served


_open: list[httpx.Client] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()


class Caller:
    def __init__(self, served_apps: dict[str, str], app: str) -> None:
        self.http = httpx.Client(
            base_url=served_apps["base"],
            headers={"authorization": f"Bearer {served_apps[app]}"},
            timeout=30,
        )
        _open.append(self.http)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def get(self, path: str, **query: Any) -> Any:
        return self.http.get(path, params=query).json()

    def events(self, path: str, **body: Any) -> list[dict[str, Any]]:
        with self.http.stream(
            "POST", path, json={**body, "response_mode": "streaming"}
        ) as answer:
            return _events(answer)


def _events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [
        json.loads(line[6:])
        for line in answer.iter_lines()
        if line.startswith("data: ")
    ]


def test_a_workflow_streams_its_nodes_and_its_end(served_apps: dict[str, str]):
    events = Caller(served_apps, "workflow").events(
        "/workflows/run", inputs={"n": 3}, user="u"
    )
    kinds = [event["event"] for event in events]
    assert kinds[0] == "workflow_started"
    assert kinds[-1] == "workflow_finished"
    started = [event["data"] for event in events if event["event"] == "node_started"]
    assert [node["node_id"] for node in started] == ["start", "read", "text", "end"]
    assert [node["index"] for node in started] == [1, 2, 3, 4]
    end = events[-1]["data"]
    assert (end["status"], end["outputs"], end["total_steps"]) == (
        "succeeded",
        {"r": "3:[]"},
        4,
    )
    assert {event["task_id"] for event in events} == {events[0]["workflow_run_id"]}
    assert (
        "".join(
            event["data"]["text"] for event in events if event["event"] == "text_chunk"
        )
        == "3:[]"
    )


def test_a_blocking_answer_and_its_record(served_apps: dict[str, str]):
    caller = Caller(served_apps, "workflow")
    body = caller.post(
        "/workflows/run", inputs={"n": "4"}, user="logs", response_mode="blocking"
    ).json()
    run = caller.get(f"/workflows/run/{body['workflow_run_id']}")
    assert (run["status"], run["outputs"], json.loads(run["inputs"])) == (
        "succeeded",
        {"r": "4:[]"},
        {"n": "4"},
    )
    logs = caller.get("/workflows/logs", created_by_end_user_session_id="logs", limit=1)
    assert logs["data"][0]["workflow_run"]["id"] == run["id"]
    assert logs["data"][0]["created_by_end_user"]["session_id"] == "logs"
    assert caller.get("/workflows/logs", status="failed")["total"] == 0


def test_a_failed_workflow_is_a_result_and_a_failed_chat_is_an_error(
    served_apps: dict[str, str],
):
    failed = Caller(served_apps, "failing").post("/workflows/run", inputs={}, user="u")
    assert failed.status_code == 200
    assert failed.json()["data"]["status"] == "failed"
    assert "no luck" in failed.json()["data"]["error"]
    chat = Caller(served_apps, "broken_chat")
    response = chat.post("/chat-messages", inputs={}, query="x", user="u")
    assert (response.status_code, response.json()["code"]) == (
        400,
        "completion_request_error",
    )
    kinds = [
        event["event"]
        for event in chat.events("/chat-messages", inputs={}, query="x", user="u")
    ]
    assert kinds[-2:] == ["workflow_finished", "error"]


@pytest.mark.parametrize(
    ("app", "path", "body", "status", "code", "message"),
    [
        ("workflow", "/workflows/run", {"inputs": {"n": 1}}, 400, "invalid_param", "Arg user must be provided."),
        ("workflow", "/workflows/run", {"inputs": {}, "user": "u"}, 400, "invalid_param", "n is required in input form"),
        ("workflow", "/workflows/run", {"inputs": {"n": "x"}, "user": "u"}, 400, "invalid_param", "n in input form must be a valid number"),
        ("workflow", "/workflows/run", {"inputs": [], "user": "u"}, 400, "invalid_param", "'inputs' must be an object"),
        ("workflow", "/workflows/run", {"inputs": {"n": 1}, "user": "u", "response_mode": "x"}, 400, "invalid_param", "response_mode must be"),
        ("workflow", "/workflows/run", {"inputs": {"n": 1, "doc": {"upload_file_id": "nope"}}, "user": "u"}, 400, "invalid_param", "not found"),
        ("workflow", "/chat-messages", {"query": "x", "user": "u"}, 400, "not_chat_app", "workflow"),
        ("chat", "/workflows/run", {"inputs": {}, "user": "u"}, 400, "not_workflow_app", "advanced-chat"),
        ("chat", "/completion-messages", {"inputs": {}, "user": "u"}, 400, "app_unavailable", "advanced-chat"),
        ("chat", "/chat-messages", {"user": "u"}, 400, "invalid_param", "query is required"),
        ("chat", "/chat-messages", {"query": "x", "user": "u", "conversation_id": "7"}, 400, "invalid_param", "7 is not a valid uuid."),
        ("chat", "/messages/nope/feedbacks", {"rating": "like", "user": "u"}, 404, "not_found", "Message Not Exists."),
        ("chat", "/messages/nope/feedbacks", {"rating": "meh", "user": "u"}, 400, "invalid_param", "'rating' must be like"),
        ("chat", "/conversations/nope/name", {"name": "x", "user": "u"}, 404, "not_found", "Conversation Not Exists."),
        ("workflow", "/workflows/nope/run", {"inputs": {"n": 1}, "user": "u"}, 404, "not_found", "Workflow not found"),
        ("chat", "/text-to-audio", {"user": "u"}, 400, "invalid_param", "'text' or 'message_id' is required"),
        ("form", "/form/human_input/nope", {"action": "yes", "inputs": {}, "user": "u"}, 404, "not_found", "The form does not exist"),
    ],
)  # fmt: skip
def test_invalid_requests_get_their_error_codes(
    served_apps: dict[str, str],
    app: str,
    path: str,
    body: dict[str, Any],
    status: int,
    code: str,
    message: str,
):
    answer = Caller(served_apps, app).post(path, **body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert message in answer.json()["message"]


def test_a_run_with_an_invalid_response_mode_is_not_started(
    served_apps: dict[str, str],
):
    caller = Caller(served_apps, "workflow")
    initial_total = caller.get("/workflows/logs")["total"]
    assert (
        caller.post(
            "/workflows/run", inputs={"n": 1}, user="u", response_mode="x"
        ).status_code
        == 400
    )
    assert caller.get("/workflows/logs")["total"] == initial_total


def test_a_missing_or_wrong_kind_of_key_is_refused(served_apps: dict[str, str]):
    for header in (
        {},
        {"authorization": "Bearer app-nope"},
        {"authorization": f"Basic {served_apps['chat']}"},
        {"x-api-key": served_apps["chat"]},
    ):
        answer = httpx.get(f"{served_apps['base']}/info", headers=header)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    broken = httpx.post(
        f"{served_apps['base']}/chat-messages",
        headers={"authorization": f"Bearer {served_apps['chat']}"},
        content=b"{",
    )
    assert (broken.status_code, broken.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize(
    ("method", "path", "without_key", "with_key"),
    [
        ("POST", "/messages/batches", (404, "not_found_error"), (404, "not_found")),
        ("POST", "/messages/x/y", (404, "not_found_error"), (404, "not_found")),
        (
            "GET",
            "/conversations/abc",
            # OpenAI has conversations of its own, which a caller without an app means.
            (404, "unknown_url"),
            (405, "method_not_allowed"),
        ),
        ("GET", "/files/abc", (404, "unknown_url"), (404, "not_found")),
        ("GET", "/workflows/abc", (404, "not_found"), (404, "not_found")),
        (
            "GET",
            "/chat-messages",
            (405, "method_not_allowed"),
            (405, "method_not_allowed"),
        ),
    ],
)
def test_not_found_errors_have_the_callers_format(
    served_apps: dict[str, str],
    method: str,
    path: str,
    without_key: tuple[int, str],
    with_key: tuple[int, str],
):
    url, key = (
        f"{served_apps['base']}{path}",
        {"authorization": f"Bearer {served_apps['chat']}"},
    )
    stranger = httpx.request(method, url)
    assert (stranger.status_code, _kind_of(stranger.json())) == without_key
    authenticated = httpx.request(method, url, headers=key)
    assert (authenticated.status_code, authenticated.json()["code"]) == with_key
    assert authenticated.headers.get("allow") == {
        "/conversations/abc": "DELETE, OPTIONS",
        "/chat-messages": "POST, OPTIONS",
    }.get(path)


def _kind_of(refusal: dict[str, Any]) -> str:
    """Return Anthropic's error type, OpenAI's error code, or the service API's code."""
    error = refusal.get("error", refusal)
    return error["type"] if refusal.get("type") == "error" else error["code"]


def test_options_needs_no_key_and_head_is_like_get(
    served_apps: dict[str, str],
):
    options_response = httpx.options(f"{served_apps['base']}/workflows/run")
    assert (options_response.status_code, options_response.headers["allow"]) == (
        204,
        "POST, OPTIONS",
    )
    info = Caller(served_apps, "chat").http.head("/info")
    assert (
        info.status_code,
        info.content,
        int(info.headers["content-length"]) > 0,
    ) == (200, b"", True)
    assert httpx.head(f"{served_apps['base']}/info").status_code == 401


def test_a_malformed_upload_gets_an_error_that_names_the_form(
    served_apps: dict[str, str],
):
    answer = Caller(served_apps, "workflow").post("/files/upload", file="x")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_param")
    assert "multipart/form-data" in answer.json()["message"]


def test_a_conversation_keeps_its_variables_and_messages(
    served_apps: dict[str, str],
):
    caller = Caller(served_apps, "remembering")
    first = caller.post("/chat-messages", query="one", user="v", inputs={}).json()
    second_answer = caller.post(
        "/chat-messages",
        query="two",
        user="v",
        inputs={},
        conversation_id=first["conversation_id"],
    ).json()
    assert (first["answer"], second_answer["answer"]) == (
        "1: Answer to: one",
        "2: Answer to: two",
    )
    variables = caller.get(
        f"/conversations/{first['conversation_id']}/variables", user="v"
    )["data"]
    assert [
        (variable["name"], variable["value"], variable["value_type"])
        for variable in variables
    ] == [("n", "2", "number")]
    path = f"/conversations/{first['conversation_id']}/variables/{variables[0]['id']}"
    assert (
        caller.http.put(path, json={"value": 40, "user": "v"}).json()["value"] == "40"
    )
    assert (
        caller.http.put(path, json={"value": "many", "user": "v"}).json()["code"]
        == "bad_request"
    )
    third = caller.post(
        "/chat-messages",
        query="three",
        user="v",
        inputs={},
        conversation_id=first["conversation_id"],
    ).json()
    assert third["answer"].startswith("41: ")
    page = caller.get(
        "/messages", user="v", conversation_id=first["conversation_id"], limit=2
    )
    assert ([message["query"] for message in page["data"]], page["has_more"]) == (
        ["two", "three"],
        True,
    )
    older = caller.get(
        "/messages",
        user="v",
        conversation_id=first["conversation_id"],
        first_id=page["data"][0]["id"],
    )
    assert ([message["query"] for message in older["data"]], older["has_more"]) == (
        ["one"],
        False,
    )


def test_users_cannot_access_other_users_data(served_apps: dict[str, str]):
    caller, other_caller = (
        Caller(served_apps, "remembering"),
        Caller(served_apps, "chat"),
    )
    mine = caller.post("/chat-messages", query="mine", user="owner", inputs={}).json()
    conversation = mine["conversation_id"]
    for intruder, user in ((caller, "thief"), (other_caller, "owner")):
        assert (
            intruder.http.get(
                "/messages", params={"user": user, "conversation_id": conversation}
            ).status_code
            == 404
        )
        assert (
            intruder.http.request(
                "DELETE", f"/conversations/{conversation}", json={"user": user}
            ).status_code
            == 404
        )
        assert (
            intruder.post(
                f"/messages/{mine['message_id']}/feedbacks", rating="like", user=user
            ).status_code
            == 404
        )
        assert conversation not in json.dumps(intruder.get("/conversations", user=user))
        # A chatflow starts a new conversation for an unknown id.
        assert (
            intruder.post(
                "/chat-messages", query="x", user=user, conversation_id=conversation
            ).json()["conversation_id"]
            != conversation
        )
    assert (
        other_caller.http.get(
            f"/workflow/{mine['task_id']}/events", params={"user": "owner"}
        ).status_code
        == 404
    )
    assert (
        caller.http.get(
            f"/workflow/{mine['task_id']}/events", params={"user": "thief"}
        ).status_code
        == 404
    )
    assert other_caller.http.get(f"/workflows/run/{mine['task_id']}").status_code == 404


def test_feedback_and_deleting(served_apps: dict[str, str]):
    caller = Caller(served_apps, "chat")
    answer = caller.post("/chat-messages", query="rate me", user="f", inputs={}).json()
    caller.post(
        f"/messages/{answer['message_id']}/feedbacks",
        rating="dislike",
        content="too short",
        user="f",
    )
    assert caller.get("/app/feedbacks")["data"][0]["content"] == "too short"
    message = caller.get(
        "/messages", user="f", conversation_id=answer["conversation_id"]
    )["data"][0]
    assert message["feedback"] == {"rating": "dislike"}
    caller.post(f"/messages/{answer['message_id']}/feedbacks", rating=None, user="f")
    assert (
        caller.get("/messages", user="f", conversation_id=answer["conversation_id"])[
            "data"
        ][0]["feedback"]
        is None
    )
    deletion = caller.http.request(
        "DELETE", f"/conversations/{answer['conversation_id']}", json={"user": "f"}
    )
    assert deletion.status_code == 204
    assert caller.get("/conversations", user="f")["data"] == []


def test_a_run_is_replayed_from_any_event(served_apps: dict[str, str]):
    caller = Caller(served_apps, "workflow")
    run = caller.post("/workflows/run", inputs={"n": 1}, user="w").json()[
        "workflow_run_id"
    ]
    with caller.http.stream(
        "GET", f"/workflow/{run}/events", params={"user": "w"}
    ) as answer:
        lines = list(answer.iter_lines())
    numbers = [int(line[4:]) for line in lines if line.startswith("id: ")]
    kinds = [
        json.loads(line[6:])["event"] for line in lines if line.startswith("data: ")
    ]
    assert (kinds[0], kinds[-1]) == ("workflow_started", "workflow_finished")
    assert numbers == sorted(numbers)
    with caller.http.stream(
        "GET",
        f"/workflow/{run}/events",
        params={"user": "w"},
        headers={"last-event-id": str(numbers[-1] - 1)},
    ) as answer:
        assert [event["event"] for event in _events(answer)] == ["workflow_finished"]


def test_a_chat_is_stopped_while_it_streams(served_apps: dict[str, str]):
    caller = Caller(served_apps, "slow")
    body = {
        "query": "Tell me a long story",
        "user": "s",
        "inputs": {},
        "response_mode": "streaming",
    }
    kinds: list[str] = []
    with caller.http.stream("POST", "/chat-messages", json=body) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            event = json.loads(line[6:])
            kinds.append(event["event"])
            if event["event"] == "message" and kinds.count("message") == 3:
                other_caller = Caller(served_apps, "slow")
                assert other_caller.post(
                    f"/chat-messages/{event['task_id']}/stop", user="somebody"
                ).json() == {"result": "success"}
                assert other_caller.post(
                    f"/chat-messages/{event['task_id']}/stop", user="s"
                ).json() == {"result": "success"}
    assert kinds[-2:] == ["workflow_finished", "message_end"]
    assert kinds.count("message") < 300


def test_a_file_that_the_form_does_not_allow_is_refused_before_the_run(
    served_apps: dict[str, str],
):
    caller = Caller(served_apps, "restricted")

    def outcome_of(name: str, content: bytes) -> httpx.Response:
        upload = caller.http.post(
            "/files/upload", files={"file": (name, content)}, data={"user": "f"}
        )
        doc = {"transfer_method": "local_file", "upload_file_id": upload.json()["id"]}
        return caller.post("/workflows/run", inputs={"doc": doc}, user="f")

    refused = outcome_of("a.png", b"\x89PNG\r\n\x1a\n")
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_param")
    assert refused.json()["message"].startswith("File validation failed")
    accepted = outcome_of("a.txt", b"text").json()
    assert accepted["data"]["outputs"]["d"]["filename"] == "a.txt"


def test_files_belong_to_their_users(served_apps: dict[str, str]):
    caller = Caller(served_apps, "workflow")
    upload = caller.http.post(
        "/files/upload",
        files={"file": ("a b.html", b"<script>", "text/html")},
        data={"user": "f1"},
    )
    assert upload.status_code == 201
    name = upload.json()["id"]
    preview = caller.http.get(f"/files/{name}/preview", params={"user": "f1"})
    assert (preview.content, preview.headers["x-content-type-options"]) == (
        b"<script>",
        "nosniff",
    )
    assert preview.headers["content-disposition"].startswith("attachment")
    assert (
        caller.http.get(f"/files/{name}/preview", params={"user": "f2"}).json()["code"]
        == "file_access_denied"
    )
    assert (
        caller.http.get("/files/11111111-1111-4111-8111-111111111111/preview").json()[
            "code"
        ]
        == "file_not_found"
    )
    stolen = {"n": 1, "doc": {"transfer_method": "local_file", "upload_file_id": name}}
    assert (
        "not found"
        in caller.post("/workflows/run", inputs=stolen, user="f2").json()["message"]
    )
    large = caller.http.post(
        "/files/upload",
        files={"file": ("a.txt", b"x" * (16 << 20), "text/plain")},
        data={"user": "f1"},
    )
    assert (large.status_code, large.json()["code"]) == (413, "file_too_large")
    assert (
        caller.http.post(
            "/files/upload", data={"user": "x"}, files={"other": ("a", b"x")}
        ).json()["code"]
        == "no_file_uploaded"
    )


def test_an_upload_needs_exactly_one_file(served_apps: dict[str, str]):
    caller = Caller(served_apps, "workflow")
    empty = caller.http.post("/files/upload")
    assert (empty.status_code, empty.json()["code"]) == (400, "no_file_uploaded")
    for fields in (("file", "file"), ("file", "other")):
        files = [(field, ("a.txt", b"x", "text/plain")) for field in fields]
        answer = caller.http.post("/files/upload", data={"user": "f1"}, files=files)
        assert (answer.status_code, answer.json()) == (
            400,
            {
                "code": "too_many_files",
                "message": "Only one file is allowed, not 2.",
                "status": 400,
            },
        )


def test_a_long_file_name_keeps_its_extension(served_apps: dict[str, str]):
    files = {"file": (f"{'n' * 300}.xlsx", b"x", "text/plain")}
    http = Caller(served_apps, "workflow").http
    answer = http.post("/files/upload", files=files, data={"user": "f1"})
    assert answer.status_code == 201
    name = answer.json()["name"]
    assert (len(name), name[-5:], answer.json()["extension"]) == (200, ".xlsx", "xlsx")


def test_a_form_pauses_a_run_until_it_is_submitted(served_apps: dict[str, str]):
    caller = Caller(served_apps, "form")
    events = caller.events("/workflows/run", inputs={"q": "it"}, user="h")
    form_request = next(
        event["data"] for event in events if event["event"] == "human_input_required"
    )
    assert events[-1]["event"] == "workflow_paused"
    assert form_request["form_content"].startswith("May it go on?")
    run, token = events[-1]["workflow_run_id"], form_request["form_token"]
    form = caller.get(f"/form/human_input/{token}")
    assert [action["id"] for action in form["user_actions"]] == ["yes", "no"]
    assert (
        Caller(served_apps, "chat").http.get(f"/form/human_input/{token}").status_code
        == 404
    )
    rejected = caller.post(
        f"/form/human_input/{token}", action="maybe", inputs={"note": "x"}, user="h"
    )
    assert rejected.json()["code"] == "invalid_form_data"
    assert (
        caller.post(
            f"/form/human_input/{token}", action="yes", inputs={}, user="h"
        ).json()["message"]
        == "Missing inputs: note"
    )
    assert (
        caller.post(
            f"/form/human_input/{token}",
            action="yes",
            inputs={"note": "fine"},
            user="h",
        ).status_code
        == 200
    )
    assert (
        caller.post(
            f"/form/human_input/{token}", action="no", inputs={"note": "x"}, user="h"
        ).status_code
        == 412
    )
    with caller.http.stream(
        "GET", f"/workflow/{run}/events", params={"user": "h"}
    ) as answer:
        later_events = _events(answer)
    kinds = [event["event"] for event in later_events]
    assert "human_input_form_filled" in kinds
    assert (kinds[-1], later_events[-1]["data"]["outputs"]) == (
        "workflow_finished",
        {"note": "fine"},
    )
    assert caller.get(f"/workflows/run/{run}")["status"] == "succeeded"


def test_the_metadata_of_an_app(served_apps: dict[str, str]):
    workflow = Caller(served_apps, "workflow")
    form_fields = workflow.get("/parameters")["user_input_form"]
    assert [next(iter(field)) for field in form_fields] == ["number", "file"]
    assert workflow.get("/info")["mode"] == "workflow"
    assert workflow.get("/meta") == {"tool_icons": {}}
    assert (
        Caller(served_apps, "completion").get("/parameters")["user_input_form"][0][
            "paragraph"
        ]["variable"]
        == "query"
    )
    assert workflow.get("/site")["title"] == "workflow"
    assert (
        Caller(served_apps, "chat").get("/messages/x/suggested", user="u")["code"]
        == "not_found"
    )
