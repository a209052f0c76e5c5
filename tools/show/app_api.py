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
            # Errors of the service API have exactly these three fields.
            error_body = answer.json()
            error_code = str(error_body.get("code"))
            if (
                error_body.keys() != {"code", "message", "status"}
                or error_body["status"] != status
            ):
                self.problems.append(
                    f"{label}: an error is code, message and status, not {answer.text[:100]}"
                )
            if error_code not in documented.get("codes", ()):
                self.problems.append(
                    f"{label}: code {error_code!r} is not documented ({', '.join(documented['codes'])})"
                )
            if code and error_code != code:
                self.problems.append(f"{label}: code {error_code!r}, not {code!r}")
        elif documented.get("empty"):
            if answer.content:
                self.problems.append(f"{label} has a body")
        else:
            self._check_body(endpoint, answer, status, label)
        self.observed_codes[endpoint.name, status].add(error_code)

    def _check_body(
        self, endpoint: Endpoint, answer: httpx.Response, status: int, label: str
    ) -> None:
        """Validate the body of a successful response: its media type, JSON shape or
        event stream."""
        content_type = answer.headers["content-type"].partition(";")[0]
        shape = self.description.shape_of(endpoint, status)
        if content_type == "application/json" and shape is not None:
            shape_problems = list(
                self.description.problems(answer.json(), shape, may_be_null=False)
            )
            self.problems += [f"{label}: {problem}" for problem in shape_problems]
            return
        types = endpoint.answers[status].get("types", [])
        if content_type not in types and "application/octet-stream" not in types:
            self.problems.append(
                f"{label} is {content_type}, not {', '.join(types) or 'JSON'}"
            )
        if content_type == "text/event-stream":
            # Each data line of an event stream is a JSON object with an `event` field.
            for line in answer.text.splitlines():
                if line.startswith("data: ") and "event" not in json.loads(line[6:]):
                    self.problems.append(f"{label}: {line[:80]} is no event")


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

    def added(path: str, **body: Any) -> Any:
        """Create a resource by the admin API and return its JSON. Raises RuntimeError
        if that fails."""
        answer = admin.post(f"/admin/v1/{path}", json=body)
        if answer.status_code != 201:
            raise RuntimeError(f"{path}: {answer.text}")
        return answer.json()

    files = apps()
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
    for name, file, options in (
        ("draft", files["talking"], {"publish": False}),
        ("draft_completion", yaml.dump(completion), {"publish": False}),
        ("modelless", files["talking"], {"mapping": {"models": {"*": "nowhere/none"}}}),
        (
            "modelless_completion",
            yaml.dump(completion),
            {"mapping": {"models": {"*": "nowhere/none"}}},
        ),
        (
            "agent",
            yaml.dump({**completion, "app": {"name": "x", "mode": "chat"}}),
            {"mapping": {"models": {"*": "scripted/model"}}},
        ),
    ):
        app = added("apps", file=file, name=name, **options)
        call.server_info[name] = added(f"apps/{app['id']}/keys")["key"]
    for name in ("talking", "workflow"):
        # These apps get a published and a newer draft version, so that both can be
        # requested by their ids.
        app_record = next(
            candidate
            for candidate in admin.get("/admin/v1/apps").json()["data"]
            if candidate["name"] == name
        )
        text = admin.get(f"/admin/v1/apps/{app_record['id']}/file").text
        call.server_info[f"{name}.first"] = _workflow_id(app_record["digest"])
        saved = admin.put(
            f"/admin/v1/apps/{app_record['id']}/file",
            json={"file": text + "\n# changed\n"},
        ).json()
        call.server_info[f"{name}.draft"] = _workflow_id(saved["digest"])
    call.server_info["pipeline"] = added("apps", file=pipeline())["dataset"]
    # Without any key the admin API is open to loopback; the first key closes it, so it
    # is created last.
    call.server_info["owner"] = added("keys", name="owner", role="owner")["key"]
    admin.headers["authorization"] = f"Bearer {call.server_info['owner']}"
    call.server_info["viewer"] = added("keys", name="viewer", role="viewer")["key"]


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
    ask = {"query": "hello", "inputs": {}, "user": "ada"}
    first = call("POST /chat-messages", 200, "talking", json=ask)
    call(
        "POST /chat-messages",
        200,
        "talking",
        json={**ask, "response_mode": "streaming"},
    )
    call(
        "POST /chat-messages",
        200,
        "talking",
        json={**ask, "workflow_id": call.server_info["talking.first"]},
    )
    call(
        "POST /chat-messages",
        400,
        "talking",
        json={"inputs": {}, "user": "ada"},
        code="invalid_param",
    )
    call("POST /chat-messages", 400, "workflow", json=ask, code="not_chat_app")
    call("POST /chat-messages", 400, "draft", json=ask, code="app_unavailable")
    call(
        "POST /chat-messages",
        400,
        "modelless",
        json=ask,
        code="model_currently_not_support",
    )
    call(
        "POST /chat-messages",
        400,
        "talking",
        json={**ask, "workflow_id": "x"},
        code="bad_request",
    )
    call(
        "POST /chat-messages",
        403,
        "talking",
        json={**ask, "workflow_id": call.server_info["talking.draft"]},
    )
    call("POST /chat-messages", 404, "talking", json={**ask, "workflow_id": NOBODY})
    call("POST /chat-messages", 404, "agent", json={**ask, "conversation_id": NOBODY})
    call(
        "POST /chat-messages/{task_id}/stop",
        200,
        "talking",
        first["task_id"],
        json={"user": "ada"},
    )
    call("POST /chat-messages/{task_id}/stop", 400, "talking", NOBODY, json={})
    call(
        "POST /chat-messages/{task_id}/stop",
        400,
        "workflow",
        NOBODY,
        json={"user": "ada"},
        code="not_chat_app",
    )
    message, conversation, who = (
        first["message_id"],
        first["conversation_id"],
        {"user": "ada"},
    )
    call("GET /messages/{message_id}/suggested", 200, "talking", message, query=who)
    call(
        "GET /messages/{message_id}/suggested",
        400,
        "workflow",
        message,
        query=who,
        code="not_chat_app",
    )
    call("GET /messages/{message_id}/suggested", 404, "talking", NOBODY, query=who)
    # Suggested questions are off in this app, so the request is refused.
    quiet = call("POST /chat-messages", 200, "agent", json=ask)["message_id"]
    call(
        "GET /messages/{message_id}/suggested",
        400,
        "agent",
        quiet,
        query=who,
        code="bad_request",
    )
    call(
        "POST /messages/{message_id}/feedbacks",
        200,
        "talking",
        message,
        json={**who, "rating": "like", "content": "!"},
    )
    call(
        "POST /messages/{message_id}/feedbacks",
        400,
        "talking",
        message,
        json={**who, "rating": "perhaps"},
    )
    call(
        "POST /messages/{message_id}/feedbacks",
        404,
        "talking",
        NOBODY,
        json={**who, "rating": "like"},
    )
    call("GET /app/feedbacks", 200, "talking")
    call("GET /conversations", 200, "talking", query=who)
    call("GET /conversations", 400, "workflow", query=who)
    call("GET /conversations", 404, "talking", query={**who, "last_id": NOBODY})
    message_query = {**who, "conversation_id": conversation}
    call("GET /messages", 200, "talking", query=message_query)
    call("GET /messages", 400, "workflow", query=message_query)
    call("GET /messages", 404, "talking", query={**who, "conversation_id": NOBODY})
    conversation_path = "/conversations/{conversation_id}/"
    variables = call(
        f"GET {conversation_path}variables", 200, "talking", conversation, query=who
    )
    call(f"GET {conversation_path}variables", 400, "workflow", conversation, query=who)
    call(f"GET {conversation_path}variables", 404, "talking", NOBODY, query=who)
    call(
        f"POST {conversation_path}name",
        200,
        "talking",
        conversation,
        json={**who, "name": "A talk"},
    )
    call(
        f"POST {conversation_path}name",
        200,
        "talking",
        conversation,
        json={**who, "auto_generate": True},
    )
    call(
        f"POST {conversation_path}name",
        400,
        "talking",
        conversation,
        json=who,
        code="invalid_param",
    )
    call(
        f"POST {conversation_path}name",
        404,
        "talking",
        NOBODY,
        json={**who, "name": "A talk"},
    )
    update_variable = f"PUT {conversation_path}variables/{{variable_id}}"
    # The conversation variable is a number, so a text is refused below.
    variable = variables["data"][0]["id"]
    call(
        update_variable,
        200,
        "talking",
        conversation,
        variable,
        json={**who, "value": 7},
    )
    call(
        update_variable,
        400,
        "talking",
        conversation,
        variable,
        json={**who, "value": "many"},
        code="bad_request",
    )
    call(
        update_variable, 404, "talking", conversation, NOBODY, json={**who, "value": 7}
    )
    call(
        "DELETE /conversations/{conversation_id}",
        204,
        "talking",
        conversation,
        json=who,
    )
    call(
        "DELETE /conversations/{conversation_id}",
        400,
        "workflow",
        conversation,
        json=who,
    )
    call(
        "DELETE /conversations/{conversation_id}",
        404,
        "talking",
        conversation,
        json=who,
    )


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
    ask = {"inputs": {"n": 1}, "user": "ada"}
    run = call("POST /workflows/run", 200, "workflow", json=ask)
    call(
        "POST /workflows/run",
        200,
        "workflow",
        json={**ask, "response_mode": "streaming"},
    )
    call(
        "POST /workflows/run",
        400,
        "workflow",
        json={**ask, "inputs": {}},
        code="invalid_param",
    )
    call("POST /workflows/run", 400, "talking", json=ask, code="not_workflow_app")
    run_by_id = "POST /workflows/{workflow_id}/run"
    call(run_by_id, 200, "workflow", call.server_info["workflow.first"], json=ask)
    call(
        run_by_id,
        200,
        "workflow",
        call.server_info["workflow.first"],
        json={**ask, "response_mode": "streaming"},
    )
    call(
        run_by_id,
        400,
        "talking",
        call.server_info["workflow.first"],
        json=ask,
        code="not_workflow_app",
    )
    call(run_by_id, 403, "workflow", call.server_info["workflow.draft"], json=ask)
    call(run_by_id, 404, "workflow", NOBODY, json=ask)
    call(
        "POST /workflows/tasks/{task_id}/stop",
        200,
        "workflow",
        run["task_id"],
        json={"user": "ada"},
    )
    call(
        "POST /workflows/tasks/{task_id}/stop",
        400,
        "talking",
        run["task_id"],
        json={"user": "ada"},
    )
    call(
        "GET /workflows/run/{workflow_run_id}", 200, "workflow", run["workflow_run_id"]
    )
    call(
        "GET /workflows/run/{workflow_run_id}",
        400,
        "completion",
        run["workflow_run_id"],
    )
    call("GET /workflows/run/{workflow_run_id}", 404, "workflow", NOBODY)
    call("GET /workflows/logs", 200, "workflow")
    call("GET /workflows/logs", 400, "workflow", query={"status": "odd"})
    events = "GET /workflow/{workflow_run_id}/events"
    call(events, 200, "workflow", run["workflow_run_id"], query={"user": "ada"})
    call(events, 400, "completion", run["workflow_run_id"], query={"user": "ada"})
    call(events, 404, "workflow", NOBODY, query={"user": "ada"})
    # The run pauses at its form; the event contains the token that the form is
    # addressed by.
    paused = call(
        "POST /workflows/run",
        200,
        "form",
        json={"inputs": {}, "user": "ada", "response_mode": "streaming"},
    )
    paused_events = [
        json.loads(line[6:])
        for line in paused.text.splitlines()
        if line.startswith("data: ")
    ]
    token = next(
        event["data"]["form_token"]
        for event in paused_events
        if event["event"] == "human_input_required"
    )
    form_path = "/form/human_input/{form_token}"
    call(f"GET {form_path}", 200, "form", token)
    call(f"GET {form_path}", 404, "form", "nothing")
    fill = {"inputs": {"note": "yes"}, "action": "yes", "user": "ada"}
    call(
        f"POST {form_path}",
        400,
        "form",
        token,
        json={**fill, "action": "perhaps"},
        code="invalid_form_data",
    )
    call(f"POST {form_path}", 404, "form", "nothing", json=fill)
    call(f"POST {form_path}", 200, "form", token, json=fill)
    # A form can be answered once; after that it is gone.
    call(f"POST {form_path}", 412, "form", token, json=fill)
    call(f"GET {form_path}", 412, "form", token)


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
    up = call(
        "POST /files/upload",
        201,
        "talking",
        files={"file": ("a.txt", b"hello")},
        data={"user": "ada"},
    )
    call(
        "POST /files/upload",
        400,
        "talking",
        files={"other": ("a.txt", b"hello")},
        data={"user": "ada"},
    )
    # One byte over the upload limit of 15 MiB.
    large = {"file": ("a.txt", b"x" * ((15 << 20) + 1))}
    call("POST /files/upload", 413, "talking", files=large, data={"user": "ada"})
    call(
        "GET /files/{file_id}/preview", 200, "talking", up["id"], query={"user": "ada"}
    )
    # A file is visible only to the user who uploaded it.
    call(
        "GET /files/{file_id}/preview", 403, "talking", up["id"], query={"user": "bob"}
    )
    call("GET /files/{file_id}/preview", 404, "talking", NOBODY, query={"user": "ada"})
    recording = {"file": ("a.wav", _sine_wave(), "audio/wav")}
    call("POST /audio-to-text", 200, "talking", files=recording, data={"user": "ada"})
    call(
        "POST /audio-to-text",
        400,
        "chat",
        files=recording,
        data={"user": "ada"},
        code="speech_to_text_disabled",
    )
    call(
        "POST /audio-to-text",
        413,
        "talking",
        files={"file": ("a.wav", b"x" * ((30 << 20) + 1))},
    )
    call("POST /audio-to-text", 415, "talking", files={"file": ("a.txt", b"hello")})
    call("POST /text-to-audio", 200, "talking", json={"text": "Hello.", "user": "ada"})
    call(
        "POST /text-to-audio",
        400,
        "talking",
        json={"user": "ada"},
        code="invalid_param",
    )
    pair = {"question": "When?", "answer": "At noon."}
    annotation = call("POST /apps/annotations", 201, "talking", json=pair)
    call("GET /apps/annotations", 200, "talking")
    call(
        "PUT /apps/annotations/{annotation_id}",
        200,
        "talking",
        annotation["id"],
        json=pair,
    )
    call("PUT /apps/annotations/{annotation_id}", 404, "talking", NOBODY, json=pair)
    call("DELETE /apps/annotations/{annotation_id}", 204, "talking", annotation["id"])
    call("DELETE /apps/annotations/{annotation_id}", 404, "talking", annotation["id"])
    reply = {
        "score_threshold": 0.9,
        "embedding_provider_name": "local",
        "embedding_model_name": "use-multilingual-v3",
    }
    job = call(
        "POST /apps/annotation-reply/{action}", 200, "talking", "enable", json=reply
    )
    job_status = "GET /apps/annotation-reply/{action}/status/{job_id}"
    call(job_status, 200, "talking", "enable", job["job_id"])
    call(job_status, 400, "talking", "enable", NOBODY)
    call("POST /apps/annotation-reply/{action}", 200, "talking", "disable", json=reply)


# ----------------------------------------------------------------------------- datasets


def datasets(call: Caller) -> None:
    """Call the dataset and document endpoints, and those below them."""
    key = "datasets"
    dataset = call(
        "POST /datasets",
        200,
        key,
        json={"name": "api", "indexing_technique": "economy"},
    )["id"]
    call("POST /datasets", 400, key, json={"name": ""})
    call("POST /datasets", 409, key, json={"name": "api"})
    call("GET /datasets", 200, key)
    call("GET /datasets/{dataset_id}", 200, key, dataset)
    call(
        "PATCH /datasets/{dataset_id}",
        200,
        key,
        dataset,
        json={"description": "Tried."},
    )
    call("PATCH /datasets/{dataset_id}", 400, key, dataset, json={"permission": "some"})
    for verb in ("GET", "PATCH", "DELETE"):
        call(
            f"{verb} /datasets/{{dataset_id}}",
            404,
            key,
            NOBODY,
            json=None if verb == "GET" else {},
        )
    add = "POST /datasets/{dataset_id}/document/create-by-"
    text = {
        "name": "guide",
        "text": "Goods can be sent back.\n\nParcels leave before noon.",
    }
    created = call(f"{add}text", 200, key, dataset, json=text)
    call(f"{add}text", 400, key, dataset, json={"name": "guide"})
    call(f"{add}text", 404, key, NOBODY, json=text)
    file = {"file": ("notes.md", b"# Notes\n\nIslands take a week.")}
    second = call(f"{add}file", 200, key, dataset, files=file)["document"]["id"]
    call(f"{add}file", 400, key, dataset, json={}, code="no_file_uploaded")
    call(f"{add}file", 404, key, NOBODY, files=file)
    status = "GET /datasets/{dataset_id}/documents/{batch}/indexing-status"
    document = created["document"]["id"]
    # Indexing runs in the background; poll it through the documented endpoint.
    for _ in range(200):
        indexing = call(status, 200, key, dataset, created["batch"])
        if indexing["data"][0]["indexing_status"] in ("completed", "error"):
            break
        time.sleep(0.05)
    call(status, 404, key, dataset, "none")
    base = "/datasets/{dataset_id}/documents"
    call(f"GET {base}", 200, key, dataset)
    call(f"GET {base}", 404, key, NOBODY)
    which = f"{base}/{{document_id}}"
    call(f"GET {which}", 200, key, dataset, document)
    call(
        f"GET {which}",
        400,
        key,
        dataset,
        document,
        query={"metadata": "some"},
        code="invalid_metadata",
    )
    call(f"GET {which}", 404, key, dataset, NOBODY)
    for name in (f"PATCH {which}", f"POST {which}/update-by-file"):
        call(name, 200, key, dataset, second, files=file)
        call(name, 400, key, dataset, second, files={"file": ("", b"x")})
        call(name, 404, key, dataset, NOBODY, files=file)
        call(
            name,
            413,
            key,
            dataset,
            second,
            files={"file": ("a.txt", b"x" * ((1 << 20) + 1))},
        )
    call(
        f"POST {which}/update-by-text",
        200,
        key,
        dataset,
        document,
        json={**text, "name": "guide two"},
    )
    call(
        f"POST {which}/update-by-text",
        400,
        key,
        dataset,
        document,
        json={"process_rule": {"mode": "custom"}},
    )
    call(f"POST {which}/update-by-text", 404, key, dataset, NOBODY, json=text)
    # Documents must be indexed before they can be downloaded or get segments.
    _wait(call, dataset)
    call(f"GET {which}/download", 200, key, dataset, second)
    call(f"GET {which}/download", 404, key, dataset, NOBODY)
    call(
        f"POST {base}/download-zip", 200, key, dataset, json={"document_ids": [second]}
    )
    call(
        f"POST {base}/download-zip", 404, key, dataset, json={"document_ids": [NOBODY]}
    )
    segments(call, dataset, document)
    _metadata_and_tags(call, dataset, document)
    state = f"PATCH {base}/status/{{action}}"
    call(state, 200, key, dataset, "disable", json={"document_ids": [second]})
    call(state, 400, key, dataset, "hide", json={"document_ids": [second]})
    call(state, 404, key, NOBODY, "enable", json={"document_ids": [second]})
    find = "POST /datasets/{dataset_id}/retrieve"
    call(find, 200, key, dataset, json={"query": "parcels"})
    call(find, 400, key, dataset, json={})
    call(find, 404, key, NOBODY, json={"query": "parcels"})
    call("GET /workspaces/current/models/model-types/{model_type}", 200, key, "llm")
    # Deleted last: the calls above need the document and the dataset.
    call(f"DELETE {which}", 204, key, dataset, second)
    call(f"DELETE {which}", 404, key, dataset, second)
    call("DELETE /datasets/{dataset_id}", 204, key, dataset)


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
    key = "datasets"
    base = "/datasets/{dataset_id}/documents/{document_id}/segments"
    added = call(
        f"POST {base}",
        200,
        key,
        dataset,
        document,
        json={"segments": [{"content": "We speak Dutch."}]},
    )
    call(
        f"POST {base}",
        400,
        key,
        dataset,
        document,
        json={"segments": [{"content": ""}]},
    )
    call(
        f"POST {base}", 404, key, dataset, NOBODY, json={"segments": [{"content": "x"}]}
    )
    call(f"GET {base}", 200, key, dataset, document)
    call(f"GET {base}", 404, key, dataset, NOBODY)
    segment_path, mine = f"{base}/{{segment_id}}", added["data"][0]["id"]
    call(f"GET {segment_path}", 200, key, dataset, document, mine)
    call(f"GET {segment_path}", 404, key, dataset, document, NOBODY)
    call(
        f"POST {segment_path}",
        200,
        key,
        dataset,
        document,
        mine,
        json={"segment": {"content": "We speak Frisian."}},
    )
    call(
        f"POST {segment_path}",
        400,
        key,
        dataset,
        document,
        mine,
        json={"segment": {"content": ""}},
    )
    call(
        f"POST {segment_path}",
        404,
        key,
        dataset,
        document,
        NOBODY,
        json={"segment": {"content": "x"}},
    )
    # Child chunks exist only in a dataset with hierarchical segmentation.
    parents = call(
        "POST /datasets",
        200,
        key,
        json={
            "name": "parents",
            "indexing_technique": "high_quality",
            "embedding_model": "use-multilingual-v3",
            "embedding_model_provider": "local",
        },
    )["id"]
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
    parent_document = call(
        "POST /datasets/{dataset_id}/document/create-by-text",
        200,
        key,
        parents,
        json=text,
    )["document"]["id"]
    _wait(call, parents)
    parent = call(f"GET {base}", 200, key, parents, parent_document)["data"][0]["id"]
    children_path = f"{segment_path}/child_chunks"
    where = (parents, parent_document, parent)
    child = call(
        f"POST {children_path}", 200, key, *where, json={"content": "A third."}
    )["data"]["id"]
    call(f"POST {children_path}", 400, key, *where, json={"content": ""})
    call(
        f"POST {children_path}",
        404,
        key,
        parents,
        parent_document,
        NOBODY,
        json={"content": "x"},
    )
    call(f"GET {children_path}", 200, key, *where)
    call(f"GET {children_path}", 404, key, parents, parent_document, NOBODY)
    child_path = f"{children_path}/{{child_chunk_id}}"
    # A changed child chunk has a new id.
    changed = call(
        f"PATCH {child_path}", 200, key, *where, child, json={"content": "A fourth."}
    )["data"]["id"]
    call(f"PATCH {child_path}", 400, key, *where, changed, json={"content": ""})
    call(f"PATCH {child_path}", 404, key, *where, NOBODY, json={"content": "x"})
    call(f"DELETE {child_path}", 204, key, *where, changed)
    call(f"DELETE {child_path}", 404, key, *where, NOBODY)
    call(f"DELETE {segment_path}", 204, key, dataset, document, mine)
    call(f"DELETE {segment_path}", 404, key, dataset, document, mine)


def _metadata_and_tags(call: Caller, dataset: str, document: str) -> None:
    """Call the metadata and tag endpoints."""
    key = "datasets"
    metadata_path = "/datasets/{dataset_id}/metadata"
    field = call(
        f"POST {metadata_path}",
        201,
        key,
        dataset,
        json={"type": "string", "name": "colour"},
    )["id"]
    call(
        f"POST {metadata_path}", 400, key, dataset, json={"type": "string", "name": ""}
    )
    call(
        f"POST {metadata_path}", 404, key, NOBODY, json={"type": "string", "name": "x"}
    )
    call(f"GET {metadata_path}", 200, key, dataset)
    call(f"GET {metadata_path}", 404, key, NOBODY)
    call(
        f"PATCH {metadata_path}/{{metadata_id}}",
        200,
        key,
        dataset,
        field,
        json={"name": "hue"},
    )
    call(
        f"PATCH {metadata_path}/{{metadata_id}}",
        400,
        key,
        dataset,
        field,
        json={"name": ""},
    )
    call(
        f"PATCH {metadata_path}/{{metadata_id}}",
        404,
        key,
        dataset,
        NOBODY,
        json={"name": "x"},
    )
    change = {
        "operation_data": [
            {
                "document_id": document,
                "metadata_list": [{"id": field, "name": "hue", "value": "red"}],
            }
        ]
    }
    call(
        "POST /datasets/{dataset_id}/documents/metadata", 200, key, dataset, json=change
    )
    call("POST /datasets/{dataset_id}/documents/metadata", 400, key, dataset, json={})
    call(
        "POST /datasets/{dataset_id}/documents/metadata", 404, key, NOBODY, json=change
    )
    call(f"DELETE {metadata_path}/{{metadata_id}}", 204, key, dataset, field)
    call(f"DELETE {metadata_path}/{{metadata_id}}", 404, key, dataset, field)
    call(f"GET {metadata_path}/built-in", 200, key, dataset)
    call(f"GET {metadata_path}/built-in", 404, key, NOBODY)
    call(
        f"POST {metadata_path}/built-in/{{action}}",
        200,
        key,
        dataset,
        "enable",
        json={},
    )
    call(
        f"POST {metadata_path}/built-in/{{action}}", 404, key, NOBODY, "enable", json={}
    )
    tag = call("POST /datasets/tags", 200, key, json={"name": "tried"})["id"]
    call("POST /datasets/tags", 400, key, json={"name": ""})
    call("GET /datasets/tags", 200, key)
    call("PATCH /datasets/tags", 200, key, json={"tag_id": tag, "name": "tested"})
    call("PATCH /datasets/tags", 400, key, json={"tag_id": tag, "name": ""})
    call("PATCH /datasets/tags", 404, key, json={"tag_id": NOBODY, "name": "x"})
    call(
        "POST /datasets/tags/binding",
        204,
        key,
        json={"tag_ids": [tag], "target_id": dataset},
    )
    call(
        "POST /datasets/tags/binding",
        404,
        key,
        json={"tag_ids": [tag], "target_id": NOBODY},
    )
    call("GET /datasets/{dataset_id}/tags", 200, key, dataset)
    call("GET /datasets/{dataset_id}/tags", 404, key, NOBODY)
    call(
        "POST /datasets/tags/unbinding",
        204,
        key,
        json={"tag_ids": [tag], "target_id": dataset},
    )
    call(
        "POST /datasets/tags/unbinding",
        404,
        key,
        json={"tag_ids": [tag], "target_id": NOBODY},
    )
    call("DELETE /datasets/tags", 204, key, json={"tag_id": tag})
    call("DELETE /datasets/tags", 404, key, json={"tag_id": tag})


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


_SEGMENT = "/datasets/{dataset_id}/documents/{document_id}/segments"
_NO_ID = "an id that is none is not found: 404"
EXCLUDED_STATUSES: Mapping[tuple[str, int], str] = {
    ("*", 500): "nothing that is sent makes it so",
    (
        "POST /files/upload",
        415,
    ): "files of all types are taken; forms and nodes say which they read",
    ("GET /site", 403): "every app has settings of a page",
    (
        "PATCH /datasets/{dataset_id}/documents/{document_id}",
        415,
    ): "the content says what it is, when it is read",
    (
        "POST /datasets/{dataset_id}/documents/{document_id}/update-by-file",
        415,
    ): "the same",
    (f"GET {_SEGMENT}", 400): "listing asks no model",
    (f"GET {_SEGMENT}/{{segment_id}}", 400): _NO_ID,
    (f"DELETE {_SEGMENT}/{{segment_id}}", 400): _NO_ID,
    (f"DELETE {_SEGMENT}/{{segment_id}}/child_chunks/{{child_chunk_id}}", 400): _NO_ID,
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
