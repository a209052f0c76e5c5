"""Pictures, drawn by a chat model whose answers hold them: there is no model type of its own for it."""

import base64
from collections.abc import Sequence
from typing import Any

from modelyard.models.llm import LLMRequest
from modelyard.models.messages import ImagePromptMessageContent, UserPromptMessage
from modelyard.models.types import ModelType
from modelyard.tenancy.caller import Caller
from modelyard.tools.builtin import Parts
from modelyard.tools.entities import ToolContext, ToolInvokeError, blob_message, text_message
from modelyard.tools.function import FunctionTool


def make(parts: Parts) -> Sequence[FunctionTool]:
    if (models := parts.models) is None:
        return []

    async def draw(prompt: str, context: ToolContext, model: str = "default") -> Any:
        """Draw a picture.

        prompt: what is to be seen, in detail
        model: as provider/model; one whose answers may hold pictures
        """
        caller = Caller(tenant=context.tenant, user=context.user or None)
        found = models.find(caller, model or "default", ModelType.LLM)
        asked = LLMRequest(
            messages=[UserPromptMessage(content=prompt)], model_parameters={"modalities": ["image", "text"]},
            user=context.user or None,
        )  # fmt: skip
        result = await found.invoke_llm(asked)
        pictures = [one for one in result.message.files if isinstance(one, ImagePromptMessageContent)]
        if not pictures:
            raise ToolInvokeError(
                f"model {found.name!r} answered without a picture; name one that draws as the tool's 'model'"
            )
        messages: list[Any] = [text_message(result.text)] if result.text else []
        for at, one in enumerate(pictures):
            if one.base64_data:
                kind = one.mime_type or "image/png"
                name = one.filename or f"picture-{at + 1}.{kind.partition('/')[2]}"
                messages.append(blob_message(base64.b64decode(one.base64_data), kind, name))
            else:
                messages.append(
                    {"type": "image_link", "message": {"text": one.url}, "meta": {"mime_type": "image/png"}}
                )
        return messages

    return [FunctionTool(draw, provider="image", kind="builtin", seconds=300.0)]
