"""Tests for the image tool: images from a chat model's answer, or a clear error."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.models.llm import (
    LLMRequest,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from modelyard.models.messages import (
    AssistantPromptMessage,
    ImagePromptMessageContent,
    TextPromptMessageContent,
)
from modelyard.testing.workflows import ScriptedModel, scripted_models
from modelyard.tools.entities import ToolContext
from modelyard.tools.manager import Observation

PICTURE = b"\x89PNG picture"


class Painter(ScriptedModel):
    async def invoke(
        self, model: str, credentials: Any, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        del credentials
        self.requests.append(request)
        parts: list[Any] = [TextPromptMessageContent(data="Here it is.")]
        if "nothing" not in request.messages[-1].text:
            data = base64.b64encode(PICTURE).decode()
            parts.append(
                ImagePromptMessageContent(
                    base64_data=data, mime_type="image/png", format="png"
                )
            )
        message = AssistantPromptMessage(content=parts)
        delta = LLMResultChunkDelta(
            message=message, finish_reason="stop", usage=LLMUsage.of(1, 1)
        )
        yield LLMResultChunk(model=model, delta=delta)


def drawn(tmp_path: Path, prompt: str) -> tuple[Observation, Painter]:
    painter = Painter()

    async def go() -> Observation:
        definition, builder = scripted_models(painter)
        settings = Settings(home=str(tmp_path), defaults={"llm": "scripted/model"})
        async with Modelyard(
            settings,
            definitions=[definition],
            builders={"scripted": builder},
            environ={},
        ) as yard:
            tool = await yard.tools.get_by_name("default", "image/draw")
            return await yard.tools.observe(
                tool, "draw", f'{{"prompt": "{prompt}"}}', ToolContext()
            )

    return asyncio.run(go()), painter


def test_an_image_is_returned_as_a_file(tmp_path: Path):
    observation, painter = drawn(tmp_path, "a lynx")
    assert [(blob.data, blob.mime_type) for blob in observation.gathered.blobs] == [
        (PICTURE, "image/png")
    ]
    assert (observation.error, observation.text.startswith("Here it is.")) == ("", True)
    assert painter.requests[0].messages[0].text == "a lynx"


def test_an_answer_without_an_image_is_a_clear_error(tmp_path: Path):
    observation, _ = drawn(tmp_path, "nothing")
    assert (observation.error, "returned no picture" in observation.text) == (
        "tool_failed",
        True,
    )
