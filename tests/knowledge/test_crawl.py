"""Tests for crawling: the requests that sites receive, and the reasons for skips."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from modelyard.base.errors import InvokeBadRequestError
from modelyard.cli.knowledge import knowledge
from modelyard.knowledge.crawl import SourceLoader
from modelyard.knowledge.page_urls import normalized_url, resolve
from modelyard.knowledge.polite_fetch import Conditions, CrawlPolicy, PageFetcher
from modelyard.sandbox.runner import Sandbox, SandboxError, SandboxLimits
from modelyard.testing import FakeClock
from modelyard.transport.egress import EgressClient, EgressRules
from tests.contract.conftest import postgres_url  # noqa: F401
from tests.knowledge.conftest import Bench, Run
from tests.knowledge.crawl_cases import CASES, Case, Reply, Site, page_of
from tests.knowledge.crawling import crawl, crawl_problems, serve_site

pytestmark = pytest.mark.proof("crawl")


def manners_of(case: Case, base: str, delay: float = 0.0) -> CrawlPolicy:
    settings = dict(case.manners)
    own_sites = (
        frozenset({base.removeprefix("http://")})
        if settings.pop("own_sites", False)
        else frozenset[str]()
    )
    return CrawlPolicy(delay_seconds=delay, own_sites=own_sites, **settings)


@pytest.mark.parametrize(
    "group",
    ["HTML", "sitemap", "feed", "robots", "redirect", "failures", "again", "busy"],
)
def test_a_crawler_requests_exactly_the_expected_paths(run: Run, group: str):
    cases = [case for name, case in CASES.items() if name.startswith(group)]
    assert cases
    with ExitStack() as stack:
        sites = {case.name: serve_site(stack, case.files) for case in cases}

        async def work(bench: Bench) -> None:
            problems_by_case: dict[str, list[str]] = {}
            for case in cases:
                base, site = sites[case.name]
                visitor = PageFetcher(
                    bench.yard.services.network.egress,
                    bench.parts.sandbox,
                    FakeClock(2e9),
                    manners_of(case, base),
                )
                gatherer = SourceLoader(
                    bench.yard.services.network.egress, bench.datasets.reader, visitor
                )
                dataset = await bench.dataset(case.name[:40])
                if problems := crawl_problems(
                    case,
                    await crawl(case, base, site, gatherer, bench.datasets, dataset),
                ):
                    problems_by_case[case.name] = problems
            assert not problems_by_case, "\n".join(
                f"{name}: {case_problems}"
                for name, case_problems in problems_by_case.items()
            )

        run(
            work,
            egress={
                "private": [base.removeprefix("http://") for base, _ in sites.values()]
            },
        )


# -------------------------------------------------------- politeness, with a fake clock


@dataclass
class World:
    """A page fetcher without an application, with a clock that records its waits."""

    visitor: PageFetcher
    clock: FakeClock
    base: str
    site: Site


def run_with_site(files: Any, work: Callable[[World], Any], **manners: Any) -> None:
    with ExitStack() as stack:
        base, site = serve_site(stack, files)

        async def run_crawl() -> None:
            clock = FakeClock()
            egress, sandbox = (
                EgressClient(
                    EgressRules(private=frozenset({base.removeprefix("http://")}))
                ),
                Sandbox(),
            )
            try:
                await work(
                    World(
                        PageFetcher(egress, sandbox, clock, CrawlPolicy(**manners)),
                        clock,
                        base,
                        site,
                    )
                )
            finally:
                await egress.aclose()
                await sandbox.aclose()

        asyncio.run(run_crawl())


def test_requests_to_a_host_are_delayed():
    async def work(world: World) -> None:
        for name in ("a", "b"):
            await world.visitor.visit(f"{world.base}/{name}")
        assert world.clock.slept == [2.0, 2.0]  # robots.txt was requested first

    run_with_site({"/a": page_of("a"), "/b": page_of("b")}, work, delay_seconds=2.0)


@pytest.mark.parametrize(
    ("crawl_delay", "waited"), [("7", 7.0), ("0.1", 2.0), ("900", 30.0), ("soon", 2.0)]
)
def test_robots_txt_may_set_a_longer_delay_within_limits(
    crawl_delay: str, waited: float
):
    async def work(world: World) -> None:
        await world.visitor.visit(f"{world.base}/a")
        await world.visitor.visit(f"{world.base}/a")
        assert world.clock.slept == [2.0, waited]

    run_with_site(
        {
            "/robots.txt": f"User-agent: *\nCrawl-delay: {crawl_delay}",
            "/a": page_of("a"),
        },
        work,
        delay_seconds=2.0,
    )


@pytest.mark.parametrize("value", ["50", "Mon, 12 Jan 1970 13:47:30 GMT"])
def test_retry_after_of_a_host_is_respected(value: str):
    async def work(world: World) -> None:
        assert (await world.visitor.visit(f"{world.base}/a")).page.status == 200
        assert world.clock.slept == [pytest.approx(50.0)]

    def busy(count: int) -> Reply:
        return (
            Reply(status=429, headers={"retry-after": value})
            if count == 0
            else Reply(page_of("a"))
        )

    run_with_site({"/a": busy}, work, delay_seconds=0.0)


def test_a_long_retry_after_fails_until_it_has_passed():
    def busy(count: int) -> Reply:
        return (
            Reply(status=503, headers={"retry-after": "3600"})
            if count == 0
            else Reply(page_of("a"))
        )

    async def work(world: World) -> None:
        for _ in range(2):
            with pytest.raises(InvokeBadRequestError, match="503|next request only in"):
                await world.visitor.visit(f"{world.base}/a")
        assert (world.site.asked, world.clock.slept) == (["/a"], [])
        world.clock.advance(3600)
        assert (await world.visitor.visit(f"{world.base}/a")).page.status == 200

    run_with_site({"/a": busy}, work, delay_seconds=0.0)


def test_robots_txt_is_cached_for_a_day_and_shorter_after_an_error():
    def rules(count: int) -> Reply:
        return [Reply(status=500), Reply(""), Reply("User-agent: *\nDisallow: /")][
            count
        ]

    async def work(world: World) -> None:
        with pytest.raises(InvokeBadRequestError, match="is not available"):
            await world.visitor.visit(f"{world.base}/a")
        world.clock.advance(61)
        await world.visitor.visit(f"{world.base}/a")
        world.clock.advance(23 * 3600)
        await world.visitor.visit(f"{world.base}/a")
        world.clock.advance(3601)
        with pytest.raises(
            InvokeBadRequestError,
            match="does not allow modelyard to fetch .*crawl_own_sites",
        ):
            await world.visitor.visit(f"{world.base}/a")

    run_with_site({"/robots.txt": rules, "/a": page_of("a")}, work, delay_seconds=0.0)


def test_an_unreachable_site_is_not_crawled():
    async def work(world: World) -> None:
        with pytest.raises(
            InvokeBadRequestError, match="robots.txt of .* is not available"
        ):
            await world.visitor.visit("http://127.0.0.1:1/")

    run_with_site({}, work)


def test_conditional_headers_are_sent_only_for_their_own_url():
    conditions = Conditions(url="http://a.example/x", etag='"1"', modified="yesterday")
    assert conditions.headers("http://A.example:80/x") == [
        ("if-none-match", '"1"'),
        ("if-modified-since", "yesterday"),
    ]
    assert conditions.headers("http://a.example/y") == []


# --------------------------------------------------------------------- malicious markup

_OPEN = {
    ("page", "attributes"): b"<a "
    + b" ".join(b"a%d=1" % index for index in range(300_000))
    + b" href=/x>",
    ("page", "depth"): b"<template>" * 300_000 + b"<a href=/x>",
    ("sitemap", "depth"): b"<urlset>" * 200_000,
    ("sitemap", "signs"): b"<urlset><url><loc>http://x/" + b"&" * 2_000_000,
    ("feed", "items"): b"<rss><channel>" + b"<item>" * 300_000,
    ("feed", "names"): b"<rss "
    + b" ".join(b'xmlns:a%d="u"' % index for index in range(50_000))
    + b">",
    ("robots", "rules"): b"User-agent: *\n" + b"Disallow: /*a*a*a*a*a*b\n" * 20_000,
}


def test_endless_markup_times_out_in_the_sandbox():
    async def work() -> None:
        sandbox = Sandbox(SandboxLimits(document_seconds=5.0, memory_mb=1024))
        try:
            for (of, _), data in _OPEN.items():
                with suppress(SandboxError):
                    await sandbox.web(
                        of,
                        data,
                        agent="modelyard",
                        addresses=["http://x.example/" + "a" * 5000],
                    )
                page = await sandbox.web("page", b"<a href=/x>", agent="modelyard")
                assert page["links"] == [["/x", []]]
        finally:
            await sandbox.aclose()

    asyncio.run(work())


# --------------------------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("first_url", "second_url"),
    [
        ("http://A.Example/x", "http://a.example/x"), ("http://a.example", "http://a.example/"),
        ("http://a.example:80/", "http://a.example/"), ("https://a.example:443/", "https://a.example/"),
        ("http://a.example/x#y", "http://a.example/x"), ("http://a.example/a/../b/./c", "http://a.example/b/c"),
        ("http://a.example/%7eann", "http://a.example/~ann"), ("http://a.example/%c3%a9", "http://a.example/é"),
        ("http://a.example/?q=%2f", "http://a.example/?q=%2F"), ("http://bücher.example/", "http://xn--bcher-kva.example/"),
    ],
)  # fmt: skip
def test_equivalent_urls_have_one_identity(first_url: str, second_url: str):
    assert normalized_url(first_url) == normalized_url(second_url)


@pytest.mark.parametrize(
    ("first_url", "second_url"),
    [
        ("http://a.example/x", "https://a.example/x"), ("http://a.example/x", "http://a.example/X"),
        ("http://a.example/x", "http://a.example/x/"), ("http://a.example/a%2Fb", "http://a.example/a/b"),
        ("http://a.example/?a=1&b=2", "http://a.example/?b=2&a=1"), ("http://a.example:81/", "http://a.example/"),
    ],
)  # fmt: skip
def test_different_urls_have_different_identities(first_url: str, second_url: str):
    assert normalized_url(first_url) != normalized_url(second_url)


@pytest.mark.parametrize(
    "address",
    ["http://[::1", "http://h:99999/", "javascript:x", "http://" + "é" * 5000],
)
def test_links_that_are_not_web_urls_are_ignored(address: str):
    assert resolve("http://a.example/", address) == ""


# ---------------------------------------------------------------------------- databases


@pytest.mark.parametrize(
    ("query", "after", "message"),
    [
        ("SELECT * FROM lanterns", None, "no such table"), ("SELECT 1; SELECT 2", None, "one statement"),
        ("SELECT 1 WHERE 1 = :after", 1 << 70, "too large"), ("SELECT 1\0", None, "null character"),
        ("WITH x AS (SELECT 1) DELETE FROM lamps", None, "readonly"),
    ],
)  # fmt: skip
def test_sqlite_errors_are_reported(
    run: Run, tmp_path: Path, query: str, after: Any, message: str
):
    file = tmp_path / "shop #1?.db"
    with sqlite3.connect(file) as rows:
        rows.execute("CREATE TABLE lamps (id INTEGER)")

    async def work(bench: Bench) -> None:
        with pytest.raises(InvokeBadRequestError, match=f"Database error: .*{message}"):
            [
                row
                async for row in bench.parts.gatherer.rows(
                    str(file), query, key="id", after_key=after
                )
            ]
        assert not [
            row
            async for row in bench.parts.gatherer.rows(
                str(file), "SELECT * FROM lamps", key="id"
            )
        ]

    run(work)


def test_postgresql_errors_are_reported(run: Run, postgres_url: str):  # noqa: F811
    objections = [
        (postgres_url, "SELECT * FROM lanterns", None, "lanterns.* does not exist"),
        (postgres_url, "SELECT 1/0 AS id", None, "division by zero"),
        (postgres_url, "SELECT 1 AS id; SELECT :after", 1, "multiple commands"),
        (
            postgres_url,
            "WITH x AS (DELETE FROM pg_class RETURNING 1) SELECT 1",
            None,
            "read-only transaction",
        ),
        (postgres_url, "SELECT 1 AS id WHERE 1 = :after", object(), "cannot adapt"),
        (
            "postgresql://nobody:hush@127.0.0.1:1/x",
            "SELECT 1",
            None,
            "cannot be reached",
        ),
    ]

    async def work(bench: Bench) -> None:
        gatherer = bench.parts.gatherer
        for where, query, after, message in objections:
            with pytest.raises(
                InvokeBadRequestError, match=f"(?s)Database error: .*{message}"
            ) as caught:
                [
                    row
                    async for row in gatherer.rows(
                        where, query, key="id", after_key=after
                    )
                ]
            assert "hush" not in str(caught.value)
        query = "SELECT 7 AS id, '{1,2}'::int[] AS list, int4range(1, 3) AS span, '10.0.0.1'::inet AS host WHERE 'a' LIKE '%a%'"
        (row,) = [row async for row in gatherer.rows(postgres_url, query, key="id")]
        assert row.text == 'id: 7\nlist: [1,2]\nspan: "[1, 3)"\nhost: "10.0.0.1"'

    run(work)


# --------------------------------------------------------------------- the command line


def test_the_crawl_command_lists_skipped_pages(tmp_path: Path):
    files = {
        "/": "<p>Home.</p>" + "".join(f"<a href=/{index}>x</a>" for index in range(11)),
        "/a": page_of("a"),
    }
    with ExitStack() as stack:
        base, _ = serve_site(stack, files)
        settings = {
            "egress": {"private": [base.removeprefix("http://")]},
            "knowledge": {"crawl_delay_seconds": 0.0},
        }
        (tmp_path / "modelyard.yaml").write_text(json.dumps(settings))
        command = ["add", "d", f"{base}/", "--crawl", "--economy"]
        result = CliRunner().invoke(
            knowledge,
            command,
            env={"MODELYARD_HOME": str(tmp_path)},
            catch_exceptions=False,
        )
    assert "d: 1 added" in result.stdout
    assert "11 skipped" in result.stderr
    assert f"{base}/0: {base}/0 returned status 404" in result.stderr
    assert "… and 1 more" in result.stderr
