"""What each attempt of a call receives, and when its answer has begun."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest

from modelyard.base.errors import (
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeConnectionError,
    InvokeServerUnavailableError,
)
from modelyard.models.embedding import TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.llm import (
    LLMRequest,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    PromptMessageTool,
    SystemPromptMessage,
    ToolCall,
    UserPromptMessage,
)
from modelyard.models.passthrough import PassthroughChunk, PassthroughRequest
from modelyard.models.types import Chunks
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.load_balancing import (
    Credential,
    Deployment,
    DeploymentHealth,
    LBModelManager,
    rendezvous_pick,
)
from modelyard.runtime.pipeline import compose
from modelyard.runtime.retry_budget import RetryBudget
from modelyard.tenancy.caller import Caller
from modelyard.testing import FakeClock, chunk, last_chunk
from tests.unit.runtime.dispatch_calls import (
    RecordedCalls,
    deployment,
    dispatch,
    group,
    new_invocation,
    run_call,
)

BROKEN = InvokeServerUnavailableError("broken off")


def _message_chunk(finish_reason: str | None = None, **message: Any) -> LLMResultChunk:
    delta = LLMResultChunkDelta(
        message=AssistantPromptMessage(**message), finish_reason=finish_reason
    )
    return LLMResultChunk(model="big", delta=delta)


# provider, model and credential


def _attempt(chosen: Deployment, **fields: Any) -> tuple[Invocation, Invocation]:
    """The original invocation, and the one that an attempt at a deployment receives."""
    clock = FakeClock()
    calls = RecordedCalls({"p": ["yes"], "q": ["yes"]}, by="provider")
    manager = LBModelManager([chosen], DeploymentHealth(clock))
    invocation = new_invocation(**fields)
    assert run_call(dispatch(clock, manager), calls, invocation).texts == ["yes"]
    return invocation, calls.invocations[0]


def test_an_attempt_receives_the_credential_of_its_deployment():
    credential = Credential("id-1", "work", {"api_key": "k"})
    chosen = Deployment("d", "q", "small", credential)
    original, attempt = _attempt(chosen, user="u")
    assert (attempt.provider, attempt.model) == ("q", "small")
    assert attempt.credentials == {"api_key": "k"}
    assert (attempt.credential, attempt.credential_id) == ("work", "id-1")
    assert (attempt.id, attempt.user) == (original.id, "u")
    assert attempt.record is original.record


def test_a_credential_is_added_for_the_requested_model_too():
    credential = Credential("id-1", "work", {"api_key": "k"})
    _, attempt = _attempt(Deployment("d", "p", "big", credential))
    assert attempt.credentials == {"api_key": "k"}


@pytest.mark.parametrize(("provider", "model"), [("q", "big"), ("p", "small")])
def test_a_model_without_credential_does_not_get_that_of_another(
    provider: str, model: str
):
    _, attempt = _attempt(
        Deployment("d", provider, model, None),
        credentials={"api_key": "other"},
        credential="other",
        credential_id="other-id",
    )
    assert (attempt.provider, attempt.model) == (provider, model)
    assert attempt.credentials == {}
    assert (attempt.credential, attempt.credential_id) == ("", "")


def test_the_requested_model_without_credential_needs_no_copy():
    original, attempt = _attempt(Deployment("d", "p", "big", None))
    assert attempt is original


# session affinity


def _picks(
    invocations: Sequence[Invocation], sticky: str
) -> tuple[list[str], LBModelManager]:
    """The credentials of calls in one group, and the group."""
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), *"abcd")
    calls = RecordedCalls({name: ["yes"] for name in "abcd"})
    policy = dispatch(clock, manager, sticky=sticky)
    for invocation in invocations:
        run_call(policy, calls, invocation)
    return calls.names, manager


def _sticky_names(manager: LBModelManager, keys: Sequence[str]) -> list[str]:
    """The credentials that these keys stick to."""
    return [rendezvous_pick(manager.deployments, key).id[0] for key in keys]


def test_the_calls_of_a_user_stick_to_one_deployment():
    users = [f"user-{number}" for number in range(20)]
    names, manager = _picks([new_invocation(user=user) for user in users], "user")
    assert names == _sticky_names(manager, users)


def test_without_a_user_the_api_key_decides():
    keys = [f"key-{number}" for number in range(20)]
    invocations = [new_invocation(caller=Caller(tenant="t", key=key)) for key in keys]
    names, manager = _picks(invocations, "user")
    assert names == _sticky_names(manager, keys)


def test_without_user_and_api_key_the_calls_take_turns():
    names, _ = _picks([new_invocation() for _ in range(8)], "user")
    assert names == list("abcdabcd")


def test_without_affinity_the_calls_of_a_user_take_turns():
    names, _ = _picks([new_invocation(user="u") for _ in range(8)], "")
    assert names == list("abcdabcd")


def _conversation(*texts: str) -> Invocation:
    system, *others = texts
    messages: list[AnyPromptMessage] = [SystemPromptMessage(content=system)]
    messages += [UserPromptMessage(content=text) for text in others]
    return new_invocation(request=LLMRequest(messages=messages))


TOPICS = [f"topic {number}" for number in range(24)]


def _prompt_picks(*texts: str) -> list[str]:
    """The credentials of conversations that differ in what `{}` stands for."""
    conversations = [
        _conversation(*(text.format(topic) for text in texts)) for topic in TOPICS
    ]
    return _picks(conversations, "prompt")[0]


def test_a_conversation_stays_on_its_deployment_as_it_grows():
    first_turns = _prompt_picks("be brief", "{}")
    assert set(first_turns) == set("abcd")
    assert _prompt_picks("be brief", "{}", "more {}", "and more") == first_turns


def test_the_first_two_messages_both_identify_a_conversation():
    first_turns = _prompt_picks("be brief", "{}")
    assert _prompt_picks("be verbose", "{}") != first_turns
    assert set(_prompt_picks("be {}", "hello")) == set("abcd")


def test_only_the_first_2000_characters_identify_a_conversation():
    starts = [topic.ljust(2000, "x") for topic in TOPICS]
    short = [_conversation("be brief", start) for start in starts]
    longer = [_conversation("be brief", start + "y") for start in starts]
    shorter = [_conversation("be brief", start[:-1] + "z") for start in starts]
    expected = _picks(short, "prompt")[0]
    assert _picks(longer, "prompt")[0] == expected
    assert _picks(shorter, "prompt")[0] != expected


def test_requests_other_than_chats_have_no_prompt_to_stick_to():
    request = TextEmbeddingRequest(texts=["x"])
    names, _ = _picks([new_invocation(request=request) for _ in range(8)], "prompt")
    assert names == list("abcdabcd")


# passthrough requests


def _passthrough_request(parsed: LLMRequest) -> PassthroughRequest:
    return PassthroughRequest(
        format="openai",
        asked=None,
        model_parameters={},
        stream=True,
        user=None,
        wants_usage=False,
        signs=5,
        parse=lambda: parsed,
    )


@pytest.mark.parametrize(
    ("plan", "is_parsed"),
    [
        ({}, False),
        ({"sticky": "user"}, False),
        ({"sticky": "prompt"}, True),
        ({"continue_streams": True}, True),
    ],
)
def test_a_passthrough_request_is_parsed_if_the_plan_reads_its_messages(
    plan: dict[str, Any], is_parsed: bool
):
    clock = FakeClock()
    parsed = LLMRequest(messages=[UserPromptMessage(content="hello")])
    request = _passthrough_request(parsed)
    calls = RecordedCalls({"a": ["yes"]})
    policy = dispatch(clock, group(DeploymentHealth(clock), "a"), **plan)
    run_call(policy, calls, new_invocation(request=request))
    assert calls.invocations[0].request is (parsed if is_parsed else request)


# when an answer has begun


def _begins(first: Any) -> bool:
    """Whether an answer has begun with this chunk: then nobody else can serve it."""
    clock = FakeClock()
    calls = RecordedCalls({"a": [first, BROKEN], "b": ["yes"]})
    policy = dispatch(clock, group(DeploymentHealth(clock), "a", "b"))
    outcome = run_call(policy, calls)
    if outcome.error is None:
        assert (calls.names, outcome.texts) == (["a", "b"], ["yes"])
        return False
    assert (calls.names, outcome.chunks) == (["a"], [first])
    return True


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (_message_chunk(), False),
        (_message_chunk(content=""), False),
        (last_chunk(), True),
        (_message_chunk(content="x"), True),
        (_message_chunk(tool_calls=[ToolCall(id="1")]), True),
        (_message_chunk(reasoning_content="hm"), True),
        (_message_chunk(refusal="no"), True),
        (_message_chunk("stop"), True),
        (PassthroughChunk(model="big", data=b"data: {}"), False),
        (PassthroughChunk(model="big", data=b"data: {}", said="x"), True),
        (PassthroughChunk(model="big", data=b"{}", is_whole=True), True),
        (TextEmbeddingResult(model="big", embeddings=[[1.0]]), True),
    ],
)
def test_an_answer_begins_with_its_first_content(first: Any, expected: bool):
    assert _begins(first) is expected


def test_usage_alone_is_no_content():
    delta = LLMResultChunkDelta(usage=LLMUsage.of(1, 1))
    assert not _begins(LLMResultChunk(model="big", delta=delta))


def test_chunks_of_a_failed_attempt_do_not_reach_the_caller():
    clock = FakeClock()
    blank_a, blank_b = LLMResultChunk(model="a"), LLMResultChunk(model="b")
    script = {"a": [blank_a, blank_a, BROKEN], "b": [blank_b, "x", blank_b, "y"]}
    policy = dispatch(clock, group(DeploymentHealth(clock), "a", "b"))
    outcome = run_call(policy, RecordedCalls(script))
    assert outcome.chunks[0] is blank_b
    assert outcome.texts == ["", "x", "", "y"]


# continued streams


def _continued(script: dict[str, list[Any]], **fields: Any) -> tuple[Any, Any]:
    clock = FakeClock()
    calls = RecordedCalls(script)
    manager = group(DeploymentHealth(clock), *script)
    policy = dispatch(clock, manager, continue_streams=True)
    return run_call(policy, calls, new_invocation(**fields)), calls


def test_the_text_so_far_is_passed_to_the_next_attempts():
    request = LLMRequest(
        messages=[UserPromptMessage(content="tell me")], model_parameters={"n": 1}
    )
    outcome, calls = _continued(
        {
            "a": ["once", " upon", BROKEN],
            "b": [" a", BROKEN],
            "c": [LLMResultChunk(model="c"), " time"],
        },
        request=request,
    )
    assert outcome.texts == ["once", " upon", " a", " time"]
    sent = [
        [message.text for message in invocation.request.messages]
        for invocation in calls.invocations
    ]
    assert sent == [
        ["tell me"],
        ["tell me", "once upon"],
        ["tell me", "once upon a"],
    ]
    continued_request = calls.invocations[2].request
    assert isinstance(continued_request.messages[-1], AssistantPromptMessage)
    assert continued_request.model_parameters == {"n": 1}
    assert calls.invocations[2].credential == "c"
    assert len(request.messages) == 1


def test_the_text_so_far_is_not_sent_again_if_the_next_attempt_fails_at_once():
    outcome, calls = _continued({"a": ["once", BROKEN], "b": [BROKEN], "c": [" upon"]})
    assert outcome.texts == ["once", " upon"]
    assert calls.invocations[2].request.messages[-1].text == "once"


@pytest.mark.parametrize(
    ("first", "fields"),
    [
        # Text of an answer that may call tools.
        (
            "x",
            {
                "request": LLMRequest(
                    messages=[UserPromptMessage(content="hello")],
                    tools=[PromptMessageTool(name="t")],
                )
            },
        ),
        # No text so far.
        (_message_chunk(reasoning_content="hm"), {}),
        # Not a chat.
        ("x", {"request": TextEmbeddingRequest(texts=["x"])}),
    ],
)
def test_only_plain_text_is_continued(first: Any, fields: dict[str, Any]):
    outcome, calls = _continued({"a": [first, BROKEN], "b": ["yes"]}, **fields)
    assert outcome.error is BROKEN
    assert calls.names == ["a"]


def test_a_stream_of_other_results_is_not_continued():
    result = TextEmbeddingResult(model="big", embeddings=[[1.0]])
    outcome, calls = _continued({"a": [result, BROKEN], "b": ["yes"]})
    assert (outcome.error, calls.names) == (BROKEN, ["a"])


def test_an_error_of_the_request_ends_a_stream_that_could_be_continued():
    error = InvokeBadRequestError("wrong")
    outcome, calls = _continued({"a": ["x", error], "b": ["yes"]})
    assert (outcome.error, calls.names) == (error, ["a"])
    assert outcome.actions == ["chose", "failed"]


# what is measured and counted


def test_the_seconds_to_the_first_content_are_measured_once():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    manager = group(health, "a", "b")

    async def call(invocation: Invocation) -> Chunks:
        clock.advance(0.25)
        yield LLMResultChunk(model="big")
        clock.advance(0.5)
        yield chunk("x")
        clock.advance(4.0)
        yield chunk("y")

    assert run_call(dispatch(clock, manager), call).texts == ["", "x", "y"]
    assert health.latency(manager.deployments[0]) == 0.75
    for _ in range(19):
        manager.served(manager.deployments[1], 0.0)
    # One answer was measured before, which makes twenty.
    assert manager.percentile(100) == 0.75


def test_an_answer_without_content_is_measured_at_its_end():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a")

    async def call(invocation: Invocation) -> Chunks:
        yield LLMResultChunk(model="big")
        clock.advance(3.0)

    run_call(dispatch(clock, manager), call)
    assert manager.health.latency(manager.deployments[0]) == 3.0


def test_a_failed_attempt_is_not_measured():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a", "b")

    async def call(invocation: Invocation) -> Chunks:
        clock.advance(1.0)
        if invocation.credential == "a":
            raise InvokeConnectionError("down")
        yield chunk("yes")

    run_call(dispatch(clock, manager), call)
    latencies = [manager.health.latency(peer) for peer in manager.deployments]
    assert latencies == [0.0, 1.0]


def test_an_attempt_is_in_flight_until_its_stream_has_ended():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a", "b")
    in_flight: list[list[int]] = []

    def count() -> None:
        in_flight.append(
            [manager.health.in_flight(peer) for peer in manager.deployments]
        )

    async def call(invocation: Invocation) -> Chunks:
        count()
        if invocation.credential == "a":
            raise InvokeAuthorizationError("no")
        yield chunk("x")
        count()

    run_call(dispatch(clock, manager), call)
    count()
    assert in_flight == [[1, 0], [0, 1], [0, 1], [0, 0]]


def test_a_caller_that_leaves_ends_the_attempt():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a")
    closed: list[str] = []

    async def call(invocation: Invocation) -> Chunks:
        try:
            while True:
                yield chunk("x")
        finally:
            closed.append(invocation.credential)

    async def leave_early() -> None:
        policy = dispatch(clock, manager)
        async with aclosing(compose([policy], call)(new_invocation())) as chunks:
            async for _ in chunks:
                break

    asyncio.run(leave_early())
    assert closed == ["a"]
    assert manager.health.in_flight(manager.deployments[0]) == 0


def test_each_attempt_adds_to_the_retry_budget_of_its_tenant_and_provider():
    clock = FakeClock()
    budget = RetryBudget(clock, free=0.0, retry_ratio=1.0)
    manager = LBModelManager(
        [deployment("a"), Deployment("b", "q", "big", None)], DeploymentHealth(clock)
    )
    script = {"a": [InvokeAuthorizationError("no")], "": ["yes"]}
    policy = dispatch(clock, manager, budget=budget)
    run_call(policy, RecordedCalls(script), new_invocation(tenant="acme"))
    for provider in "pq":
        assert not budget.try_retry("globex", provider)
        assert budget.try_retry("acme", provider)
        assert not budget.try_retry("acme", provider)
