"""Image generation with a chat model whose answers contain pictures; there is no
separate model type for it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modelyard.models.llm import LLMRequest
from modelyard.models.messages import ImagePromptMessageContent, UserPromptMessage
from modelyard.models.types import ModelType
from modelyard.tenancy.caller import Caller
from modelyard.tools.builtin import BuiltinDependencies
from modelyard.tools.entities import (
    ToolContext,
    ToolInvokeError,
    blob_message,
    text_message,
)
from modelyard.tools.function import FunctionTool

if TYPE_CHECKING:
    from modelyard.runtime.model_manager import ModelManager


def make(parts: BuiltinDependencies) -> Sequence[FunctionTool]:
    """Return the image tool; none without a model manager."""
    if (models := parts.models) is None:
        return []
    tools = _ImageTools(models)
    return [FunctionTool(tools.draw, provider="image", kind="builtin", seconds=300.0)]


class _ImageTools:
    """The tool as a method. Its docstring is sent to models as its description."""

    def __init__(self, models: ModelManager) -> None:
        self._models = models

    async def draw(
        self, prompt: str, context: ToolContext, model: str = "default"
    ) -> Any:
        """Draw a picture.

        prompt: what is to be seen, in detail
        model: as provider/model; one whose answers may hold pictures
        """
        caller = Caller(tenant=context.tenant, user=context.user or None)
        image_model = self._models.find(caller, model or "default", ModelType.LLM)
        chat_request = LLMRequest(
            messages=[UserPromptMessage(content=prompt)],
            model_parameters={"modalities": ["image", "text"]},
            user=context.user or None,
        )
        result = await image_model.invoke_llm(chat_request)
        pictures = [
            picture
            for picture in result.message.files
            if isinstance(picture, ImagePromptMessageContent)
        ]
        # A model without image output usually answers with a description.
        if not pictures:
            raise ToolInvokeError(
                f"Model {image_model.name!r} returned no picture; set the argument"
                " 'model' to a model with image output"
            )
        messages = [text_message(result.text)] if result.text else []
        return messages + [
            _picture_message(picture, number)
            for number, picture in enumerate(pictures, start=1)
        ]


def _picture_message(picture: ImagePromptMessageContent, number: int) -> dict[str, Any]:
    """Return a picture as a message. Providers return pictures either inline or as a
    link."""
    if not picture.base64_data:
        return _link_message(picture.url)
    mime_type = picture.mime_type or "image/png"
    # Providers rarely name their pictures, but a file needs an extension.
    name = picture.filename or f"picture-{number}.{mime_type.partition('/')[2]}"
    return blob_message(base64.b64decode(picture.base64_data), mime_type, name)


def _link_message(url: str) -> dict[str, Any]:
    """Return a picture that is fetched from its address by whoever shows it."""
    # Providers do not state the type; browsers look at the content anyway.
    meta = {"mime_type": "image/png"}
    return {"type": "image_link", "message": {"text": url}, "meta": meta}
