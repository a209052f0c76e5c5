"""Image generation with a chat model whose answers contain pictures; there is no
separate model type for it."""

import base64
from collections.abc import Sequence
from typing import Any

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


def make(parts: BuiltinDependencies) -> Sequence[FunctionTool]:
    """Return the image tool; none without a model manager."""
    if (models := parts.models) is None:
        return []

    async def draw(prompt: str, context: ToolContext, model: str = "default") -> Any:
        """Draw a picture.

        prompt: what is to be seen, in detail
        model: as provider/model; one whose answers may hold pictures
        """
        caller = Caller(tenant=context.tenant, user=context.user or None)
        image_model = models.find(caller, model or "default", ModelType.LLM)
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
                f"model {image_model.name!r} answered without a picture; name one that"
                " draws as the tool's 'model'"
            )
        messages: list[Any] = [text_message(result.text)] if result.text else []
        for index, picture in enumerate(pictures):
            # Providers return pictures either inline or as a link.
            if picture.base64_data:
                mime_type = picture.mime_type or "image/png"
                name = (
                    picture.filename
                    or f"picture-{index + 1}.{mime_type.partition('/')[2]}"
                )
                messages.append(
                    blob_message(base64.b64decode(picture.base64_data), mime_type, name)
                )
            else:
                messages.append(
                    {
                        "type": "image_link",
                        "message": {"text": picture.url},
                        "meta": {"mime_type": "image/png"},
                    }
                )
        return messages

    return [FunctionTool(draw, provider="image", kind="builtin", seconds=300.0)]
