from collections.abc import Generator, Mapping
from typing import Any

from dify_plugin import LargeLanguageModel
from dify_plugin.entities.model.llm import LLMResult, LLMResultChunk, LLMResultChunkDelta
from dify_plugin.entities.model.message import AssistantPromptMessage, PromptMessage, PromptMessageTool
from dify_plugin.errors.model import (
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeConnectionError,
    InvokeError,
    InvokeServerUnavailableError,
)


class @CLASS@LargeLanguageModel(LargeLanguageModel):
    def _invoke(
        self,
        model: str,
        credentials: Mapping[str, Any],
        prompt_messages: list[PromptMessage],
        model_parameters: Mapping[str, Any],
        tools: list[PromptMessageTool] | None = None,
        stop: list[str] | None = None,
        stream: bool = True,
        user: str | None = None,
    ) -> LLMResult | Generator[LLMResultChunk, None, None]:
        """Says what it was told. Call your model here."""
        words = str(prompt_messages[-1].content or "").split(" ")
        prompt = self.get_num_tokens(model, dict(credentials), prompt_messages, tools)
        usage = self._calc_response_usage(model, dict(credentials), prompt, len(words))
        if not stream:
            message = AssistantPromptMessage(content=" ".join(words))
            return LLMResult(model=model, prompt_messages=prompt_messages, message=message, usage=usage)
        return self._streamed(model, words, usage)

    def _streamed(self, model: str, words: list[str], usage: Any) -> Generator[LLMResultChunk, None, None]:
        for place, word in enumerate(words):
            is_last = place == len(words) - 1
            delta = LLMResultChunkDelta(
                index=place,
                message=AssistantPromptMessage(content=word if is_last else f"{word} "),
                usage=usage if is_last else None,
                finish_reason="stop" if is_last else None,
            )
            yield LLMResultChunk(model=model, prompt_messages=[], delta=delta)

    def get_num_tokens(
        self,
        model: str,
        credentials: dict,
        prompt_messages: list[PromptMessage],
        tools: list[PromptMessageTool] | None = None,
    ) -> int:
        """About; use your model's own tokenizer."""
        return sum(len(str(one.content or "").split()) for one in prompt_messages)

    def validate_credentials(self, model: str, credentials: dict) -> None:
        """Raise CredentialsValidateFailedError where the model may not be called."""

    @property
    def _invoke_error_mapping(self) -> dict[type[InvokeError], list[type[Exception]]]:
        """What your client raises, as what the caller can act on."""
        return {
            InvokeConnectionError: [ConnectionError],
            InvokeServerUnavailableError: [TimeoutError],
            InvokeAuthorizationError: [PermissionError],
            InvokeBadRequestError: [ValueError],
        }
