"""Conversion between the two forms of reasoning settings: an effort level, and a token
budget."""

_BUDGETS = {
    "minimal": 512,
    "low": 1024,
    "medium": 8192,
    "high": 24_576,
    "xhigh": 32_768,
}


def budget_of(
    effort: str, *, min_budget: int = 0, max_budget: int = 32_768, unknown: int = 8192
) -> int:
    """Return the token budget for an effort level, limited to the provider's range; 0
    for `none`.

    `unknown` is returned for a level that is not in the table.
    """
    if effort == "none":
        return 0
    tokens = _BUDGETS.get(effort)
    return unknown if tokens is None else min(max_budget, max(min_budget, tokens))


def effort_of(budget: int) -> str | None:
    """Return the lowest effort level with at least this budget, `none` for 0, or None
    for a negative budget (the model chooses)."""
    if budget < 0:
        return None
    if budget == 0:
        return "none"
    # The table is ordered by increasing budget.
    return next(
        (effort for effort, tokens in _BUDGETS.items() if tokens >= budget), "xhigh"
    )
