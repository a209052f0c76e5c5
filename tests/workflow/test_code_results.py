"""What code nodes may return, and the globals that JavaScript finds."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from modelyard.app import Modelyard
from modelyard.base.settings import CodeOutputSettings, Settings, WorkflowSettings
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Outcome, Status
from modelyard.workflow.single_run import run
from tests.workflow.building import app_of
from tests.workflow.conftest import Bench

pytestmark = pytest.mark.proof("workflow-cases")


def run_code(
    bench: Bench, code: str, kind: str = "object", language: str = "python3"
) -> Outcome:
    outcome, _ = bench.run(app_with(code, kind, language))
    return outcome


def code_app(expression: str, kind: str) -> App:
    """Return an app whose code returns the value of an expression."""
    return app_with(f"def main():\n    return {{'r': {expression}}}", kind, "python3")


def app_with(code: str, kind: str, language: str) -> App:
    """Return an app of one code node, whose output `r` is of a kind."""
    node = {
        "type": "code",
        "code_language": language,
        "variables": [],
        "code": code,
        "outputs": {"r": {"type": kind}},
    }
    end = {"type": "end", "outputs": [{"variable": "r", "value_selector": ["c", "r"]}]}
    return app_of(
        {"start": {"type": "start"}, "c": node, "end": end}, ["start > c", "c > end"]
    )


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("{1: 'a', 2: {3: 'b'}}", {"1": "a", "2": {"3": "b"}}),
        ("{True: 1, None: 2, 2.5: 3}", {"true": 1, "null": 2, "2.5": 3}),
        ("{'1': 'first', 1: 'last'}", {"1": "last"}),
        ("{'t': (1, 2)}", {"t": [1, 2]}),
    ],
)
def test_keys_become_texts_as_json_writes_them(
    bench: Bench, expression: str, expected: dict[str, Any]
):
    outcome = run_code(bench, f"def main():\n    return {{'r': {expression}}}")
    assert outcome.outputs == {"r": expected}, outcome.error


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("{(1, 2): 'a'}", "Keys of the result must be texts or numbers, not tuple"),
        ("{'n': float('nan')}", "Output r: The result contains nan, which JSON cannot"),
        ("{'n': [-float('inf')]}", "Output r: The result contains -inf, which JSON"),
        ("{'n': 10**5000}", "Output r: The result contains an integer of 16610 bits"),
        ("{'n': 10**4000}", "Output r.n is out of range"),
        ("{'n': [[[[[[[1]]]]]]]}", "]: Depth limit 5 reached"),
        ("{10**5000: 1}", ""),
        ("{'b': b'x'}", "Output r: The result contains bytes"),
        ("deep", "Output r: The result is nested too deeply"),
    ],
)
def test_results_that_are_no_json_fail_the_node(
    bench: Bench, expression: str, message: str
):
    code = (
        "deep = []\nfor _ in range(500):\n    deep = [deep]\n"
        f"def main():\n    return {{'r': {expression}}}"
    )
    outcome = run_code(bench, code)
    assert outcome.status is Status.FAILED
    assert message in outcome.error


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("Buffer.from('季 a', 'utf8').toString('base64')", "5a2jIGE="),
        ("Buffer.from('5a2jIGE=', 'base64').toString()", "季 a"),
        ("Buffer.from('5a2j', 'base64').toString('hex')", "e5ada3"),
        (
            "Buffer.concat([Buffer.from('a'), Buffer.alloc(1, 98)]).toString('utf-8')",
            "ab",
        ),
        ("JSON.stringify(Buffer.from('a'))", '{"type":"Buffer","data":[97]}'),
        ("Buffer.from('é', 'latin1').toString('hex')", "e9"),
        ("Buffer.from('a-_', 'base64').toString('base64url')", "a-8"),
        ("String(Buffer.byteLength('季'))", "3"),
        ("Buffer.from([0xff, 0x61]).toString()", "\N{REPLACEMENT CHARACTER}a"),
        ("btoa('hello') + atob('aGVsbG8=')", "aGVsbG8=hello"),
        ("new TextDecoder().decode(new TextEncoder().encode('😀'))", "😀"),
        ("new URLSearchParams('a=1&b=%E5%AD%A3+x').get('b')", "季 x"),
        ("new URLSearchParams({a: 'x y', b: '季'}).toString()", "a=x+y&b=%E5%AD%A3"),
        ("structuredClone({a: [1]}).a.join()", "1"),
        ("typeof process + typeof __digest + typeof __random", "undefined" * 3),
        ("require('buffer').Buffer.from('a').toString('hex')", "61"),
        ("String(require('util').isDeepStrictEqual({a: [1]}, {a: [1]}))", "true"),
        ("require('querystring').parse('a=1&b=x+y').b", "x y"),
        (
            "require('node:crypto').createHash('md5').update('a').digest('hex')",
            "0cc175b9c0f1b6a831c399e269772661",
        ),
        (
            "require('crypto').createHmac('sha1', 'k').update('a').digest('base64')",
            "QOfUQcrbF7B/BQNBqiOmgg7YHIs=",
        ),
        ("String(crypto.randomUUID() !== crypto.randomUUID())", "true"),
        ("String(crypto.getRandomValues(new Uint16Array(3)).length)", "3"),
    ],
)
def test_javascript_has_the_globals_that_code_uses(
    bench: Bench, expression: str, expected: str
):
    code = f"function main() {{ return {{r: {expression}}} }}"
    outcome = run_code(bench, code, "string", "javascript")
    assert outcome.outputs == {"r": expected}, outcome.error


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (
            "new URL('https://u:p@Ex.org:443/a/../b c?q=1 2&é=3#x').href",
            "https://u:p@ex.org/b%20c?q=1%202&%C3%A9=3#x",
        ),
        ("new URL('../d?x#y', 'http://h/a/b/c').href", "http://h/a/d?x#y"),
        ("new URL('//x/y', 'https://a/b').href", "https://x/y"),
        ("new URL('?q', 'https://a/b/c').href", "https://a/b/c?q"),
        ("new URL('a b', 'http://h/x/').href", "http://h/x/a%20b"),
        ("new URL('http://h/%zz[1]').href", "http://h/%zz[1]"),
        (
            "new URL('HTTP://EXAMPLE.com/ü?ü#ü').href",
            "http://example.com/%C3%BC?%C3%BC#%C3%BC",
        ),
        ("new URL('data:text/plain,hi').pathname", "text/plain,hi"),
        ("new URL('http://h:8080/p').origin", "http://h:8080"),
        ("String(URL.canParse('nope') || URL.canParse('http://'))", "false"),
        ("(1234567.891).toLocaleString()", "1,234,567.891"),
        (
            "(-12345).toLocaleString('es') + (1234.5).toLocaleString('es')",
            "-12.3451234,5",
        ),
        ("(1e6).toLocaleString('ru')", "1\N{NO-BREAK SPACE}000\N{NO-BREAK SPACE}000"),
        (
            "(1234.5).toLocaleString('de-DE', {style: 'currency', currency: 'EUR'})",
            "1.234,50\N{NO-BREAK SPACE}€",
        ),
        (
            "(99.995).toLocaleString('en', {style: 'currency', currency: 'USD'})",
            "$100.00",
        ),
        ("new Intl.NumberFormat('en', {style: 'percent'}).format(0.256)", "26%"),
        ("Intl.NumberFormat('en', {minimumFractionDigits: 2}).format(3)", "3.00"),
    ],
)
def test_addresses_and_numbers_are_as_node_prints_them(
    bench: Bench, expression: str, expected: str
):
    """The expected values are what Node.js 22 printed."""
    code = f"function main() {{ return {{r: {expression}}} }}"
    outcome = run_code(bench, code, "string", "javascript")
    assert outcome.outputs == {"r": expected}, outcome.error


def test_a_changed_query_is_part_of_the_address(bench: Bench):
    code = """
    function main() {
      const url = new URL("http://h/p?a=1");
      url.searchParams.append("b", "2 3");
      url.hash = "#end";
      return {r: `${url} ${JSON.stringify({url})}`};
    }
    """
    outcome = run_code(bench, code, "string", "javascript")
    url = "http://h/p?a=1&b=2+3#end"
    assert outcome.outputs == {"r": f'{url} {{"url":"{url}"}}'}, outcome.error


def test_timers_run_in_the_order_of_their_times(bench: Bench):
    code = """
    async function main() {
      const seen = [];
      setTimeout(() => seen.push("late"), 1000);
      const cancelled = setTimeout(() => seen.push("never"), 1);
      clearTimeout(cancelled);
      await new Promise((resolve) => setTimeout(resolve, 10));
      seen.push("soon");
      await new Promise((resolve) => setTimeout(resolve, 2000));
      return {r: seen.join()};
    }
    """
    outcome = run_code(bench, code, "string", "javascript")
    assert outcome.outputs == {"r": "soon,late"}, outcome.error


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "function main() { return {r: require('fs')} }",
            "Module 'fs' is not available in code nodes; these are: buffer, crypto",
        ),
        (
            "function main() { require('crypto').createHash('x').update('a').digest() }",
            "Digest method not supported: x",
        ),
        ("function main() { setInterval(() => 1, 1) }", "setInterval is not available"),
        ("function main() { return new Promise(() => 1) }", "never resolves"),
        (
            "function main() { const again = () => setTimeout(again, 1); again(); return new Promise(() => 1) }",
            "never resolves",
        ),
    ],
)  # fmt: skip
def test_what_javascript_cannot_do_is_named(bench: Bench, code: str, message: str):
    outcome = run_code(bench, code, "string", "javascript")
    assert outcome.status is Status.FAILED
    assert message in outcome.error


def test_code_may_define_the_names_itself(bench: Bench):
    code = "const Buffer = {from: (x) => x + '!'}; function main() { return {r: Buffer.from('own')} }"
    outcome = run_code(bench, code, "string", "javascript")
    assert outcome.outputs == {"r": "own!"}, outcome.error


def test_the_limits_of_results_are_settings(tmp_path: Path):
    """Each limit, at its value and just above it."""
    limits = CodeOutputSettings(
        characters=3, texts=2, objects=1, numbers=4, depth=2, decimals=2
    )
    cases = [
        ("string", "'abc'", "'abcd'", "less than 3 characters"),
        ("array[string]", "['a'] * 2", "['a'] * 3", "less than 2 elements"),
        ("array[object]", "[{}]", "[{}, {}]", "less than 1 elements"),
        ("array[number]", "[1] * 4", "[1] * 5", "less than 4 elements"),
        ("array[boolean]", "[True] * 4", "[True] * 5", "less than 4 elements"),
        (
            "object",
            "{'a': {'b': 1}}",
            "{'a': {'b': {'c': 1}}}",
            "Depth limit 2 reached",
        ),
        ("number", "1.25", "1.125", "less than 2 digits"),
    ]

    async def run_all() -> None:
        settings = Settings(
            home=str(tmp_path),
            database=":memory:",
            workflows=WorkflowSettings(code_output=limits, template_characters=4),
        )
        async with Modelyard(settings, environ={}) as yard:
            for kind, accepted, refused, message in cases:
                outcome = await run(code_app(accepted, kind), yard)
                assert outcome.status is Status.SUCCEEDED, outcome.error
                outcome = await run(code_app(refused, kind), yard)
                assert outcome.status is Status.FAILED
                assert message in outcome.error
            node = {"type": "template-transform", "template": "abcde", "variables": []}
            parts = {"start": {"type": "start"}, "t": node}
            outcome = await run(app_of(parts, ["start > t"]), yard)
            assert "maximum allowed length of 4 characters" in outcome.error

    asyncio.run(run_all())
