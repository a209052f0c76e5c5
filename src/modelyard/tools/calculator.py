"""A calculator for arithmetic as people write it, exact where possible. Only the listed
names, operators and functions exist; no attributes, no loops. Pure.

Why not a library: the length of numbers must be bounded, because Python runs nothing
else while it multiplies two long ones. Measured in 2026-11: simpleeval 1.0.8 needs more
than 5 s for `4000000**4000000`, which is within its limits, and asteval 1.0.10 half a
second for `sum([1]*10**7)`. Both forbid attributes by listing what is known to be
dangerous, while this module lists what is allowed. Both calculate in floats (`0.1+0.2`)
and read neither `15% * 80` nor `1,234*2`. With our own numbers, operators, names and
functions, only the walk over the tree would be left of a library: about 30 lines.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from typing import Any

from modelyard.tools.entities import ToolParameterError

# Parsing recurses; the depth of an expression is bounded by its length.
_MAX_LENGTH = 2000
_MAX_BITS = 40_000  # of a whole number: 12,000 digits
_MAX_PLACES = 4_000
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    # The checker knows no types of these two.
    ast.Div: operator.truediv,  # pyright: ignore[reportUnknownMemberType]
    ast.FloorDiv: operator.floordiv,  # pyright: ignore[reportUnknownMemberType]
    ast.Mod: operator.mod,
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_CONSTANTS = {
    "pi": math.pi,
    "e": math.e,
    "tau": math.tau,
    "inf": math.inf,
}
_REAL_FUNCTIONS = {
    name: getattr(math, name)
    for name in (
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "atan2",
        "sinh",
        "cosh",
        "tanh",
        "exp",
        "log",
        "log2",
        "log10",
        "sqrt",
        "hypot",
        "degrees",
        "radians",
        "fmod",
    )
}
_INTEGER_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "gcd": math.gcd,
    "lcm": math.lcm,
    "isqrt": math.isqrt,
}
# People and models also write typographic operators and full-width punctuation.
_OPERATOR_CHARS = str.maketrans(
    {
        "×": "*",
        "÷": "/",
        "−": "-",
        "–": "-",
        "^": "**",
        "，": ",",
        "（": "(",
        "）": ")",
    }
)
# A percent sign that is followed by an operand is the modulo operator instead.
_PERCENT = re.compile(r"(\d(?:[\d_.]*)|\))\s*%(?!\s*[\w(.])")
_THOUSANDS = re.compile(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?![\d,])")


def calculate(expression: str) -> str:
    """Return the value as text: integers and decimal fractions exactly, other numbers
    to 15 digits.

    Raises ToolParameterError with the reason if the expression is not valid.
    """
    text = expression.strip().rstrip("=").translate(_OPERATOR_CHARS)
    if not text or len(text) > _MAX_LENGTH:
        raise ToolParameterError(
            f"An expression must have 1 to {_MAX_LENGTH:,} characters, not {len(text):,}"
        )
    # Inside a call, a comma separates arguments.
    if "(" not in text:
        text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    text = _PERCENT.sub(r"\1/100", text)
    try:
        tree = ast.parse(text, mode="eval")
        return _format_result(_evaluate(tree.body, text))
    except SyntaxError as error:
        raise ToolParameterError(
            f"Invalid expression {expression[:80]!r}: {error.msg}"
        ) from error
    except ZeroDivisionError as error:
        raise ToolParameterError("Division by zero") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise ToolParameterError(
            f"Cannot evaluate {expression[:80]!r}: {error}"
        ) from error
    except (RecursionError, MemoryError) as error:
        raise ToolParameterError("The expression is nested too deeply") from error


def _evaluate(node: ast.expr, text: str) -> Any:
    """Evaluate a node of the syntax tree. Raises ToolParameterError for anything that
    is not allowed."""
    # A list of what is allowed: expressions come from models and users, and Python's
    # own evaluation would run any code.
    match node:
        case ast.Constant(value=bool() | int() | float()):
            return _literal(node, text)
        case ast.BinOp(op=ast.Pow()):
            return _power(_evaluate(node.left, text), _evaluate(node.right, text))
        case ast.BinOp() if type(node.op) in _BINARY:
            return _bounded(
                _BINARY[type(node.op)](
                    _evaluate(node.left, text), _evaluate(node.right, text)
                )
            )
        case ast.UnaryOp(op=ast.USub()):
            return -_evaluate(node.operand, text)
        case ast.UnaryOp(op=ast.UAdd()):
            return _evaluate(node.operand, text)
        case ast.Name() if node.id.lower() in _CONSTANTS:
            return _CONSTANTS[node.id.lower()]
        case ast.Compare():
            return _compare(node, text)
        case ast.IfExp():
            return _evaluate(
                node.body if _evaluate(node.test, text) else node.orelse, text
            )
        case ast.Call(func=ast.Name(id=name)) if not node.keywords:
            return _call_function(
                name.lower(),
                [_evaluate(argument, text) for argument in _spread(node.args)],
            )
        case ast.Name():
            raise ToolParameterError(
                f"Unknown name {node.id[:40]!r}; expected a number, one of"
                f" {', '.join(_CONSTANTS)}, or a function call such as sqrt(2)"
            )
        case _:
            raise ToolParameterError(f"Unsupported syntax: {type(node).__name__}")


def _literal(node: ast.Constant, text: str) -> Any:
    """Return the exact value of a literal."""
    match node.value:
        case bool() as value:
            return value
        case int() as value:
            return Fraction(_bounded(value))
        case value:
            # The float has lost digits already, so the literal's source text is used.
            return _decimal(ast.get_source_segment(text, node) or str(value))


def _compare(node: ast.Compare, text: str) -> bool:
    """Evaluate a comparison; a chain such as `1 < x < 5` holds if each neighbouring
    pair does."""
    values = [_evaluate(operand, text) for operand in (node.left, *node.comparators)]
    if any(type(comparison) not in _COMPARISONS for comparison in node.ops):
        problem = "Unsupported comparison; expected <, <=, >, >=, == or !="
        raise ToolParameterError(problem)
    triples = zip(node.ops, values, values[1:], strict=False)
    return all(_COMPARISONS[type(op)](left, right) for op, left, right in triples)


def _decimal(literal: str) -> Fraction:
    """Return a decimal literal exactly. Its exponent is bounded, because it determines
    the number's length."""
    exponent = literal.lower().partition("e")[2].lstrip("+-").replace("_", "")
    if len(exponent.lstrip("0")) > 4 or int(exponent or 0) > _MAX_PLACES:
        raise ToolParameterError(
            f"Exponent of {literal[:40]} too large: maximum {_MAX_PLACES:,}"
        )
    return Fraction(literal)


def _spread(arguments: list[ast.expr]) -> list[ast.expr]:
    """Return the arguments of a function; `sum([1, 2])` is the same as `sum(1, 2)`."""
    if len(arguments) == 1 and isinstance(arguments[0], ast.List | ast.Tuple):
        return arguments[0].elts
    return arguments


def _call_function(name: str, arguments: list[Any]) -> Any:
    """Call a function by name. Raises ToolParameterError for an unknown name or wrong
    arguments."""
    if name in _REAL_FUNCTIONS:
        return _call_real_function(name, arguments)
    if name in _INTEGER_FUNCTIONS:
        # Python's function accepts any number of arguments, but its result must be
        # bounded after each.
        return _fold_pairwise(
            _INTEGER_FUNCTIONS[name],
            [_as_integer(argument, name) for argument in arguments],
        )
    if (function := _FUNCTIONS.get((name, len(arguments)))) is not None:
        return function(*arguments)
    if name in _LIST_FUNCTIONS and (arguments or name == "sum"):
        return _LIST_FUNCTIONS[name](arguments)
    raise ToolParameterError(
        f"Unknown function {name[:40]!r} with {len(arguments)} arguments"
    )


def _call_real_function(name: str, arguments: list[Any]) -> Any:
    """Call a function of real numbers; its result is a float, except that the root of a
    perfect square is exact."""
    match name, arguments:
        case "sqrt", [Fraction() as value] if value >= 0:
            top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
            if top * top == value.numerator and bottom * bottom == value.denominator:
                return Fraction(top, bottom)
        case _:
            pass
    return _REAL_FUNCTIONS[name](*[float(argument) for argument in arguments])


def _round(value: Any, digits: Any) -> Any:
    """Round a number to a number of decimal places, which may be negative.

    Raises ToolParameterError if that is not a whole number or too large.
    """
    digit_count = _as_integer(digits, "round")
    if abs(digit_count) > _MAX_PLACES:
        raise ToolParameterError(f"round: at most {_MAX_PLACES:,} decimal places")
    return round(value, digit_count)


def _factorial(value: Any) -> Fraction:
    """Return the factorial of a whole number up to 3,000.

    Raises ToolParameterError for a larger number or a fraction.
    """
    count = _as_integer(value, "factorial")
    # The result of a larger factorial would exceed the maximum length.
    if count > 3000:
        raise ToolParameterError("factorial: argument too large, maximum 3000")
    return Fraction(math.factorial(count))


def _count_selections(
    name: str, function: Callable[[int, int], int], total: Any, chosen: Any
) -> Fraction:
    """Return the number of ways to choose some of `total` elements: `comb` ignores
    their order, `perm` does not."""
    total_count, chosen_count = _as_integer(total, name), _as_integer(chosen, name)
    if total_count > 5000:
        raise ToolParameterError(f"{name}: argument too large, maximum 5000")
    return Fraction(_bounded(function(total_count, chosen_count)))


def _sum(values: list[Any]) -> Any:
    """Add one by one with a bound: the common denominator of many fractions can grow
    without limit."""
    total: Any = Fraction(0)
    for value in values:
        total = _bounded(total + value)
    return total


def _mean(values: list[Any]) -> Any:
    """Return the exact mean."""
    return _sum(values) / len(values)


def _fold_pairwise(function: Callable[..., int], values: list[int]) -> Fraction:
    """Apply `gcd`, `lcm` or `isqrt` to two values at a time: the least common multiple
    of many numbers grows with each."""
    if len(values) < 2:
        return Fraction(function(*values))
    total = values[0]
    for value in values[1:]:
        total = _bounded(function(total, value))
    return Fraction(total)


def _power(base: Any, exponent: Any) -> Any:
    """Return a power: exact for an integer exponent, a float otherwise."""
    if (
        isinstance(base, Fraction)
        and isinstance(exponent, Fraction)
        and exponent.denominator == 1
    ):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        # Check the size before calculating; afterwards would be too late.
        if bits * abs(exponent.numerator) > _MAX_BITS:
            raise ToolParameterError(
                f"The power is too large: more than {_MAX_BITS // 3:,} digits"
            )
        return base**exponent.numerator
    result = float(base) ** float(exponent)
    if isinstance(result, complex):
        raise ToolParameterError("Roots of negative numbers have no real value")
    return result


def _round_to_integer(value: Fraction | float) -> Fraction:
    """Return the nearest integer; halves go to the even one."""
    return Fraction(round(value))


def _floor(value: Fraction | float) -> Fraction:
    """Return the next lower integer."""
    return Fraction(math.floor(value))


def _ceil(value: Fraction | float) -> Fraction:
    """Return the next higher integer."""
    return Fraction(math.ceil(value))


_FUNCTIONS: dict[tuple[str, int], Callable[..., Any]] = {
    ("abs", 1): abs,
    ("round", 1): _round_to_integer,
    ("round", 2): _round,
    ("floor", 1): _floor,
    ("ceil", 1): _ceil,
    ("factorial", 1): _factorial,
    ("comb", 2): partial(_count_selections, "comb", math.comb),
    ("perm", 2): partial(_count_selections, "perm", math.perm),
    ("pow", 2): _power,
}
"""(Name, number of arguments) → function."""
_LIST_FUNCTIONS: Mapping[str, Callable[[list[Any]], Any]] = {
    "min": min,
    "max": max,
    "sum": _sum,
    "mean": _mean,
    "avg": _mean,
    "average": _mean,
}
"""Functions of any number of arguments; all but `sum` need at least one."""


def _as_integer(value: Any, name: str) -> int:
    """Return a value as an integer. Raises ToolParameterError if it is not one."""
    if value != int(value):
        raise ToolParameterError(f"{name}: arguments must be whole numbers")
    return int(value)


def _bounded(value: Any) -> Any:
    """Return a value unchanged. Raises ToolParameterError if the number is too long."""
    is_fraction = isinstance(value, Fraction)
    parts = (value.numerator, value.denominator) if is_fraction else (value,)
    if any(isinstance(part, int) and part.bit_length() > _MAX_BITS for part in parts):
        max_digits = f"{_MAX_BITS // 3:,}"
        raise ToolParameterError(
            f"The number is too large: more than {max_digits} digits"
        )
    return value


def _format_result(value: Any) -> str:
    """Return a result as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Fraction):
        if value.denominator == 1:
            return _digits(value.numerator)
        if value.denominator < 10**15 and _is_decimal(value.denominator):
            return _format_decimal(value)
        value = float(value)
    text = f"{value:.15g}"
    return text.replace("e+", "e")


def _format_decimal(value: Fraction) -> str:
    """Return a fraction that is a finite decimal with all its digits."""
    decimal_places = 0
    while (value * 10**decimal_places).denominator != 1:
        decimal_places += 1
    digits = _digits(abs((value * 10**decimal_places).numerator))
    # A leading zero stands before the point of numbers below 1.
    digits = digits.rjust(decimal_places + 1, "0")
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:-decimal_places]}.{digits[-decimal_places:]}"


def _is_decimal(denominator: int) -> bool:
    """Return whether a fraction with this denominator is a finite decimal."""
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1


def _digits(value: int) -> str:
    """Return all digits of an integer. Python's own conversion refuses very long ones."""
    if value.bit_length() < 12_000:
        return str(value)
    high, low = divmod(abs(value), 10**3000)
    return ("-" if value < 0 else "") + _digits(high) + str(low).rjust(3000, "0")
