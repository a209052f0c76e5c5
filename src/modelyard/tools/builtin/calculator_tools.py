"""The calculator tool. Models make arithmetic errors; this one calculates exactly."""

from collections.abc import Sequence

from modelyard.base import cpu_work
from modelyard.tools import calculator
from modelyard.tools.builtin import BuiltinDependencies
from modelyard.tools.function import FunctionTool


def make(parts: BuiltinDependencies) -> Sequence[FunctionTool]:
    """Return the calculator tool."""
    del parts

    async def calculate(expression: str) -> str:
        """The value of an arithmetic expression, exactly. Knows + - * / // % ** ( ),
        percentages, comparisons, pi, e, sqrt, sin, log, round, min, max, sum, mean,
        factorial, gcd and their like.

        expression: as (19.99 * 3) * (1 - 15%)
        """
        # A long calculation must not block the event loop.
        return await cpu_work.run_in_thread(calculator.calculate, expression)

    return [
        FunctionTool(
            calculate, provider="calculator", kind="builtin", is_repeatable=True
        )
    ]
