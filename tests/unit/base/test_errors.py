from modelyard.base.errors import (
    InvokeRateLimitError,
    InvokeServerUnavailableError,
    closest_names,
    suggestion,
)


def test_similar_names_ignore_case_and_find_substrings():
    assert closest_names("GPT-5-MINI", ["gpt-5-mini", "gpt-5"])[0] == "gpt-5-mini"
    assert "text-embedding-3-small" in closest_names(
        "embedding-3", ["text-embedding-3-small", "tts-1"]
    )


def test_a_suggestion_falls_back_to_the_available_names():
    assert suggestion("zzz", ["alpha", "beta"]) == "available: 'alpha', 'beta'"
    assert suggestion("zzz", []) == "available: none"
    assert suggestion("zzz", [f"model {n:02}" for n in range(20)]).endswith(
        "and 12 more"
    )


def test_retry_after_decides_about_the_cooldown():
    assert InvokeRateLimitError("slow").cooldown_seconds == 60.0
    assert InvokeRateLimitError("slow", retry_after=3).cooldown_seconds == 3
    assert InvokeServerUnavailableError("down", retry_after=3).cooldown_seconds == 0.0


def test_a_message_names_the_provider():
    assert (
        str(InvokeRateLimitError("slow down", provider="openai"))
        == "[openai] slow down"
    )
