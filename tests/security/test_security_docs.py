"""What the documentation on security refers to exists."""

import re
from pathlib import Path
from typing import Any

import pytest

from modelyard.base.settings import Settings
from tests.docs.claims import problem_of

ROOT = Path(__file__).parents[2]
PAGES = ["docs/security.md", "docs/reference/asvs.md", "SECURITY.md"]
TEST = re.compile(r"`(tests/[\w/]+\.py::\w+)`")
LEVELS_1_AND_2 = {
    1: 27, 2: 11, 3: 19, 4: 10, 5: 9, 6: 35, 7: 18, 8: 7, 9: 7, 10: 29, 11: 14, 12: 9, 13: 13, 14: 9, 15: 13, 16: 16,
    17: 7,
}  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_each_test_and_file_that_a_page_names_exists(page: str):
    text = (ROOT / page).read_text("utf-8")
    problems = [problem_of(test) for test in TEST.findall(text)]
    assert [problem for problem in problems if problem] == []
    for path in re.findall(
        r"`((?:src|docs|tests|console-ui|requirements)/[\w/.-]*)`", text
    ):
        assert (ROOT / path).exists(), path
    for path in re.findall(
        r"`((?:base|cli|gateway|sandbox|runtime|storage)/[\w/]+(?:\.py)?)`", text
    ):
        assert (ROOT / "src/modelyard" / path).exists(), path
    for path in re.findall(r"\]\(([\w/.-]+)\)", text):
        assert ((ROOT / page).parent / path).exists(), path


@pytest.mark.parametrize("page", PAGES)
def test_each_setting_that_a_page_names_exists(page: str):
    text = (ROOT / page).read_text("utf-8")
    for part, name in re.findall(r"`([a-z]+)\.([a-z_]+)`", text):
        value: Any = getattr(Settings(), part)
        assert name in value.__struct_fields__, f"{part}.{name}"


def test_each_requirement_is_listed_once():
    rows = re.findall(
        r"^\| ([\dASI.]+) \| [^|]+ \| ([^|]+) \| ([^|]+) \|$",
        (ROOT / PAGES[1]).read_text("utf-8"),
        re.M,
    )
    numbers = [number for number, _, _ in rows]
    assert len(numbers) == len(set(numbers))
    required = [number for number in numbers if not number.startswith("ASI")]
    assert len(required) == 253
    counts_by_chapter = {
        chapter: sum(requirement.startswith(f"{chapter}.") for requirement in required)
        for chapter in range(1, 18)
    }
    assert counts_by_chapter == LEVELS_1_AND_2
    assert [number for number in numbers if number.startswith("ASI")] == [
        f"ASI{risk_index:02}" for risk_index in range(1, 11)
    ]
    for number, status, evidence in rows:
        assert status in ("holds", "partly", "does not hold", "not applicable"), number
        assert status != "holds" or TEST.search(evidence), number
