"""The list of claims fits the pages: nothing strong is said that nothing checks."""

import re

import pytest

from tests.docs.claims import (
    REASONS,
    Claim,
    claims,
    is_quoted,
    node_ids_on,
    not_claims,
    problem_of,
    strong_sentences,
    uncovered,
)
from tests.docs.pages import PAGES, normalised, text_of

pytestmark = pytest.mark.proof("docs")


@pytest.mark.case("9.7")
@pytest.mark.parametrize("page", PAGES)
def test_every_strong_sentence_is_listed(page: str):
    assert uncovered(page) == []


def name_of(claim: Claim) -> str:
    return f"{claim.page}: {claim.quote[:40]}"


@pytest.mark.parametrize("claim", claims(), ids=name_of)
def test_a_claim_stands_on_its_page_and_its_checks_exist(claim: Claim):
    assert claim.page in PAGES
    assert is_quoted(claim.page, claim.quote), "the page no longer says this"
    assert claim.checked_by
    assert [
        problem for check in claim.checked_by if (problem := problem_of(check))
    ] == []


def test_what_is_no_claim_stands_on_its_page_and_has_a_reason():
    for page, reasons in not_claims().items():
        missing = [quote for quote in reasons if not is_quoted(page, quote)]
        assert missing == [], page
        assert set(reasons.values()) <= REASONS


def test_nothing_is_listed_twice():
    quotes = [(claim.page, claim.quote) for claim in claims()]
    quotes += [(page, quote) for page, by in not_claims().items() for quote in by]
    assert sorted(quotes) == sorted(set(quotes))


def test_each_boundary_of_the_page_on_security_names_its_test():
    page = "docs/security.md"
    table = text_of(page).partition("| boundary |")[2].partition("\n\n")[0]
    rows = [line for line in table.splitlines()[2:] if line.startswith("|")]
    assert len(rows) > 20
    assert [
        row for row in rows if not re.search(r"`tests/[\w/]+\.py::\w+` \|$", row)
    ] == []
    named = node_ids_on(page)
    assert len(named) == len(rows)
    assert [problem for test in named if (problem := problem_of(test))] == []


# ----------------------------------------------------- the laws see what breaks them


@pytest.mark.parametrize(
    "check",
    [
        "tests/docs/test_claims.py::test_that_there_is_not",
        "tests/docs/test_nothing.py::test_nothing",
        "show:nothing",
        "contract:nothing",
    ],
)
def test_a_check_that_does_not_exist_is_noticed(check: str):
    assert problem_of(check)


def test_a_check_that_exists_has_no_problem():
    this_test = "tests/docs/test_claims.py::test_a_check_that_exists_has_no_problem"
    assert [problem_of(check) for check in (this_test, "show:house", "contract:layers")] == [
        "", "", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "sentence",
    [
        "No row is ever lost: all of them are written.",
        "It never waits.",
        "Every call has a row.",
        "A start takes 30 ms.",
        "It keeps at most three copies.",
        "Apps run unmodified.",
        "It reads 18 formats.",
        "100 % of the calls succeed.",
    ],
)
def test_a_strong_sentence_is_recognised(
    sentence: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tests.docs.claims.sentences_of", lambda page: (sentence,))
    assert strong_sentences("README.md") == [sentence]
    assert uncovered("README.md") == [sentence]


def test_an_ordinary_sentence_is_not_strong(monkeypatch: pytest.MonkeyPatch):
    sentences = ("The server keeps a ledger.", "Append-only files hold the journal.")
    monkeypatch.setattr("tests.docs.claims.sentences_of", lambda page: sentences)
    assert strong_sentences("README.md") == []


def test_a_quote_that_is_on_no_page_is_noticed():
    assert not is_quoted("README.md", "Modelyard never fails.")
    assert normalised("see [the\nlist](list.md)") == "see the list"
