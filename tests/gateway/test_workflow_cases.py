"""Reported faults of workflow products, over HTTP: a real server, a scripted provider
and a scripted web server on loopback."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest
import yaml

from modelyard.base.settings import Settings
from modelyard.testing import (
    Answer,
    Upstream,
    UpstreamRequest,
    chat_events,
    stream_answer,
)
from tests.gateway.conftest import Running
from tests.workflow.building import document

pytestmark = pytest.mark.proof("workflow-cases")

Nodes = dict[str, dict[str, Any]]
START: Nodes = {"start": {"type": "start", "variables": []}}
GBK_PAGE = "<meta charset=gb2312><p>价格</p>".encode("gbk")


def web(request: UpstreamRequest) -> Answer:
    """Answer as the servers of the cases do."""
    match request.path.partition("?")[0]:
        case "/answers-500":
            return Answer(
                status=500, headers={"content-type": "text/plain"}, pieces=[b"no"]
            )
        case "/page":
            return Answer(headers={"content-type": "text/html"}, pieces=[GBK_PAGE])
        case "/disp":
            name = "attachment; filename*=UTF-8''%E5%AD%A3%E5%BA%A6.xlsx"
            headers = {
                "content-type": "application/octet-stream",
                "content-disposition": name,
            }
            return Answer(headers=headers, pieces=[b"xlsx"])
        case "/download" if request.method == "HEAD":
            return Answer(status=405)
        case "/download":
            return Answer(headers={"content-type": "text/csv"}, pieces=[b"a,b\n1,2\n"])
        case _:
            return Answer(status=404)


class Model:
    """A provider whose answers are scripted."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def __call__(self, request: UpstreamRequest) -> Answer:
        del request
        return self.answers.pop(0)


class World:
    """A server with a model, and a web server that it may reach."""

    def __init__(self, running: Running, model: Model, origin: str) -> None:
        self.running, self.model, self.origin = running, model, origin
        self.admin = httpx.Client(base_url=running.origin, timeout=30)

    def app(
        self, nodes: Nodes, edges: list[str], mode: str = "workflow"
    ) -> httpx.Client:
        """Import an app and return a client with its key."""
        text = yaml.dump(document({**START, **nodes}, edges, mode=mode))
        added = self.admin.post(
            "/admin/v1/apps",
            json={"file": text, "mapping": {"models": {"*": "openai/gpt-4o"}}},
        ).json()
        key = self.admin.post(f"/admin/v1/apps/{added['id']}/keys", json={}).json()
        return httpx.Client(
            base_url=f"{self.running.origin}/v1",
            headers={"authorization": f"Bearer {key['key']}"},
            timeout=30,
        )

    def outputs(self, nodes: Nodes, edges: list[str], **body: Any) -> dict[str, Any]:
        """Run a workflow and return its outputs."""
        common = {"inputs": {}, "user": "u", "response_mode": "blocking"}
        with self.app(nodes, edges) as client:
            answer = client.post("/workflows/run", json={**common, **body})
        data = answer.json()["data"]
        assert data["error"] in (None, ""), data["error"]
        return data["outputs"]


@pytest.fixture
def world(start_gateway: Callable[..., Running], settings: Settings) -> Iterator[World]:
    model = Model()
    with Upstream(model) as upstream, Upstream(web) as site:
        origin = site.url.removesuffix("/v1")
        egress = msgspec.structs.replace(
            settings.egress, private=[origin.removeprefix("http://")]
        )
        running = start_gateway(upstream, egress=egress)
        new_world = World(running, model, origin)
        yield new_world
        new_world.admin.close()


def end_of(*selector: str) -> dict[str, Any]:
    return {
        "type": "end",
        "outputs": [{"variable": "r", "value_selector": list(selector)}],
    }


def test_a_lone_surrogate_does_not_block_a_run(world: World):
    code = {
        "type": "code",
        "code_language": "python3",
        "variables": [],
        "code": "def main():\n    return {'r': 'a\\ud83d b'}",
        "outputs": {"r": {"type": "string"}},
    }
    nodes = {"c": code, "end": end_of("c", "r")}
    outputs = world.outputs(nodes, ["start > c", "c > end"])
    assert outputs == {"r": "a\N{REPLACEMENT CHARACTER} b"}


def test_an_answer_with_half_of_an_emoji_is_read(world: World):
    # Some servers cut their tokens inside of a character.
    world.model.answers = [stream_answer(chat_events(["a\ud83d", " b"]))]
    nodes = {"m": LLM, "end": end_of("m", "text")}
    outputs = world.outputs(nodes, ["start > m", "m > end"])
    assert outputs == {"r": "a\N{REPLACEMENT CHARACTER} b"}


def test_inputs_with_half_of_an_emoji_are_read(world: World):
    start = {"type": "start", "variables": [{"variable": "q", "type": "paragraph"}]}
    with world.app(
        {"start": start, "end": end_of("start", "q")}, ["start > end"]
    ) as client:
        # As `JSON.stringify` writes it.
        body = json.dumps({"inputs": {"q": "a\ud83d"}, "user": "u"})
        answer = client.post("/workflows/run", content=body)
    assert answer.json()["data"]["outputs"] == {"r": "a\N{REPLACEMENT CHARACTER}"}


LLM = {
    "type": "llm",
    "prompt_template": [{"role": "user", "text": "say it"}],
    "retry_config": {"retry_enabled": True, "max_retries": 3, "retry_interval": 1},
}


@pytest.mark.parametrize("mode", ["blocking", "streaming"])
def test_a_retry_after_a_partial_stream_shows_one_text(world: World, mode: str):
    cut = chat_events(["one ", "two ", "three"], sends_done=False)[:4]
    whole = chat_events(["one ", "two ", "three ", "four"])
    world.model.answers = [stream_answer(cut, fault="cut"), stream_answer(whole)]
    nodes = {"m": LLM, "a": {"type": "answer", "answer": "{{#m.text#}}"}}
    body = {"inputs": {}, "query": "q", "user": "u", "response_mode": mode}
    with world.app(nodes, ["start > m", "m > a"], "advanced-chat") as client:
        answer = client.post("/chat-messages", json=body)
        shown, conversation = shown_text(answer, mode)
        assert shown == "one two three four"
        messages = client.get(
            "/messages", params={"user": "u", "conversation_id": conversation}
        ).json()["data"]
    assert [message["answer"] for message in messages] == [shown]


def shown_text(answer: httpx.Response, mode: str) -> tuple[str, str]:
    """Return (the text that a client shows, the conversation's id)."""
    if mode == "blocking":
        document = answer.json()
        return document["answer"], document["conversation_id"]
    text, conversation = "", ""
    for line in answer.text.splitlines():
        if not line.startswith("data: "):
            continue
        event = json.loads(line[6:])
        conversation = event.get("conversation_id") or conversation
        if event["event"] == "message":
            text += event["answer"]
        elif event["event"] == "message_replace":
            text = event["answer"]
    return text, conversation


def test_the_default_value_replaces_the_body_of_an_error(world: World):
    request = {
        "type": "http-request",
        "method": "get",
        "url": f"{world.origin}/answers-500",
        "error_strategy": "default-value",
        "default_value": [{"key": "body", "type": "string", "value": "fallback"}, {"key": "status_code", "type": "number", "value": "0"}],
    }  # fmt: skip
    end = {"type": "end", "outputs": [{"variable": name, "value_selector": ["h", name]} for name in ("body", "status_code", "error_type")]}  # fmt: skip
    outputs = world.outputs({"h": request, "end": end}, ["start > h", "h > end"])
    assert outputs == {
        "body": "fallback",
        "status_code": 0,
        "error_type": "HTTPResponseCodeError",
    }


def get(world: World, path: str) -> dict[str, Any]:
    return {"type": "http-request", "method": "get", "url": f"{world.origin}{path}"}


def test_a_page_is_read_in_the_encoding_that_it_declares(world: World):
    nodes = {"h": get(world, "/page"), "end": end_of("h", "body")}
    outputs = world.outputs(nodes, ["start > h", "h > end"])
    assert outputs == {"r": GBK_PAGE.decode("gbk")}


def test_a_file_has_the_name_that_the_server_states(world: World):
    nodes = {"h": get(world, "/disp"), "end": end_of("h", "files")}
    [file] = world.outputs(nodes, ["start > h", "h > end"])["r"]
    assert (file["filename"], file["extension"]) == ("季度.xlsx", ".xlsx")


def test_a_remote_file_without_an_extension_is_read(world: World):
    start = {"type": "start", "variables": [{"variable": "doc", "type": "file"}]}
    extract = {"type": "document-extractor", "variable_selector": ["start", "doc"]}
    doc = {
        "type": "document",
        "transfer_method": "remote_url",
        "url": f"{world.origin}/download?id=7",
    }
    outputs = world.outputs(
        {"start": start, "x": extract, "end": end_of("x", "text")},
        ["start > x", "x > end"],
        inputs={"doc": doc},
    )
    assert "| a | b |" in outputs["r"]


@pytest.mark.parametrize(
    "answer",
    [
        '```json\n{"name": "Ann"}\n```',
        '{"name": "Ann",}',
        "{'name': 'Ann'}",
        '<think>hm</think>{"name": "Ann"}',
    ],
)
def test_structured_output_is_mended(world: World, answer: str):
    world.model.answers = [stream_answer(chat_events([answer]))]
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}  # fmt: skip
    llm = {
        "type": "llm",
        "prompt_template": [{"role": "user", "text": "answer"}],
        "structured_output_enabled": True,
        "structured_output": {"schema": schema},
    }
    nodes = {"m": llm, "end": end_of("m", "structured_output", "name")}
    assert world.outputs(nodes, ["start > m", "m > end"]) == {"r": "Ann"}
