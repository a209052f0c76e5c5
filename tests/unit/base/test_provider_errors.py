"""What the errors of providers mean, by recorded bodies."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import (
    ContextTooLongError,
    InvokeBadRequestError,
    InvokeError,
    InvokeServerUnavailableError,
    QuotaExhaustedError,
    TokenCounts,
)
from modelyard.base.provider_error_patterns import PHRASES, Phrase, _checked
from modelyard.base.provider_errors import (
    error_fields_in,
    exact_class,
    provider_error,
    raise_error_in,
    token_counts_in,
)
from modelyard.providers.http_errors import error_of

DATA = Path(__file__).parents[2] / "data" / "provider_errors.yaml"
RECORDINGS: list[dict[str, Any]] = yaml.safe_load(DATA.read_text("utf-8"))


def read(recording: dict[str, Any]) -> InvokeError:
    """Return the error for a recorded body."""
    body = recording["body"]
    if recording["status"] is None:
        fields = error_fields_in(body)
        assert fields is not None
        return provider_error(fields)
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    headers = {"x-amzn-errortype": recording.get("aws_type", "")}
    return error_of(recording["status"], headers, data, provider="p")


@pytest.mark.parametrize(
    "recording", RECORDINGS, ids=[recording["name"] for recording in RECORDINGS]
)
def test_a_recorded_error_has_its_meaning(recording: dict[str, Any]):
    error = read(recording)
    assert type(error).__name__ == recording["error"]
    assert error.retry_after == recording.get("retry_after")
    if "param" in recording:
        assert isinstance(error, InvokeBadRequestError)
        assert error.param == recording["param"]
    if isinstance(error, ContextTooLongError):
        input_tokens, output_tokens, limit = recording["tokens"]
        assert error.tokens == TokenCounts(
            input=input_tokens, output=output_tokens, limit=limit
        )


ABOUT_THE_REQUEST = {
    "ContextTooLongError",
    "StringTooLongError",
    "ModelNotFoundError",
    "ContentFilterError",
    "MalformedToolCallError",
}
INSIDE_ANSWERS = [
    recording
    for recording in RECORDINGS
    if recording["error"] in ABOUT_THE_REQUEST and "error" in recording["body"]
]


@pytest.mark.parametrize(
    "recording",
    INSIDE_ANSWERS,
    ids=[recording["name"] for recording in INSIDE_ANSWERS],
)
def test_an_error_inside_a_successful_response_has_the_same_meaning(
    recording: dict[str, Any],
):
    with pytest.raises(InvokeError) as caught:
        raise_error_in(recording["body"])
    assert type(caught.value).__name__ == recording["error"]


def test_every_phrase_has_a_recorded_body_that_it_recognises():
    by_phrase: dict[str, list[dict[str, Any]]] = {}
    for recording in RECORDINGS:
        by_phrase.setdefault(recording.get("phrase", ""), []).append(recording)
    for phrase in PHRASES:
        recordings = by_phrase.get(phrase.name, [])
        assert recordings, f"{phrase.name} has no recorded body"
        for recording in recordings:
            body = recording["body"]
            message = provider_error(error_fields_in(body) or body).reason
            assert phrase.expression.search(message), (phrase.name, message)


def test_two_phrases_of_one_name_are_refused():
    phrase = Phrase("a", ContextTooLongError, "b")
    with pytest.raises(ValueError, match="a"):
        _checked((phrase, phrase))


@pytest.mark.parametrize(
    "document",
    [
        {"choices": []},
        {"error": None, "choices": []},
        {"error": {}, "choices": []},
        {"message": {"role": "assistant"}, "type": "message"},
        {"message": "a", "type": "t", "choices": []},
        [],
        "text",
        None,
    ],
)
def test_an_answer_is_no_error(document: Any):
    assert error_fields_in(document) is None


def test_the_message_of_a_provider_behind_a_router_is_named():
    raw = '{"error": {"message": "Your credit balance is too low"}}'
    error = provider_error(
        {"message": "Provider returned error", "code": 400, "metadata": {"raw": raw}}
    )
    assert isinstance(error, QuotaExhaustedError)
    assert error.reason == "Provider returned error: Your credit balance is too low"


def test_a_general_class_becomes_exact_by_the_words():
    words = "prompt is too long: 3 tokens > 2 maximum"
    assert exact_class(InvokeBadRequestError, words) is ContextTooLongError
    assert exact_class(InvokeBadRequestError, "no") is InvokeBadRequestError
    assert token_counts_in(words) == TokenCounts(input=3, limit=2)
    assert token_counts_in("no") == TokenCounts()


def test_a_copy_with_the_provider_keeps_all_details():
    error = provider_error(
        {"message": "prompt is too long: 3 tokens > 2 maximum", "param": "messages"},
        status=400,
        retry_after=2,
    )
    named = error.with_provider("acme")
    assert isinstance(named, ContextTooLongError)
    assert str(named).startswith("[acme] prompt")
    assert named.reason == error.reason
    assert named.tokens.input == 3
    assert (named.param, named.retry_after, named.answer) == (
        "messages",
        2,
        error.answer,
    )
    assert error.provider is None


FIELDS = (
    *("error", "message", "type", "code", "status", "detail", "param", "metadata"),
    *("raw", "details", "loc", "msg", "innererror", "n_ctx", "n_prompt_tokens"),
    *("object", "retryDelay"),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(_JSON, st.none() | st.integers(min_value=300, max_value=599))
def test_any_document_becomes_an_error_with_a_message(
    document: Any, status: int | None
):
    fields = error_fields_in(document)
    if fields is not None:
        error = provider_error(fields, status=status)
        assert error.reason
    assert provider_error({}, status=status).reason
    assert isinstance(provider_error({}), InvokeServerUnavailableError)
