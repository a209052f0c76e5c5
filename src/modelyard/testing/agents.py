"""Test double for agents: a chat model with scripted replies."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.models.base import LargeLanguageModel
from modelyard.models.llm import (
    LLMRequest,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from modelyard.models.messages import (
    AssistantPromptMessage,
    TextPromptMessageContent,
    ThinkingPromptMessageContent,
    ToolCall,
    ToolCallFunction,
)
from modelyard.models.types import Credentials

# How replies are split into chunks: not at all, by words, or by characters.
Cut = Literal["whole", "words", "signs"]
ScriptedReply = str | Mapping[str, Any]
"""A text, or {text, thinking, calls: [[name, arguments], …], error, wait}."""


@dataclass(slots=True)
class ScriptedChatModel(LargeLanguageModel):
    """Chat model that returns its replies one after the other, split into chunks; the
    last one is repeated.

    It serves as a provider's model, and through `stream_llm` directly as the model of
    an agent's loop.
    """

    replies: Sequence[ScriptedReply] = ()
    cut: Cut = "words"
    delay: float = 0.0
    """Seconds between chunks."""
    requests: list[LLMRequest] = field(default_factory=list[LLMRequest])

    async def invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Yield the next reply in chunks. Raises InvokeServerUnavailableError if the
        script says so."""
        del credentials
        # Counted by the requests so far, before this one is recorded.
        reply_index = min(len(self.requests), len(self.replies) - 1)
        self.requests.append(request)
        scripted_reply = self.replies[reply_index]
        reply: Mapping[str, Any] = (
            {"text": scripted_reply}
            if isinstance(scripted_reply, str)
            else scripted_reply
        )
        if reply.get("wait"):
            await asyncio.sleep(float(reply["wait"]))
        if reply.get("error"):
            raise InvokeServerUnavailableError(str(reply["error"]))
        count = 0
        for message in self._messages(reply):
            if self.delay:
                await asyncio.sleep(self.delay)
            count += 1
            yield LLMResultChunk(
                model=model, delta=LLMResultChunkDelta(message=message)
            )
        finish = "tool_calls" if reply.get("calls") else "stop"
        usage = LLMUsage.of(10 * len(request.messages), max(1, count))
        yield LLMResultChunk(
            model=model, delta=LLMResultChunkDelta(finish_reason=finish, usage=usage)
        )

    def stream_llm(self, request: LLMRequest) -> AsyncGenerator[LLMResultChunk, None]:
        """Yield the next reply, without a provider."""
        return self.invoke("scripted", {}, request)

    def _messages(self, reply: Mapping[str, Any]) -> list[AssistantPromptMessage]:
        """Return a reply as partial messages: reasoning, text, then tool calls."""
        messages: list[AssistantPromptMessage] = []
        messages += [
            AssistantPromptMessage(
                content=[ThinkingPromptMessageContent(data=fragment, index=0)]
            )
            for fragment in self._split(str(reply.get("thinking") or ""))
        ]
        for fragment in self._split(str(reply.get("text") or "")):
            content: Any = (
                [TextPromptMessageContent(data=fragment, index=1)]
                if reply.get("thinking")
                else fragment
            )
            messages.append(AssistantPromptMessage(content=content))
        calls: Any = reply.get("calls") or ()
        for index, (name, arguments) in enumerate(calls):
            arguments_json = (
                arguments
                if isinstance(arguments, str)
                else json.dumps(arguments, ensure_ascii=False)
            )
            # As in real streams: id and name come first, the arguments in pieces after
            # them.
            head = ToolCall(
                id=f"call_{len(self.requests)}_{index}",
                index=index,
                function=ToolCallFunction(name=name),
            )
            messages.append(AssistantPromptMessage(tool_calls=[head]))
            messages += [
                AssistantPromptMessage(
                    tool_calls=[
                        ToolCall(
                            index=index, function=ToolCallFunction(arguments=fragment)
                        )
                    ]
                )
                for fragment in self._split(arguments_json)
            ]
        return messages

    def _split(self, text: str) -> list[str]:
        """Split a text. Joining the pieces gives the text again."""
        match self.cut:
            case "whole":
                return [text] if text else []
            case "words":
                return re.findall(r"\s*\S+|\s+", text)
            case "signs":
                return list(text)
