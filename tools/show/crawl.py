"""Sites on loopback that hold every case of pages, sitemaps, feeds, robots.txt and manners, crawled by the product."""

import asyncio
import json
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tests.knowledge.crawl_cases import CASES, Case, Site, html
from tests.knowledge.crawling import crawl, served, trouble

from modelyard.app import Modelyard
from modelyard.base.settings import EgressSettings, KnowledgeSettings, Settings
from modelyard.knowledge.entities import DatasetSettings, Technique
from tools.show.proof import Proof, modelyard, own_home


@dataclass(frozen=True)
class _Served:
    case: Case
    base: str
    site: Site

    @property
    def place(self) -> str:
        return self.base.removeprefix("http://")


def _settings(home: str, sites: list[_Served], *, follows_nofollow: bool) -> Settings:
    return Settings(
        home=home,
        egress=EgressSettings(private=[one.place for one in sites]),
        knowledge=KnowledgeSettings(
            crawl_delay_seconds=0.0, crawl_follows_nofollow=follows_nofollow,
            crawl_own_sites=[one.place for one in sites if one.case.manners.get("own_sites")],
        ),
    )  # fmt: skip


async def _crawled(proof: Proof, sites: list[_Served], *, follows_nofollow: bool) -> int:
    """How many of these are as they should be, by a server's own crawler."""
    good = 0
    words = DatasetSettings(indexing_technique=Technique.ECONOMY)
    with tempfile.TemporaryDirectory() as home:
        settings = _settings(home, sites, follows_nofollow=follows_nofollow)
        async with Modelyard(settings, environ={}) as yard:
            parts = yard.knowledge
            for one in sites:
                dataset = await parts.datasets.create("default", one.case.name[:40], settings=words)
                went = await crawl(one.case, one.base, one.site, parts.gatherer, parts.datasets, dataset)
                wrong = trouble(one.case, went)
                good += not wrong
                proof.line(one.case.name, _shown(one.case, one.site, wrong), not wrong)
    return good


def _shown(case: Case, site: Site, wrong: list[str]) -> str:
    if wrong:
        return f"should ask for {_listed(case.asked)}; {'; '.join(wrong)}"[:600]
    return f"should ask for {_listed(case.asked)}; asks for {_listed(site.asked)}"


def _listed(paths: Any) -> str:
    shown = " ".join(one[:40] for one in list(paths)[:6])
    return (shown or "nothing") + (f" … {len(paths)} in all" if len(paths) > 6 else "")


def _command_line(proof: Proof) -> None:
    """What somebody sees who crawls a site with two pages that fail."""
    with ExitStack() as stack:
        base, _ = served(stack, {"/": html("<a href=/lost>x</a><a href=/a>x</a><a href=/gone>x</a>"), "/a": html("a")})
        private = json.dumps({"egress": {"private": [base.removeprefix("http://")]}})
        environ = stack.enter_context(own_home(modelyard=private))
        said = json.loads(
            modelyard("knowledge", "add", "d", f"{base}/", "--crawl", "--economy", "--json", environ=environ)
        )
    told = (
        said["added"],
        said["left_out"]["count"],
        [one["url"].removeprefix(base) for one in said["left_out"]["first"]],
    )
    proof.line(
        "modelyard knowledge add --crawl", json.dumps(said["left_out"])[:200], told == (2, 2, ["/lost", "/gone"])
    )


def prove() -> Proof:
    proof = Proof()
    with ExitStack() as stack:
        sites = [_Served(case, *served(stack, case.files)) for case in CASES.values()]
        usual = [one for one in sites if not one.case.manners.get("follows_nofollow")]
        lax = [one for one in sites if one.case.manners.get("follows_nofollow")]
        good = asyncio.run(_crawled(proof, usual, follows_nofollow=False))
        good += asyncio.run(_crawled(proof, lax, follows_nofollow=True))
    _command_line(proof)
    proof.figures = {"cases": f"{good} of {len(CASES)}"}
    return proof
