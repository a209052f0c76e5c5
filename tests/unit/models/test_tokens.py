"""Tests for token counts: exact with the model's own vocabulary, else an estimate."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.models.messages import (
    ImagePromptMessageContent,
    PromptMessageTool,
    UserPromptMessage,
)
from modelyard.models.tokens import (
    count_prompt,
    count_texts,
    estimate_tokens,
    truncate,
    vocabulary_of,
)

# The figures of OpenAI's cookbook for its own vocabularies.
KNOWN = [
    ("gpt-4o", "hello world", 2, False),
    ("openai/gpt-4", "tiktoken is great!", 6, False),
    ("gpt-oss-120b", "hello world", 2, False),
    ("o3-mini", "お誕生日おめでとう", 8, False),
    ("gpt-3.5-turbo", "お誕生日おめでとう", 9, False),
    ("qwen3.5-plus", "hello world", 2, False),
    ("gemini-2.5-pro", "hello world", 2, True),
    ("llama-3.3-70b", "hello world", 2, True),
    ("nobody-knows", "hello world", 3, True),
]


@pytest.mark.parametrize(("model", "text", "tokens", "estimated"), KNOWN)
def test_counts_of_known_texts(model: str, text: str, tokens: int, estimated: bool):
    token_count = count_texts(model, [text])
    assert (token_count.tokens, token_count.estimated) == (tokens, estimated)


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4", "nobody-knows"])
@given(text=st.text(max_size=60), max_tokens=st.integers(0, 12))
def test_truncated_text_fits_and_is_a_prefix(model: str, text: str, max_tokens: int):
    truncated, full_count = truncate(model, text, max_tokens)
    assert count_texts(model, [truncated]).tokens <= max_tokens or not truncated
    assert full_count.tokens == count_texts(model, [text]).tokens
    assert text.startswith(truncated)


def test_files_and_tools_make_a_count_an_estimate():
    plain = [UserPromptMessage(content="hello world")]
    assert count_prompt("gpt-4o", plain).tokens == 9
    assert not count_prompt("gpt-4o", plain).estimated
    assert count_prompt("gpt-4o", plain, [PromptMessageTool(name="f")]).estimated
    picture = UserPromptMessage(
        content=[ImagePromptMessageContent(url="https://x/y.png")]
    )
    assert count_prompt("gpt-4o", [picture]).estimated


def test_without_the_package_everything_is_estimated(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "toktok", None)
    token_count = count_texts("gpt-4o", ["hello world"])
    assert (token_count.tokens, token_count.estimated) == (
        estimate_tokens("hello world"),
        True,
    )
    assert vocabulary_of("text-embedding-3-small") == ("cl100k_base", True)
