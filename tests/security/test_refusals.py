"""Refusals have the status of a refusal: 500 is for faults of ours, and what comes from outside causes none."""

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
"""Packages that read what comes from outside."""


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
    classes_without_status = {
        error.__name__
        for error in error_classes()
        if error.__module__.startswith("modelyard.")
        and not any(issubclass(error, row[0]) for row in _STATUS)
        and not isinstance(
            getattr(error, "status", None), int
        )  # the server's own refusals say it themselves
    }
    # These two say their status themselves, or are for nobody to read.
    assert classes_without_status == {
        ServiceError.__name__,
        ClientDisconnected.__name__,
    }
    assert 500 not in {status for _, status, _ in _STATUS}


def test_numbers_from_outside_are_read_in_one_place():
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
def test_whole_numbers_are_read_as_written(number: int):
    assert whole_number(str(number)) == number


@pytest.mark.parametrize(
    "text", ["²", "٣", "9" * 5000, "-1", "", " 1", "1.0", "+1", "1_000", "0x1"]
)
def test_what_is_no_whole_number(text: str):
    assert whole_number(text) is None


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_requests_end_in_no_fault(seed: int):
    """A sample; `make show WHAT=fuzz` tries sixty thousand."""
    tally = asyncio.run(fuzz.campaign(1200, seed, described=0.1))
    assert tally.cases == 1200
    assert tally.hangs == []
    assert tally.failures == {}
