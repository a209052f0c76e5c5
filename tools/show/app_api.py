"""Every documented endpoint of the service API, with every status that is documented for it; then six clients."""

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
AT_ONCE = 3


class Caller:
    """Calls by the description: what comes back is held against it, and each status seen is remembered."""

    def __init__(self, told: Mapping[str, str]) -> None:
        self.told = dict(told)
        self.description = Description()
        self.seen: dict[tuple[str, int], set[str]] = defaultdict(set)
        """(endpoint, status) → codes."""
        self.problems: list[str] = []
        self.http = httpx.Client(base_url=told["base"], timeout=60)
        self.admin = httpx.Client(base_url=told["base"].removesuffix("/v1"), timeout=60)

    def close(self) -> None:
        self.http.close()
        self.admin.close()

    def __call__(
        self, name: str, status: int, key: str, *ids: str, json: Any = None, query: Any = None, files: Any = None,
        data: Any = None, code: str = "",
    ) -> Any:  # fmt: skip
        """One request, and what came of it."""
        endpoint = self.description.endpoints[name]
        path, wanted = endpoint.path, list(ids)
        while "{" in path:
            head, _, rest = path.partition("{")
            path = f"{head}{wanted.pop(0)}{rest.partition('}')[2]}"
        headers = {"authorization": f"Bearer {self.told.get(key, key)}"} if key else {}
        answer = self.http.request(
            endpoint.method, path, headers=headers, json=json, params=query, files=files, data=data
        )
        self._hold(endpoint, answer, status, code)
        kind = answer.headers.get("content-type", "")
        return answer.json() if kind == "application/json" and answer.content else answer

    def _hold(self, endpoint: Endpoint, answer: httpx.Response, status: int, code: str) -> None:
        what = f"{endpoint.name} → {answer.status_code}"
        if answer.status_code != status:
            self.problems.append(f"{what}, not {status}: {answer.text[:160]}")
            return
        documented = endpoint.answers.get(status)
        if documented is None:
            if status != 401:
                self.problems.append(f"{what} is not documented")
            return
        found = ""
        if status >= 400:
            told = answer.json()
            found = str(told.get("code"))
            if told.keys() != {"code", "message", "status"} or told["status"] != status:
                self.problems.append(f"{what}: an error is code, message and status, not {answer.text[:100]}")
            if found not in documented.get("codes", ()):
                self.problems.append(f"{what}: code {found!r} is not documented ({', '.join(documented['codes'])})")
            if code and found != code:
                self.problems.append(f"{what}: code {found!r}, not {code!r}")
        elif documented.get("empty"):
            if answer.content:
                self.problems.append(f"{what} has a body")
        else:
            self._fits(endpoint, answer, status, what)
        self.seen[endpoint.name, status].add(found)

    def _fits(self, endpoint: Endpoint, answer: httpx.Response, status: int, what: str) -> None:
        kind = answer.headers["content-type"].partition(";")[0]
        shape = self.description.shape_of(endpoint, status)
        if kind == "application/json" and shape is not None:
            told = list(self.description.problems(answer.json(), shape, may_be_null=False))
            self.problems += [f"{what}: {one}" for one in told]
            return
        types = endpoint.answers[status].get("types", [])
        if kind not in types and "application/octet-stream" not in types:
            self.problems.append(f"{what} is {kind}, not {', '.join(types) or 'JSON'}")
        if kind == "text/event-stream":
            for line in answer.text.splitlines():
                if line.startswith("data: ") and "event" not in json.loads(line[6:]):
                    self.problems.append(f"{what}: {line[:80]} is no event")


# ------------------------------------------------------------------------------------------------ the apps


def _app(mode: str, name: str, nodes: Mapping[str, Any], edges: list[tuple[str, ...]], **more: Any) -> str:
    graph = {
        "nodes": [{"id": one, "data": {"title": one, **data}} for one, data in nodes.items()],
        "edges": [
            {"source": one[0], "target": one[1], **({"sourceHandle": one[2]} if len(one) > 2 else {})} for one in edges
        ],
    }
    workflow = {"graph": graph, "features": more.pop("features", {}), **more}
    return yaml.dump({"kind": "app", "version": "0.6.0", "app": {"name": name, "mode": mode}, "workflow": workflow})


def apps() -> dict[str, str]:
    """What the app clients' server does not have: a chat with variables and speech, a form, a pipeline."""
    llm = {"type": "llm", "model": MODEL, "prompt_template": [{"role": "system", "text": "Be short."}]}
    talking = _app(
        "advanced-chat", "talking",
        {"start": {"type": "start"}, "llm": llm, "answer": {"type": "answer", "answer": "{{#llm.text#}}"}},
        [("start", "llm"), ("llm", "answer")],
        conversation_variables=[{"name": "n", "value": 0, "value_type": "number", "description": "how often"}],
        features={
            "suggested_questions_after_answer": {"enabled": True}, "speech_to_text": {"enabled": True},
            "text_to_speech": {"enabled": True},
        },
    )  # fmt: skip
    form = _app(
        "workflow", "form",
        {
            "start": {"type": "start"},
            "ask": {
                "type": "human-input", "form_content": "Go on?", "timeout": 1,
                "inputs": [{"type": "paragraph", "output_variable_name": "note"}],
                "user_actions": [{"id": "yes", "title": "Yes"}],
            },
            "end": {"type": "end", "outputs": [{"variable": "note", "value_selector": ["ask", "note"]}]},
        },
        [("start", "ask"), ("ask", "end", "yes")],
    )  # fmt: skip
    return {"talking": talking, "form": form}


def pipeline() -> str:
    nodes = {
        "files": {"type": "datasource", "provider_type": "local_file"},
        "notes": {
            "type": "datasource", "provider_type": "online_document", "plugin_id": "modelyard/shelf",
            "provider_name": "shelf", "datasource_name": "notes",
        },
        "read": {"type": "document-extractor", "variable_selector": ["files", "file"]},
        "keep": {"type": "knowledge-index", "index_chunk_variable_selector": ["read", "text"],
                 "indexing_technique": "economy"},
        "keep_pages": {"type": "knowledge-index", "index_chunk_variable_selector": ["notes", "content"],
                       "indexing_technique": "economy"},
    }  # fmt: skip
    told = yaml.safe_load(
        _app("workflow", "api pipeline", nodes, [("files", "read"), ("read", "keep"), ("notes", "keep_pages")])
    )
    return yaml.dump({"kind": "rag_pipeline", "version": "0.1.0", "rag_pipeline": told["app"], "workflow": told["workflow"]})  # fmt: skip


def _tone() -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(b"".join(struct.pack("<h", int(8000 * math.sin(at / 12))) for at in range(8000)))
    return target.getvalue()


async def _with_shelf(yard: Modelyard) -> None:
    """A real plugin, for the one endpoint that looks into a source."""
    await yard.services.plugins.installations.add("default", package_folder(ROOT / "examples" / "plugins" / "shelf"))
    await yard.services.plugins.credentials.add("default", "modelyard/shelf/shelf", "mine", {"token": "x"})


@contextmanager
def caller(environments: Path | None = None) -> Iterator[Caller]:
    folder = environments or weights_folder().parent / "plugins" / "environments"
    settings: dict[str, Any] = {
        "workflows": WorkflowSettings(at_once=AT_ONCE), "knowledge": KnowledgeSettings(most_mb=1),
        "plugins": msgspec.structs.replace(PluginSettings(), debug_port=0),
    }  # fmt: skip
    with serving(apps(), prepare=_with_shelf, environments=folder, **settings) as told:
        one = Caller(told)
        try:
            _set_up(one)
            yield one
        finally:
            one.close()


def _set_up(call: Caller) -> None:
    """Apps that are drafts alone or name a model that is not here; a pipeline; keys of people."""
    admin = call.admin

    def added(path: str, **body: Any) -> Any:
        answer = admin.post(f"/admin/v1/{path}", json=body)
        if answer.status_code != 201:
            raise RuntimeError(f"{path}: {answer.text}")
        return answer.json()

    files = apps()
    completion = {
        "kind": "app", "version": "0.6.0", "app": {"name": "x", "mode": "completion"},
        "model_config": {"model": MODEL, "pre_prompt": "{{query}}", "user_input_form": []},
    }  # fmt: skip
    for name, file, more in (
        ("draft", files["talking"], {"publish": False}),
        ("draft_completion", yaml.dump(completion), {"publish": False}),
        ("modelless", files["talking"], {"mapping": {"models": {"*": "nowhere/none"}}}),
        ("modelless_completion", yaml.dump(completion), {"mapping": {"models": {"*": "nowhere/none"}}}),
        (
            "agent",
            yaml.dump({**completion, "app": {"name": "x", "mode": "chat"}}),
            {"mapping": {"models": {"*": "scripted/model"}}},
        ),
    ):
        one = added("apps", file=file, name=name, **more)
        call.told[name] = added(f"apps/{one['id']}/keys")["key"]
    for name in ("talking", "workflow"):
        found = next(one for one in admin.get("/admin/v1/apps").json()["data"] if one["name"] == name)
        text = admin.get(f"/admin/v1/apps/{found['id']}/file").text
        call.told[f"{name}.first"] = _workflow_id(found["digest"])
        saved = admin.put(f"/admin/v1/apps/{found['id']}/file", json={"file": text + "\n# changed\n"}).json()
        call.told[f"{name}.draft"] = _workflow_id(saved["digest"])
    call.told["pipeline"] = added("apps", file=pipeline())["dataset"]
    # The first key closes the door that stands open on a laptop.
    call.told["owner"] = added("keys", name="owner", role="owner")["key"]
    admin.headers["authorization"] = f"Bearer {call.told['owner']}"
    call.told["viewer"] = added("keys", name="viewer", role="viewer")["key"]


def _workflow_id(digest: str) -> str:
    return str(uuid.UUID(hex=digest))


# ------------------------------------------------------------------------------------------------ generated calls


def generated(call: Caller) -> None:
    """What follows from the description alone: no key, a key that may not, things that are not there."""
    for one in call.description.endpoints.values():
        ids = _ids(one, call)
        call(one.name, 401, "", *ids)
        body = {} if one.method in ("POST", "PUT", "PATCH", "DELETE") else None
        if one.is_of_datasets and 403 in one.answers:
            call(one.name, 403, "viewer", *ids, json=body)


def _ids(one: Endpoint, call: Caller) -> list[str]:
    words = {"action": "enable", "model_type": "llm", "node_id": "files"}
    names = [part[1:-1] for part in one.path.split("/") if part.startswith("{")]
    return [words.get(name, call.told["pipeline"] if name == "dataset_id" and "pipeline" in one.path else NOBODY) for name in names]  # fmt: skip


# ------------------------------------------------------------------------------------------------ chats


def chats(call: Caller) -> None:
    ask = {"query": "hello", "inputs": {}, "user": "ada"}
    first = call("POST /chat-messages", 200, "talking", json=ask)
    call("POST /chat-messages", 200, "talking", json={**ask, "response_mode": "streaming"})
    call("POST /chat-messages", 200, "talking", json={**ask, "workflow_id": call.told["talking.first"]})
    call("POST /chat-messages", 400, "talking", json={"inputs": {}, "user": "ada"}, code="invalid_param")
    call("POST /chat-messages", 400, "workflow", json=ask, code="not_chat_app")
    call("POST /chat-messages", 400, "draft", json=ask, code="app_unavailable")
    call("POST /chat-messages", 400, "modelless", json=ask, code="model_currently_not_support")
    call("POST /chat-messages", 400, "talking", json={**ask, "workflow_id": "x"}, code="bad_request")
    call("POST /chat-messages", 403, "talking", json={**ask, "workflow_id": call.told["talking.draft"]})
    call("POST /chat-messages", 404, "talking", json={**ask, "workflow_id": NOBODY})
    call("POST /chat-messages", 404, "agent", json={**ask, "conversation_id": NOBODY})
    call("POST /chat-messages/{task_id}/stop", 200, "talking", first["task_id"], json={"user": "ada"})
    call("POST /chat-messages/{task_id}/stop", 400, "talking", NOBODY, json={})
    call("POST /chat-messages/{task_id}/stop", 400, "workflow", NOBODY, json={"user": "ada"}, code="not_chat_app")
    message, conversation, who = first["message_id"], first["conversation_id"], {"user": "ada"}
    call("GET /messages/{message_id}/suggested", 200, "talking", message, query=who)
    call("GET /messages/{message_id}/suggested", 400, "workflow", message, query=who, code="not_chat_app")
    call("GET /messages/{message_id}/suggested", 404, "talking", NOBODY, query=who)
    quiet = call("POST /chat-messages", 200, "agent", json=ask)["message_id"]
    call("GET /messages/{message_id}/suggested", 400, "agent", quiet, query=who, code="bad_request")
    call(
        "POST /messages/{message_id}/feedbacks", 200, "talking", message, json={**who, "rating": "like", "content": "!"}
    )
    call("POST /messages/{message_id}/feedbacks", 400, "talking", message, json={**who, "rating": "perhaps"})
    call("POST /messages/{message_id}/feedbacks", 404, "talking", NOBODY, json={**who, "rating": "like"})
    call("GET /app/feedbacks", 200, "talking")
    call("GET /conversations", 200, "talking", query=who)
    call("GET /conversations", 400, "workflow", query=who)
    call("GET /conversations", 404, "talking", query={**who, "last_id": NOBODY})
    asked = {**who, "conversation_id": conversation}
    call("GET /messages", 200, "talking", query=asked)
    call("GET /messages", 400, "workflow", query=asked)
    call("GET /messages", 404, "talking", query={**who, "conversation_id": NOBODY})
    one = "/conversations/{conversation_id}/"
    told = call(f"GET {one}variables", 200, "talking", conversation, query=who)
    call(f"GET {one}variables", 400, "workflow", conversation, query=who)
    call(f"GET {one}variables", 404, "talking", NOBODY, query=who)
    call(f"POST {one}name", 200, "talking", conversation, json={**who, "name": "A talk"})
    call(f"POST {one}name", 200, "talking", conversation, json={**who, "auto_generate": True})
    call(f"POST {one}name", 400, "talking", conversation, json=who, code="invalid_param")
    call(f"POST {one}name", 404, "talking", NOBODY, json={**who, "name": "A talk"})
    put = f"PUT {one}variables/{{variable_id}}"
    variable = told["data"][0]["id"]
    call(put, 200, "talking", conversation, variable, json={**who, "value": 7})
    call(put, 400, "talking", conversation, variable, json={**who, "value": "many"}, code="bad_request")
    call(put, 404, "talking", conversation, NOBODY, json={**who, "value": 7})
    call("DELETE /conversations/{conversation_id}", 204, "talking", conversation, json=who)
    call("DELETE /conversations/{conversation_id}", 400, "workflow", conversation, json=who)
    call("DELETE /conversations/{conversation_id}", 404, "talking", conversation, json=who)


def completions(call: Caller) -> None:
    ask = {"inputs": {"query": "hello"}, "user": "ada"}
    name = "POST /completion-messages"
    first = call(name, 200, "completion", json=ask)
    call(name, 200, "completion", json={**ask, "response_mode": "streaming"})
    call(name, 400, "completion", json={"inputs": {"query": "x"}}, code="invalid_param")
    call(name, 400, "talking", json=ask, code="app_unavailable")
    call(name, 400, "draft_completion", json=ask, code="app_unavailable")
    call(name, 400, "modelless_completion", json=ask, code="model_currently_not_support")
    call(f"{name}/{{task_id}}/stop", 200, "completion", first["task_id"], json={"user": "ada"})
    call(f"{name}/{{task_id}}/stop", 400, "talking", first["task_id"], json={"user": "ada"})


def workflows(call: Caller) -> None:
    ask = {"inputs": {"n": 1}, "user": "ada"}
    run = call("POST /workflows/run", 200, "workflow", json=ask)
    call("POST /workflows/run", 200, "workflow", json={**ask, "response_mode": "streaming"})
    call("POST /workflows/run", 400, "workflow", json={**ask, "inputs": {}}, code="invalid_param")
    call("POST /workflows/run", 400, "talking", json=ask, code="not_workflow_app")
    one = "POST /workflows/{workflow_id}/run"
    call(one, 200, "workflow", call.told["workflow.first"], json=ask)
    call(one, 200, "workflow", call.told["workflow.first"], json={**ask, "response_mode": "streaming"})
    call(one, 400, "talking", call.told["workflow.first"], json=ask, code="not_workflow_app")
    call(one, 403, "workflow", call.told["workflow.draft"], json=ask)
    call(one, 404, "workflow", NOBODY, json=ask)
    call("POST /workflows/tasks/{task_id}/stop", 200, "workflow", run["task_id"], json={"user": "ada"})
    call("POST /workflows/tasks/{task_id}/stop", 400, "talking", run["task_id"], json={"user": "ada"})
    call("GET /workflows/run/{workflow_run_id}", 200, "workflow", run["workflow_run_id"])
    call("GET /workflows/run/{workflow_run_id}", 400, "completion", run["workflow_run_id"])
    call("GET /workflows/run/{workflow_run_id}", 404, "workflow", NOBODY)
    call("GET /workflows/logs", 200, "workflow")
    call("GET /workflows/logs", 400, "workflow", query={"status": "odd"})
    events = "GET /workflow/{workflow_run_id}/events"
    call(events, 200, "workflow", run["workflow_run_id"], query={"user": "ada"})
    call(events, 400, "completion", run["workflow_run_id"], query={"user": "ada"})
    call(events, 404, "workflow", NOBODY, query={"user": "ada"})
    paused = call("POST /workflows/run", 200, "form", json={"inputs": {}, "user": "ada", "response_mode": "streaming"})
    told = [json.loads(line[6:]) for line in paused.text.splitlines() if line.startswith("data: ")]
    token = next(each["data"]["form_token"] for each in told if each["event"] == "human_input_required")
    form = "/form/human_input/{form_token}"
    call(f"GET {form}", 200, "form", token)
    call(f"GET {form}", 404, "form", "nothing")
    fill = {"inputs": {"note": "yes"}, "action": "yes", "user": "ada"}
    call(f"POST {form}", 400, "form", token, json={**fill, "action": "perhaps"}, code="invalid_form_data")
    call(f"POST {form}", 404, "form", "nothing", json=fill)
    call(f"POST {form}", 200, "form", token, json=fill)
    call(f"POST {form}", 412, "form", token, json=fill)
    call(f"GET {form}", 412, "form", token)


def at_once(call: Caller) -> None:
    """As many long answers as the server may have, and what is told to whoever comes then."""
    began = threading.Barrier(AT_ONCE + 1)
    done = threading.Event()

    def long() -> None:
        headers = {"authorization": f"Bearer {call.told['slow']}"}
        body = {"query": "a long story", "inputs": {}, "user": "bob", "response_mode": "streaming"}
        with (
            httpx.Client(base_url=call.told["base"], timeout=60) as http,
            http.stream("POST", "/chat-messages", json=body, headers=headers) as answer,
        ):
            next(answer.iter_lines())
            began.wait(30)
            done.wait(30)

    threads = [threading.Thread(target=long) for _ in range(AT_ONCE)]
    for one in threads:
        one.start()
    began.wait(30)
    ask = {"inputs": {"n": 1}, "user": "ada"}
    call("POST /chat-messages", 429, "talking", json={"query": "hello", "inputs": {}, "user": "ada"})
    call("POST /workflows/run", 429, "workflow", json=ask)
    call("POST /workflows/{workflow_id}/run", 429, "workflow", call.told["workflow.first"], json=ask)
    call("POST /completion-messages", 429, "completion", json={"inputs": {"query": "x"}, "user": "ada"})
    done.set()
    for one in threads:
        one.join(30)
    time.sleep(1.5)  # the stories end


def about_apps(call: Caller) -> None:
    for name in ("/info", "/parameters", "/meta", "/site"):
        call(f"GET {name}", 200, "talking")
    call("GET /parameters", 400, "draft", code="app_unavailable")
    runs = call.http.get("/workflows/logs", headers={"authorization": f"Bearer {call.told['workflow']}"}).json()
    end_user = runs["data"][0]["created_by_end_user"]["id"]
    call("GET /end-users/{end_user_id}", 200, "workflow", end_user)
    call("GET /end-users/{end_user_id}", 404, "workflow", NOBODY)
    up = call("POST /files/upload", 201, "talking", files={"file": ("a.txt", b"hello")}, data={"user": "ada"})
    call("POST /files/upload", 400, "talking", files={"other": ("a.txt", b"hello")}, data={"user": "ada"})
    large = {"file": ("a.txt", b"x" * ((15 << 20) + 1))}
    call("POST /files/upload", 413, "talking", files=large, data={"user": "ada"})
    call("GET /files/{file_id}/preview", 200, "talking", up["id"], query={"user": "ada"})
    call("GET /files/{file_id}/preview", 403, "talking", up["id"], query={"user": "bob"})
    call("GET /files/{file_id}/preview", 404, "talking", NOBODY, query={"user": "ada"})
    recording = {"file": ("a.wav", _tone(), "audio/wav")}
    call("POST /audio-to-text", 200, "talking", files=recording, data={"user": "ada"})
    call("POST /audio-to-text", 400, "chat", files=recording, data={"user": "ada"}, code="speech_to_text_disabled")
    call("POST /audio-to-text", 413, "talking", files={"file": ("a.wav", b"x" * ((30 << 20) + 1))})
    call("POST /audio-to-text", 415, "talking", files={"file": ("a.txt", b"hello")})
    call("POST /text-to-audio", 200, "talking", json={"text": "Hello.", "user": "ada"})
    call("POST /text-to-audio", 400, "talking", json={"user": "ada"}, code="invalid_param")
    pair = {"question": "When?", "answer": "At noon."}
    made = call("POST /apps/annotations", 201, "talking", json=pair)
    call("GET /apps/annotations", 200, "talking")
    call("PUT /apps/annotations/{annotation_id}", 200, "talking", made["id"], json=pair)
    call("PUT /apps/annotations/{annotation_id}", 404, "talking", NOBODY, json=pair)
    call("DELETE /apps/annotations/{annotation_id}", 204, "talking", made["id"])
    call("DELETE /apps/annotations/{annotation_id}", 404, "talking", made["id"])
    reply = {"score_threshold": 0.9, "embedding_provider_name": "local", "embedding_model_name": "use-multilingual-v3"}
    job = call("POST /apps/annotation-reply/{action}", 200, "talking", "enable", json=reply)
    one = "GET /apps/annotation-reply/{action}/status/{job_id}"
    call(one, 200, "talking", "enable", job["job_id"])
    call(one, 400, "talking", "enable", NOBODY)
    call("POST /apps/annotation-reply/{action}", 200, "talking", "disable", json=reply)


# ------------------------------------------------------------------------------------------------ datasets


def datasets(call: Caller) -> None:
    key = "datasets"
    one = call("POST /datasets", 200, key, json={"name": "api", "indexing_technique": "economy"})["id"]
    call("POST /datasets", 400, key, json={"name": ""})
    call("POST /datasets", 409, key, json={"name": "api"})
    call("GET /datasets", 200, key)
    call("GET /datasets/{dataset_id}", 200, key, one)
    call("PATCH /datasets/{dataset_id}", 200, key, one, json={"description": "Tried."})
    call("PATCH /datasets/{dataset_id}", 400, key, one, json={"permission": "some"})
    for verb in ("GET", "PATCH", "DELETE"):
        call(f"{verb} /datasets/{{dataset_id}}", 404, key, NOBODY, json=None if verb == "GET" else {})
    add = "POST /datasets/{dataset_id}/document/create-by-"
    text = {"name": "guide", "text": "Goods can be sent back.\n\nParcels leave before noon."}
    made = call(f"{add}text", 200, key, one, json=text)
    call(f"{add}text", 400, key, one, json={"name": "guide"})
    call(f"{add}text", 404, key, NOBODY, json=text)
    file = {"file": ("notes.md", b"# Notes\n\nIslands take a week.")}
    second = call(f"{add}file", 200, key, one, files=file)["document"]["id"]
    call(f"{add}file", 400, key, one, json={}, code="no_file_uploaded")
    call(f"{add}file", 404, key, NOBODY, files=file)
    status = "GET /datasets/{dataset_id}/documents/{batch}/indexing-status"
    document = made["document"]["id"]
    for _ in range(200):
        told = call(status, 200, key, one, made["batch"])
        if told["data"][0]["indexing_status"] in ("completed", "error"):
            break
        time.sleep(0.05)
    call(status, 404, key, one, "none")
    base = "/datasets/{dataset_id}/documents"
    call(f"GET {base}", 200, key, one)
    call(f"GET {base}", 404, key, NOBODY)
    which = f"{base}/{{document_id}}"
    call(f"GET {which}", 200, key, one, document)
    call(f"GET {which}", 400, key, one, document, query={"metadata": "some"}, code="invalid_metadata")
    call(f"GET {which}", 404, key, one, NOBODY)
    for name in (f"PATCH {which}", f"POST {which}/update-by-file"):
        call(name, 200, key, one, second, files=file)
        call(name, 400, key, one, second, files={"file": ("", b"x")})
        call(name, 404, key, one, NOBODY, files=file)
        call(name, 413, key, one, second, files={"file": ("a.txt", b"x" * ((1 << 20) + 1))})
    call(f"POST {which}/update-by-text", 200, key, one, document, json={**text, "name": "guide two"})
    call(f"POST {which}/update-by-text", 400, key, one, document, json={"process_rule": {"mode": "custom"}})
    call(f"POST {which}/update-by-text", 404, key, one, NOBODY, json=text)
    _wait(call, one)
    call(f"GET {which}/download", 200, key, one, second)
    call(f"GET {which}/download", 404, key, one, NOBODY)
    call(f"POST {base}/download-zip", 200, key, one, json={"document_ids": [second]})
    call(f"POST {base}/download-zip", 404, key, one, json={"document_ids": [NOBODY]})
    segments(call, one, document)
    _metadata_and_tags(call, one, document)
    state = f"PATCH {base}/status/{{action}}"
    call(state, 200, key, one, "disable", json={"document_ids": [second]})
    call(state, 400, key, one, "hide", json={"document_ids": [second]})
    call(state, 404, key, NOBODY, "enable", json={"document_ids": [second]})
    find = "POST /datasets/{dataset_id}/retrieve"
    call(find, 200, key, one, json={"query": "parcels"})
    call(find, 400, key, one, json={})
    call(find, 404, key, NOBODY, json={"query": "parcels"})
    call("GET /workspaces/current/models/model-types/{model_type}", 200, key, "llm")
    call(f"DELETE {which}", 204, key, one, second)
    call(f"DELETE {which}", 404, key, one, second)
    call("DELETE /datasets/{dataset_id}", 204, key, one)


def _wait(call: Caller, dataset: str) -> None:
    headers = {"authorization": f"Bearer {call.told['datasets']}"}
    for _ in range(200):
        told = call.http.get(f"/datasets/{dataset}/documents", headers=headers).json()["data"]
        if all(one["indexing_status"] in ("completed", "error") for one in told):
            return
        time.sleep(0.05)


def segments(call: Caller, dataset: str, document: str) -> None:
    key = "datasets"
    base = "/datasets/{dataset_id}/documents/{document_id}/segments"
    added = call(f"POST {base}", 200, key, dataset, document, json={"segments": [{"content": "We speak Dutch."}]})
    call(f"POST {base}", 400, key, dataset, document, json={"segments": [{"content": ""}]})
    call(f"POST {base}", 404, key, dataset, NOBODY, json={"segments": [{"content": "x"}]})
    call(f"GET {base}", 200, key, dataset, document)
    call(f"GET {base}", 404, key, dataset, NOBODY)
    one, mine = f"{base}/{{segment_id}}", added["data"][0]["id"]
    call(f"GET {one}", 200, key, dataset, document, mine)
    call(f"GET {one}", 404, key, dataset, document, NOBODY)
    call(f"POST {one}", 200, key, dataset, document, mine, json={"segment": {"content": "We speak Frisian."}})
    call(f"POST {one}", 400, key, dataset, document, mine, json={"segment": {"content": ""}})
    call(f"POST {one}", 404, key, dataset, document, NOBODY, json={"segment": {"content": "x"}})
    parents = call("POST /datasets", 200, key, json={"name": "parents", "indexing_technique": "high_quality", "embedding_model": "use-multilingual-v3", "embedding_model_provider": "local"})["id"]  # fmt: skip
    rules = {
        "mode": "hierarchical",
        "rules": {
            "segmentation": {"separator": "\n\n", "max_tokens": 500}, "parent_mode": "paragraph",
            "subchunk_segmentation": {"separator": ". ", "max_tokens": 200},
        },
    }  # fmt: skip
    text = {"name": "long", "text": "One thing. Another.", "doc_form": "hierarchical_model", "process_rule": rules}
    whole = call("POST /datasets/{dataset_id}/document/create-by-text", 200, key, parents, json=text)["document"]["id"]
    _wait(call, parents)
    parent = call(f"GET {base}", 200, key, parents, whole)["data"][0]["id"]
    many = f"{one}/child_chunks"
    where = (parents, whole, parent)
    child = call(f"POST {many}", 200, key, *where, json={"content": "A third."})["data"]["id"]
    call(f"POST {many}", 400, key, *where, json={"content": ""})
    call(f"POST {many}", 404, key, parents, whole, NOBODY, json={"content": "x"})
    call(f"GET {many}", 200, key, *where)
    call(f"GET {many}", 404, key, parents, whole, NOBODY)
    each = f"{many}/{{child_chunk_id}}"
    changed = call(f"PATCH {each}", 200, key, *where, child, json={"content": "A fourth."})["data"]["id"]
    call(f"PATCH {each}", 400, key, *where, changed, json={"content": ""})
    call(f"PATCH {each}", 404, key, *where, NOBODY, json={"content": "x"})
    call(f"DELETE {each}", 204, key, *where, changed)
    call(f"DELETE {each}", 404, key, *where, NOBODY)
    call(f"DELETE {one}", 204, key, dataset, document, mine)
    call(f"DELETE {one}", 404, key, dataset, document, mine)


def _metadata_and_tags(call: Caller, one: str, document: str) -> None:
    key = "datasets"
    many = "/datasets/{dataset_id}/metadata"
    field = call(f"POST {many}", 201, key, one, json={"type": "string", "name": "colour"})["id"]
    call(f"POST {many}", 400, key, one, json={"type": "string", "name": ""})
    call(f"POST {many}", 404, key, NOBODY, json={"type": "string", "name": "x"})
    call(f"GET {many}", 200, key, one)
    call(f"GET {many}", 404, key, NOBODY)
    call(f"PATCH {many}/{{metadata_id}}", 200, key, one, field, json={"name": "hue"})
    call(f"PATCH {many}/{{metadata_id}}", 400, key, one, field, json={"name": ""})
    call(f"PATCH {many}/{{metadata_id}}", 404, key, one, NOBODY, json={"name": "x"})
    change = {"operation_data": [{"document_id": document, "metadata_list": [{"id": field, "name": "hue", "value": "red"}]}]}  # fmt: skip
    call("POST /datasets/{dataset_id}/documents/metadata", 200, key, one, json=change)
    call("POST /datasets/{dataset_id}/documents/metadata", 400, key, one, json={})
    call("POST /datasets/{dataset_id}/documents/metadata", 404, key, NOBODY, json=change)
    call(f"DELETE {many}/{{metadata_id}}", 204, key, one, field)
    call(f"DELETE {many}/{{metadata_id}}", 404, key, one, field)
    call(f"GET {many}/built-in", 200, key, one)
    call(f"GET {many}/built-in", 404, key, NOBODY)
    call(f"POST {many}/built-in/{{action}}", 200, key, one, "enable", json={})
    call(f"POST {many}/built-in/{{action}}", 404, key, NOBODY, "enable", json={})
    tag = call("POST /datasets/tags", 200, key, json={"name": "tried"})["id"]
    call("POST /datasets/tags", 400, key, json={"name": ""})
    call("GET /datasets/tags", 200, key)
    call("PATCH /datasets/tags", 200, key, json={"tag_id": tag, "name": "tested"})
    call("PATCH /datasets/tags", 400, key, json={"tag_id": tag, "name": ""})
    call("PATCH /datasets/tags", 404, key, json={"tag_id": NOBODY, "name": "x"})
    call("POST /datasets/tags/binding", 204, key, json={"tag_ids": [tag], "target_id": one})
    call("POST /datasets/tags/binding", 404, key, json={"tag_ids": [tag], "target_id": NOBODY})
    call("GET /datasets/{dataset_id}/tags", 200, key, one)
    call("GET /datasets/{dataset_id}/tags", 404, key, NOBODY)
    call("POST /datasets/tags/unbinding", 204, key, json={"tag_ids": [tag], "target_id": one})
    call("POST /datasets/tags/unbinding", 404, key, json={"tag_ids": [tag], "target_id": NOBODY})
    call("DELETE /datasets/tags", 204, key, json={"tag_id": tag})
    call("DELETE /datasets/tags", 404, key, json={"tag_id": tag})


def pipelines(call: Caller) -> None:
    key, one = "datasets", call.told["pipeline"]
    up = "POST /datasets/pipeline/file-upload"
    file = call(up, 201, key, files={"file": ("a.txt", b"Parcels leave before noon.")})
    call(up, 400, key, json={}, code="no_file_uploaded")
    call(up, 413, key, files={"file": ("a.txt", b"x" * ((15 << 20) + 1))})
    call(up, 415, key, files={"file": ("noending", b"x")})
    listed = "GET /datasets/{dataset_id}/pipeline/datasource-plugins"
    call(listed, 200, key, one)
    call(listed, 400, key, one, query={"is_published": "perhaps"})
    call(listed, 404, key, NOBODY)
    node = "POST /datasets/{dataset_id}/pipeline/datasource/nodes/{node_id}/run"
    asked = {"inputs": {}, "datasource_type": "online_document", "is_published": True}
    call(node, 200, key, one, "notes", json=asked)
    call(node, 400, key, one, "files", json={"inputs": {}, "datasource_type": "local_file", "is_published": True})
    call(node, 404, key, one, "none", json={"inputs": {}, "datasource_type": "local_file", "is_published": True})
    run = "POST /datasets/{dataset_id}/pipeline/run"
    info = [{"reference": file["id"], "name": "a"}]
    body = {"inputs": {}, "datasource_type": "local_file", "datasource_info_list": info, "start_node_id": "files", "is_published": True}  # fmt: skip
    call(run, 200, key, one, json={**body, "response_mode": "blocking"})
    call(run, 200, key, one, json={**body, "response_mode": "streaming"})
    call(run, 400, key, one, json={**body, "start_node_id": ""})
    call(run, 404, key, NOBODY, json=body)
    gone = call(up, 201, key, files={"file": ("a.pdf", b"this is no PDF")})
    call(run, 500, key, one, json={**body, "datasource_info_list": [{"reference": gone["id"]}]})


PARTS = (generated, chats, completions, workflows, at_once, about_apps, datasets, pipelines)


def everything(environments: Path | None = None) -> Caller:
    with caller(environments) as call:
        for part in PARTS:
            part(call)
        return call


def cells(call: Caller) -> list[tuple[Endpoint, int, str, bool]]:
    """(endpoint, status, what was seen of it, whether it is as documented) for all that is documented."""
    found: list[tuple[Endpoint, int, str, bool]] = []
    for one in call.description.endpoints.values():
        for status in one.answers:
            codes = call.seen.get((one.name, status))
            why = LEFT_OUT.get((one.name, status)) or (LEFT_OUT.get(("*", status)) if codes is None else None)
            if codes is None:
                found.append((one, status, f"left out: {why}" if why else "NOT CALLED", bool(why)))
            else:
                found.append((one, status, ", ".join(sorted(codes - {""})), True))
    return found


_SEGMENT = "/datasets/{dataset_id}/documents/{document_id}/segments"
_NO_ID = "an id that is none is not found: 404"
LEFT_OUT: Mapping[tuple[str, int], str] = {
    ("*", 500): "nothing that is sent makes it so",
    ("POST /files/upload", 415): "files of all types are taken; forms and nodes say which they read",
    ("GET /site", 403): "every app has settings of a page",
    ("PATCH /datasets/{dataset_id}/documents/{document_id}", 415): "the content says what it is, when it is read",
    ("POST /datasets/{dataset_id}/documents/{document_id}/update-by-file", 415): "the same",
    (f"GET {_SEGMENT}", 400): "listing asks no model",
    (f"GET {_SEGMENT}/{{segment_id}}", 400): _NO_ID,
    (f"DELETE {_SEGMENT}/{{segment_id}}", 400): _NO_ID,
    (f"DELETE {_SEGMENT}/{{segment_id}}/child_chunks/{{child_chunk_id}}", 400): _NO_ID,
}
"""Documented statuses that are not given here, and why."""


def prove() -> Proof:
    proof = Proof()
    call = everything()
    table: dict[str, list[str]] = defaultdict(list)
    is_right: dict[str, bool] = defaultdict(lambda: True)
    every = cells(call)
    for one, status, seen, ok in every:
        table[one.name].append(f"{status}{f' ({seen})' if seen else ''}")
        is_right[one.name] &= ok
    wrong = {problem.partition(" → ")[0] for problem in call.problems}
    for name, statuses in table.items():
        proof.line(name, " · ".join(statuses), is_right[name] and name not in wrong)
    for problem in call.problems:
        proof.line("differs", problem, ok=False)
    proof.figures |= {
        "endpoints": len(table), "statuses": len(every),
        "seen": sum("left out" not in seen and ok for _, _, seen, ok in every),
        "left_out": sum("left out" in seen for _, _, seen, _ in every), "differ": len(call.problems),
    }  # fmt: skip
    clients = prove_clients({**CLIENTS, **DATASET_CLIENTS})
    proof.lines += clients.lines
    proof.figures["clients"] = clients.figures
    return proof
