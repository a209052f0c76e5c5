"""What code nodes may return, and the globals that JavaScript finds."""

from typing import Any

import pytest

from modelyard.workflow.engine import Outcome, Status
from tests.workflow.building import app_of
from tests.workflow.conftest import Bench

pytestmark = pytest.mark.proof("workflow-cases")


def run_code(
    bench: Bench, code: str, kind: str = "object", language: str = "python3"
) -> Outcome:
    node = {
        "type": "code",
        "code_language": language,
        "variables": [],
        "code": code,
        "outputs": {"r": {"type": kind}},
    }
    end = {"type": "end", "outputs": [{"variable": "r", "value_selector": ["c", "r"]}]}
    app = app_of(
        {"start": {"type": "start"}, "c": node, "end": end}, ["start > c", "c > end"]
    )
    outcome, _ = bench.run(app)
    return outcome


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
        ("{'n': float('nan')}", "Out of range float"),
        ("{'n': 10**5000}", ""),
        ("{10**5000: 1}", ""),
        ("{'b': b'x'}", "contains bytes"),
        ("deep", "nested too deeply"),
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
        ("typeof process + typeof require", "undefinedundefined"),
    ],
)
def test_javascript_has_the_globals_that_code_uses(
    bench: Bench, expression: str, expected: str
):
    code = f"function main() {{ return {{r: {expression}}} }}"
    outcome = run_code(bench, code, "string", "javascript")
    assert outcome.outputs == {"r": expected}, outcome.error


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
        ("function main() { return {r: require('fs')} }", "require"),
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
