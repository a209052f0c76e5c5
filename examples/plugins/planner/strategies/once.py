import re
from collections.abc import Generator
from typing import Any

from dify_plugin.entities.agent import AgentInvokeMessage
from dify_plugin.entities.model.llm import LLMModelConfig
from dify_plugin.entities.model.message import UserPromptMessage
from dify_plugin.entities.tool import ToolProviderType
from dify_plugin.interfaces.agent import AgentModelConfig, AgentStrategy, ToolEntity
from pydantic import BaseModel


class OnceParameters(BaseModel):
    query: str
    model: AgentModelConfig
    tools: list[ToolEntity] | None = None


class OnceStrategy(AgentStrategy):
    def _invoke(
        self, parameters: dict[str, Any]
    ) -> Generator[AgentInvokeMessage, None, None]:
        given = OnceParameters(**parameters)
        tool = (given.tools or [])[0]
        first, second, *_ = (float(one) for one in re.findall(r"\d+", given.query))
        log = self.create_log_message(
            label=tool.identity.name, data={"a": first, "b": second}
        )
        yield log
        answers = self.session.tool.invoke(
            provider_type=ToolProviderType(tool.provider_type),
            provider=tool.identity.provider,
            tool_name=tool.identity.name,
            parameters={"a": first, "b": second},
        )
        found = next(
            str(one.message.text) for one in answers if hasattr(one.message, "text")
        )
        yield self.finish_log_message(log=log, data={"output": found})
        config = LLMModelConfig(
            **given.model.model_dump(
                mode="json", include={"provider", "model", "mode"}
            ),
            completion_params={},
        )
        said = self.session.model.llm.invoke(
            config, [UserPromptMessage(content=f"It is {found}.")], stream=True
        )
        for piece in said:
            if piece.delta.message and piece.delta.message.content:
                yield self.create_text_message(str(piece.delta.message.content))
