"""Laws of how requests are adapted: every model of the catalogue with every word for
effort, and with everything else that a model may refuse.

The table of what vendors accept is written here once more, from their documentation.
"""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from modelyard.models.capabilities import Thinking
from modelyard.models.entities import ModelPropertyKey
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    PromptMessageTool,
    SystemPromptMessage,
    UserPromptMessage,
)
from modelyard.models.reasoning import nearest_effort
from modelyard.models.types import JSON, ModelType
from modelyard.providers.adaptation.adapter import Adaptation, adapt
from modelyard.providers.adaptation.draft import Target
from modelyard.providers.factory import catalog_definition, catalog_names
from modelyard.providers.formats import CHAT
from modelyard.wire import openai_chat, openai_passthrough

WORDS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
USER: list[AnyPromptMessage] = [UserPromptMessage(content="hi")]
TOOL = PromptMessageTool(name="f", parameters={"type": "object"})
# What vendors accept, by patterns of names: the first that matches counts.
ALLOWED_WORDS = {
    "openai": [
        (
            r"o1-(mini|preview)|gpt-5-search|.*chat|gpt-[34]|gpt-audio|ada|bab|cur|dav|text",
            (),
        ),
        (r"o\d.*research", ("medium",)),
        (r"o\d|codex-mini|gpt-oss|gpt-5\.1-codex-mini", ("low", "medium", "high")),
        (r"gpt-5-pro", ("high",)),
        (
            r"gpt-5(-mini|-nano)?(-2025-\d\d-\d\d)?$",
            ("minimal", "low", "medium", "high"),
        ),
        (r"gpt-5\.1$", ("none", "low", "medium", "high")),
        (r"gpt-5\.\d-pro", ("medium", "high", "xhigh")),
        (r"gpt-5\.\d-codex", ("low", "medium", "high", "xhigh")),
        (r"gpt-[56]", ("none", "low", "medium", "high", "xhigh")),
        (r".*", ()),
    ],
    "xai": [
        (r"grok-3-mini", ("low", "high")),
        (r"grok-4\.3", ("none", "low", "medium", "high")),
        (r"grok-4\.[5-9]", ("low", "medium", "high")),
        (r".*", ()),
    ],
    "deepseek": [
        (r"deepseek-r", ("low", "high", "max")),
        (r".*", ("none", "low", "high", "max")),
    ],
}


def chat_targets() -> Iterator[Target]:
    """Yield every chat model of the catalogue in the format that its requests have."""
    for name in catalog_names():
        definition = catalog_definition(name)
        if definition.wire not in CHAT:
            continue
        for model in definition.entity.models:
            mode = model.model_properties.get(ModelPropertyKey.MODE)
            if model.model_type is not ModelType.LLM or mode == "completion":
                continue
            wires = definition.wires_of(ModelType.LLM)
            wire = definition.model_wires.get(model.model, wires[0].name)
            chat_format = CHAT[wire]
            yield Target(
                chat_format.name,
                model.model,
                definition.capabilities_of(model.model),
                model,
                chat_format.parameters,
                name,
            )


TARGETS = list(chat_targets())
CONTROLLED = [target for target in TARGETS if target.capabilities.thinking]


def written(adaptation: Adaptation, target: Target) -> JSON:
    """Return the body of an adapted request."""
    chat_format = next(item for item in CHAT.values() if item.name == target.format)
    return chat_format.dump_request(
        adaptation.request, target.model, target.capabilities
    )


def asking(parameters: dict[str, Any], **fields: Any) -> LLMRequest:
    """Return a chat caller's request."""
    return LLMRequest(
        messages=USER, model_parameters=parameters, format="openai_chat", **fields
    )


def thought_fields(body: JSON, format: str) -> JSON:
    """Return all fields of a body that control thinking, by one name each."""
    if format == "gemini":
        return body.get("generationConfig", {}).get("thinkingConfig", {})
    fields = body.get("additionalModelRequestFields", body)
    names = ("reasoning_effort", "thinking", "reasoning", "output_config")
    return {name: fields[name] for name in names if name in fields}


def check(target: Target, body: JSON) -> float:
    """Check the fields for thinking against what the target accepts.

    Returns how much it is: a larger number for more.
    """
    fields = thought_fields(body, target.format)
    thinking = target.capabilities.thinking
    assert thinking is not None
    if thinking.control == "none":
        assert fields == {}
        return 0
    match target.format:
        case "gemini":
            return check_gemini(target.model, fields)
        case "anthropic":
            return check_claude(target.model, fields, body["max_tokens"])
        case "bedrock" if "claude" in target.model:
            config = body.get("inferenceConfig", {})
            return check_claude(target.model, fields, config.get("maxTokens", 1 << 20))
        case "openai_responses":
            word = fields["reasoning"]["effort"]
        case _ if "reasoning" in fields:
            word = fields["reasoning"]["effort"]
        case _ if target.provider == "deepseek":
            kind = fields["thinking"]["type"]
            assert (kind == "disabled") == ("reasoning_effort" not in fields)
            word = fields.get("reasoning_effort", "none")
        case _:
            word = fields["reasoning_effort"]
    assert word in allowed_words(target, thinking)
    return WORDS.index(word)


def allowed_words(target: Target, thinking: Thinking) -> tuple[str, ...]:
    """Return the words that the vendor documents for a model."""
    table = ALLOWED_WORDS.get(target.provider)
    if table is None:
        return thinking.words
    return next(words for pattern, words in table if re.match(pattern, target.model))


def check_gemini(model: str, fields: JSON) -> float:
    """Check Google's fields for thinking."""
    assert len(fields) == 1
    if not model.startswith("gemini-2.5"):
        level = fields["thinkingLevel"]
        levels = {"low", "high", "medium", "minimal"}
        if re.match(r"gemini-3-pro", model):
            levels = {"low", "high"}
        if "gemma-4" in model:
            levels = {"minimal", "high"}
        if "3.7-flash" in model:
            levels = {"low", "medium", "high"}
        assert level in levels
        return WORDS.index(level)
    budget = fields["thinkingBudget"]
    if "pro" in model:
        assert 128 <= budget <= 32_768
    elif "lite" in model:
        assert budget == 0 or 512 <= budget <= 24_576
    else:
        assert 0 <= budget <= 24_576
    return budget


def check_claude(model: str, fields: JSON, max_tokens: int) -> float:
    """Check Anthropic's fields for thinking."""
    thinking = fields["thinking"]
    effort = fields.get("output_config", {}).get("effort")
    is_old = re.search(r"3-7|4-5|opus-4-1|opus-4-2|sonnet-4-2|-4-0|claude-4-", model)
    if is_old:
        assert effort is None
        if thinking["type"] == "disabled":
            return 0
        assert thinking["type"] == "enabled"
        assert 1024 <= thinking["budget_tokens"] < max_tokens
        return thinking["budget_tokens"]
    if thinking["type"] == "disabled":
        assert "4-6" in model
        return 0
    assert thinking == {"type": "adaptive"}
    assert effort in ("low", "medium", "high", "max")
    return WORDS.index(effort)


def test_most_of_the_catalogue_says_how_it_thinks():
    providers = {target.provider for target in CONTROLLED}
    assert providers >= {
        "anthropic",
        "bedrock",
        "openai",
        "gemini",
        "vertex_ai",
        "xai",
        "deepseek",
        "mistral",
        "openrouter",
        "cohere",
    }


@pytest.mark.parametrize("provider", sorted({t.provider for t in CONTROLLED}))
def test_every_model_takes_every_word(provider: str):
    for target in CONTROLLED:
        if target.provider == provider:
            check_all_words(target)


def check_all_words(target: Target) -> None:
    """Check one model with every word."""
    thinking = target.capabilities.thinking
    assert thinking is not None
    strengths: list[float] = []
    for word in WORDS:
        adaptation = adapt(asking({"reasoning_effort": word}), target)
        body = written(adaptation, target)
        if thinking.control == "none":
            assert adaptation.dropped == ("reasoning_effort",)
            assert thought_fields(body, target.format) == {}
        else:
            strengths.append(check(target, body))
    # A stronger word is never less, and some thinking is never none of it.
    assert strengths == sorted(strengths), target.model


@pytest.mark.parametrize("budget", [0, -1, 1, 900, 5000, 20_000, 500_000])
def test_every_model_takes_every_budget_of_a_messages_caller(budget: int):
    for target in CONTROLLED:
        request = LLMRequest(
            messages=USER,
            model_parameters={"thinking_budget": budget, "max_tokens": 2000},
            format="anthropic",
        )
        if target.format == "anthropic":
            continue
        adaptation = adapt(request, target)
        thinking = target.capabilities.thinking
        body = written(adaptation, target)
        assert thinking is not None
        if thinking.control == "none":
            assert "thinking" in adaptation.dropped
            assert thought_fields(body, target.format) == {}
        elif budget > 0 and target.provider != "openrouter" and not is_bedrock(target):
            check(target, body)


def is_bedrock(target: Target) -> bool:
    return target.format == "bedrock"


def test_sampling_is_left_out_where_it_is_refused():
    sampling = {"temperature": 0.3, "top_p": 0.5}
    for target in TARGETS:
        name = target.model
        adaptation = adapt(asking(dict(sampling)), target)
        sent = adaptation.request.model_parameters.keys()
        capabilities = target.capabilities
        if (
            target.format in ("anthropic", "bedrock")
            and capabilities.prefill == "refused"
            and "4-6" not in name
        ):
            assert not sent & sampling.keys()
            assert {"temperature", "top_p"} <= {*adaptation.dropped}
        if capabilities.temperature_or_top_p:
            assert sent & sampling.keys() != sampling.keys()
            assert adaptation.dropped
        assert sampling.keys() - sent <= {*adaptation.dropped}


@pytest.mark.parametrize("effort", ["low", "high"])
def test_claude_gets_no_sampling_beside_thinking(effort: str):
    parameters = {"reasoning_effort": effort, "temperature": 0.2, "top_k": 5}
    for target in CONTROLLED:
        if target.format != "anthropic" or target.capabilities.thinking is None:
            continue
        adaptation = adapt(asking(dict(parameters)), target)
        if target.capabilities.thinking.control == "none":
            assert "temperature" in adaptation.request.model_parameters
            continue
        assert "temperature" not in adaptation.request.model_parameters
        assert {"temperature", "top_k"} <= {*adaptation.dropped}


def test_claude_does_not_think_beside_a_forced_tool():
    for target, choice in itertools.product(TARGETS, ["required", {"name": "f"}]):
        if target.format not in ("anthropic", "bedrock"):
            continue
        request = asking({"reasoning_effort": "high"}, tools=[TOOL], tool_choice=choice)
        adaptation = adapt(request, target)
        body = written(adaptation, target)
        assert thought_fields(body, target.format) == {}
        assert (
            "reasoning_effort" in adaptation.dropped or "thinking" in adaptation.dropped
        )


def test_no_answer_may_be_longer_than_its_model_can_write():
    for target in TARGETS:
        parameters = {"max_tokens": 9_000_000, "reasoning_effort": "high"}
        adaptation = adapt(asking(parameters), target)
        limit = target.capabilities.max_output or (
            target.schema.max_output if target.schema else None
        )
        if limit is None:
            continue
        assert adaptation.request.model_parameters["max_tokens"] <= limit
        assert "max_tokens" in adaptation.dropped


def test_a_request_that_passes_through_needs_no_rule():
    """What is passed on unread is exactly what the rules would not change."""
    variants: list[dict[str, Any]] = [
        {},
        {"temperature": 0.2},
        {"temperature": 0.2, "top_p": 0.4},
        {"user": "u" * 64},
        {"max_tokens": 100},
        {"stream": True},
    ]
    passed = 0
    for target, variant in itertools.product(TARGETS, variants):
        if target.format != "openai_chat":
            continue
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **variant}
        peeked = openai_passthrough.peek_request(
            msgspec.json.encode(body), openai_chat.parse_request
        )
        assert peeked is not None
        request = peeked[1]
        passing = openai_passthrough.PASSING
        if not passing.can_pass_through(request, target.capabilities):
            continue
        passed += 1
        adaptation = adapt(request.parse(), target)
        assert adaptation.dropped == ()
        full = openai_chat.dump_request(
            adaptation.request, target.model, target.capabilities
        )
        raw = passing.dump(request, target.model, target.capabilities)
        assert msgspec.json.decode(raw) == full
    assert passed > 100


@pytest.mark.parametrize(
    "body",
    [
        {"user": "u" * 65},
        {"messages": [{"role": "developer", "content": "x"}]},
        {"stop": ["a"]},
        {"reasoning_effort": "low"},
    ],
)
def test_what_a_rule_may_change_is_never_passed_through(body: JSON):
    plain = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    raw = msgspec.json.encode({**plain, **body})
    assert openai_passthrough.peek_request(raw, openai_chat.parse_request) is None


@pytest.mark.parametrize(
    ("word", "words", "nearest"),
    [
        ("medium", ("low", "high"), "high"),
        ("xhigh", ("low", "high", "max"), "high"),
        ("minimal", ("none", "low"), "low"),
        ("none", ("minimal", "low"), "minimal"),
        ("none", ("low", "none"), "none"),
        ("max", ("low", "medium"), "medium"),
        ("low", ("none",), None),
        ("ultra", ("low",), None),
        ("low", (), None),
    ],
)
def test_the_nearest_word(word: str, words: tuple[str, ...], nearest: str | None):
    assert nearest_effort(word, words) == nearest


def test_a_conversation_without_a_user_gets_a_turn_where_it_needs_one():
    for target in TARGETS:
        if target.format not in ("anthropic", "bedrock", "gemini"):
            continue
        lonely: list[AnyPromptMessage] = [
            SystemPromptMessage(content="Be brief."),
            UserPromptMessage(content=""),
        ]
        for message in lonely:
            request = LLMRequest(messages=[message], format="openai_chat")
            body = written(adapt(request, target), target)
            assert body.get("messages") or body.get("contents")


def test_an_open_answer_is_continued_or_asked_for():
    messages: list[AnyPromptMessage] = [
        *USER,
        AssistantPromptMessage(content="The answer is "),
    ]
    for target in TARGETS:
        if target.format != "anthropic":
            continue
        adaptation = adapt(LLMRequest(messages=messages, format="openai_chat"), target)
        turns = written(adaptation, target)["messages"]
        if target.capabilities.prefill == "refused":
            assert turns[-1]["role"] == "user"
            assert adaptation.dropped == ("prefill",)
        else:
            assert turns[-1]["role"] == "assistant"
            assert turns[-1]["content"][-1]["text"] == "The answer is"
