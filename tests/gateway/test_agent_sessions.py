"""Sessions of agents through the gateway: each format that agents speak with each
provider's, against stand-ins that are as strict as the vendors.

It is the short form of a proof with the real agents, which these small ones are like.
"""

from collections.abc import Callable
from typing import Any

import pytest

from modelyard.base.settings import CredentialSettings, ProviderSettings
from modelyard.testing import Handler, Upstream
from tests.gateway.conftest import Running
from tests.gateway.test_money import usage_by
from tests.stand_ins.agents import AGENTS, Folder
from tests.stand_ins.chat import Chat, PlainChat
from tests.stand_ins.converse import Converse
from tests.stand_ins.gemini import Gemini
from tests.stand_ins.messages import Messages
from tests.stand_ins.responses import Responses
from tests.stand_ins.session import FILES, FINAL_TEXT, Session
from tests.stand_ins.vendor import StandIn

pytestmark = pytest.mark.proof("coding-agents")

Start = Callable[..., Running]
Play = Callable[[Handler], Upstream]
FOLDER = "/work"
BEDROCK = {"auth_method": "api_key", "api_key": "k", "aws_region": "us-east-1"}
PLAIN = {
    "name": "qwen3-coder",
    "context_size": 262_144,
    "input_price": 0.1,
    "output_price": 0.4,
    "features": ["tool-call", "stream-tool-call", "vision"],
}
TARGETS: dict[str, tuple[type[StandIn], str, dict[str, Any]]] = {
    "anthropic": (Messages, "anthropic/claude-sonnet-4-5", {}),
    "adaptive": (Messages, "anthropic/claude-opus-4-8", {}),
    "chat": (Chat, "openai/gpt-5-mini", {"wire": "openai"}),
    "responses": (Responses, "openai/gpt-5.1", {"wire": "openai_responses"}),
    "gemini": (Gemini, "gemini/gemini-3.1-pro-preview", {}),
    "bedrock": (Converse, "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0", {}),
    "plain": (PlainChat, "my-server/qwen3-coder", {"models": [PLAIN]}),
}


class World:
    """A gateway with one provider, whose stand-in plays a session."""

    def __init__(
        self, target: str, start: Start, play: Play, session: Session | None = None
    ) -> None:
        kind, self.model, fields = TARGETS[target]
        self.session = session or Session(FOLDER)
        self.stand_in = kind(self.session)
        self.upstream = play(self.stand_in.handle)
        origin = self.upstream.url.removesuffix("/v1")
        is_openai = target in ("chat", "responses", "plain")
        values = BEDROCK if target == "bedrock" else {"api_key": "k"}
        provider = ProviderSettings(
            name=self.model.partition("/")[0],
            base_url=self.upstream.url if is_openai else origin,
            credentials=[CredentialSettings(values=values)],
            **fields,
        )
        self.running = start(providers=[provider])


@pytest.fixture
def world(start_gateway: Start, upstream: Play) -> Callable[[str], World]:
    return lambda target: World(target, start_gateway, upstream)


@pytest.mark.case("11")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("agent_name", AGENTS)
def test_a_session_of_several_turns(
    world: Callable[[str], World], agent_name: str, target: str
):
    here = world(target)
    folder = Folder(FOLDER)
    agent = AGENTS[agent_name](here.running.origin, here.model, folder)
    assert agent.run() == FINAL_TEXT
    assert here.session.unexpected_results == []
    assert here.session.played == [
        "read",
        "write",
        "edit",
        "shell",
        "parallel",
        "picture",
    ]
    assert folder.files == FILES
    refusals = here.stand_in.refusals
    # The gateway learns from a server that it does not know, once for each field.
    assert len(refusals) == len({*refusals})
    assert refusals == [] or target == "plain"
    use = here.stand_in.cache_use
    assert use.read / use.total > 0.6
    here.running.flush()
    (row,) = usage_by(here.running, "provider")
    assert row["unpriced"] == 0
    assert float(row["cost"]) > 0
    assert row["prompt_tokens"] == use.total
