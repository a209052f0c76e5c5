"""Doubles for agents: a model whose replies are written down beforehand, and tools that do what tools do wrong."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.models.base import LargeLanguageModel
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMResultChunkDelta, LLMUsage
from modelyard.models.messages import (
    AssistantPromptMessage,
    TextPromptMessageContent,
    ThinkingPromptMessageContent,
    ToolCall,
    ToolCallFunction,
)
from modelyard.models.types import Credentials

Cut = Literal["whole", "words", "signs"]
ReplyGiven = str | Mapping[str, Any]
"""A text, or {text, thinking, calls: [[name, arguments], …], error, wait}."""


@dataclass(slots=True)
class Replies(LargeLanguageModel):
    """Answers with one reply after the other, cut into pieces as it is told; the last one again and again.

    It is a model for a provider, and by `stream_llm` one for an agent's loop by itself.
    """

    replies: Sequence[ReplyGiven] = ()
    cut: Cut = "words"
    delay: float = 0.0
    """Seconds between pieces."""
    requests: list[LLMRequest] = field(default_factory=list[LLMRequest])

    async def invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        del credentials
        place = min(len(self.requests), len(self.replies) - 1)
        self.requests.append(request)
        given = self.replies[place]
        reply: Mapping[str, Any] = {"text": given} if isinstance(given, str) else given
        if reply.get("wait"):
            await asyncio.sleep(float(reply["wait"]))
        if reply.get("error"):
            raise InvokeServerUnavailableError(str(reply["error"]))
        count = 0
        for message in self._messages(reply):
            if self.delay:
                await asyncio.sleep(self.delay)
            count += 1
            yield LLMResultChunk(model=model, delta=LLMResultChunkDelta(message=message))
        finish = "tool_calls" if reply.get("calls") else "stop"
        usage = LLMUsage.of(10 * len(request.messages), max(1, count))
        yield LLMResultChunk(model=model, delta=LLMResultChunkDelta(finish_reason=finish, usage=usage))

    def stream_llm(self, request: LLMRequest) -> AsyncGenerator[LLMResultChunk, None]:
        return self.invoke("scripted", {}, request)

    def _messages(self, reply: Mapping[str, Any]) -> list[AssistantPromptMessage]:
        found: list[AssistantPromptMessage] = []
        found += [
            AssistantPromptMessage(content=[ThinkingPromptMessageContent(data=one, index=0)])
            for one in self._pieces(str(reply.get("thinking") or ""))
        ]
        for one in self._pieces(str(reply.get("text") or "")):
            content: Any = [TextPromptMessageContent(data=one, index=1)] if reply.get("thinking") else one
            found.append(AssistantPromptMessage(content=content))
        calls: Any = reply.get("calls") or ()
        for place, (name, arguments) in enumerate(calls):
            written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            head = ToolCall(id=f"call_{len(self.requests)}_{place}", index=place, function=ToolCallFunction(name=name))
            found.append(AssistantPromptMessage(tool_calls=[head]))
            found += [
                AssistantPromptMessage(tool_calls=[ToolCall(index=place, function=ToolCallFunction(arguments=one))])
                for one in self._pieces(written)
            ]
        return found

    def _pieces(self, text: str) -> list[str]:
        match self.cut:
            case "whole":
                return [text] if text else []
            case "words":
                return re.findall(r"\s*\S+|\s+", text)
            case "signs":
                return list(text)
