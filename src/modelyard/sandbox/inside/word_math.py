"""Read the equations of Office documents as a line of text: `(a+b)/2`, `x^2`. Runs only
inside the sandbox.

Source: ECMA-376, part 1, section 22.1 (Office Math).
"""
# This program imports nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any

_NARY = "\u222b"
_MAX_DEPTH = 100


def linear(element: Any, depth: Any = 0) -> Any:
    """Return an equation, or a part of one, as text."""
    if not isinstance(element.tag, str) or depth > _MAX_DEPTH:
        return ""
    name = element.tag.rpartition("}")[2]
    if name == "t":
        return element.text or ""
    # Properties of runs and structures say how they look.
    if name.endswith("Pr"):
        return ""
    shape = _SHAPES.get(name)
    if shape is None:
        return "".join(linear(child, depth + 1) for child in element.iterchildren())
    parts = _operands(element, depth)
    return shape(
        {key: texts[0] for key, texts in parts.items()},
        parts,
        element,
    )


def _operands(element: Any, depth: Any) -> Any:
    """Return the texts of a structure's operands by their names."""
    operands: Any = {}
    for child in element.iterchildren():
        if isinstance(child.tag, str):
            name = child.tag.rpartition("}")[2]
            operands.setdefault(name, []).append(linear(child, depth + 1))
    return operands


def _grouped(text: Any) -> Any:
    """Return an operand, in parentheses if it is more than a name or a number."""
    has_parentheses = text.startswith("(") and text.find(")") == len(text) - 1
    is_simple = len(text) == 1 or text.isalnum() or has_parentheses
    return text if is_simple else "(%s)" % text


def _property(element: Any, name: Any, default: Any) -> Any:
    """Return the value of a property such as the sign of a sum."""
    found = element.find("./{*}*/{*}%s" % name)
    if found is None:
        return default
    values = [value for key, value in found.attrib.items() if key.endswith("val")]
    return values[0] if values else ""


def _scripts(part: Any) -> Any:
    """Return the indices and exponents of an operator or a base."""
    sub, sup = part.get("sub", ""), part.get("sup", "")
    below = "_%s" % _grouped(sub) if sub else ""
    return below + ("^%s" % _grouped(sup) if sup else "")


def _fraction(part: Any, _all: Any, _element: Any) -> Any:
    """Return a fraction, as `a/(b+c)`."""
    return "%s/%s" % (_grouped(part.get("num", "")), _grouped(part.get("den", "")))


def _scripted(part: Any, _all: Any, _element: Any) -> Any:
    """Return a base with what stands below and above it."""
    return _grouped(part.get("e", "")) + _scripts(part)


def _prescripted(part: Any, _all: Any, _element: Any) -> Any:
    """Return a base with what stands below and above to its left."""
    return _scripts(part) + part.get("e", "")


def _root(part: Any, _all: Any, _element: Any) -> Any:
    """Return a root with its degree."""
    return "%s\u221a%s" % (part.get("deg", ""), _grouped(part.get("e", "")))


def _nary(part: Any, _all: Any, element: Any) -> Any:
    """Return a sum, a product or an integral with its bounds."""
    sign = _property(element, "chr", _NARY)
    return "%s%s %s" % (sign, _scripts(part), part.get("e", ""))


def _delimited(_part: Any, parts: Any, element: Any) -> Any:
    """Return elements within their delimiters."""
    inner = _property(element, "sepChr", "|").join(parts.get("e", []))
    begin, end = (
        _property(element, "begChr", "("),
        _property(element, "endChr", ")"),
    )
    return "%s%s%s" % (begin, inner, end)


def _function(part: Any, _all: Any, _element: Any) -> Any:
    """Return a function with its argument."""
    argument = part.get("e", "")
    is_grouped = argument.startswith("(")
    return "%s%s%s" % (part.get("fName", ""), "" if is_grouped else " ", argument)


def _limit(part: Any, _all: Any, _element: Any) -> Any:
    """Return a name with its limit below."""
    return "%s_%s" % (part.get("e", ""), _grouped(part.get("lim", "")))


def _matrix(_part: Any, parts: Any, _element: Any) -> Any:
    """Return a matrix, its rows separated by semicolons."""
    return "[%s]" % "; ".join(parts.get("mr", []))


def _matrix_row(_part: Any, parts: Any, _element: Any) -> Any:
    """Return the elements of a row."""
    return ", ".join(parts.get("e", []))


def _lines(_part: Any, parts: Any, _element: Any) -> Any:
    """Return the lines of an equation array."""
    return "; ".join(parts.get("e", []))


_SHAPES: Any = {
    "f": _fraction, "sSup": _scripted, "sSub": _scripted, "sSubSup": _scripted,
    "sPre": _prescripted, "rad": _root, "nary": _nary, "d": _delimited,
    "func": _function, "limLow": _limit, "limUpp": _limit, "m": _matrix,
    "mr": _matrix_row, "eqArr": _lines,
}  # fmt: skip
