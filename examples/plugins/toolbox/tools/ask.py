import json
from collections.abc import Generator
from typing import Any

from dify_plugin import Tool
from dify_plugin.entities.model.llm import LLMModelConfig
from dify_plugin.entities.model.message import (
    AssistantPromptMessage,
    PromptMessageTool,
    ToolPromptMessage,
    UserPromptMessage,
)
from dify_plugin.entities.model.moderation import ModerationModelConfig
from dify_plugin.entities.model.rerank import RerankModelConfig
from dify_plugin.entities.model.text_embedding import TextEmbeddingModelConfig
from dify_plugin.entities.model.tts import TTSModelConfig
from dify_plugin.entities.tool import ToolInvokeMessage


class AskTool(Tool):
    def _invoke(
        self, tool_parameters: dict[str, Any]
    ) -> Generator[ToolInvokeMessage, None, None]:
        text = str(tool_parameters.get("text") or "hello")
        asked = getattr(self, f"_ask_{tool_parameters['what']}")
        yield self.create_text_message(asked(text))

    def _ask_llm(self, text: str) -> str:
        config = LLMModelConfig(
            provider="echo", model="echo", mode="chat", completion_params={}
        )
        pieces = self.session.model.llm.invoke(
            config, [UserPromptMessage(content=text)], stream=True
        )
        return "".join(str(piece.delta.message.content) for piece in pieces)

    def _ask_calls(self, text: str) -> str:
        """Let a model, named `provider/model/stream`, call a tool twice; return its calls
        and its last answer."""
        provider, model, stream = text.split("/")
        config = LLMModelConfig(
            provider=provider, model=model, mode="chat", completion_params={}
        )
        schema = {"type": "object", "properties": {"city": {"type": "string"}}}
        tool = PromptMessageTool(name="weather", description="", parameters=schema)
        messages: list[Any] = [UserPromptMessage(content="think tools")]
        answered = self.session.model.llm.invoke(
            config, messages, tools=[tool], stream=bool(stream)
        )
        chunks = list(answered) if stream else []
        calls = (
            [call for chunk in chunks for call in chunk.delta.message.tool_calls]
            if stream
            else answered.message.tool_calls
        )
        messages.append(AssistantPromptMessage(content="", tool_calls=calls))
        for call in calls:
            city = json.loads(call.function.arguments)["city"]
            messages.append(
                ToolPromptMessage(content=f"sun in {city}", tool_call_id=call.id)
            )
        result = self.session.model.llm.invoke(
            config, messages, tools=[tool], stream=False
        )
        return json.dumps([len(calls), str(result.message.content)])

    def _ask_embedding(self, text: str) -> str:
        config = TextEmbeddingModelConfig(
            provider="modelyard/sixfold/sixfold", model="letters"
        )
        return str(
            len(self.session.model.text_embedding.invoke(config, [text]).embeddings[0])
        )

    def _ask_rerank(self, text: str) -> str:
        config = RerankModelConfig(
            provider="modelyard/sixfold/sixfold",
            model="overlap",
            score_threshold=0.0,
            top_n=1,
        )
        result = self.session.model.rerank.invoke(config, ["nothing", text], text)
        return result.docs[0].text

    def _ask_tts(self, text: str) -> str:
        config = TTSModelConfig(
            provider="modelyard/sixfold/sixfold", model="tone", voice="low"
        )
        return str(
            sum(len(piece) for piece in self.session.model.tts.invoke(config, text))
        )

    def _ask_moderation(self, text: str) -> str:
        config = ModerationModelConfig(
            provider="modelyard/sixfold/sixfold", model="words"
        )
        return str(self.session.model.moderation.invoke(config, text))

    def _ask_summary(self, text: str) -> str:
        return self.session.model.summary.invoke(text, "Say it again.")

    def _ask_tool(self, text: str) -> str:
        first, second = text.split("+")
        parameters = {"a": float(first), "b": float(second)}
        messages = self.session.tool.invoke_builtin_tool(
            "modelyard/toolbox/toolbox", "add", parameters
        )
        return next(
            one.message.text
            for one in messages
            if one.type == ToolInvokeMessage.MessageType.TEXT
        )

    def _ask_app(self, text: str) -> str:
        return str(self.session.app.fetch_app(text))

    def _ask_file(self, text: str) -> str:
        stored = self.session.file.upload("note.txt", text.encode(), "text/plain")
        return f"{stored.name} {stored.size}"
