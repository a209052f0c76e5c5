"""Crawls the cases of `crawl_cases` and reports differences."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from modelyard.base.errors import ModelyardError
from modelyard.knowledge.crawl import (
    CrawlReport,
    SourceLoader,
    remembered_pages,
    sync_sources,
)
from modelyard.testing import Upstream
from tests.knowledge.crawl_cases import Case, Site


@dataclass
class CrawlOutcome:
    """The outcome of a crawl."""

    site: Site
    report: CrawlReport = field(default_factory=CrawlReport)
    documents: int = 0
    error: str = ""
    again: list[str] | None = None
    counts: dict[str, int] | None = None


def crawl_problems(case: Case, outcome: CrawlOutcome) -> list[str]:
    """Return how a crawl differs from what its case expects."""
    problems: list[str] = []
    if outcome.site.asked != list(case.asked):
        problems.append(f"asked for {outcome.site.asked[:20]}")
    has_error = bool(outcome.error)
    if bool(case.error) != has_error or not re.search(case.error, outcome.error):
        problems.append(f"error {outcome.error!r}")
    problems += _skipped_page_problems(case, outcome)
    if case.documents is not None and outcome.documents != case.documents:
        problems.append(f"{outcome.documents} documents")
    if case.again is not None:
        second_crawl = (outcome.again, outcome.counts)
        if second_crawl != (list(case.again), case.counts):
            problems.append(f"again {outcome.again}, {outcome.counts}")
    return problems


def _skipped_page_problems(case: Case, outcome: CrawlOutcome) -> list[str]:
    """Return how the skipped pages differ from the expected ones."""
    problems: list[str] = []
    reasons = [skipped_page.reason for skipped_page in outcome.report.first]
    if outcome.report.count != len(case.left_out):
        problems.append(f"{outcome.report.count} left out: {reasons}")
    for pattern, reason in zip(case.left_out, reasons, strict=False):
        if not re.search(pattern, reason):
            problems.append(f"reason {reason!r}")
    return problems


async def crawl(
    case: Case,
    base: str,
    site: Site,
    gatherer: SourceLoader,
    datasets: Any,
    dataset: Any,
) -> CrawlOutcome:
    """Crawl a case as the command line does; a second time if the case asks for it."""
    outcome = CrawlOutcome(site)
    go: Callable[..., Any] = getattr(gatherer, case.how)
    deletes = case.how != "feed"
    try:
        source_documents = go(
            f"{base}{case.start}", max_pages=case.max_pages, report=outcome.report
        )
        counts = await sync_sources(
            datasets,
            dataset,
            case.how,
            source_documents,
            deletes=deletes,
            report=outcome.report,
        )
        outcome.documents = counts["added"]
    except ModelyardError as error:
        outcome.error = str(error)
    if case.again is not None:
        first, site.asked, report = site.asked, [], CrawlReport()
        memory = await remembered_pages(datasets, dataset, case.how)
        source_documents = go(
            f"{base}{case.start}",
            max_pages=case.max_pages,
            memory=memory,
            report=report,
        )
        outcome.counts = await sync_sources(
            datasets,
            dataset,
            case.how,
            source_documents,
            deletes=deletes,
            report=report,
        )
        site.asked, outcome.again = first, site.asked
    return outcome


def serve_site(stack: ExitStack, files: Any) -> tuple[str, Site]:
    site = Site(files)
    server = stack.enter_context(Upstream(site.answer))
    site.base = server.url.removesuffix("/v1")
    return site.base, site
