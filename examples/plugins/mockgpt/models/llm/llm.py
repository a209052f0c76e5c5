import time
from collections.abc import Generator, Mapping
from typing import Any

from dify_plugin import LargeLanguageModel
from dify_plugin.entities.model import (
    AIModelEntity,
    FetchFrom,
    I18nObject,
    ModelPropertyKey,
    ModelType,
)
from dify_plugin.entities.model.llm import (
    LLMMode,
    LLMResult,
    LLMResultChunk,
    LLMResultChunkDelta,
)
from dify_plugin.entities.model.message import (
    AssistantPromptMessage,
    PromptMessage,
    PromptMessageTool,
)
from dify_plugin.errors.model import (
    CredentialsValidateFailedError,
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeConnectionError,
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
)

ANSWERS = (
    "你好，我是一个模拟的语言模型，很高兴为你服务。",
    "这是一个预设的回答，用来演示插件如何逐字返回内容。",
    "感谢你的提问，希望这个回答对你有所帮助。",
)


class MockGPT(LargeLanguageModel):
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
        if credentials.get("api_key") == "wrong":
            raise PermissionError("this key is refused")
        prompt = self.get_num_tokens(model, dict(credentials), prompt_messages, tools)
        asked = "".join(str(one.content or "") for one in prompt_messages)
        words = list(ANSWERS[len(asked) % len(ANSWERS)])[
            : int(model_parameters.get("max_tokens", 512))
        ]
        usage = self._calc_response_usage(model, dict(credentials), prompt, len(words))
        if not stream:
            message = AssistantPromptMessage(content="".join(words))
            return LLMResult(
                model=model,
                prompt_messages=prompt_messages,
                message=message,
                usage=usage,
            )
        return self._word_by_word(model, words, usage)

    def _word_by_word(
        self, model: str, words: list[str], usage: Any
    ) -> Generator[LLMResultChunk, None, None]:
        for place, word in enumerate(words):
            is_last = place == len(words) - 1
            yield LLMResultChunk(
                model=model,
                prompt_messages=[],
                delta=LLMResultChunkDelta(
                    index=place,
                    message=AssistantPromptMessage(content=word),
                    usage=usage if is_last else None,
                    finish_reason="stop" if is_last else None,
                ),
            )
            time.sleep(0.01)

    def get_num_tokens(
        self,
        model: str,
        credentials: dict,
        prompt_messages: list[PromptMessage],
        tools: list[PromptMessageTool] | None = None,
    ) -> int:
        """One token a character."""
        return sum(len(str(one.content or "")) for one in prompt_messages)

    def validate_credentials(self, model: str, credentials: Mapping[str, Any]) -> None:
        if credentials.get("api_key") == "wrong":
            raise CredentialsValidateFailedError(
                "this key is refused; any other word is accepted"
            )

    def get_customizable_model_schema(
        self, model: str, credentials: Mapping[str, Any]
    ) -> AIModelEntity:
        return AIModelEntity(
            model=model,
            label=I18nObject(en_US=model),
            model_type=ModelType.LLM,
            fetch_from=FetchFrom.CUSTOMIZABLE_MODEL,
            model_properties={
                ModelPropertyKey.MODE: LLMMode.CHAT.value,
                ModelPropertyKey.CONTEXT_SIZE: 16385,
            },
            parameter_rules=[],
        )

    @property
    def _invoke_error_mapping(self) -> dict[type[InvokeError], list[type[Exception]]]:
        return {
            InvokeConnectionError: [ConnectionError],
            InvokeServerUnavailableError: [TimeoutError],
            InvokeRateLimitError: [BlockingIOError],
            InvokeAuthorizationError: [PermissionError],
            InvokeBadRequestError: [ValueError],
        }
