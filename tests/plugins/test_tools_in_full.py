"""Tools of plugins: files for plugins that call them, values that people fill in, unknown
names, and calls that meet a plugin that is being replaced."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tools.show.odd_plugins import odd_plugin

from modelyard.base.errors import InvokeBadRequestError, NotFoundError, PluginError
from modelyard.plugins.connection import PluginCall, PluginStoppedError
from modelyard.plugins.declaration import Field
from modelyard.plugins.package import package_folder
from modelyard.plugins.process import wait_for_start
from modelyard.storage.files import FileStore
from modelyard.storage.local_files import LocalFileStorage
from modelyard.tenant_plugins.forms import checked_form
from modelyard.tenant_plugins.tool_files import ToolFiles
from tests.plugins.conftest import PluginGateway

pytestmark = pytest.mark.proof("plugin-kinds")


def piece(name: str, data: bytes, *, end: bool = False) -> dict[str, Any]:
    return {
        "type": "blob_chunk",
        "message": {"id": name, "blob": base64.b64encode(data).decode(), "end": end},
        "meta": {"mime_type": "image/png" if name == "a" else "text/plain"},
    }


async def linked(folder: Path, *messages: Any) -> list[Any]:
    async def said() -> AsyncGenerator[Any, None]:
        for message in messages:
            yield message

    store = FileStore(LocalFileStorage(folder), lambda text: "sign")
    files = ToolFiles(store, lambda: "http://here", "default")
    return [message async for message in files.link(said())]


def test_a_file_in_pieces_becomes_one_link(tmp_path: Path):
    text = {"type": "text", "message": {"text": "hi"}}
    messages = asyncio.run(
        linked(
            tmp_path,
            piece("a", b"one "),
            piece("b", b"other"),
            text,
            piece("a", b"two"),
            piece("a", b"", end=True),
            piece("b", b"", end=True),
            {"type": "blob", "message": {"blob": b"bytes"}, "meta": {"filename": "n.txt"}},
        )
    )  # fmt: skip
    assert [message["type"] for message in messages] == [
        "text",
        "image_link",
        "binary_link",
        "binary_link",
    ]
    assert [message["meta"]["size"] for message in messages[1:]] == [7, 5, 5]
    assert messages[3]["meta"]["filename"] == "n.txt"
    assert messages[1]["message"]["text"].startswith("http://here/files/file_")


def test_a_file_that_is_no_base64_is_an_error(tmp_path: Path):
    broken = {"type": "blob_chunk", "message": {"id": "a", "blob": "a"}}
    with pytest.raises(PluginError, match="not base64"):
        asyncio.run(linked(tmp_path, broken))


@pytest.mark.xdist_group("toolbox")
def test_a_plugin_that_calls_a_tool_can_fetch_its_file(toolbox: PluginGateway):
    async def called(tool: str) -> list[Any]:
        call = PluginCall(
            tenant="default", type="tool", action="invoke_tool", data={}, plugin="x/y"
        )
        request = {
            "tool_type": "builtin",
            "provider": "modelyard/toolbox/toolbox",
            "tool": tool,
            "tool_parameters": {"size": 20_000},
        }
        served = toolbox.parts.services.serve(call, "tool", request)
        return [message async for message in served]

    (message,) = [
        message
        for message in toolbox.run_on_loop(called("draw"))
        if message["type"].endswith("_link")
    ]
    fetched = httpx.get(message["message"]["text"], timeout=30)
    assert len(fetched.content) == 20_000
    with pytest.raises(NotFoundError, match="has no tool 'fly'; it has add, "):
        toolbox.run_on_loop(called("fly"))


_PARAMETERS = """
  - {name: query, type: string, required: true, form: llm, label: {en_US: Q}}
  - {name: place, type: string, required: true, form: form, label: {en_US: P}}
  - {name: count, type: number, required: false, form: form, label: {en_US: C}}
  - {name: colour, type: select, required: false, form: form, label: {en_US: C}, options: [{value: red, label: {en_US: R}}]}
  - {name: app, type: app-selector, required: false, form: llm, label: {en_US: A}}
"""


def test_a_tool_is_tried_with_what_people_fill_in(plugged: Any, tmp_path: Path):
    gateway: PluginGateway = plugged()
    folder = odd_plugin(tmp_path / "odd", "told", parameters=_PARAMETERS)
    gateway.run_on_loop(
        gateway.parts.installations.add("default", package_folder(folder))
    )
    base = gateway.running.url.removesuffix("/v1")
    with httpx.Client(base_url=base, timeout=60) as client:

        def tried(tool: str, **arguments: Any) -> httpx.Response:
            body = {"tool": tool, "arguments": arguments}
            return client.post("/admin/tools/call", json=body)

        app = {"app_id": "app_1"}
        answered = tried("odd", query="q", place="here", count="3", app=app).json()
        assert answered["error"] is None
        assert json.loads(answered["text"]) == {
            "query": "q", "place": "here", "count": 3, "app": app,
        }  # fmt: skip
        missing = tried("odd", query="q").json()
        assert "parameter place" in missing["text"]
        wrong = tried("odd", query="q", place="here", colour="green").json()
        assert "one of red" in wrong["text"]
        assert tried("fly").status_code == 404


def field(type_name: str, **fields: Any) -> Field:
    return Field(name="f", type=type_name, required=True, **fields)


COLOURS: list[Any] = [{"value": "red", "label": {"en_US": "Red"}}, "blue"]


@pytest.mark.parametrize(
    ("form_field", "value", "expected"),
    [
        (field("select", options=COLOURS), "red", "red"),
        (field("select", options=COLOURS, multiple=True), ["red", "blue"], ["red", "blue"]),
        (field("select"), "any", "any"),
        (field("boolean"), "yes", True),
        (field("boolean"), False, False),
        (field("app-selector"), "app_1", {"app_id": "app_1"}),
        (field("app-selector"), '{"app_id": "app_1", "inputs": {"a": 1}}', {"app_id": "app_1", "inputs": {"a": 1}}),
        (field("app-selector"), {"app_id": "app_1"}, {"app_id": "app_1"}),
        (field("model-selector", scope="text-embedding"), "a/p/x/m", {"provider": "a/p/x", "model": "m", "model_type": "text-embedding", "mode": "chat"}),
        (field("model-selector"), {"provider": "p", "model": "m"}, {"provider": "p", "model": "m"}),
        (field("text-input"), "{}", "{}"),
    ],
)  # fmt: skip
def test_form_values_have_the_shape_that_plugins_read(
    form_field: Field, value: Any, expected: Any
):
    filled = checked_form(
        [form_field], {"f": value}, description="It", has_app=lambda app: app == "app_1"
    )
    assert filled == {"f": expected}


@pytest.mark.parametrize(
    ("form_field", "value", "expected"),
    [
        (field("select", options=COLOURS), "green", "one of red, blue, not 'green'"),
        (field("select", options=COLOURS), ["red"], "one of red, blue"),
        (field("boolean"), "perhaps", "true or false"),
        (field("app-selector"), "app_2", "the id of an app"),
        (field("app-selector"), {"id": "app_1"}, "the id of an app"),
        (field("model-selector"), "m", "'provider/model'"),
        (field("text-input"), "", "is missing"),
    ],
)
def test_form_values_that_no_plugin_can_read_are_refused(
    form_field: Field, value: Any, expected: str
):
    with pytest.raises(InvokeBadRequestError, match=expected) as error:
        checked_form(
            [form_field],
            {"f": value},
            description="It",
            has_app=lambda app: app == "app_1",
        )
    assert error.value.param == "f"


def test_a_start_that_somebody_ends_is_an_error_of_the_plugin():
    async def ended() -> None:
        start: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(wait_for_start(start, "a/b"))
        await asyncio.sleep(0)
        start.cancel()
        with pytest.raises(PluginStoppedError, match="Stopped while it was starting"):
            await waiting

    async def given_up() -> None:
        start: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(wait_for_start(start, "a/b"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not start.cancelled()

    asyncio.run(ended())
    asyncio.run(given_up())


async def started(gateway: PluginGateway, identifier: str) -> None:
    """Wait until a plugin has begun to start."""
    for _ in range(1500):
        if ("default", identifier) in gateway.parts.host.running():
            return
        await asyncio.sleep(0.02)
    raise TimeoutError


def test_a_call_that_waits_for_an_old_version_gets_the_new_one(
    plugged: Any, tmp_path: Path
):
    gateway: PluginGateway = plugged()

    def install(behaviour: str) -> Any:
        folder = odd_plugin(tmp_path / behaviour, behaviour, name="same")
        return gateway.parts.installations.add("default", package_folder(folder))

    gateway.run_on_loop(install("silent"))
    identifier = gateway.plugins.find("default", "odd/same").identifier

    async def call() -> list[Any]:
        data = {
            "provider": "same",
            "tool": "odd",
            "credentials": {},
            "tool_parameters": {},
        }
        answers = gateway.plugins.call(
            "default", "odd/same", "tool", "invoke_tool", data
        )
        return [answer async for answer in answers]

    async def upgrade_meanwhile() -> list[Any]:
        waiting = asyncio.ensure_future(call())
        await started(gateway, identifier)
        await install("fine")
        return await waiting

    answers = gateway.run_on_loop(upgrade_meanwhile(), 90)
    assert answers[0]["message"]["text"] == "fine"
