from collections.abc import Generator
from typing import Any

from dify_plugin.entities.agent import AgentInvokeMessage
from dify_plugin.entities.model.llm import LLMModelConfig
from dify_plugin.entities.model.message import UserPromptMessage
from dify_plugin.interfaces.agent import AgentStrategy


class @CLASS@Strategy(AgentStrategy):
    def _invoke(self, parameters: dict[str, Any]) -> Generator[AgentInvokeMessage, None, None]:
        """Asks the model once. Write your loop here."""
        chosen = parameters["model"]
        config = LLMModelConfig(
            provider=chosen["provider"], model=chosen["model"], mode="chat",
            completion_params=chosen.get("completion_params") or {},
        )
        question = [UserPromptMessage(content=str(parameters["query"]))]
        for piece in self.session.model.llm.invoke(config, question, stream=True):
            if piece.delta.message and piece.delta.message.content:
                yield self.create_text_message(str(piece.delta.message.content))
