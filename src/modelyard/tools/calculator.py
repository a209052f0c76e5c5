"""Arithmetic as people write it, exactly where that is possible. No names but these, no attributes, no loops. Pure.

Why no library: what must be bounded here is how long a number may get, since Python lets nobody else run while it
multiplies two long ones. Measured in 2026-11, simpleeval 1.0.8 takes more than 5 s for `4000000**4000000`, which is
within its limits, and asteval 1.0.10 half a second for `sum([1]*10**7)`; both forbid attributes by lists of what is
known to be dangerous where this names what is allowed, calculate in floats (`0.1+0.2`), and read neither `15% * 80` nor
`1,234*2`. Given our own numbers, operators, names and functions, what would be left of either is the walk over the
tree, 30 lines of these.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from modelyard.tools.entities import ToolParameterError

_MOST_TEXT = 2000
_MOST_BITS = 40_000  # of a whole number: 12,000 digits
_MOST_PLACES = 4_000
_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_COMPARED: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}  # fmt: skip
_CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau, "inf": math.inf}
_REAL = {
    name: getattr(math, name)
    for name in (
        "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "exp", "log", "log2", "log10",
        "sqrt", "hypot", "degrees", "radians", "fmod",
    )
}  # fmt: skip
_WHOLE: Mapping[str, Callable[..., Any]] = {"gcd": math.gcd, "lcm": math.lcm, "isqrt": math.isqrt}
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "–": "-", "^": "**", "，": ",", "（": "(", "）": ")"})
_PERCENT = re.compile(r"(\d(?:[\d_.]*)|\))\s*%(?!\s*[\w(.])")
_THOUSANDS = re.compile(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?![\d,])")


def calculate(expression: str) -> str:
    """The value, as text: whole numbers and fractions of decimals exactly, others to 15 digits.

    Raises ToolParameterError that says what is wrong.
    """
    text = expression.strip().rstrip("=").translate(_SIGNS)
    if not text or len(text) > _MOST_TEXT:
        raise ToolParameterError(f"an expression has 1 to {_MOST_TEXT:,} characters")
    if "(" not in text:
        text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    text = _PERCENT.sub(r"\1/100", text)
    try:
        tree = ast.parse(text, mode="eval")
        return _shown(_value(tree.body, text))
    except SyntaxError as error:
        raise ToolParameterError(f"{expression[:80]!r} is no expression: {error.msg}") from error
    except ZeroDivisionError as error:
        raise ToolParameterError("something is divided by zero") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise ToolParameterError(f"{expression[:80]!r} has no value: {error}") from error
    except (RecursionError, MemoryError) as error:
        raise ToolParameterError("the expression is too deep") from error


def _value(node: ast.expr, text: str) -> Any:  # noqa: C901  one case a kind
    match node:
        case ast.Constant(value=bool()):
            return node.value
        case ast.Constant(value=int()):
            return Fraction(_small(node.value))
        case ast.Constant(value=float()):
            return _decimal(ast.get_source_segment(text, node) or str(node.value))
        case ast.BinOp(op=ast.Pow()):
            return _power(_value(node.left, text), _value(node.right, text))
        case ast.BinOp() if type(node.op) in _BINARY:
            return _small(_BINARY[type(node.op)](_value(node.left, text), _value(node.right, text)))
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, text)
        case ast.UnaryOp(op=ast.UAdd()):
            return _value(node.operand, text)
        case ast.Name() if node.id.lower() in _CONSTANTS:
            return _CONSTANTS[node.id.lower()]
        case ast.Compare():
            values = [_value(one, text) for one in (node.left, *node.comparators)]
            if any(type(one) not in _COMPARED for one in node.ops):
                raise ToolParameterError("<, <=, >, >=, == and != compare")
            return all(_COMPARED[type(one)](values[at], values[at + 1]) for at, one in enumerate(node.ops))
        case ast.IfExp():
            return _value(node.body if _value(node.test, text) else node.orelse, text)
        case ast.Call(func=ast.Name(id=name)) if not node.keywords:
            return _called(name.lower(), [_value(one, text) for one in _spread(node.args)])
        case ast.Name():
            raise ToolParameterError(
                f"{node.id[:40]!r} has no value here: write numbers, pi, e, or functions as sqrt(2)"
            )
        case _:
            raise ToolParameterError(f"{type(node).__name__} cannot be calculated")


def _decimal(written: str) -> Fraction:
    """A decimal as it was written: its exponent says how many digits are made of it."""
    exponent = written.lower().partition("e")[2].lstrip("+-").replace("_", "")
    if len(exponent.lstrip("0")) > 4 or int(exponent or 0) > _MOST_PLACES:
        raise ToolParameterError(f"exponents go up to {_MOST_PLACES:,}")
    return Fraction(written)


def _spread(arguments: list[ast.expr]) -> list[ast.expr]:
    """`sum([1, 2])` is `sum(1, 2)`."""
    if len(arguments) == 1 and isinstance(arguments[0], ast.List | ast.Tuple):
        return arguments[0].elts
    return arguments


def _called(name: str, given: list[Any]) -> Any:  # noqa: C901  one case a function
    if name in _REAL:
        if name == "sqrt" and len(given) == 1 and isinstance(given[0], Fraction) and given[0] >= 0:
            top, bottom = math.isqrt(given[0].numerator), math.isqrt(given[0].denominator)
            if top * top == given[0].numerator and bottom * bottom == given[0].denominator:
                return Fraction(top, bottom)
        return _REAL[name](*[float(one) for one in given])
    if name in _WHOLE:
        return _folded(_WHOLE[name], [_whole(one, name) for one in given])
    match name, given:
        case "abs", [one]:
            return abs(one)
        case "round", [one]:
            return Fraction(round(one))
        case "round", [one, digits]:
            places = _whole(digits, "round")
            if abs(places) > _MOST_PLACES:
                raise ToolParameterError(f"numbers are rounded to {_MOST_PLACES:,} places at most")
            return round(one, places)
        case ("floor", [one]):
            return Fraction(math.floor(one))
        case ("ceil", [one]):
            return Fraction(math.ceil(one))
        case (("min" | "max"), [_, *_]):
            return min(given) if name == "min" else max(given)
        case "sum", _:
            return _sum(given)
        case (("mean" | "avg" | "average"), [_, *_]):
            return _sum(given) / len(given)
        case ("factorial", [one]):
            count = _whole(one, name)
            if count > 3000:
                raise ToolParameterError("factorials are calculated up to 3000")
            return Fraction(math.factorial(count))
        case (("comb" | "perm"), [one, other]):
            first, second = _whole(one, name), _whole(other, name)
            if first > 5000:
                raise ToolParameterError(f"{name} is calculated up to 5000")
            return Fraction(_small(math.comb(first, second) if name == "comb" else math.perm(first, second)))
        case "pow", [one, other]:
            return _power(one, other)
        case _:
            raise ToolParameterError(f"there is no function {name[:40]!r} of {len(given)} values")


def _sum(values: list[Any]) -> Any:
    """Added one by one: the denominators of many small fractions may multiply to one without end."""
    total: Any = Fraction(0)
    for value in values:
        total = _small(total + value)
    return total


def _folded(function: Callable[..., int], values: list[int]) -> Fraction:
    """`gcd`, `lcm` or `isqrt`, two at a time: the least common multiple of many numbers is as long as all of them."""
    if len(values) < 2:
        return Fraction(function(*values))
    total = values[0]
    for value in values[1:]:
        total = _small(function(total, value))
    return Fraction(total)


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits * abs(exponent.numerator) > _MOST_BITS:
            raise ToolParameterError(f"the power is too large: more than {_MOST_BITS // 3:,} digits")
        return base**exponent.numerator
    found = float(base) ** float(exponent)
    if isinstance(found, complex):
        raise ToolParameterError("roots of negative numbers have no real value")
    return found


def _whole(value: Any, name: str) -> int:
    if value != int(value):
        raise ToolParameterError(f"{name} takes whole numbers")
    return int(value)


def _small(value: Any) -> Any:
    parts = (value.numerator, value.denominator) if isinstance(value, Fraction) else (value,)
    if any(isinstance(part, int) and part.bit_length() > _MOST_BITS for part in parts):
        raise ToolParameterError(f"the number is too large: more than {_MOST_BITS // 3:,} digits")
    return value


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Fraction):
        if value.denominator == 1:
            return _digits(value.numerator)
        if value.denominator < 10**15 and _is_decimal(value.denominator):
            places = 0
            while (value * 10**places).denominator != 1:
                places += 1
            whole = _digits(abs((value * 10**places).numerator)).rjust(places + 1, "0")
            return ("-" if value < 0 else "") + f"{whole[:-places]}.{whole[-places:]}"
        value = float(value)
    text = f"{value:.15g}"
    return text.replace("e+", "e")


def _is_decimal(denominator: int) -> bool:
    """Whether what is divided by it ends."""
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1


def _digits(value: int) -> str:
    """All digits: Python's own conversion refuses long ones."""
    if value.bit_length() < 12_000:
        return str(value)
    high, low = divmod(abs(value), 10**3000)
    return ("-" if value < 0 else "") + _digits(high) + str(low).rjust(3000, "0")
