"""How much a model thinks, and what it refuses beside it, against stand-ins for the
vendors that are as strict as they are."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from modelyard.base.settings import CredentialSettings, ProviderSettings
from modelyard.testing import (
    Answer,
    Upstream,
    UpstreamRequest,
    chat_answer,
    json_answer,
)
from tests.gateway.conftest import Running

USER = [{"role": "user", "content": "hi"}]


def refusal(message: str) -> Answer:
    """Return a vendor's refusal of a field."""
    return json_answer({"error": {"message": message, "type": "x"}}, status=400)


def claude(request: UpstreamRequest) -> Answer:
    """Answer as Anthropic's API, by the rules of the model."""
    body = request.json
    checks = (_check_form, _check_pairs, _check_end)
    problem = next((reason for check in checks if (reason := check(body))), None)
    if problem is not None:
        return refusal(problem)
    return json_answer(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [{"type": "text", "text": "ok"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
    )


def _kind(body: Any) -> str | None:
    """Return the type of `thinking`."""
    return (body.get("thinking") or {}).get("type")


def _check_form(body: Any) -> str | None:
    """Return why the form of thinking is refused."""
    kind, model = _kind(body), body["model"]
    if any(name in model for name in ("4-7", "4-8", "-5-5")):
        if kind not in (None, "adaptive"):
            return '"thinking.type.enabled" is not supported for this model.'
        if body.get("temperature", 1) != 1 or body.keys() & {"top_p", "top_k"}:
            return "`temperature` is deprecated for this model."
    if "4-5" in model and kind == "adaptive":
        return "adaptive thinking is not supported on this model"
    budget = (body.get("thinking") or {}).get("budget_tokens", 1024)
    if not 1024 <= budget <= max(1024, body["max_tokens"] - 1):
        return "`max_tokens` must be greater than `thinking.budget_tokens`."
    return None


def _check_pairs(body: Any) -> str | None:
    """Return why two fields are refused beside each other."""
    if "temperature" in body and "top_p" in body:
        return "`temperature` and `top_p` cannot both be specified."
    if _kind(body) not in ("enabled", "adaptive"):
        return None
    if body.get("temperature", 1) != 1 or "top_k" in body:
        return "`temperature` may only be set to 1 when thinking is on."
    if body.get("tool_choice", {}).get("type") in ("any", "tool"):
        return "Thinking may not be enabled when tool_choice forces tool use."
    return None


def _check_end(body: Any) -> str | None:
    """Return why the last message is refused."""
    last = body["messages"][-1]
    if last["role"] != "assistant":
        return None
    text = last["content"][-1]["text"]
    if "4-6" in body["model"] or text != text.rstrip():
        return "final assistant content cannot end with trailing whitespace"
    return None


def google(request: UpstreamRequest) -> Answer:
    """Answer as Google's API, by the rules of the model's family."""
    thinking = request.json.get("generationConfig", {}).get("thinkingConfig", {})
    if "gemini-2.5" in request.path and "thinkingLevel" in thinking:
        return refusal("Thinking level is not supported for this model.")
    if "2.5-pro" in request.path and thinking.get("thinkingBudget") == 0:
        return refusal("Budget 0 is invalid. This model only works in thinking mode.")
    if len(thinking.keys() & {"thinkingLevel", "thinkingBudget"}) == 2:
        return refusal("You can only set one of thinking_budget and thinking_level.")
    parts = [{"text": "ok"}]
    return json_answer(
        {
            "candidates": [
                {"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}
            ],
            "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1},
        }
    )


def openai(request: UpstreamRequest) -> Answer:
    """Answer as OpenAI's API, by the rules of the model."""
    body = request.json
    effort = body.get("reasoning_effort")
    if "gpt-4" in body["model"] and effort is not None:
        return refusal("Unrecognized request argument supplied: reasoning_effort")
    if body["model"] == "gpt-5-mini" and effort not in (
        None,
        "minimal",
        "low",
        "medium",
        "high",
    ):
        return refusal("Unsupported value: 'none' is not supported with this model.")
    return chat_answer("ok")


@pytest.fixture
def gateway(
    start_gateway: Callable[..., Running],
) -> Iterator[tuple[Running, dict[str, Upstream]]]:
    """Yield a gateway with all three vendors, and their stand-ins by name."""
    handlers = {"anthropic": claude, "gemini": google, "openai": openai}
    servers = {name: Upstream(handler) for name, handler in handlers.items()}
    for server in servers.values():
        server.__enter__()
    providers = [
        ProviderSettings(
            name=name,
            base_url=server.url.removesuffix("/v1" if name == "anthropic" else "/"),
            credentials=[CredentialSettings(values={"api_key": "k"})],
        )
        for name, server in servers.items()
    ]
    yield start_gateway(providers=providers), servers
    for server in servers.values():
        server.__exit__(None, None, None)


def ask(
    gateway: tuple[Running, dict[str, Upstream]],
    model: str,
    path: str = "/chat/completions",
    **fields: Any,
) -> tuple[Any, set[str]]:
    """Return what the vendor got, and what the caller was told is left out."""
    running, servers = gateway
    body = {"model": model, "messages": USER, **fields}
    answer = httpx.post(running.url + path, json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    dropped = answer.headers.get("x-modelyard-dropped", "")
    server = servers[model.partition("/")[0]]
    return server.requests[-1].json, {*dropped.split(", ")} - {""}


Gateway = tuple[Running, dict[str, Upstream]]


@pytest.mark.case("3.5")
def test_effort_becomes_a_budget_of_an_older_gemini(gateway: Gateway):
    body, dropped = ask(gateway, "gemini/gemini-2.5-flash", reasoning_effort="low")
    assert body["generationConfig"]["thinkingConfig"] == {"thinkingBudget": 1024}
    assert dropped == set()


@pytest.mark.case("3.5")
def test_effort_becomes_adaptive_thinking(gateway: Gateway):
    body, _ = ask(gateway, "anthropic/claude-opus-4-8", reasoning_effort="low")
    assert (body["thinking"], body["output_config"]) == (
        {"type": "adaptive"},
        {"effort": "low"},
    )


@pytest.mark.case("3.5")
def test_a_model_that_does_not_reason_gets_no_effort(gateway: Gateway):
    body, dropped = ask(gateway, "openai/gpt-4o-mini", reasoning_effort="low")
    assert "reasoning_effort" not in body
    assert dropped == {"reasoning_effort"}


@pytest.mark.case("3.5")
@pytest.mark.parametrize(
    ("model", "path", "expected"),
    [
        (
            "gemini/gemini-2.5-pro",
            ("generationConfig", "thinkingConfig", "thinkingBudget"),
            128,
        ),
        (
            "gemini/gemini-3-flash-preview",
            ("generationConfig", "thinkingConfig", "thinkingLevel"),
            "minimal",
        ),
        ("openai/gpt-5-mini", ("reasoning_effort",), "minimal"),
        ("openai/gpt-5.1", ("reasoning_effort",), "none"),
    ],
)
def test_disabled_thinking_is_the_least_that_a_model_has(
    gateway: Gateway, model: str, path: tuple[str, ...], expected: Any
):
    disabled = {"type": "disabled"}
    value, _ = ask(gateway, model, "/messages", max_tokens=9, thinking=disabled)
    for name in path:
        value = value[name]
    assert value == expected


@pytest.mark.case("3.5")
def test_a_stronger_word_is_never_less(gateway: Gateway):
    budgets: list[int] = []
    for word in ("low", "medium", "high", "xhigh", "max"):
        model = "anthropic/claude-sonnet-4-5"
        body, _ = ask(gateway, model, reasoning_effort=word)
        budgets.append(body["thinking"]["budget_tokens"])
    assert budgets == sorted(budgets)
    assert budgets[-1] >= budgets[2]


@pytest.mark.case("3.6")
def test_adaptive_models_get_no_sampling(gateway: Gateway):
    body, dropped = ask(
        gateway, "anthropic/claude-opus-4-7", reasoning_effort="high", temperature=0.2
    )
    assert body["thinking"] == {"type": "adaptive"}
    assert body["output_config"] == {"effort": "high"}
    assert not body.keys() & {"temperature", "top_p", "top_k"}
    assert dropped == {"temperature"}


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        ({"type": "enabled", "budget_tokens": 4000}, {"type": "adaptive"}),
        (
            {"type": "adaptive", "display": "omitted"},
            {"type": "adaptive", "display": "omitted"},
        ),
        ({"type": "disabled"}, {"type": "adaptive"}),
    ],
)
def test_anthropics_own_form_is_rewritten_for_the_model(
    gateway: Gateway, thinking: Any, expected: Any
):
    model = "anthropic/claude-opus-4-7"
    body, _ = ask(gateway, model, "/messages", max_tokens=9000, thinking=thinking)
    assert body["thinking"] == expected


def test_adaptive_thinking_of_a_caller_becomes_a_budget(gateway: Gateway):
    body, _ = ask(
        gateway,
        "anthropic/claude-sonnet-4-5",
        "/messages",
        max_tokens=20_000,
        thinking={"type": "adaptive"},
        output_config={"effort": "high"},
    )
    assert body["thinking"]["type"] == "enabled"
    assert "effort" not in body.get("output_config", {})


@pytest.mark.case("3.6")
@pytest.mark.parametrize(
    ("fields", "dropped"),
    [
        ({"reasoning_effort": "low", "temperature": 0.2}, {"temperature"}),
        ({"temperature": 0.2, "top_p": 0.9}, {"top_p"}),
        (
            {
                "reasoning_effort": "low",
                "tools": [{"type": "function", "function": {"name": "f"}}],
                "tool_choice": "required",
            },
            {"reasoning_effort"},
        ),
    ],
)
def test_pairs_that_claude_refuses_are_parted(
    gateway: Gateway, fields: Any, dropped: set[str]
):
    assert ask(gateway, "anthropic/claude-sonnet-4-5", **fields)[1] == dropped


@pytest.mark.case("2.7")
def test_an_open_answer_goes_without_blanks_at_its_end(gateway: Gateway):
    messages = [*USER, {"role": "assistant", "content": "The answer is "}]
    body, dropped = ask(gateway, "anthropic/claude-sonnet-4-5", messages=messages)
    assert body["messages"][-1]["content"][-1]["text"] == "The answer is"
    assert dropped == set()
    body, dropped = ask(gateway, "anthropic/claude-opus-4-6", messages=messages)
    assert body["messages"][-1]["role"] == "user"
    assert dropped == {"prefill"}


@pytest.mark.case("2.7")
@pytest.mark.parametrize(
    "messages",
    [[{"role": "system", "content": "Be brief."}], [{"role": "user", "content": ""}]],
)
def test_a_conversation_without_a_text_gets_a_turn(gateway: Gateway, messages: Any):
    body, _ = ask(gateway, "anthropic/claude-sonnet-4-5", messages=messages)
    assert body["messages"]


def test_refusing_names_what_would_be_left_out(gateway: Gateway):
    running, _ = gateway
    answer = httpx.post(
        f"{running.url}/chat/completions",
        json={
            "model": "openai/gpt-4o-mini",
            "messages": USER,
            "reasoning_effort": "low",
        },
        headers={"x-modelyard-unsupported": "refuse"},
        timeout=30,
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "reasoning_effort"
