"""The law of thinking: every catalogue model of a vendor with every word for effort gets
what its vendor's table allows, and never less for a stronger word."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import pytest

from modelyard.models.llm import LLMRequest
from modelyard.models.messages import UserPromptMessage
from modelyard.models.types import ModelType
from modelyard.providers.adaptation.adapter import Adaptation, adapt
from modelyard.providers.adaptation.draft import Target
from modelyard.providers.factory import catalog_definition
from modelyard.wire import anthropic, bedrock, gemini, openai_chat

WORDS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
FORMATS: Mapping[str, Any] = {
    "openai": openai_chat,
    "anthropic": anthropic,
    "bedrock": bedrock,
    "gemini": gemini,
}
DEFINITIONS = {name: catalog_definition(name) for name in FORMATS}
SAMPLING = {"temperature": 0.2, "top_p": 0.5, "top_k": 40}


def adapted(provider: str, model: str, **parameters: Any) -> Adaptation:
    """Return a chat request as it is adapted to a catalogue model."""
    definition, wire = DEFINITIONS[provider], FORMATS[provider]
    target = Target(
        wire.FORMAT,
        model,
        definition.capabilities_of(model),
        definition.entity.find(model, ModelType.LLM),
        wire.PARAMETERS,
        provider,
    )
    messages: Any = [UserPromptMessage(content="hi")]
    # Ollama's format differs from all of these, and has no limits of its own.
    caller = "ollama" if wire is openai_chat else openai_chat.FORMAT
    request = LLMRequest(format=caller, messages=messages, model_parameters=parameters)
    return adapt(request, target)


def sent(provider: str, model: str, **parameters: Any) -> Any:
    """Return the body that reaches the vendor."""
    request = adapted(provider, model, **parameters).request
    capabilities = DEFINITIONS[provider].capabilities_of(model)
    return FORMATS[provider].dump_request(request, model, capabilities)


def models(provider: str) -> list[str]:
    """Return the names of the catalogue's chat models of a provider."""
    entity = DEFINITIONS[provider].entity
    return [model.model for model in entity.models if model.model_type is ModelType.LLM]


def rank(word: str | None) -> int:
    """Return how much a word asks for; nothing ranks below all."""
    return -1 if word is None else WORDS.index(word)


# The vendors' tables, by patterns of names; the first that matches applies.
_CLAUDE_3 = ("claude-3-*haiku*", "claude-3-opus*", "claude-3-sonnet*", "claude-3-5*")
_ADAPTIVE_ONLY = ("*-4-[7-9]*", "claude-[a-z]*[a-z]-5*", "*mythos*", "*fable*")
_OPENAI_WORDS = {
    "gpt-5-pro*": {"high"},
    "gpt-5-codex*": {"low", "medium", "high"},
    "gpt-5-chat*": set[str](),
    "gpt-5": {"minimal", "low", "medium", "high"},
    "gpt-5-mini*": {"minimal", "low", "medium", "high"},
    "gpt-5-nano*": {"minimal", "low", "medium", "high"},
    "gpt-5.1": {"none", "low", "medium", "high"},
    "gpt-4*": set[str](),
    "gpt-3*": set[str](),
    "o1-mini*": set[str](),
    "o3*": {"low", "medium", "high"},
}
_GEMINI_BUDGETS = {
    "gemini-2.5-flash-lite*": (512, 24_576, True),
    "gemini-2.5-flash-image*": None,
    "gemini-2.5-flash*": (1, 24_576, True),
    "gemini-2.5-pro*": (128, 32_768, False),
}


@pytest.mark.case("3.5")
@pytest.mark.parametrize("model", models("openai"))
def test_openai_gets_only_words_that_the_model_has(model: str):
    words = DEFINITIONS["openai"].capabilities_of(model).thinking
    assert words is not None
    table = (known for name, known in _OPENAI_WORDS.items() if fnmatchcase(model, name))
    allowed = next(table, set(words.words))
    ranks: list[int] = []
    for word in WORDS:
        effort = sent("openai", model, reasoning_effort=word).get("reasoning_effort")
        assert effort is None or effort in allowed
        dropped = adapted("openai", model, reasoning_effort=word).dropped
        assert effort is not None or "reasoning_effort" in dropped
        ranks.append(rank(effort))
    assert ranks[1:] == sorted(ranks[1:])


@pytest.mark.case("3.5")
@pytest.mark.parametrize("model", models("anthropic"))
def test_claude_gets_the_form_of_its_generation(model: str):
    is_plain = any(fnmatchcase(model, name) for name in _CLAUDE_3)
    is_adaptive_only = any(fnmatchcase(model, name) for name in _ADAPTIVE_ONLY)
    amounts: list[int] = []
    for word in WORDS:
        body = sent("anthropic", model, reasoning_effort=word, **SAMPLING)
        thinking: Any = body.get("thinking") or {}
        effort = body.get("output_config", {}).get("effort")
        if is_plain:
            assert not thinking
            assert effort is None
        elif is_adaptive_only:
            assert thinking.get("type") == "adaptive"
            assert not SAMPLING.keys() & body.keys()
        elif thinking.get("type") == "enabled":
            assert 1024 <= thinking["budget_tokens"] < body["max_tokens"]
        if thinking.get("type") in ("enabled", "adaptive"):
            assert not SAMPLING.keys() & body.keys()
        amounts.append(thinking.get("budget_tokens") or rank(effort))
    assert amounts[1:] == sorted(amounts[1:])


@pytest.mark.case("3.5")
# The catalogue lists other makers' models too, which Google serves in their own formats.
@pytest.mark.parametrize(
    "model", [name for name in models("gemini") if name.startswith("gem")]
)
def test_gemini_gets_a_level_or_a_budget_by_its_family(model: str):
    budgets = (row for name, row in _GEMINI_BUDGETS.items() if fnmatchcase(model, name))
    row = next(budgets, None)
    amounts: list[int] = []
    for word in WORDS:
        config = sent("gemini", model, reasoning_effort=word).get("generationConfig")
        thinking = (config or {}).get("thinkingConfig") or {}
        assert len(thinking.keys() & {"thinkingLevel", "thinkingBudget"}) <= 1
        if "thinkingLevel" in thinking:
            assert not model.startswith(("gemini-1", "gemini-2"))
            amounts.append(rank(str(thinking["thinkingLevel"]).lower()))
        if "thinkingBudget" in thinking:
            assert row is not None
            low, high, can_be_off = row
            budget = thinking["thinkingBudget"]
            assert low <= budget <= high or (can_be_off and budget == 0)
            amounts.append(budget)
    assert len(amounts) in (0, len(WORDS))
    assert amounts == sorted(amounts)


@pytest.mark.case("3.5")
def test_bedrocks_claude_thinks_as_anthropics():
    model = "anthropic.claude-opus-4-7-v1:0"
    body = sent("bedrock", model, reasoning_effort="high", **SAMPLING)
    fields = body["additionalModelRequestFields"]
    assert fields["thinking"] == {"type": "adaptive"}
    assert fields["output_config"] == {"effort": "high"}
    text = str(body)
    assert "temperature" not in text
    assert "topP" not in text
    assert "top_k" not in text


def test_sampling_that_a_model_refuses_is_named():
    result = adapted(
        "anthropic", "claude-opus-4-7", reasoning_effort="high", **SAMPLING
    )
    assert set(SAMPLING) <= set(result.dropped)


@pytest.mark.parametrize(
    ("provider", "model", "parameters", "name", "value"),
    [
        ("gemini", "gemini-2.5-pro", {"thinking_budget": 0}, "thinking_budget", 128),
        ("openai", "gpt-5-mini", {"thinking_budget": 0}, "reasoning_effort", "minimal"),
        (
            "openai",
            "gpt-4o-mini",
            {"reasoning_effort": "low"},
            "reasoning_effort",
            None,
        ),
    ],
)
def test_documented_cases(
    provider: str, model: str, parameters: Any, name: str, value: Any
):
    request = adapted(provider, model, **parameters).request
    assert request.model_parameters.get(name) == value
