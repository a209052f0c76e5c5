"""Conversion between the two forms of reasoning settings: an effort level, and a token
budget."""

from collections.abc import Sequence

# Google documents the budgets of low, medium and high for its OpenAI-compatible API;
# the others continue the row.
_BUDGETS = {
    "minimal": 512,
    "low": 1024,
    "medium": 8192,
    "high": 24_576,
    "xhigh": 32_768,
}
_MAX_BUDGET = 65_536
"""The budget for `max`. It is not in the table: a budget is never turned into a word
that only some vendors have."""
_RANKS = {
    "none": 0.0,
    "minimal": 1.0,
    "low": 2.0,
    "medium": 3.1,
    "high": 4.0,
    "xhigh": 5.0,
    "max": 7.0,
}
"""The effort levels as distances. `medium` is nearer to `high` than to `low`, and
`xhigh` nearer to `high` than to `max`, as vendors round them."""


def nearest_effort(effort: str, words: Sequence[str]) -> str | None:
    """Return the nearest of the effort levels that a model has.

    `none` becomes the weakest if the model has no `none`; any other level stays one
    with thinking. A stronger level never becomes a weaker one. None if there is no such
    level, or `effort` is unknown.
    """
    if effort not in _RANKS:
        return None
    if effort == "none":
        return min(words, key=_RANKS.__getitem__, default=None)
    thinking = sorted(
        (word for word in words if word != "none"), key=_RANKS.__getitem__
    )
    rank = _RANKS[effort]
    return min(thinking, key=lambda word: abs(_RANKS[word] - rank), default=None)


def budget_of(
    effort: str, *, min_budget: int = 0, max_budget: int = 32_768, unknown: int = 8192
) -> int:
    """Return the token budget for an effort level, limited to the provider's range; 0
    for `none`.

    `unknown` is returned for a level that is not in the table.
    """
    if effort == "none":
        return 0
    tokens = _MAX_BUDGET if effort == "max" else _BUDGETS.get(effort)
    return unknown if tokens is None else min(max_budget, max(min_budget, tokens))


def effort_of(budget: int) -> str | None:
    """Return the lowest effort level with at least this budget, `none` for 0, or None
    for a negative budget (the model chooses)."""
    if budget <= 0:
        return "none" if budget == 0 else None
    # The table is ordered by increasing budget.
    for effort, tokens in _BUDGETS.items():
        if tokens >= budget:
            return effort
    return "xhigh"
