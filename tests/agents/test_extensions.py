"""Tests for API extensions: data fetched before a model call, and moderation."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelyard.app import Modelyard
from modelyard.base.errors import ModelyardError
from modelyard.base.settings import EgressSettings, Settings
from modelyard.testing.agents import ScriptedChatModel
from modelyard.testing.workflows import scripted_models
from modelyard.tools.entities import ToolInvokeError
from modelyard.workflow.dsl import AppMapping
from tests.tools.serving import echo

EXTENSION = {"api_based_extension_id": "ext"}


def app_text(**config: Any) -> str:
    model_config = {
        "model": {"provider": "openai", "name": "gpt-4o"}, "pre_prompt": "The weather: {{weather}}.",
        "user_input_form": [{"text-input": {"variable": "city", "label": "City", "required": True}},
                            {"external_data_tool": {"variable": "weather", "label": "Weather"}}], **config,
    }  # fmt: skip
    return yaml.dump(
        {
            "kind": "app",
            "version": "0.6.0",
            "app": {"name": "a", "mode": "chat"},
            "model_config": model_config,
        }
    )


TOOLS = [{"enabled": True, "variable": "weather", "type": "api", "config": EXTENSION}]
MODERATION = {
    "enabled": True, "type": "api",
    "config": {**EXTENSION, "inputs_config": {"enabled": True}, "outputs_config": {"enabled": True}},
}  # fmt: skip


def ask_app(
    home: Path, text: str, query: str, reply: str = "Fine.", key: str = "hush"
) -> tuple[str, ScriptedChatModel]:
    model = ScriptedChatModel(replies=[reply])

    async def go() -> str:
        definition, builder = scripted_models(model)  # type: ignore[arg-type]
        with echo() as server:
            origin = f"127.0.0.1:{server.server_port}"
            settings = Settings(home=str(home), egress=EgressSettings(private=[origin]))
            async with Modelyard(
                settings,
                definitions=[definition],
                builders={"scripted": builder},
                environ={},
            ) as yard:
                await yard.services.tools.providers.extensions.add(
                    "default", "ext", f"http://{origin}/extension", key
                )
                app_record, app, _ = await yard.apps.add(
                    "default", text, mapping=AppMapping(models={"*": "scripted/model"})
                )
                run, _ = await yard.services.workflows.chats.send(
                    app_record, app, query=query, inputs={"city": "Oslo"}, user="ada"
                )
                ended = await yard.runs.wait_until_ended("default", run.id)
                return ended.error or str(ended.outputs["answer"])

    return asyncio.run(go()), model


def test_external_data_fills_a_variable(tmp_path: Path):
    text, model = ask_app(
        tmp_path, app_text(external_data_tools=TOOLS), "Shall I go out?"
    )
    assert text == "Fine."
    assert "The weather: sunny in Oslo." in model.requests[0].messages[0].text


def test_an_extension_moderates_inputs_and_outputs(tmp_path: Path):
    config = {"sensitive_word_avoidance": MODERATION, "external_data_tools": TOOLS}
    assert (
        ask_app(tmp_path / "a", app_text(**config), "Something rude.")[0]
        == "Please be kind."
    )
    text, model = ask_app(tmp_path / "b", app_text(**config), "soften this")
    assert (text, model.requests[0].messages[-1].text) == ("Fine.", "Say it gently.")
    assert (
        ask_app(tmp_path / "c", app_text(**config), "Hello.", reply="A rude reply.")[0]
        == "Please be kind."
    )


def test_an_extension_has_to_answer_a_ping(tmp_path: Path):
    with pytest.raises(ToolInvokeError, match="does not answer 'ping' with 'pong'"):
        ask_app(tmp_path, app_text(), "x", key="wrong")


def test_an_unknown_extension_is_an_error(tmp_path: Path):
    async def go() -> None:
        async with Modelyard(Settings(home=str(tmp_path)), environ={}) as yard:
            extensions = yard.services.tools.providers.extensions
            await extensions.extend("default", "none", "ping", {})

    with pytest.raises(ModelyardError, match="API extension 'none' does not exist"):
        asyncio.run(go())
