"""What the formats call the tier that served a call."""

from collections.abc import Mapping

USUAL_TIERS = (
    "default",
    "standard",
    "standard_only",
    "on_demand",
)
"""What vendors call the tier that costs the usual price."""
_WORDS: Mapping[str, tuple[str, ...]] = {
    # The first is that of the usual price.
    "openai_chat": (
        "default",
        "flex",
        "priority",
        "scale",
        "fast",
        "auto",
    ),
    "openai_responses": (
        "default",
        "flex",
        "priority",
        "scale",
        "fast",
        "auto",
    ),
    "anthropic": (
        "standard",
        "priority",
        "batch",
    ),
    "gemini": (
        "standard",
        "flex",
        "priority",
    ),
}


def served_tier(
    format: str,
    tier: str,
) -> str:
    """Return what an answer in a format calls the tier that served a call; empty if it
    has no word for it. `tier` is in the words of any provider."""
    words = _WORDS.get(format)
    if not tier or words is None:
        return ""
    if tier in USUAL_TIERS:
        return words[0]
    return tier if tier in words else ""
