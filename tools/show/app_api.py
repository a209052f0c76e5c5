"""Every documented endpoint of the service API with every status documented for it,
followed by six clients from PyPI."""

import io
import json
import math
import struct
import threading
import time
import uuid
import wave
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import yaml

from modelyard.app import Modelyard
from modelyard.base.settings import KnowledgeSettings, PluginSettings, WorkflowSettings
from modelyard.plugins.package import package_folder
from tools.show.app_clients import CLIENTS, MODEL, prove_clients, serving
from tools.show.dataset_clients import CLIENTS as DATASET_CLIENTS
from tools.show.proof import ROOT, Proof, weights_folder
from tools.show.service_api import Description, Endpoint

NOBODY = str(uuid.UUID(int=1))
MAX_CONCURRENT_RUNS = 3


class Caller:
    """Calls endpoints by their names in the API description and validates each response
    against it.

    Remembers each status that was observed.
    """

    def __init__(self, server_info: Mapping[str, str]) -> None:
        self.server_info = dict(server_info)
        self.description = Description()
        self.observed_codes: dict[tuple[str, int], set[str]] = defaultdict(set)
        """(endpoint, status) → error codes observed."""
        self.problems: list[str] = []
        self.http = httpx.Client(base_url=server_info["base"], timeout=60)
        self.admin = httpx.Client(
            base_url=server_info["base"].removesuffix("/v1"), timeout=60
        )

    def close(self) -> None:
        """Close both HTTP clients."""
        self.http.close()
        self.admin.close()

    def __call__(
        self,
        name: str,
        status: int,
        key: str,
        *ids: str,
        json: Any = None,
        query: Any = None,
        files: Any = None,
        data: Any = None,
        code: str = "",
    ) -> Any:
        """Call an endpoint and return its JSON, or the response if it is not JSON.

        `status` and `code` are the expected status and error code; `key` is the name of
        a key, or a key, or empty for none; `ids` fill the path's parameters in order.
        Deviations are added to `problems`.
        """
        # Replace each {parameter} of the path by the next id.
        endpoint = self.description.endpoints[name]
        path, remaining_ids = endpoint.path, list(ids)
        while "{" in path:
            head, _, suffix = path.partition("{")
            path = f"{head}{remaining_ids.pop(0)}{suffix.partition('}')[2]}"
        headers = (
            {"authorization": f"Bearer {self.server_info.get(key, key)}"} if key else {}
        )
        answer = self.http.request(
            endpoint.method,
            path,
            headers=headers,
            json=json,
            params=query,
            files=files,
            data=data,
        )
        self._check_response(endpoint, answer, status, code)
        content_type = answer.headers.get("content-type", "")
        return (
            answer.json()
            if content_type == "application/json" and answer.content
            else answer
        )

    def _check_response(
        self, endpoint: Endpoint, answer: httpx.Response, status: int, code: str
    ) -> None:
        """Validate a response against the description and record its status."""
        label = f"{endpoint.name} → {answer.status_code}"
        if answer.status_code != status:
            self.problems.append(f"{label}, not {status}: {answer.text[:160]}")
            return
        documented = endpoint.answers.get(status)
        # Each endpoint may answer 401, although the description does not repeat it
        # everywhere.
        if documented is None:
            if status != 401:
                self.problems.append(f"{label} is not documented")
            return
        error_code = ""
        if status >= 400:
            error_code = self._check_error(answer, documented, code, label)
        elif not documented.get("empty"):
            self._check_body(endpoint, answer, status, label)
        elif answer.content:
            self.problems.append(f"{label} has a body")
        self.observed_codes[endpoint.name, status].add(error_code)

    def _check_error(
        self,
        answer: httpx.Response,
        documented: Mapping[str, Any],
        expected_code: str,
        label: str,
    ) -> str:
        """Validate the body of an error and return its code. An empty `expected_code`
        accepts every documented code."""
        body = answer.json()
        code = str(body.get("code"))
        # Errors of the service API have exactly these three fields.
        has_fields = body.keys() == {"code", "message", "status"}
        if not has_fields or body["status"] != answer.status_code:
            self.problems.append(
                f"{label}: expected an error with code, message and status,"
                f" not {answer.text[:100]}"
            )
        if code not in documented.get("codes", ()):
            codes = ", ".join(documented["codes"])
            self.problems.append(f"{label}: code {code!r} is not documented ({codes})")
        if expected_code and code != expected_code:
            self.problems.append(f"{label}: code {code!r}, not {expected_code!r}")
        return code

    def _check_body(
        self, endpoint: Endpoint, answer: httpx.Response, status: int, label: str
    ) -> None:
        """Validate the body of a successful response: its media type, JSON shape or
        event stream."""
        content_type = answer.headers["content-type"].partition(";")[0]
        shape = self.description.shape_of(endpoint, status)
        if content_type == "application/json" and shape is not None:
            shape_problems = self.description.problems(
                answer.json(), shape, may_be_null=False
            )
            self.problems += [f"{label}: {problem}" for problem in shape_problems]
            return
        types = endpoint.answers[status].get("types", [])
        if content_type not in types and "application/octet-stream" not in types:
            expected = ", ".join(types) or "JSON"
            self.problems.append(f"{label} is {content_type}, not {expected}")
        if content_type == "text/event-stream":
            self._check_events(answer.text, label)

    def _check_events(self, text: str, label: str) -> None:
        """Check that each data line of an event stream is a JSON object with an `event`
        field."""
        for line in text.splitlines():
            if line.startswith("data: ") and "event" not in json.loads(line[6:]):
                self.problems.append(f"{label}: {line[:80]} has no event field")


# ----------------------------------------------------------------------------- the apps


def _app(
    mode: str,
    name: str,
    nodes: Mapping[str, Any],
    edges: list[tuple[str, ...]],
    **workflow_fields: Any,
) -> str:
    """Return the YAML of an app with the nodes and edges."""
    graph = {
        "nodes": [
            {"id": node_id, "data": {"title": node_id, **data}}
            for node_id, data in nodes.items()
        ],
        "edges": [
            # The optional third item of an edge is the branch that it leaves from.
            {
                "source": edge[0],
                "target": edge[1],
                **({"sourceHandle": edge[2]} if len(edge) > 2 else {}),
            }
            for edge in edges
        ],
    }
    workflow = {
        "graph": graph,
        "features": workflow_fields.pop("features", {}),
        **workflow_fields,
    }
    return yaml.dump(
        {
            "kind": "app",
            "version": "0.6.0",
            "app": {"name": name, "mode": mode},
            "workflow": workflow,
        }
    )


def apps() -> dict[str, str]:
    """Return the apps that the app clients' server lacks: a chat with variables and
    speech, and one with a form."""
    llm = {
        "type": "llm",
        "model": MODEL,
        "prompt_template": [{"role": "system", "text": "Be short."}],
    }
    talking = _app(
        "advanced-chat",
        "talking",
        {
            "start": {"type": "start"},
            "llm": llm,
            "answer": {"type": "answer", "answer": "{{#llm.text#}}"},
        },
        [("start", "llm"), ("llm", "answer")],
        conversation_variables=[
            {
                "name": "n",
                "value": 0,
                "value_type": "number",
                "description": "how often",
            }
        ],
        features={
            "suggested_questions_after_answer": {"enabled": True},
            "speech_to_text": {"enabled": True},
            "text_to_speech": {"enabled": True},
        },
    )
    form_app = _app(
        "workflow",
        "form",
        {
            "start": {"type": "start"},
            "ask": {
                "type": "human-input",
                "form_content": "Go on?",
                "timeout": 1,
                "inputs": [{"type": "paragraph", "output_variable_name": "note"}],
                "user_actions": [{"id": "yes", "title": "Yes"}],
            },
            "end": {
                "type": "end",
                "outputs": [{"variable": "note", "value_selector": ["ask", "note"]}],
            },
        },
        [("start", "ask"), ("ask", "end", "yes")],
    )
    return {"talking": talking, "form": form_app}


def pipeline() -> str:
    """Return the YAML of a knowledge pipeline that reads uploaded files and a plugin's
    pages."""
    nodes = {
        "files": {"type": "datasource", "provider_type": "local_file"},
        "notes": {
            "type": "datasource",
            "provider_type": "online_document",
            "plugin_id": "modelyard/shelf",
            "provider_name": "shelf",
            "datasource_name": "notes",
        },
        "read": {"type": "document-extractor", "variable_selector": ["files", "file"]},
        "keep": {
            "type": "knowledge-index",
            "index_chunk_variable_selector": ["read", "text"],
            "indexing_technique": "economy",
        },
        "keep_pages": {
            "type": "knowledge-index",
            "index_chunk_variable_selector": ["notes", "content"],
            "indexing_technique": "economy",
        },
    }
    document = yaml.safe_load(
        _app(
            "workflow",
            "api pipeline",
            nodes,
            [("files", "read"), ("read", "keep"), ("notes", "keep_pages")],
        )
    )
    return yaml.dump(
        {
            "kind": "rag_pipeline",
            "version": "0.1.0",
            "rag_pipeline": document["app"],
            "workflow": document["workflow"],
        }
    )


def _sine_wave() -> bytes:
    """Return half a second of a sine tone as a WAV file."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(
            b"".join(
                struct.pack("<h", int(8000 * math.sin(index / 12)))
                for index in range(8000)
            )
        )
    return target.getvalue()


async def _with_shelf(yard: Modelyard) -> None:
    """Install a real plugin, for the endpoint that runs a data source."""
    await yard.services.plugins.installations.add(
        "default", package_folder(ROOT / "examples" / "plugins" / "shelf")
    )
    await yard.services.plugins.credentials.add(
        "default", "modelyard/shelf/shelf", "mine", {"token": "x"}
    )


@contextmanager
def caller(environments: Path | None = None) -> Iterator[Caller]:
    """Yield a caller of a prepared server.

    `environments` is the folder of plugin environments, by default the shared one.
    """
    folder = environments or weights_folder().parent / "plugins" / "environments"
    # Low limits, so that the statuses 429 and 413 can be reached with small requests.
    settings: dict[str, Any] = {
        "workflows": WorkflowSettings(at_once=MAX_CONCURRENT_RUNS),
        "knowledge": KnowledgeSettings(most_mb=1),
        "plugins": msgspec.structs.replace(PluginSettings(), debug_port=0),
    }
    with serving(
        apps(), prepare=_with_shelf, environments=folder, **settings
    ) as server_info:
        api_caller = Caller(server_info)
        try:
            _set_up(api_caller)
            yield api_caller
        finally:
            api_caller.close()


def _set_up(call: Caller) -> None:
    """Add drafts without a published version, apps with a missing model, a pipeline,
    and keys of different roles."""
    admin = call.admin
    _add_incomplete_apps(call)
    for name in ("talking", "workflow"):
        _add_draft_version(call, name)
    call.server_info["pipeline"] = _create(admin, "apps", file=pipeline())["dataset"]
    # Without any key the admin API is open to loopback; the first key closes it, so it
    # is created last.
    owner = _create(admin, "keys", name="owner", role="owner")
    call.server_info["owner"] = owner["key"]
    admin.headers["authorization"] = f"Bearer {owner['key']}"
    viewer = _create(admin, "keys", name="viewer", role="viewer")
    call.server_info["viewer"] = viewer["key"]


def _create(admin: httpx.Client, path: str, **body: Any) -> Any:
    """Create a resource by the admin API and return its JSON. Raises RuntimeError if
    that fails."""
    answer = admin.post(f"/admin/v1/{path}", json=body)
    if answer.status_code != 201:
        raise RuntimeError(f"{path}: {answer.text}")
    return answer.json()


def _add_incomplete_apps(call: Caller) -> None:
    """Add apps that cannot answer: drafts without a published version, and apps with a
    missing model. The agent can answer, but has no optional features."""
    talking = apps()["talking"]
    completion = {
        "kind": "app",
        "version": "0.6.0",
        "app": {"name": "x", "mode": "completion"},
        "model_config": {
            "model": MODEL,
            "pre_prompt": "{{query}}",
            "user_input_form": [],
        },
    }
    agent = {**completion, "app": {"name": "x", "mode": "chat"}}
    draft = {"publish": False}
    modelless = {"mapping": {"models": {"*": "nowhere/none"}}}
    scripted = {"mapping": {"models": {"*": "scripted/model"}}}
    for name, file, options in (
        ("draft", talking, draft),
        ("draft_completion", yaml.dump(completion), draft),
        ("modelless", talking, modelless),
        ("modelless_completion", yaml.dump(completion), modelless),
        ("agent", yaml.dump(agent), scripted),
    ):
        app = _create(call.admin, "apps", file=file, name=name, **options)
        key = _create(call.admin, f"apps/{app['id']}/keys")
        call.server_info[name] = key["key"]


def _add_draft_version(call: Caller, name: str) -> None:
    """Add a draft to a published app, so that both versions can be requested by their
    ids."""
    app_records = call.admin.get("/admin/v1/apps").json()["data"]
    app_record = next(record for record in app_records if record["name"] == name)
    path = f"/admin/v1/apps/{app_record['id']}/file"
    text = call.admin.get(path).text
    call.server_info[f"{name}.first"] = _workflow_id(app_record["digest"])
    saved = call.admin.put(path, json={"file": text + "\n# changed\n"}).json()
    call.server_info[f"{name}.draft"] = _workflow_id(saved["digest"])


def _workflow_id(digest: str) -> str:
    """Return the workflow id that corresponds to a file's digest."""
    return str(uuid.UUID(hex=digest))


# ---------------------------------------------------------------------- generated calls


def generated(call: Caller) -> None:
    """Make the calls that follow from the description alone: without a key, and with a
    key that lacks the permission."""
    for endpoint in call.description.endpoints.values():
        ids = _ids(endpoint, call)
        call(endpoint.name, 401, "", *ids)
        body = {} if endpoint.method in ("POST", "PUT", "PATCH", "DELETE") else None
        if endpoint.is_of_datasets and 403 in endpoint.answers:
            call(endpoint.name, 403, "viewer", *ids, json=body)


def _ids(endpoint: Endpoint, call: Caller) -> list[str]:
    """Return path parameters for an endpoint: valid values if the order of checks
    requires them, else unknown ids."""
    path_values = {"action": "enable", "model_type": "llm", "node_id": "files"}
    names = [part[1:-1] for part in endpoint.path.split("/") if part.startswith("{")]
    return [
        path_values.get(
            name,
            call.server_info["pipeline"]
            if name == "dataset_id" and "pipeline" in endpoint.path
            else NOBODY,
        )
        for name in names
    ]


# -------------------------------------------------------------------------------- chats


def chats(call: Caller) -> None:
    """Call the chat, message and conversation endpoints."""
    first = _chat_messages(call)
    _stopped_chats(call, first["task_id"])
    _suggestions(call, first["message_id"])
    _feedbacks(call, first["message_id"])
    _messages(call, first["conversation_id"])
    _conversation_names(call, first["conversation_id"])
    _conversation_variables(call, first["conversation_id"])
    _deleted_conversations(call, first["conversation_id"])


_ADA = {"user": "ada"}
_QUESTION = {"query": "hello", "inputs": {}, "user": "ada"}


def _chat_messages(call: Caller) -> Any:
    """Call the chat endpoint; return the first response."""
    name, ask = "POST /chat-messages", _QUESTION
    published, draft = (
        call.server_info["talking.first"],
        call.server_info["talking.draft"],
    )
    first = call(name, 200, "talking", json=ask)
    call(name, 200, "talking", json={**ask, "response_mode": "streaming"})
    call(name, 200, "talking", json={**ask, "workflow_id": published})
    call(name, 400, "talking", json={"inputs": {}, **_ADA}, code="invalid_param")
    call(name, 400, "workflow", json=ask, code="not_chat_app")
    call(name, 400, "draft", json=ask, code="app_unavailable")
    call(name, 400, "modelless", json=ask, code="model_currently_not_support")
    call(name, 400, "talking", json={**ask, "workflow_id": "x"}, code="bad_request")
    call(name, 403, "talking", json={**ask, "workflow_id": draft})
    call(name, 404, "talking", json={**ask, "workflow_id": NOBODY})
    call(name, 404, "agent", json={**ask, "conversation_id": NOBODY})
    return first


def _stopped_chats(call: Caller, task: str) -> None:
    """Call the endpoint that stops an answer."""
    name = "POST /chat-messages/{task_id}/stop"
    call(name, 200, "talking", task, json=_ADA)
    call(name, 400, "talking", NOBODY, json={})
    call(name, 400, "workflow", NOBODY, json=_ADA, code="not_chat_app")


def _suggestions(call: Caller, message: str) -> None:
    """Call the endpoint of suggested questions."""
    name = "GET /messages/{message_id}/suggested"
    call(name, 200, "talking", message, query=_ADA)
    call(name, 400, "workflow", message, query=_ADA, code="not_chat_app")
    call(name, 404, "talking", NOBODY, query=_ADA)
    # Suggested questions are off in this app, so the request is refused.
    quiet = call("POST /chat-messages", 200, "agent", json=_QUESTION)["message_id"]
    call(name, 400, "agent", quiet, query=_ADA, code="bad_request")


def _feedbacks(call: Caller, message: str) -> None:
    """Call the feedback endpoints."""
    name = "POST /messages/{message_id}/feedbacks"
    like = {**_ADA, "rating": "like"}
    call(name, 200, "talking", message, json={**like, "content": "!"})
    call(name, 400, "talking", message, json={**_ADA, "rating": "perhaps"})
    call(name, 404, "talking", NOBODY, json=like)
    call("GET /app/feedbacks", 200, "talking")


def _messages(call: Caller, conversation: str) -> None:
    """Call the endpoints that list conversations and messages."""
    call("GET /conversations", 200, "talking", query=_ADA)
    call("GET /conversations", 400, "workflow", query=_ADA)
    call("GET /conversations", 404, "talking", query={**_ADA, "last_id": NOBODY})
    query = {**_ADA, "conversation_id": conversation}
    call("GET /messages", 200, "talking", query=query)
    call("GET /messages", 400, "workflow", query=query)
    call("GET /messages", 404, "talking", query={**_ADA, "conversation_id": NOBODY})


def _conversation_names(call: Caller, conversation: str) -> None:
    """Call the endpoint that names a conversation."""
    name = "POST /conversations/{conversation_id}/name"
    named = {**_ADA, "name": "A talk"}
    call(name, 200, "talking", conversation, json=named)
    call(name, 200, "talking", conversation, json={**_ADA, "auto_generate": True})
    call(name, 400, "talking", conversation, json=_ADA, code="invalid_param")
    call(name, 404, "talking", NOBODY, json=named)


def _conversation_variables(call: Caller, conversation: str) -> None:
    """Call the endpoints of conversation variables."""
    path = "/conversations/{conversation_id}/variables"
    variables = call(f"GET {path}", 200, "talking", conversation, query=_ADA)
    call(f"GET {path}", 400, "workflow", conversation, query=_ADA)
    call(f"GET {path}", 404, "talking", NOBODY, query=_ADA)
    # The variable is a number, so a text is refused.
    name, ids = (
        f"PUT {path}/{{variable_id}}",
        (conversation, variables["data"][0]["id"]),
    )
    text = {**_ADA, "value": "many"}
    call(name, 200, "talking", *ids, json={**_ADA, "value": 7})
    call(name, 400, "talking", *ids, json=text, code="bad_request")
    call(name, 404, "talking", conversation, NOBODY, json={**_ADA, "value": 7})


def _deleted_conversations(call: Caller, conversation: str) -> None:
    """Call the endpoint that deletes a conversation."""
    name = "DELETE /conversations/{conversation_id}"
    call(name, 204, "talking", conversation, json=_ADA)
    call(name, 400, "workflow", conversation, json=_ADA)
    call(name, 404, "talking", conversation, json=_ADA)


def completions(call: Caller) -> None:
    """Call the completion endpoints."""
    ask = {"inputs": {"query": "hello"}, "user": "ada"}
    name = "POST /completion-messages"
    first = call(name, 200, "completion", json=ask)
    call(name, 200, "completion", json={**ask, "response_mode": "streaming"})
    call(name, 400, "completion", json={"inputs": {"query": "x"}}, code="invalid_param")
    call(name, 400, "talking", json=ask, code="app_unavailable")
    call(name, 400, "draft_completion", json=ask, code="app_unavailable")
    call(
        name, 400, "modelless_completion", json=ask, code="model_currently_not_support"
    )
    call(
        f"{name}/{{task_id}}/stop",
        200,
        "completion",
        first["task_id"],
        json={"user": "ada"},
    )
    call(
        f"{name}/{{task_id}}/stop",
        400,
        "talking",
        first["task_id"],
        json={"user": "ada"},
    )


def workflows(call: Caller) -> None:
    """Call the workflow and form endpoints."""
    run = _workflow_runs(call)
    _workflow_runs_by_version(call)
    _run_details(call, run["task_id"], run["workflow_run_id"])
    _forms(call)


_NUMBER_INPUT = {"inputs": {"n": 1}, "user": "ada"}


def _workflow_runs(call: Caller) -> Any:
    """Call the endpoint that runs the published version; return the first response."""
    name, ask = "POST /workflows/run", _NUMBER_INPUT
    run = call(name, 200, "workflow", json=ask)
    call(name, 200, "workflow", json={**ask, "response_mode": "streaming"})
    call(name, 400, "workflow", json={**ask, "inputs": {}}, code="invalid_param")
    call(name, 400, "talking", json=ask, code="not_workflow_app")
    return run


def _workflow_runs_by_version(call: Caller) -> None:
    """Call the endpoint that runs a version by its id."""
    name, ask = "POST /workflows/{workflow_id}/run", _NUMBER_INPUT
    streaming = {**ask, "response_mode": "streaming"}
    published = call.server_info["workflow.first"]
    call(name, 200, "workflow", published, json=ask)
    call(name, 200, "workflow", published, json=streaming)
    call(name, 400, "talking", published, json=ask, code="not_workflow_app")
    call(name, 403, "workflow", call.server_info["workflow.draft"], json=ask)
    call(name, 404, "workflow", NOBODY, json=ask)


def _run_details(call: Caller, task: str, run: str) -> None:
    """Call the endpoints that stop a run and that return its details, logs and
    events."""
    stop = "POST /workflows/tasks/{task_id}/stop"
    call(stop, 200, "workflow", task, json=_ADA)
    call(stop, 400, "talking", task, json=_ADA)
    details = "GET /workflows/run/{workflow_run_id}"
    call(details, 200, "workflow", run)
    call(details, 400, "completion", run)
    call(details, 404, "workflow", NOBODY)
    call("GET /workflows/logs", 200, "workflow")
    call("GET /workflows/logs", 400, "workflow", query={"status": "odd"})
    events = "GET /workflow/{workflow_run_id}/events"
    call(events, 200, "workflow", run, query=_ADA)
    call(events, 400, "completion", run, query=_ADA)
    call(events, 404, "workflow", NOBODY, query=_ADA)


def _forms(call: Caller) -> None:
    """Call the endpoints of a form at which a run is paused."""
    token = _form_token(call)
    path = "/form/human_input/{form_token}"
    call(f"GET {path}", 200, "form", token)
    call(f"GET {path}", 404, "form", "nothing")
    fill = {"inputs": {"note": "yes"}, "action": "yes", "user": "ada"}
    unknown_action = {**fill, "action": "perhaps"}
    call(
        f"POST {path}",
        400,
        "form",
        token,
        json=unknown_action,
        code="invalid_form_data",
    )
    call(f"POST {path}", 404, "form", "nothing", json=fill)
    call(f"POST {path}", 200, "form", token, json=fill)
    # A form can be answered once; after that it is no longer available.
    call(f"POST {path}", 412, "form", token, json=fill)
    call(f"GET {path}", 412, "form", token)


def _form_token(call: Caller) -> str:
    """Start a run that pauses at its form; return the token by which the form is
    addressed."""
    request = {"inputs": {}, "user": "ada", "response_mode": "streaming"}
    paused = call("POST /workflows/run", 200, "form", json=request)
    for line in paused.text.splitlines():
        if not line.startswith("data: "):
            continue
        event = json.loads(line[6:])
        if event["event"] == "human_input_required":
            return event["data"]["form_token"]
    raise RuntimeError("the run did not pause at its form")


def concurrency_limit(call: Caller) -> None:
    """Occupy the server with as many long answers as it allows and check that further
    calls get 429."""
    all_started = threading.Barrier(MAX_CONCURRENT_RUNS + 1)
    release = threading.Event()

    def stream_long_answer() -> None:
        """Start a streamed answer and keep its connection open until `release` is set."""
        headers = {"authorization": f"Bearer {call.server_info['slow']}"}
        body = {
            "query": "a long story",
            "inputs": {},
            "user": "bob",
            "response_mode": "streaming",
        }
        with (
            httpx.Client(base_url=call.server_info["base"], timeout=60) as http,
            http.stream("POST", "/chat-messages", json=body, headers=headers) as answer,
        ):
            next(answer.iter_lines())
            all_started.wait(30)
            release.wait(30)

    threads = [
        threading.Thread(target=stream_long_answer) for _ in range(MAX_CONCURRENT_RUNS)
    ]
    for thread in threads:
        thread.start()
    # Wait until each thread has received its first line, so that all slots are really
    # in use.
    all_started.wait(30)
    ask = {"inputs": {"n": 1}, "user": "ada"}
    call(
        "POST /chat-messages",
        429,
        "talking",
        json={"query": "hello", "inputs": {}, "user": "ada"},
    )
    call("POST /workflows/run", 429, "workflow", json=ask)
    call(
        "POST /workflows/{workflow_id}/run",
        429,
        "workflow",
        call.server_info["workflow.first"],
        json=ask,
    )
    call(
        "POST /completion-messages",
        429,
        "completion",
        json={"inputs": {"query": "x"}, "user": "ada"},
    )
    release.set()
    for thread in threads:
        thread.join(30)
    time.sleep(1.5)  # the stories end


def about_apps(call: Caller) -> None:
    """Call the endpoints about the app itself: settings, files, speech, annotations."""
    for name in ("/info", "/parameters", "/meta", "/site"):
        call(f"GET {name}", 200, "talking")
    call("GET /parameters", 400, "draft", code="app_unavailable")
    runs = call.http.get(
        "/workflows/logs",
        headers={"authorization": f"Bearer {call.server_info['workflow']}"},
    ).json()
    end_user = runs["data"][0]["created_by_end_user"]["id"]
    call("GET /end-users/{end_user_id}", 200, "workflow", end_user)
    call("GET /end-users/{end_user_id}", 404, "workflow", NOBODY)
    _files(call)
    _speech(call)
    _annotations(call)
    _annotation_replies(call)


def _files(call: Caller) -> None:
    """Call the endpoints of uploaded files."""
    name, file = "POST /files/upload", ("a.txt", b"hello")
    uploaded = call(name, 201, "talking", files={"file": file}, data=_ADA)
    call(name, 400, "talking", files={"other": file}, data=_ADA)
    # One byte over the upload limit of 15 MiB.
    large = {"file": ("a.txt", b"x" * ((15 << 20) + 1))}
    call(name, 413, "talking", files=large, data=_ADA)
    preview = "GET /files/{file_id}/preview"
    call(preview, 200, "talking", uploaded["id"], query=_ADA)
    # A file is visible only to the user who uploaded it.
    call(preview, 403, "talking", uploaded["id"], query={"user": "bob"})
    call(preview, 404, "talking", NOBODY, query=_ADA)


def _speech(call: Caller) -> None:
    """Call the endpoints of speech recognition and synthesis."""
    name, recording = (
        "POST /audio-to-text",
        {"file": ("a.wav", _sine_wave(), "audio/wav")},
    )
    disabled = "speech_to_text_disabled"
    call(name, 200, "talking", files=recording, data=_ADA)
    call(name, 400, "chat", files=recording, data=_ADA, code=disabled)
    # One byte over the limit of 30 MiB for recordings.
    call(name, 413, "talking", files={"file": ("a.wav", b"x" * ((30 << 20) + 1))})
    call(name, 415, "talking", files={"file": ("a.txt", b"hello")})
    name = "POST /text-to-audio"
    call(name, 200, "talking", json={"text": "Hello.", "user": "ada"})
    call(name, 400, "talking", json=_ADA, code="invalid_param")


def _annotations(call: Caller) -> None:
    """Call the endpoints of annotations."""
    pair = {"question": "When?", "answer": "At noon."}
    annotation = call("POST /apps/annotations", 201, "talking", json=pair)["id"]
    call("GET /apps/annotations", 200, "talking")
    path = "/apps/annotations/{annotation_id}"
    call(f"PUT {path}", 200, "talking", annotation, json=pair)
    call(f"PUT {path}", 404, "talking", NOBODY, json=pair)
    call(f"DELETE {path}", 204, "talking", annotation)
    call(f"DELETE {path}", 404, "talking", annotation)


def _annotation_replies(call: Caller) -> None:
    """Call the endpoints that switch replies by annotations on and off."""
    reply = {
        "score_threshold": 0.9,
        "embedding_provider_name": "local",
        "embedding_model_name": "use-multilingual-v3",
    }
    name = "POST /apps/annotation-reply/{action}"
    job = call(name, 200, "talking", "enable", json=reply)["job_id"]
    status = "GET /apps/annotation-reply/{action}/status/{job_id}"
    call(status, 200, "talking", "enable", job)
    call(status, 400, "talking", "enable", NOBODY)
    call(name, 200, "talking", "disable", json=reply)


# ----------------------------------------------------------------------------- datasets


def datasets(call: Caller) -> None:
    """Call the dataset and document endpoints, and those below them."""
    dataset = _dataset_settings(call)
    document, second = _created_documents(call, dataset)
    _document_details(call, dataset, document)
    _updated_documents(call, dataset, document, second)
    # Documents must be indexed before they can be downloaded or get segments.
    _wait(call, dataset)
    _downloads(call, dataset, second)
    segments(call, dataset, document)
    _metadata(call, dataset, document)
    _tags(call, dataset)
    _document_states(call, dataset, second)
    find = "POST /datasets/{dataset_id}/retrieve"
    call(find, 200, _KEY, dataset, json={"query": "parcels"})
    call(find, 400, _KEY, dataset, json={})
    call(find, 404, _KEY, NOBODY, json={"query": "parcels"})
    call("GET /workspaces/current/models/model-types/{model_type}", 200, _KEY, "llm")
    # Deleted last: the calls above need the document and the dataset.
    call(f"DELETE {_DOCUMENT}", 204, _KEY, dataset, second)
    call(f"DELETE {_DOCUMENT}", 404, _KEY, dataset, second)
    call("DELETE /datasets/{dataset_id}", 204, _KEY, dataset)


_KEY = "datasets"
"""The name of the key for the knowledge API."""
_DOCUMENTS = "/datasets/{dataset_id}/documents"
_DOCUMENT = f"{_DOCUMENTS}/{{document_id}}"
_GUIDE = {
    "name": "guide",
    "text": "Goods can be sent back.\n\nParcels leave before noon.",
}
_NOTES = {"file": ("notes.md", b"# Notes\n\nIslands take a week.")}


def _dataset_settings(call: Caller) -> str:
    """Call the endpoints of datasets; return the id of a new one."""
    settings = {"name": "api", "indexing_technique": "economy"}
    dataset = call("POST /datasets", 200, _KEY, json=settings)["id"]
    call("POST /datasets", 400, _KEY, json={"name": ""})
    call("POST /datasets", 409, _KEY, json={"name": "api"})
    call("GET /datasets", 200, _KEY)
    path = "/datasets/{dataset_id}"
    call(f"GET {path}", 200, _KEY, dataset)
    call(f"PATCH {path}", 200, _KEY, dataset, json={"description": "Tried."})
    call(f"PATCH {path}", 400, _KEY, dataset, json={"permission": "some"})
    for verb in ("GET", "PATCH", "DELETE"):
        body = None if verb == "GET" else {}
        call(f"{verb} {path}", 404, _KEY, NOBODY, json=body)
    return dataset


def _created_documents(call: Caller, dataset: str) -> tuple[str, str]:
    """Create a document from text and one from a file; return their ids."""
    add = "POST /datasets/{dataset_id}/document/create-by-"
    created = call(f"{add}text", 200, _KEY, dataset, json=_GUIDE)
    call(f"{add}text", 400, _KEY, dataset, json={"name": "guide"})
    call(f"{add}text", 404, _KEY, NOBODY, json=_GUIDE)
    second = call(f"{add}file", 200, _KEY, dataset, files=_NOTES)["document"]["id"]
    call(f"{add}file", 400, _KEY, dataset, json={}, code="no_file_uploaded")
    call(f"{add}file", 404, _KEY, NOBODY, files=_NOTES)
    status = f"GET {_DOCUMENTS}/{{batch}}/indexing-status"
    # Indexing runs in the background; poll it through the documented endpoint.
    for _ in range(200):
        indexing = call(status, 200, _KEY, dataset, created["batch"])
        if indexing["data"][0]["indexing_status"] in ("completed", "error"):
            break
        time.sleep(0.05)
    call(status, 404, _KEY, dataset, "none")
    return created["document"]["id"], second


def _document_details(call: Caller, dataset: str, document: str) -> None:
    """Call the endpoints that return documents."""
    call(f"GET {_DOCUMENTS}", 200, _KEY, dataset)
    call(f"GET {_DOCUMENTS}", 404, _KEY, NOBODY)
    name, invalid = f"GET {_DOCUMENT}", {"metadata": "some"}
    call(name, 200, _KEY, dataset, document)
    call(name, 400, _KEY, dataset, document, query=invalid, code="invalid_metadata")
    call(name, 404, _KEY, dataset, NOBODY)


def _updated_documents(call: Caller, dataset: str, document: str, second: str) -> None:
    """Update `second` from a file by both endpoints for it, and `document` from text."""
    large = {"file": ("a.txt", b"x" * ((1 << 20) + 1))}
    for name in (f"PATCH {_DOCUMENT}", f"POST {_DOCUMENT}/update-by-file"):
        call(name, 200, _KEY, dataset, second, files=_NOTES)
        call(name, 400, _KEY, dataset, second, files={"file": ("", b"x")})
        call(name, 404, _KEY, dataset, NOBODY, files=_NOTES)
        call(name, 413, _KEY, dataset, second, files=large)
    name = f"POST {_DOCUMENT}/update-by-text"
    without_rules = {"process_rule": {"mode": "custom"}}
    call(name, 200, _KEY, dataset, document, json={**_GUIDE, "name": "guide two"})
    call(name, 400, _KEY, dataset, document, json=without_rules)
    call(name, 404, _KEY, dataset, NOBODY, json=_GUIDE)


def _downloads(call: Caller, dataset: str, document: str) -> None:
    """Call the endpoints that return original files."""
    call(f"GET {_DOCUMENT}/download", 200, _KEY, dataset, document)
    call(f"GET {_DOCUMENT}/download", 404, _KEY, dataset, NOBODY)
    name = f"POST {_DOCUMENTS}/download-zip"
    call(name, 200, _KEY, dataset, json={"document_ids": [document]})
    call(name, 404, _KEY, dataset, json={"document_ids": [NOBODY]})


def _document_states(call: Caller, dataset: str, document: str) -> None:
    """Call the endpoint that enables and disables documents."""
    name, body = f"PATCH {_DOCUMENTS}/status/{{action}}", {"document_ids": [document]}
    call(name, 200, _KEY, dataset, "disable", json=body)
    call(name, 400, _KEY, dataset, "hide", json=body)
    call(name, 404, _KEY, NOBODY, "enable", json=body)


def _wait(call: Caller, dataset: str) -> None:
    """Wait up to ten seconds until all documents of the dataset are indexed."""
    headers = {"authorization": f"Bearer {call.server_info['datasets']}"}
    for _ in range(200):
        documents = call.http.get(
            f"/datasets/{dataset}/documents", headers=headers
        ).json()["data"]
        if all(
            document["indexing_status"] in ("completed", "error")
            for document in documents
        ):
            return
        time.sleep(0.05)


def segments(call: Caller, dataset: str, document: str) -> None:
    """Call the segment and child chunk endpoints."""
    name = f"POST {_SEGMENTS}"
    dutch = {"segments": [{"content": "We speak Dutch."}]}
    created = call(name, 200, _KEY, dataset, document, json=dutch)
    call(name, 400, _KEY, dataset, document, json={"segments": [{"content": ""}]})
    call(name, 404, _KEY, dataset, NOBODY, json={"segments": [{"content": "x"}]})
    call(f"GET {_SEGMENTS}", 200, _KEY, dataset, document)
    call(f"GET {_SEGMENTS}", 404, _KEY, dataset, NOBODY)
    ids = (dataset, document, created["data"][0]["id"])
    missing = (dataset, document, NOBODY)
    call(f"GET {_SEGMENT}", 200, _KEY, *ids)
    call(f"GET {_SEGMENT}", 404, _KEY, *missing)
    name = f"POST {_SEGMENT}"
    call(name, 200, _KEY, *ids, json={"segment": {"content": "We speak Frisian."}})
    call(name, 400, _KEY, *ids, json={"segment": {"content": ""}})
    call(name, 404, _KEY, *missing, json={"segment": {"content": "x"}})
    _child_chunks(call)
    call(f"DELETE {_SEGMENT}", 204, _KEY, *ids)
    call(f"DELETE {_SEGMENT}", 404, _KEY, *ids)


_SEGMENTS = f"{_DOCUMENT}/segments"
_SEGMENT = f"{_SEGMENTS}/{{segment_id}}"


def _child_chunks(call: Caller) -> None:
    """Call the child chunk endpoints. Child chunks exist only in a dataset with
    hierarchical segmentation."""
    ids = dataset, document, _ = _hierarchical_segment(call)
    missing = (dataset, document, NOBODY)
    path = f"{_SEGMENT}/child_chunks"
    created = call(f"POST {path}", 200, _KEY, *ids, json={"content": "A third."})
    call(f"POST {path}", 400, _KEY, *ids, json={"content": ""})
    call(f"POST {path}", 404, _KEY, *missing, json={"content": "x"})
    call(f"GET {path}", 200, _KEY, *ids)
    call(f"GET {path}", 404, _KEY, *missing)
    child, name = created["data"]["id"], f"PATCH {path}/{{child_chunk_id}}"
    changed = call(name, 200, _KEY, *ids, child, json={"content": "A fourth."})
    # A changed child chunk has a new id.
    child = changed["data"]["id"]
    call(name, 400, _KEY, *ids, child, json={"content": ""})
    call(name, 404, _KEY, *ids, NOBODY, json={"content": "x"})
    call(f"DELETE {path}/{{child_chunk_id}}", 204, _KEY, *ids, child)
    call(f"DELETE {path}/{{child_chunk_id}}", 404, _KEY, *ids, NOBODY)


def _hierarchical_segment(call: Caller) -> tuple[str, str, str]:
    """Create a document with child chunks; return the ids of its dataset, of the
    document and of its first segment."""
    settings = {
        "name": "parents",
        "indexing_technique": "high_quality",
        "embedding_model": "use-multilingual-v3",
        "embedding_model_provider": "local",
    }
    rules = {
        "mode": "hierarchical",
        "rules": {
            "segmentation": {"separator": "\n\n", "max_tokens": 500},
            "parent_mode": "paragraph",
            "subchunk_segmentation": {"separator": ". ", "max_tokens": 200},
        },
    }
    text = {
        "name": "long",
        "text": "One thing. Another.",
        "doc_form": "hierarchical_model",
        "process_rule": rules,
    }
    dataset = call("POST /datasets", 200, _KEY, json=settings)["id"]
    create = "POST /datasets/{dataset_id}/document/create-by-text"
    document = call(create, 200, _KEY, dataset, json=text)["document"]["id"]
    _wait(call, dataset)
    found = call(f"GET {_SEGMENTS}", 200, _KEY, dataset, document)
    return dataset, document, found["data"][0]["id"]


def _metadata(call: Caller, dataset: str, document: str) -> None:
    """Call the metadata endpoints."""
    path = "/datasets/{dataset_id}/metadata"
    colour = {"type": "string", "name": "colour"}
    field = call(f"POST {path}", 201, _KEY, dataset, json=colour)["id"]
    call(f"POST {path}", 400, _KEY, dataset, json={"type": "string", "name": ""})
    call(f"POST {path}", 404, _KEY, NOBODY, json={"type": "string", "name": "x"})
    call(f"GET {path}", 200, _KEY, dataset)
    call(f"GET {path}", 404, _KEY, NOBODY)
    field_path = f"{path}/{{metadata_id}}"
    call(f"PATCH {field_path}", 200, _KEY, dataset, field, json={"name": "hue"})
    call(f"PATCH {field_path}", 400, _KEY, dataset, field, json={"name": ""})
    call(f"PATCH {field_path}", 404, _KEY, dataset, NOBODY, json={"name": "x"})
    value = {"id": field, "name": "hue", "value": "red"}
    change = {"operation_data": [{"document_id": document, "metadata_list": [value]}]}
    name = f"POST {_DOCUMENTS}/metadata"
    call(name, 200, _KEY, dataset, json=change)
    call(name, 400, _KEY, dataset, json={})
    call(name, 404, _KEY, NOBODY, json=change)
    call(f"DELETE {field_path}", 204, _KEY, dataset, field)
    call(f"DELETE {field_path}", 404, _KEY, dataset, field)
    call(f"GET {path}/built-in", 200, _KEY, dataset)
    call(f"GET {path}/built-in", 404, _KEY, NOBODY)
    name = f"POST {path}/built-in/{{action}}"
    call(name, 200, _KEY, dataset, "enable", json={})
    call(name, 404, _KEY, NOBODY, "enable", json={})


def _tags(call: Caller, dataset: str) -> None:
    """Call the tag endpoints."""
    path = "/datasets/tags"
    tag = call(f"POST {path}", 200, _KEY, json={"name": "tried"})["id"]
    call(f"POST {path}", 400, _KEY, json={"name": ""})
    call(f"GET {path}", 200, _KEY)
    call(f"PATCH {path}", 200, _KEY, json={"tag_id": tag, "name": "tested"})
    call(f"PATCH {path}", 400, _KEY, json={"tag_id": tag, "name": ""})
    call(f"PATCH {path}", 404, _KEY, json={"tag_id": NOBODY, "name": "x"})
    binding = {"tag_ids": [tag], "target_id": dataset}
    missing = {"tag_ids": [tag], "target_id": NOBODY}
    call(f"POST {path}/binding", 204, _KEY, json=binding)
    call(f"POST {path}/binding", 404, _KEY, json=missing)
    call("GET /datasets/{dataset_id}/tags", 200, _KEY, dataset)
    call("GET /datasets/{dataset_id}/tags", 404, _KEY, NOBODY)
    call(f"POST {path}/unbinding", 204, _KEY, json=binding)
    call(f"POST {path}/unbinding", 404, _KEY, json=missing)
    call(f"DELETE {path}", 204, _KEY, json={"tag_id": tag})
    call(f"DELETE {path}", 404, _KEY, json={"tag_id": tag})


def pipelines(call: Caller) -> None:
    """Call the pipeline endpoints."""
    key, dataset = "datasets", call.server_info["pipeline"]
    up = "POST /datasets/pipeline/file-upload"
    file = call(up, 201, key, files={"file": ("a.txt", b"Parcels leave before noon.")})
    call(up, 400, key, json={}, code="no_file_uploaded")
    call(up, 413, key, files={"file": ("a.txt", b"x" * ((15 << 20) + 1))})
    call(up, 415, key, files={"file": ("noending", b"x")})
    listed = "GET /datasets/{dataset_id}/pipeline/datasource-plugins"
    call(listed, 200, key, dataset)
    call(listed, 400, key, dataset, query={"is_published": "perhaps"})
    call(listed, 404, key, NOBODY)
    node = "POST /datasets/{dataset_id}/pipeline/datasource/nodes/{node_id}/run"
    node_request = {
        "inputs": {},
        "datasource_type": "online_document",
        "is_published": True,
    }
    call(node, 200, key, dataset, "notes", json=node_request)
    call(
        node,
        400,
        key,
        dataset,
        "files",
        json={"inputs": {}, "datasource_type": "local_file", "is_published": True},
    )
    call(
        node,
        404,
        key,
        dataset,
        "none",
        json={"inputs": {}, "datasource_type": "local_file", "is_published": True},
    )
    run = "POST /datasets/{dataset_id}/pipeline/run"
    info = [{"reference": file["id"], "name": "a"}]
    body = {
        "inputs": {},
        "datasource_type": "local_file",
        "datasource_info_list": info,
        "start_node_id": "files",
        "is_published": True,
    }
    call(run, 200, key, dataset, json={**body, "response_mode": "blocking"})
    call(run, 200, key, dataset, json={**body, "response_mode": "streaming"})
    call(run, 400, key, dataset, json={**body, "start_node_id": ""})
    call(run, 404, key, NOBODY, json=body)
    # A file that cannot be parsed makes the run fail: the documented status 500.
    broken_file = call(up, 201, key, files={"file": ("a.pdf", b"this is no PDF")})
    call(
        run,
        500,
        key,
        dataset,
        json={**body, "datasource_info_list": [{"reference": broken_file["id"]}]},
    )


PARTS = (
    generated,
    chats,
    completions,
    workflows,
    concurrency_limit,
    about_apps,
    datasets,
    pipelines,
)


def call_everything(environments: Path | None = None) -> Caller:
    """Make all calls and return the caller with what it observed."""
    with caller(environments) as call:
        for part in PARTS:
            part(call)
        return call


def cells(call: Caller) -> list[tuple[Endpoint, int, str, bool]]:
    """Return (endpoint, status, observed codes or the reason for none, whether it is
    correct) for everything documented."""
    rows: list[tuple[Endpoint, int, str, bool]] = []
    for endpoint in call.description.endpoints.values():
        for status in endpoint.answers:
            codes = call.observed_codes.get((endpoint.name, status))
            # A reason for one endpoint takes precedence over the general reason for a
            # status.
            reason = EXCLUDED_STATUSES.get((endpoint.name, status)) or (
                EXCLUDED_STATUSES.get(("*", status)) if codes is None else None
            )
            if codes is None:
                rows.append(
                    (
                        endpoint,
                        status,
                        f"left out: {reason}" if reason else "NOT CALLED",
                        bool(reason),
                    )
                )
            else:
                rows.append((endpoint, status, ", ".join(sorted(codes - {""})), True))
    return rows


_NO_ID = "an invalid id is not found: 404"
EXCLUDED_STATUSES: Mapping[tuple[str, int], str] = {
    ("*", 500): "no request causes it",
    (
        "POST /files/upload",
        415,
    ): "files of all types are accepted; forms and nodes restrict them",
    ("GET /site", 403): "every app has page settings",
    (
        "PATCH /datasets/{dataset_id}/documents/{document_id}",
        415,
    ): "the type is detected from the content, when it is read",
    (
        "POST /datasets/{dataset_id}/documents/{document_id}/update-by-file",
        415,
    ): "the type is detected from the content, when it is read",
    (f"GET {_SEGMENTS}", 400): "listing does not use a model",
    (f"GET {_SEGMENT}", 400): _NO_ID,
    (f"DELETE {_SEGMENT}", 400): _NO_ID,
    (f"DELETE {_SEGMENT}/child_chunks/{{child_chunk_id}}", 400): _NO_ID,
}
"""Documented statuses that are never returned here, with the reason."""


def prove() -> Proof:
    """Make all calls, run the clients and report one line per endpoint."""
    proof = Proof()
    call = call_everything()
    table: dict[str, list[str]] = defaultdict(list)
    is_right: dict[str, bool] = defaultdict(lambda: True)
    documented = cells(call)
    for endpoint, status, observed, ok in documented:
        table[endpoint.name].append(f"{status}{f' ({observed})' if observed else ''}")
        is_right[endpoint.name] &= ok
    failed_endpoints = {problem.partition(" → ")[0] for problem in call.problems}
    for name, statuses in table.items():
        proof.line(
            name, " · ".join(statuses), is_right[name] and name not in failed_endpoints
        )
    for problem in call.problems:
        proof.line("differs", problem, ok=False)
    proof.figures |= {
        "endpoints": len(table),
        "statuses": len(documented),
        "seen": sum(
            "left out" not in observed and ok for _, _, observed, ok in documented
        ),
        "left_out": sum("left out" in observed for _, _, observed, _ in documented),
        "differ": len(call.problems),
    }
    # The clients run against a server of their own.
    clients = prove_clients({**CLIENTS, **DATASET_CLIENTS})
    proof.lines += clients.lines
    proof.figures["clients"] = clients.figures
    return proof
