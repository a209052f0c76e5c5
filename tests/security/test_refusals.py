"""Tests for error statuses: 500 is for bugs, and input never causes one."""

import asyncio
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.show import fuzz

import modelyard
from modelyard.base.errors import ModelyardError
from modelyard.base.fields import MAX_WHOLE_NUMBER, whole_number
from modelyard.gateway.errors import _STATUS
from modelyard.gateway.http import ClientDisconnected
from modelyard.gateway.service.calls import ServiceError

pytestmark = pytest.mark.proof("fuzz")

SOURCE = Path(modelyard.__file__).parent
OUTSIDE = (
    "gateway",
    "storage",
    "tools",
    "workflow",
    "knowledge",
    "agents",
    "wire",
    "runtime",
    "transport",
)
"""Packages that parse external input."""


def error_classes() -> Iterator[type[ModelyardError]]:
    for module in pkgutil.walk_packages(modelyard.__path__, "modelyard."):
        if not any(
            part in module.name
            for part in ("inside", "__main__", "engines", "supervisor")
        ):
            importlib.import_module(module.name)
    waiting = [ModelyardError]
    while waiting:
        for child in waiting.pop().__subclasses__():
            yield child
            waiting.append(child)


def test_every_error_of_ours_has_a_status():
    # The server's own errors have a `status`.
    classes_without_status = {
        error.__name__
        for error in error_classes()
        if error.__module__.startswith("modelyard.")
        and not any(issubclass(error, row[0]) for row in _STATUS)
        and not isinstance(getattr(error, "status", None), int)
    }
    # The first has a status of its own, and the second reaches no caller.
    assert classes_without_status == {
        ServiceError.__name__,
        ClientDisconnected.__name__,
    }
    assert 500 not in {status for _, status, _ in _STATUS}


def test_external_numbers_are_parsed_in_one_place():
    violations = [
        f"{path.relative_to(SOURCE)}:{index}"
        for folder in OUTSIDE
        for path in (SOURCE / folder).rglob("*.py")
        for index, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if ".isdigit(" in line or ".isnumeric(" in line or ".isdecimal(" in line
    ]
    assert violations == []


@given(st.text(max_size=30))
def test_whole_numbers_are_ascii_digits(text: str):
    value = whole_number(text)
    assert value is None or (text.isascii() and int(text) == value <= MAX_WHOLE_NUMBER)


@given(st.integers(0, MAX_WHOLE_NUMBER))
def test_whole_numbers_round_trip(number: int):
    assert whole_number(str(number)) == number


@pytest.mark.parametrize(
    "text", ["²", "٣", "9" * 5000, "-1", "", " 1", "1.0", "+1", "1_000", "0x1"]
)
def test_invalid_whole_numbers(text: str):
    assert whole_number(text) is None


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_requests_cause_no_server_error(seed: int):
    """A small sample; `make show WHAT=fuzz` tries sixty thousand."""
    tally = asyncio.run(fuzz.campaign(1200, seed, described=0.1))
    assert tally.cases == 1200
    assert tally.hangs == []
    assert tally.failures == {}
