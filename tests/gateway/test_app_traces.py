"""Traces of apps at trace services: a receiver of OpenTelemetry's protocol in this
process, decoded with the project's own classes."""

import base64
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from modelyard.base.settings import EgressSettings
from modelyard.testing import Answer, Upstream, UpstreamRequest
from tests.gateway.conftest import Running
from tests.workflow.building import MODEL, document

Start = Callable[..., Running]
SECRET = "sk-lf-the-secret-of-the-destination"


def app(name: str = "traced") -> str:
    made = document(
        {
            "start": {"type": "start"},
            "loop": {
                "type": "iteration", "iterator_selector": ["list", "result"], "output_selector": ["echo", "output"],
                "start_node_id": "first",
            },
            "list": {"type": "code", "code_language": "python3", "code": "def main():\n    return {'result': ['a', 'b']}", "outputs": {"result": {"type": "array[string]"}}},
            "first": {"type": "iteration-start", "in": "loop"},
            "echo": {"type": "template-transform", "template": "x", "variables": [], "in": "loop"},
            "llm": {"type": "llm", "model": MODEL, "prompt_template": [{"role": "user", "text": "{{#sys.query#}} {{#env.KEY#}}"}]},
            "answer": {"type": "answer", "answer": "{{#llm.text#}}"},
        },
        ["start > list", "list > loop", "first > echo", "loop > llm", "llm > answer"], mode="advanced-chat",
        environment_variables=[{"name": "KEY", "value": "s3cret-of-the-app", "value_type": "secret"}],
    )  # fmt: skip
    made["app"]["name"] = name
    return yaml.dump(made)


class World:
    """A gateway with an app, and a receiver of traces."""

    def __init__(self, start_gateway: Start, receiver: Upstream) -> None:
        self.receiver = receiver
        host = receiver.url.removeprefix("http://").partition("/")[0]
        self.origin = f"http://{host}"
        running = start_gateway(egress=EgressSettings(private=[host]))
        self.http = httpx.Client(base_url=running.origin, timeout=30)
        mapping = {"models": {"*": "echo/echo"}}
        created = self.http.post("/admin/v1/apps", json={"file": app(), "mapping": mapping})  # fmt: skip
        self.id = created.json()["id"]
        self.path = f"/admin/v1/apps/{self.id}/traces"
        key = self.http.post(f"/admin/v1/apps/{self.id}/keys").json()["key"]
        self.key = {"authorization": f"Bearer {key}"}

    def set(self, name: str = "main", status: int = 200, **fields: Any) -> Any:
        answer = self.http.put(f"{self.path}/{name}", json=fields)
        assert answer.status_code == status, answer.text
        return answer.json()

    def langfuse(self, **fields: Any) -> Any:
        credentials = {"public_key": "pk-lf-1", "secret_key": SECRET}
        usual = {"service": "langfuse", "base_url": self.origin, "credentials": credentials}  # fmt: skip
        return self.set(**{**usual, **fields})

    def chat(self, query: str = "hello") -> dict[str, Any]:
        body = {
            "query": query,
            "inputs": {},
            "user": "ada",
            "response_mode": "blocking",
        }
        answer = self.http.post("/v1/chat-messages", json=body, headers=self.key)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def requests(self, count: int = 1) -> list[UpstreamRequest]:
        for _ in range(600):
            if len(self.receiver.requests) >= count:
                return self.receiver.requests
            time.sleep(0.05)
        raise AssertionError(f"{len(self.receiver.requests)} of {count} requests")

    def state(self, is_reached: Callable[[Any], bool], name: str = "main") -> Any:
        for _ in range(600):
            views = self.http.get(self.path).json()["data"]
            view = next(view for view in views if view["name"] == name)
            if is_reached(view):
                return view
            time.sleep(0.05)
        raise AssertionError(str(view))


@pytest.fixture
def world(start_gateway: Start, upstream: Callable[..., Upstream]) -> Iterator[World]:
    made = World(start_gateway, upstream(lambda request: Answer()))
    yield made
    made.http.close()


def spans_in(request: UpstreamRequest) -> tuple[dict[str, str], list[Any]]:
    (group,) = ExportTraceServiceRequest.FromString(request.body).resource_spans
    resource = {item.key: item.value.string_value for item in group.resource.attributes}
    return resource, list(group.scope_spans[0].spans)


def attributes_of(span: Any) -> dict[str, Any]:
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value"))
        for item in span.attributes
    }


def test_a_run_becomes_a_trace_at_langfuse(world: World):
    view = world.langfuse()
    assert view["url"] == f"{world.origin}/api/public/otel/v1/traces"
    conversation = world.chat("Who are you?")["conversation_id"]
    (request,) = world.requests()
    assert request.path.endswith("/api/public/otel/v1/traces")
    assert request.headers["content-type"] == "application/x-protobuf"
    pair = base64.b64encode(f"pk-lf-1:{SECRET}".encode()).decode()
    assert request.headers["authorization"] == f"Basic {pair}"
    resource, spans = spans_in(request)
    assert resource["service.name"] == "modelyard"
    root, *nodes = spans
    assert (root.name, root.parent_span_id, root.status.code) == ("traced", b"", 1)
    by_name = {span.name: span for span in nodes}
    assert set(by_name) >= {"start", "list", "loop", "echo", "llm", "answer"}
    assert len({span.trace_id for span in spans}) == 1
    assert len({span.span_id for span in spans}) == len(spans)
    assert len(root.trace_id) == 16
    # Nodes of a container belong to it, all others to the run.
    for span in nodes:
        is_inside = span.name in ("first", "echo")
        parent = by_name["loop"] if is_inside else root
        assert span.parent_span_id == parent.span_id, span.name
        assert root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    assert [span.name for span in nodes].count("echo") == 2
    for span in spans:
        attributes = attributes_of(span)
        assert (attributes["session.id"], attributes["user.id"]) == (
            conversation,
            "ada",
        )
    llm = attributes_of(by_name["llm"])
    assert (llm["openinference.span.kind"], llm["langsmith.span.kind"]) == (
        "LLM",
        "llm",
    )
    assert llm["gen_ai.operation.name"] == "chat"
    assert llm["gen_ai.request.model"] == "echo"
    assert llm["gen_ai.usage.input_tokens"] > 0
    assert llm["llm.token_count.total"] == (
        llm["gen_ai.usage.input_tokens"] + llm["gen_ai.usage.output_tokens"]
    )
    assert "Who are you?" in llm["input.value"]
    assert attributes_of(root)["langfuse.trace.name"] == "traced"
    # Secrets of the app are masked, as in every record of the run.
    assert b"s3cret-of-the-app" not in request.body
    assert world.state(lambda view: view["sent"] == 1)["error"] == ""


@pytest.mark.parametrize(
    ("service", "credentials", "path", "headers"),
    [
        ("langsmith", {"api_key": "k1"}, "/otel/v1/traces", {"x-api-key": "k1", "langsmith-project": "p"}),
        ("phoenix", {"api_key": "k2"}, "/v1/traces", {"authorization": "Bearer k2"}),
        ("opik", {"api_key": "k3", "workspace": "w"}, "/v1/private/otel/v1/traces",
         {"authorization": "k3", "comet-workspace": "w", "projectname": "p"}),
        ("otlp", {"x-scope": "t"}, "/v1/traces", {"x-scope": "t"}),
    ],
)  # fmt: skip
def test_each_service_gets_its_headers(
    world: World,
    service: str,
    credentials: dict[str, str],
    path: str,
    headers: dict[str, str],
):
    world.set(service=service, base_url=world.origin, credentials=credentials, project="p", content=False)  # fmt: skip
    world.chat("a private question")
    (request,) = world.requests()
    assert request.path == path
    assert {name: request.headers[name] for name in headers} == headers
    resource, spans = spans_in(request)
    assert resource["openinference.project.name"] == "p"
    # Without content, neither questions nor answers leave the server.
    assert b"a private question" not in request.body
    assert len(spans) > 5


def test_a_destination_that_fails_delays_and_fails_no_call(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    world = World(start_gateway, upstream(lambda request: Answer(status=401)))
    world.langfuse()
    assert world.chat()["answer"]
    view = world.state(lambda view: view["dropped"] == 1)
    assert view["error"] == "The destination answered with status 401"
    # A refused trace is not sent again.
    assert len(world.receiver.requests) == 1
    world.langfuse(is_enabled=False)
    world.chat()
    world.langfuse(base_url="http://127.0.0.1:9")
    assert world.chat()["answer"]
    assert len(world.receiver.requests) == 1
    world.http.close()


def test_a_private_address_is_not_reached_and_redirects_are_not_followed(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    target = upstream(lambda request: Answer())
    world = World(start_gateway, upstream(lambda request: Answer(status=307, headers={"location": target.url})))  # fmt: skip
    world.langfuse()
    world.chat()
    world.state(lambda view: view["dropped"] == 1)
    world.set("inner", service="otlp", base_url=target.url)
    world.set("main", service="otlp", base_url=world.origin, is_enabled=False)
    world.chat()
    assert target.requests == []
    world.http.close()


def test_credentials_are_stored_encrypted_and_belong_to_one_tenant(world: World):
    views = [world.langfuse(), *world.http.get(world.path).json()["data"]]
    assert SECRET not in str(views)
    assert "pk-lf-1" not in str(views)
    world.http.post("/admin/v1/tenants", json={"name": "acme"})
    for method, path in (("GET", world.path), ("PUT", f"{world.path}/x"), ("DELETE", f"{world.path}/main")):  # fmt: skip
        answer = world.http.request(method, f"{path}?tenant=acme", json={"service": "otlp"})  # fmt: skip
        assert answer.status_code == 404, path
    removed = world.http.delete(f"{world.path}/main").json()
    assert removed == {"id": "main", "deleted": True}
    assert world.http.delete(f"{world.path}/main").status_code == 404
    assert world.http.get(world.path).json()["data"] == []
    # An app that is deleted takes its destinations with it.
    world.langfuse()
    assert world.http.delete(f"/admin/v1/apps/{world.id}").status_code == 200


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"service": "nothing"}, "Unknown trace service 'nothing'; expected one of langfuse"),
    ({"service": "phoenix"}, "'base_url' must be an http(s) URL"),
    ({"service": "otlp", "base_url": "ftp://x"}, "'base_url' must be an http(s) URL"),
    ({"service": "langfuse", "credentials": {"public_key": SECRET}}, "missing: secret_key"),
    ({"service": "langsmith", "credentials": {"api_key": "k", "token": SECRET}}, "unknown: token"),
    ({"service": "langsmith", "credentials": {"api_key": "a\r\nb: c"}}, "characters that HTTP does not allow"),
    ({"service": "otlp", "credentials": 5}, "Expected `object | null`"),
    ({}, "service"),
]  # fmt: skip


def test_a_wrong_destination_is_refused_without_its_keys(world: World):
    for fields, message in WRONG:
        error = world.set(status=400, **fields)["error"]["message"]
        assert message in error
        assert SECRET not in error
    assert world.http.get(world.path).json()["data"] == []


def test_stored_keys_stay_with_their_service_address_and_project(world: World):
    world.langfuse(project="p")
    stay: dict[str, Any] = {
        "service": "langfuse",
        "base_url": world.origin,
        "project": "p",
    }
    # Switched off and on again, without anybody having the keys at hand.
    assert world.set(**stay, is_enabled=False)["is_enabled"] is False
    assert world.set(**stay, content=False)["is_enabled"] is True
    world.chat()
    (request,) = world.requests()
    pair = base64.b64encode(f"pk-lf-1:{SECRET}".encode()).decode()
    assert request.headers["authorization"] == f"Basic {pair}"
    # Keys that nobody can read must not be sent to where somebody else chooses.
    for change in ({"base_url": "http://127.0.0.1:9"}, {"project": "q"}):
        error = world.set(status=400, **{**stay, **change})["error"]
        assert error["param"] == "credentials"
        assert "given again" in error["message"]
    # An empty object means none, and none are too few.
    assert "missing" in str(world.set(status=400, **stay, credentials={}))
    # They mean nothing to another service, which gets what it is given.
    assert "missing" in str(world.set(status=400, service="langsmith"))
    world.set(service="otlp", base_url=world.origin)
    world.chat()
    assert "authorization" not in world.requests(2)[1].headers


def test_a_destination_is_tested_with_one_span(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    statuses = [200, 401]
    receiver = upstream(lambda request: Answer(status=statuses.pop(0)))
    world = World(start_gateway, receiver)
    path = f"{world.path}/main/test"
    assert world.http.post(path).status_code == 404
    world.langfuse(project="p")
    assert world.http.post(path).json() == {"accepted": True, "error": ""}
    resource, (span,) = spans_in(receiver.requests[0])
    assert (span.name, resource["openinference.project.name"]) == ("Test by Modelyard", "p")  # fmt: skip
    error = "The destination answered with status 401"
    assert world.http.post(path).json() == {"accepted": False, "error": error}
    # A test is no trace of the app, and is not sent again.
    view = world.http.get(world.path).json()["data"][0]
    assert (view["sent"], view["dropped"], view["error"]) == (0, 0, "")
    assert len(receiver.requests) == 2
    assert world.http.post(f"{path}?tenant=acme").status_code == 404
    world.langfuse(is_enabled=False)
    refused = world.http.post(path)
    assert (refused.status_code, refused.json()["error"]["message"]) == (
        400,
        "The destination is disabled",
    )
    world.http.close()


def test_the_list_says_what_each_service_needs(world: World):
    services = world.http.get(world.path).json()["services"]
    assert {service["name"] for service in services} == {
        "langfuse",
        "langsmith",
        "phoenix",
        "opik",
        "otlp",
    }
    # What it names is enough to save a destination, and less is too little.
    for service in services:
        fields: dict[str, Any] = {"service": service["name"], "base_url": world.origin}
        needed = dict.fromkeys(service["credentials"], "key")
        optional = dict.fromkeys(service["optional"], "key")
        world.set(**fields, credentials={**needed, **optional})
        world.set(**fields, credentials=needed)
        if needed:
            world.set(status=400, **fields, credentials=optional)
        status = 200 if service["takes_headers"] else 400
        world.set(status=status, **fields, credentials={**needed, "x-any": "1"})
        status = 200 if service["default_url"] else 400
        world.set(status=status, service=service["name"], credentials=needed)
