"""How a case of `crawl_cases` is crawled, and what is otherwise than it should be."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from modelyard.base.errors import ModelyardError
from modelyard.knowledge.crawl import Gatherer, Report, gather, remembered
from modelyard.testing import Upstream
from tests.knowledge.crawl_cases import Case, Site


@dataclass
class Went:
    """How a crawl went."""

    site: Site
    report: Report = field(default_factory=Report)
    documents: int = 0
    error: str = ""
    again: list[str] | None = None
    counts: dict[str, int] | None = None


def trouble(case: Case, went: Went) -> list[str]:
    """What is otherwise than the case has it."""
    wrong: list[str] = []
    if went.site.asked != list(case.asked):
        wrong.append(f"asked for {went.site.asked[:20]}")
    if bool(case.error) != bool(went.error) or not re.search(case.error, went.error):
        wrong.append(f"error {went.error!r}")
    reasons = [one.reason for one in went.report.first]
    if went.report.count != len(case.left_out):
        wrong.append(f"{went.report.count} left out: {reasons}")
    for pattern, reason in zip(case.left_out, reasons, strict=False):
        if not re.search(pattern, reason):
            wrong.append(f"reason {reason!r}")
    if case.documents is not None and went.documents != case.documents:
        wrong.append(f"{went.documents} documents")
    if case.again is not None and (went.again != list(case.again) or went.counts != case.counts):
        wrong.append(f"again {went.again}, {went.counts}")
    return wrong


async def crawl(case: Case, base: str, site: Site, gatherer: Gatherer, datasets: Any, dataset: Any) -> Went:
    """A case, by the way that the command line takes; a second time where the case has one."""
    went = Went(site)
    go: Callable[..., Any] = getattr(gatherer, case.how)
    deletes = case.how != "feed"
    try:
        found = go(f"{base}{case.start}", most=case.most, report=went.report)
        counts = await gather(datasets, dataset, case.how, found, deletes=deletes, report=went.report)
        went.documents = counts["added"]
    except ModelyardError as error:
        went.error = str(error)
    if case.again is not None:
        first, site.asked, report = site.asked, [], Report()
        memory = await remembered(datasets, dataset, case.how)
        found = go(f"{base}{case.start}", most=case.most, memory=memory, report=report)
        went.counts = await gather(datasets, dataset, case.how, found, deletes=deletes, report=report)
        site.asked, went.again = first, site.asked
    return went


def served(stack: ExitStack, files: Any) -> tuple[str, Site]:
    site = Site(files)
    server = stack.enter_context(Upstream(site.answer))
    site.base = server.url.removesuffix("/v1")
    return site.base, site
