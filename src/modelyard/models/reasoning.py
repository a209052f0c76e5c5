"""How hard a model should think: some providers are told a word, others a number of tokens. One for the other."""

_BUDGETS = {"minimal": 512, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 32_768}


def budget_of(effort: str, *, least: int = 0, most: int = 32_768, unknown: int = 8192) -> int:
    """Tokens for an effort, 0 for `none`, between what the provider takes; `unknown` for a word that is new to us."""
    if effort == "none":
        return 0
    tokens = _BUDGETS.get(effort)
    return unknown if tokens is None else min(most, max(least, tokens))


def effort_of(budget: int) -> str | None:
    """The least effort worth as many tokens, `none` for 0; None for a negative number: the model may choose."""
    if budget < 0:
        return None
    if budget == 0:
        return "none"
    return next((effort for effort, most in _BUDGETS.items() if most >= budget), "xhigh")
