"""Lists of models in the client's own format, and Azure's paths."""

from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import openai
import pytest
from google import genai

from tests.gateway.conftest import Running

Start = Callable[..., Running]
MODELS = "echo/echo"
pytestmark = pytest.mark.proof("clients")


@pytest.fixture
def running(start_gateway: Start) -> Running:
    return start_gateway()


@pytest.fixture
def names(running: Running) -> list[str]:
    api = openai.OpenAI(base_url=running.url, api_key="none", max_retries=0)
    names = [model.id for model in api.models.list()]
    assert MODELS in names
    return names


def get(running: Running, path: str, **headers: str) -> httpx.Response:
    return httpx.get(
        running.origin + path,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        timeout=30,
    )


@pytest.mark.case("9.3")
def test_anthropics_client_gets_its_own_list(running: Running, names: list[str]):
    api = anthropic.Anthropic(base_url=running.origin, api_key="none", max_retries=0)
    listed = list(api.models.list(limit=2))
    assert [model.id for model in listed] == list(dict.fromkeys(names))
    model = api.models.retrieve(MODELS)
    assert (model.id, model.type, model.display_name) == (MODELS, "model", "echo")
    assert model.created_at.year == 1970
    with pytest.raises(anthropic.NotFoundError) as error:
        api.models.retrieve("echo/none")
    body: Any = error.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")


@pytest.mark.case("9.3")
@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_googles_client_gets_its_own_list(
    running: Running, names: list[str], version: str
):
    options: Any = {"base_url": running.origin, "api_version": version}
    api = genai.Client(api_key="none", http_options=options)
    listed = list(api.models.list(config={"page_size": 2}))
    assert [model.name for model in listed] == [f"models/{name}" for name in names]
    model = api.models.get(model=f"models/{MODELS}")
    assert (model.name, model.display_name) == (f"models/{MODELS}", "echo")


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("limit=x", {"anthropic_version": "2023-06-01"}),
        ("after_id=none", {"anthropic_version": "2023-06-01"}),
        ("before_id=none", {"anthropic_version": "2023-06-01"}),
        ("pageToken=x", {"x_goog_api_key": "none"}),
        ("pageSize=-1", {"x_goog_api_key": "none"}),
    ],
)
def test_an_invalid_page_is_refused_in_the_clients_format(
    running: Running, query: str, headers: dict[str, str]
):
    answer = get(running, f"/v1/models?{query}", **headers)
    assert answer.status_code == 400
    error = answer.json()["error"]
    expected = (
        {"type", "message"} if "anthropic_version" in headers else {"code", "status"}
    )
    assert expected <= set(error)


def test_pages_before_a_model(running: Running, names: list[str]):
    version = {"anthropic_version": "2023-06-01"}
    path = f"/v1/models?limit=1&before_id={names[2]}"
    page = get(running, path, **version).json()
    assert [model["id"] for model in page["data"]] == [names[1]]
    assert (page["has_more"], page["first_id"]) == (True, names[1])


def azure(running: Running, **options: Any) -> openai.AzureOpenAI:
    return openai.AzureOpenAI(
        api_key="none",
        azure_endpoint=running.origin,
        api_version="2024-10-21",
        max_retries=0,
        **options,
    )


@pytest.mark.case("9.1")
def test_azures_client_reaches_the_same_routes(running: Running, names: list[str]):
    api = azure(running)
    messages: Any = [{"role": "user", "content": "hello there"}]
    whole = api.chat.completions.create(model=MODELS, messages=messages)
    assert whole.choices[0].message.content == "hello there"
    stream = api.chat.completions.create(model=MODELS, messages=messages, stream=True)
    deltas = [c.choices[0].delta.content or "" for c in stream if c.choices]
    assert "".join(deltas) == "hello there"
    vectors = api.embeddings.create(model=MODELS, input="a b")
    assert vectors.data[0].embedding == [3.0, 1.0, 1.0]
    transcript = api.audio.transcriptions.create(model=MODELS, file=("a.wav", b"123"))
    assert transcript.text == "3 bytes of a.wav"
    answer = api.responses.create(model=MODELS, input="hello there")
    assert answer.output_text == "hello there"
    assert [model.id for model in api.models.list()] == names
    with pytest.raises(openai.NotFoundError):
        api.chat.completions.create(model="echo/none", messages=messages)


@pytest.mark.case("9.1")
@pytest.mark.parametrize(
    "path",
    [
        "/openai/deployments/echo%2Fecho/chat/completions?api-version=2024-10-21",
        "/openai/deployments/echo/echo/chat/completions?api-version=2024-10-21",
        "/openai/v1/chat/completions",
        "/openai/chat/completions?api-version=2024-10-21",
    ],
)
def test_azures_paths(running: Running, path: str):
    is_deployment = "deployments" in path
    messages = [{"role": "user", "content": "hello"}]
    # The model in the path counts, with or without one in the body.
    bodies = [{"messages": messages, "model": "none/none" if is_deployment else MODELS}]
    if is_deployment:
        bodies.append({"messages": messages})
    for body in bodies:
        answer = httpx.post(running.origin + path, json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"] == "hello"
    refused = httpx.get(running.origin + path, timeout=30)
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST, OPTIONS")


@pytest.mark.case("9.1")
@pytest.mark.parametrize(
    "path", ["/openai/deployments/echo/none", "/openai/nothing", "/openai/v1/nothing"]
)
def test_an_unknown_path_of_azures(running: Running, path: str):
    answer = httpx.post(running.origin + path, json={}, timeout=30)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_url"
