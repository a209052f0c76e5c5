"""Registry of agent strategies: maps the names that apps and users use to
implementations."""

from __future__ import annotations

from collections.abc import Mapping

from modelyard.agents.state import Strategy
from modelyard.base.errors import NotFoundError, suggestion

# Several aliases lead to the same strategy.
_ALIASES: Mapping[str, str] = {
    "function_calling": "function_calling",
    "function_call": "function_calling",
    "fc": "function_calling",
    "tools": "function_calling",
    "react": "react",
    "cot": "react",
    "react_completion": "react_completion",
    "chain_of_thought": "chain_of_thought",
    "plan_and_execute": "plan_and_execute",
    "plan": "plan_and_execute",
}
STRATEGIES = (
    "function_calling",
    "react",
    "react_completion",
    "chain_of_thought",
    "plan_and_execute",
)


def get_strategy(name: str) -> Strategy:
    """Return the strategy with that name or alias; case, hyphens and spaces do not
    matter.

    Raises NotFoundError with a suggestion of similar names.
    """
    from modelyard.agents.strategies import (
        chain_of_thought,
        function_calling,
        plan_and_execute,
        react,
    )

    # The modules are imported above on first use, which avoids a cycle.
    match _ALIASES.get(name.strip().lower().replace("-", "_").replace(" ", "_")):
        case "function_calling":
            return function_calling.FunctionCalling()
        case "react":
            return react.React()
        case "react_completion":
            return react.React(is_completion=True)
        case "chain_of_thought":
            return chain_of_thought.ChainOfThought()
        case "plan_and_execute":
            return plan_and_execute.PlanAndExecute()
        case _:
            raise NotFoundError(
                f"Unknown strategy {name[:60]!r};"
                f" {suggestion(name, STRATEGIES, label='expected one of')}",
                code="strategy_not_found",
            )
