"""Arithmetic that does not guess."""

from collections.abc import Sequence

from modelyard.base import computing
from modelyard.tools import calculator
from modelyard.tools.builtin import Parts
from modelyard.tools.function import FunctionTool


def make(parts: Parts) -> Sequence[FunctionTool]:
    del parts

    async def calculate(expression: str) -> str:
        """The value of an arithmetic expression, exactly. Knows + - * / // % ** ( ), percentages, comparisons, pi, e,
        sqrt, sin, log, round, min, max, sum, mean, factorial, gcd and their like.

        expression: as (19.99 * 3) * (1 - 15%)
        """
        return await computing.apart(calculator.calculate, expression)

    return [FunctionTool(calculate, provider="calculator", kind="builtin", is_repeatable=True)]
