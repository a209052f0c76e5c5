"""Crawl local test sites that cover pages, sitemaps, feeds, robots.txt and politeness
rules, with the product's own crawler."""

import asyncio
import json
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tests.knowledge.crawl_cases import CASES, Case, Site, html
from tests.knowledge.crawling import crawl, crawl_problems, serve_site

from modelyard.app import Modelyard
from modelyard.base.settings import EgressSettings, KnowledgeSettings, Settings
from modelyard.knowledge.entities import DatasetSettings, Technique
from tools.show.proof import Proof, modelyard, temporary_home


@dataclass(frozen=True)
class _Served:
    """A crawl case and the local site that serves it."""

    case: Case
    base: str
    site: Site

    @property
    def place(self) -> str:
        """The site's host and port."""
        return self.base.removeprefix("http://")


def _settings(home: str, sites: list[_Served], *, follows_nofollow: bool) -> Settings:
    return Settings(
        home=home,
        # The sites are on loopback, which egress blocks unless it is listed as private.
        egress=EgressSettings(private=[site.place for site in sites]),
        knowledge=KnowledgeSettings(
            crawl_delay_seconds=0.0,
            crawl_follows_nofollow=follows_nofollow,
            crawl_own_sites=[
                site.place for site in sites if site.case.manners.get("own_sites")
            ],
        ),
    )


async def _crawled(
    proof: Proof, sites: list[_Served], *, follows_nofollow: bool
) -> int:
    """Crawl each site with one Modelyard instance and return the number of cases that
    passed."""
    passed_count = 0
    # A keyword index needs no embedding model.
    keyword_settings = DatasetSettings(indexing_technique=Technique.ECONOMY)
    with tempfile.TemporaryDirectory() as home:
        settings = _settings(home, sites, follows_nofollow=follows_nofollow)
        async with Modelyard(settings, environ={}) as yard:
            parts = yard.knowledge
            for served_site in sites:
                dataset = await parts.datasets.create(
                    "default", served_site.case.name[:40], settings=keyword_settings
                )
                crawl_result = await crawl(
                    served_site.case,
                    served_site.base,
                    served_site.site,
                    parts.gatherer,
                    parts.datasets,
                    dataset,
                )
                problems = crawl_problems(served_site.case, crawl_result)
                passed_count += not problems
                proof.line(
                    served_site.case.name,
                    _shown(served_site.case, served_site.site, problems),
                    not problems,
                )
    return passed_count


def _shown(case: Case, site: Site, problems: list[str]) -> str:
    """Return the expected and the requested paths of a case, and its problems if there
    are any."""
    if problems:
        return f"should ask for {_format_paths(case.asked)}; {'; '.join(problems)}"[
            :600
        ]
    return f"should ask for {_format_paths(case.asked)}; asks for {_format_paths(site.asked)}"


def _format_paths(paths: Any) -> str:
    """Return the first six paths, shortened, and the total count if there are more."""
    preview = " ".join(path[:40] for path in list(paths)[:6])
    return (preview or "nothing") + (
        f" … {len(paths)} in all" if len(paths) > 6 else ""
    )


def _command_line(proof: Proof) -> None:
    """Check the output of `modelyard knowledge add --crawl` for a site on which two
    pages fail."""
    with ExitStack() as stack:
        base, _ = serve_site(
            stack,
            {
                "/": html("<a href=/lost>x</a><a href=/a>x</a><a href=/gone>x</a>"),
                "/a": html("a"),
            },
        )
        private = json.dumps({"egress": {"private": [base.removeprefix("http://")]}})
        environ = stack.enter_context(temporary_home(modelyard=private))
        report = json.loads(
            modelyard(
                "knowledge",
                "add",
                "d",
                f"{base}/",
                "--crawl",
                "--economy",
                "--json",
                environ=environ,
            )
        )
    summary = (
        report["added"],
        report["left_out"]["count"],
        [failure["url"].removeprefix(base) for failure in report["left_out"]["first"]],
    )
    # Two pages are added, two fail, and the failed ones are listed in crawl order.
    proof.line(
        "modelyard knowledge add --crawl",
        json.dumps(report["left_out"])[:200],
        summary == (2, 2, ["/lost", "/gone"]),
    )


def prove() -> Proof:
    """Crawl all sites, once with and once without following `nofollow` links, and check
    the command line."""
    proof = Proof()
    with ExitStack() as stack:
        sites = [
            _Served(case, *serve_site(stack, case.files)) for case in CASES.values()
        ]
        # Following `nofollow` is a server-wide setting, so the cases are split by it.
        usual = [
            site for site in sites if not site.case.manners.get("follows_nofollow")
        ]
        lax = [site for site in sites if site.case.manners.get("follows_nofollow")]
        passed_count = asyncio.run(_crawled(proof, usual, follows_nofollow=False))
        passed_count += asyncio.run(_crawled(proof, lax, follows_nofollow=True))
    _command_line(proof)
    proof.figures = {"cases": f"{passed_count} of {len(CASES)}"}
    return proof
