"""Tests for regular expressions: those from users match in linear time.

Those of this code must not backtrack for long.
"""

import ast
import fnmatch
import random
import re
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from modelyard.base.patterns import PatternError, compile_pattern, matches_glob
from modelyard.plugins.package import _match_parts

SOURCE = Path(__file__).parents[2] / "src/modelyard"


def test_a_pattern_that_goes_back_for_ever_elsewhere_is_quick_here():
    assert compile_pattern("^(a+)+$").search("a" * 100_000 + "!") is None
    assert compile_pattern("^(a+)+$").search("a" * 41) is not None


@pytest.mark.parametrize("pattern", ["(?=a)b", "(?<!a)b", r"(a)\1"])
def test_patterns_that_are_not_linear_are_refused_with_an_error(
    pattern: str, capfd: pytest.CaptureFixture[str]
):
    with pytest.raises(
        PatternError,
        match="at character .*lookaround and back-references are not supported",
    ):
        compile_pattern(pattern)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "pattern", ["(a", "a{1000}{1000}", "((a{100}){100}){100}", "a" * 5000, "[z-a]"]
)
def test_no_pattern_is_too_large_or_broken(pattern: str):
    with pytest.raises(PatternError):
        compile_pattern(pattern)


def test_globs_match_as_in_the_shell():
    chance = random.Random(7)
    for _ in range(20_000):
        pattern = "".join(chance.choices("ab*?[]!-c", k=chance.randint(0, 7)))
        name = "".join(chance.choices("abc-]!", k=chance.randint(0, 5)))
        assert matches_glob(pattern, name) == fnmatch.fnmatchcase(name, pattern), (
            pattern,
            name,
        )


def test_globs_with_many_stars_are_fast():
    assert not matches_glob("a*" * 200 + "b", "a" * 2000)
    assert not _match_parts(["a"] * 60, ["**", "a"] * 20 + ["b"])


@cache
def calls_of_re() -> list[tuple[str, ast.Call]]:
    return list(found_calls())


def found_calls() -> Iterator[tuple[str, ast.Call]]:
    for path in SOURCE.rglob("*.py"):
        if "re." not in path.read_text():
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="re"))) if node.args:
                    yield f"{path.relative_to(SOURCE)}:{node.lineno}", node
                case _:
                    pass


def is_constant(node: ast.AST) -> bool:
    """Return whether a text is a literal, or built from uppercase constants."""
    return all(
        isinstance(
            child,
            ast.Constant
            | ast.JoinedStr
            | ast.FormattedValue
            | ast.BinOp
            | ast.Add
            | ast.Load,
        )
        or (isinstance(child, ast.Name) and child.id.isupper())
        for child in ast.walk(node)
    )


# The table of vocabularies is above the loop that compiles it; test doubles take
# patterns from the test's author.
ALLOWED = {
    "models/tokens.py",
    "testing/workflows.py",
    # Of its own table.
    "base/provider_error_patterns.py",
}


def test_re_compiles_only_what_stands_in_this_code():
    dynamic_calls = [
        where for where, call in calls_of_re() if not is_constant(call.args[0])
    ]
    assert not [
        where for where in dynamic_calls if where.rpartition(":")[0] not in ALLOWED
    ]
    forbidden_imports = [
        path.name
        for path in SOURCE.rglob("*.py")
        if re.search(r"^import fnmatch|^import regex", path.read_text(), re.M)
    ]
    assert not forbidden_imports


ATOMS = [
    "a",
    "1",
    " ",
    "\n",
    "\t",
    "_",
    ".",
    "[",
    "<",
    "<a ",
    "<think ",
    "<item ",
    "<link ",
    "1,",
    "![",
    "Q1:",
    "</p",
]
# Files whose texts are short (the calculator) or come from the operator, or that run in
# a process of their own with limits.
APART = (
    "tools/calculator.py",
    "sandbox/inside/",
    "cli/",
    "base/settings",
    "plugins/market.py",
    "providers/local/",
    "storage/",
    "testing/",
)


@pytest.mark.parametrize("atom", ATOMS)
def test_no_pattern_of_this_code_takes_quadratic_time(atom: str):
    slow_patterns: list[str] = []
    for where, call in calls_of_re():
        if where.startswith(APART) or not isinstance(call.args[0], ast.Constant):
            continue
        text: str | bytes = atom * (4000 // len(atom)) + "\x01"
        pattern = call.args[0].value
        flags = re.I * ("IGNORECASE" in ast.unparse(call)) | re.M * (
            "MULTILINE" in ast.unparse(call)
        )
        flags |= re.S * ("DOTALL" in ast.unparse(call))
        compiled = re.compile(pattern, flags)
        cpu_start = time.process_time()
        for _ in compiled.finditer(
            text.encode() if isinstance(pattern, bytes) else text
        ):
            pass
        if time.process_time() - cpu_start > 0.03:
            slow_patterns.append(f"{where} {pattern!r}")
    assert not slow_patterns
