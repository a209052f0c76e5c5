"""The claims of the pages: which sentences are strong, and what checks each of them."""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from tools.show.__main__ import PROOFS

from tests.docs.pages import ROOT, normalised, sentences_of

LIST = Path(__file__).with_name("claims.yaml")
REASONS = frozenset({"comparison", "definition", "example", "instruction", "promise"})
"""Why a strong sentence is no claim that could be checked here."""

STRONG = re.compile(
    r"""(?xi)
    (?<!-)\b(?:never|always|every|everything|all|any|none|nothing|nobody|only|exactly
       |unmodified|unchanged|within|at\ (?:least|most|once)|up\ to)\b
    | \b[\d,.]*\d\ ?%
    | \b[\d,.]*\d\ ?(?:MB|GB|kB|ms|s|million|billion|(?:recorded\ )?[a-z]{3,}s)\b
    | \b(?:two|three|four|five|six|seven|eight|nine|ten|fourteen|half)\ (?!of\b)[a-z]+
    """
)
"""Absolutes, and figures with what they count."""
_NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py::\w+)`")


@dataclass(frozen=True)
class Claim:
    """A piece of a sentence, and what checks it."""

    page: str
    quote: str
    checked_by: tuple[str, ...]
    """Pytest node ids, `show:NAME` for proofs, and `contract:ID` for import contracts.
    """


@cache
def _listed() -> dict[str, Any]:
    return yaml.safe_load(LIST.read_text("utf-8"))


@cache
def claims() -> tuple[Claim, ...]:
    """Return the listed claims of all pages."""
    return tuple(
        Claim(page, normalised(entry["quote"]), tuple(entry["checked_by"]))
        for page, entries in _listed()["claims"].items()
        for entry in entries
    )


@cache
def not_claims() -> Mapping[str, Mapping[str, str]]:
    """Return the quotes that are listed as no claims, with their reason, by page."""
    by_page: dict[str, dict[str, str]] = {}
    for page, quotes_by_reason in _listed()["not_claims"].items():
        reasons = by_page.setdefault(page, {})
        for reason, quotes in quotes_by_reason.items():
            reasons |= {normalised(quote): reason for quote in quotes}
    return by_page


def quotes_of(page: str) -> list[str]:
    """Return all quotes from a page, of claims and of what is none."""
    quotes = [claim.quote for claim in claims() if claim.page == page]
    return [*quotes, *not_claims().get(page, {})]


def strong_sentences(page: str) -> list[str]:
    """Return the sentences of a page with an absolute or a figure. A sentence that
    names its test itself is checked by that."""
    return [
        sentence
        for sentence in sentences_of(page)
        if STRONG.search(sentence) and not _NAMED_TEST.search(sentence)
    ]


def node_ids_on(page: str) -> list[str]:
    """Return the node ids of the tests that a page names in its sentences."""
    return [
        node_id
        for sentence in sentences_of(page)
        for node_id in _NAMED_TEST.findall(sentence)
    ]


def uncovered(page: str) -> list[str]:
    """Return the strong sentences of a page in which no quote stands."""
    quotes = quotes_of(page)
    return [
        sentence
        for sentence in strong_sentences(page)
        if not any(quote in sentence or sentence in quote for quote in quotes)
    ]


def is_quoted(page: str, quote: str) -> bool:
    """Return whether a quote stands on its page."""
    return quote in " ".join(sentences_of(page))


def problem_of(reference: str) -> str:
    """Return why something cannot check a claim; empty if it exists."""
    kind, _, name = reference.partition(":")
    if kind == "show":
        return "" if name in PROOFS else f"there is no proof {name!r}"
    if kind == "contract":
        return "" if name in _contracts() else f"there is no import contract {name!r}"
    file, _, test = reference.partition("::")
    if not (ROOT / file).is_file():
        return f"there is no file {file}"
    name = test.partition("[")[0]
    return "" if name in _tests_in(file) else f"{file} has no test {name!r}"


@cache
def _contracts() -> frozenset[str]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = document["tool"]["importlinter"]["contracts"]
    return frozenset(contract["id"] for contract in contracts)


@cache
def _tests_in(file: str) -> frozenset[str]:
    """Return the names of the test functions of a file."""
    return frozenset(_test_names((ROOT / file).read_text("utf-8")))


def _test_names(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function and node.name.startswith("test_"):
            yield node.name
