"""Dates in JavaScript, compared with outputs that Node.js wrote
(`tools/javascript_dates.py`)."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelyard.sandbox.runner import Sandbox, SandboxLimits

_RECORDED = json.loads(
    (Path(__file__).parents[1] / "data" / "javascript-dates.json").read_text()
)
_PROGRAM = """
function main({ cases }) {
  return cases.map(({ locale, options, time, date: hasDate, clock: hasClock }) => {
    const format = new Intl.DateTimeFormat(locale, options), date = new Date(time);
    const { locale: resolved, timeZone, hourCycle, hour12 } = format.resolvedOptions();
    return { text: format.format(date), parts: format.formatToParts(date).map((part) => [part.type, part.value]),
      resolved: { locale: resolved, timeZone, hourCycle, hour12 }, all: date.toLocaleString(locale, options),
      date: hasDate === null ? null : date.toLocaleDateString(locale, options),
      clock: hasClock === null ? null : date.toLocaleTimeString(locale, options) };
  });
}
"""


class Scripts:
    def __init__(self, runner: asyncio.Runner, sandbox: Sandbox) -> None:
        self.runner = runner
        self.sandbox = sandbox

    def run(self, code: str, **inputs: Any) -> Any:
        return self.runner.run(self.sandbox.run_code("javascript", code, inputs))

    def value(self, expression: str) -> Any:
        """Return the value of an expression, or the name and message of its error."""
        code = f"function main() {{ try {{ return {expression}; }} catch (error) {{ return error.name + ': ' + error.message; }} }}"
        return self.run(code)


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    with asyncio.Runner() as runner:

        async def make() -> Sandbox:
            return Sandbox(SandboxLimits(seconds=60.0))

        new_scripts = Scripts(runner, runner.run(make()))
        yield new_scripts
        runner.run(new_scripts.sandbox.aclose())


def test_dates_are_formatted_as_in_node(scripts: Scripts):
    cases = _RECORDED["cases"]
    fields = ("text", "parts", "resolved", "all", "date", "clock")
    differing: dict[str, list[Any]] = defaultdict(list)
    for case, result in zip(cases, scripts.run(_PROGRAM, cases=cases), strict=True):
        for field in fields:
            if result[field] != case[field] and result[field] != _plain(case[field]):
                differing[case["locale"]].append((case["options"], field, case[field], result[field]))  # fmt: skip
    assert len(cases) > 1000
    assert dict(differing) == {}


def _plain(value: Any) -> Any:
    """Return a value without the fields that JSON leaves out."""
    if not isinstance(value, dict):
        return value
    return {name: field for name, field in value.items() if field is not None}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("new Date(0).toLocaleDateString('de-DE', {timeZone: 'UTC'})", "1.1.1970"),
        ("new Date(0).toLocaleDateString('DE-de', {timeZone: 'utc'})", "1.1.1970"),
        ("new Date(0).toLocaleString('xx', {timeZone: 'UTC'})", "1/1/1970, 12:00:00 AM"),
        ("new Date(NaN).toLocaleString()", "Invalid Date"),
        ("new Intl.DateTimeFormat('en').format(NaN)", "RangeError: Invalid time value"),
        ("Intl.DateTimeFormat('zh-CN', {dateStyle: 'long', timeZone: 'Asia/Shanghai'}).format(0)", "1970年1月1日"),
        ("['zh-Hant', 'zh-TW', 'zh-HK'].map((tag) => new Date(0).toLocaleDateString(tag, {timeZone: 'UTC'})).join()", "1970/1/1,1970/1/1,1/1/1970"),
        ("[0, 1].map(new Intl.DateTimeFormat('fr', {timeZone: 'UTC'}).format).join()", "01/01/1970,01/01/1970"),
        ("Intl.DateTimeFormat.supportedLocalesOf(['de-DE', 'xx', 'ja']).join()", "de-DE,ja"),
        ("new Intl.DateTimeFormat(['xx', 'ja']).resolvedOptions().locale", "ja"),
        ("new Intl.DateTimeFormat('en', {timeZone: 'Mars/Base'})", "RangeError: Invalid time zone specified: Mars/Base"),
        ("new Intl.DateTimeFormat('en', {timeZone: '../../etc/passwd'})", "RangeError: Invalid time zone specified: ../../etc/passwd"),
        ("new Intl.DateTimeFormat('en', {timeZone: '+02:00', hour: 'numeric'}).format(0)", "2 AM"),
        ("new Intl.DateTimeFormat('e')", "RangeError: Incorrect locale information provided"),
        ("new Intl.DateTimeFormat('en', {month: 'big'})", "RangeError: Value big out of range for Intl.DateTimeFormat options property month"),
        ("new Intl.DateTimeFormat('en', {dateStyle: 'full', day: 'numeric'})", "TypeError: Can't set option day when dateStyle is used"),
        ("new Date(0).toLocaleDateString('en', {timeStyle: 'full'})", "TypeError: Invalid option : timeStyle"),
        ("new Intl.NumberFormat('de').format(1234.5) + (0.5).toLocaleString('de')", "1.234,50,5"),
        ("typeof __table + typeof __offset", "undefinedundefined"),
    ],
)  # fmt: skip
def test_usual_calls(scripts: Scripts, expression: str, expected: str):
    assert scripts.value(expression) == expected
