"""A site on the web as a source, against a real server on loopback."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from modelyard.base.errors import InvokeBadRequestError
from modelyard.knowledge.access import AccessList
from modelyard.knowledge.connectors.base import SourceError, parse_rules
from modelyard.knowledge.connectors.dataset_sources import SourceDefinition
from modelyard.knowledge.connectors.web import WebAccess, WebSource
from modelyard.knowledge.entities import Technique
from modelyard.knowledge.polite_fetch import CrawlPolicy, PageFetcher
from modelyard.testing import Answer, Upstream, UpstreamRequest
from tests.knowledge.conftest import Bench, Run
from tests.knowledge.test_connectors import counts, stored, synchronised

pytestmark = pytest.mark.proof("connectors")


@dataclass
class PlayedSite:
    """Pages by their paths, with ETags, and the paths that were requested."""

    pages: dict[str, str] = field(default_factory=dict[str, str])
    statuses: dict[str, int] = field(default_factory=dict[str, int])
    redirects: dict[str, str] = field(default_factory=dict[str, str])
    requested: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    broken: set[str] = field(default_factory=set[str])
    is_away: bool = False

    def put(self, path: str, text: str, *links: str) -> None:
        anchors = "".join(f'<a href="{link}"></a>' for link in links)
        self.pages[path] = f"<title>{path}</title><p>{text}</p>{anchors}"

    def __call__(self, request: UpstreamRequest) -> Answer:
        answer = self._answer(request)
        self.requested.append((request.path, answer.status))
        return answer

    def _answer(self, request: UpstreamRequest) -> Answer:
        path = request.path
        if self.is_away or path in self.broken:
            return Answer(fault="hang_up")
        if path in self.redirects:
            return Answer(status=301, headers={"location": self.redirects[path]})
        if path in self.statuses or path not in self.pages:
            return Answer(status=self.statuses.get(path, 404))
        body = self.pages[path].encode()
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if request.headers.get("if-none-match") == etag:
            return Answer(status=304, headers={"etag": etag})
        media_type = "text/xml" if path.endswith(".xml") else "text/html"
        headers = {"etag": etag, "content-type": media_type}
        return Answer(headers=headers, body=body)

    def take_requests(self) -> dict[str, int]:
        """Return the status of each path that was requested since the last call."""
        requests = {path: status for path, status in self.requested if path != "/robots.txt"}  # fmt: skip
        self.requested.clear()
        return requests


@dataclass
class World:
    site: PlayedSite
    url: str

    def open(self, bench: Bench, *rules: str, **options: Any) -> WebSource:
        # A fetcher of its own, without delays.
        fetcher = PageFetcher(
            bench.yard.services.network.egress,
            bench.parts.sandbox,
            bench.yard.services.clock,
            CrawlPolicy(delay_seconds=0),
        )
        options = {"urls": [f"{self.url}/"], "page_size": 2, **options}
        return WebSource(
            WebAccess(fetcher=fetcher, reader=bench.datasets.reader),
            rules=parse_rules(rules),
            **options,
        )

    def run(self, run: Any, work: Callable[[Bench], Any]) -> None:
        run(work, egress={"private": [self.url.removeprefix("http://")]})

    async def paths(self, bench: Bench, dataset: Any) -> dict[str, Any]:
        documents = await stored(bench, dataset)
        return {key.removeprefix(self.url): value for key, value in documents.items()}


@pytest.fixture
def world() -> Iterator[World]:
    site = PlayedSite()
    site.put("/", "Start.", "/a", "/hr/pay", "/picture.png", "https://example.com/")
    site.put("/a", "About a.", "/b", "/#top")
    site.put("/b", "About b.", "/a")
    site.put("/hr/pay", "Pay.")
    with Upstream(site) as upstream:
        yield World(site, upstream.url.removesuffix("/v1"))


def test_a_site_is_followed(run: Run, world: World):
    async def work(bench: Bench) -> None:
        site = world.site
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        source = world.open(bench, "/hr/=group:hr")
        report = await synchronised(bench, dataset, source)
        assert (counts(report), report.reasons) == ((4, 0, 0, 0, 0), [])
        documents = await world.paths(bench, dataset)
        assert documents["/hr/pay"][1] == AccessList(groups=["hr"])
        assert documents["/a"][1] is None
        assert "About a." in documents["/a"][0]
        site.take_requests()
        # Nothing has changed: each page is requested with its validators.
        assert counts(await synchronised(bench, dataset, source)) == (0, 0, 0, 4, 0)
        assert site.take_requests() == dict.fromkeys(("/", "/a", "/b", "/hr/pay"), 304)
        # A change, a page that is gone, one that nothing links to any more, a new one.
        site.put("/", "Start.", "/a", "/new", "/hr/pay")
        site.put("/a", "More about a.")
        site.put("/new", "News.")
        site.statuses["/hr/pay"] = 410
        report = await synchronised(bench, dataset, source)
        assert counts(report) == (1, 1, 2, 1, 0)
        documents = await world.paths(bench, dataset)
        assert sorted(documents) == ["/", "/a", "/new"]
        assert "More about a." in documents["/a"][0]
        # Permissions alone, also for a rule that is a whole URL.
        source = world.open(bench, "/=group:staff", f"{world.url}/new=nobody")
        assert counts(await synchronised(bench, dataset, source)) == (0, 0, 0, 3, 3)
        documents = await world.paths(bench, dataset)
        assert documents["/new"][1] == AccessList()
        assert documents["/a"][1] == AccessList(groups=["staff"])

    world.run(run, work)


def test_a_site_goes_on_after_an_interruption(run: Run, world: World):
    async def work(bench: Bench) -> None:
        site = world.site
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        source = world.open(bench)
        cursors: list[str] = []
        async for page in source.changes(""):
            cursors.append(page.cursor)
            break
        # The first group is stored; then the site is away.
        site.statuses["/b"] = 500
        report = await synchronised(bench, dataset, source)
        assert (report.added, report.deleted, report.skipped) == (3, 0, 1)
        assert "/b" in report.reasons[0]
        site.statuses.clear()
        site.take_requests()
        pages = [page async for page in world.open(bench).changes(cursors[0])]
        assert set(site.take_requests()) == {"/b", "/hr/pay"}, "others were visited"
        assert pages[-1].cursor == ""
        site.is_away = True
        with pytest.raises(SourceError, match="cannot be read"):
            await synchronised(bench, dataset, world.open(bench))
        assert len(await stored(bench, dataset)) == 3
        # A start page that is missing is a mistake, and not the end of the site.
        site.is_away, site.statuses["/"] = False, 404
        with pytest.raises(SourceError, match="404"):
            await synchronised(bench, dataset, world.open(bench))
        assert len(await stored(bench, dataset)) == 3

    world.run(run, work)


def test_a_pass_that_was_cut_deletes_only_pages_that_are_gone(run: Run, world: World):
    async def work(bench: Bench) -> None:
        site = world.site
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        await synchronised(bench, dataset, world.open(bench))
        site.put("/", "Start.", "/new", "/newer")
        site.put("/new", "New.")
        site.statuses["/b"] = 404
        report = await synchronised(bench, dataset, world.open(bench, max_pages=2))
        # What is known and was not found was requested: one page is gone, two are not.
        assert counts(report) == (1, 0, 1, 3, 0)
        assert sorted(await world.paths(bench, dataset)) == ["/", "/a", "/hr/pay", "/new"]  # fmt: skip
        # A page that fails may link to anything: nothing is missed for it.
        site.statuses = {"/new": 503}
        report = await synchronised(bench, dataset, world.open(bench))
        assert (report.deleted, report.skipped) == (0, 1)
        # A complete pass deletes what nothing leads to.
        site.statuses.clear()
        assert (await synchronised(bench, dataset, world.open(bench))).deleted == 2

    world.run(run, work)


def test_a_sitemap_says_what_has_changed(run: Run, world: World):
    def sitemap(*entries: tuple[str, str]) -> str:
        urls = "".join(
            f"<url><loc>{world.url}{path}</loc><lastmod>{lastmod}</lastmod></url>"
            for path, lastmod in entries
        )
        return f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{urls}</urlset>'  # fmt: skip

    async def work(bench: Bench) -> None:
        site = world.site
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        old = "2020-01-01"
        site.pages["/map.xml"] = sitemap(("/a", old), ("/b", old), ("/hr/pay", old))
        options: dict[str, Any] = {
            "urls": [], "sitemap": f"{world.url}/map.xml", "prefixes": ["/a", "/b"],
        }  # fmt: skip
        source = world.open(bench, **options)
        assert counts(await synchronised(bench, dataset, source)) == (2, 0, 0, 0, 0)
        site.take_requests()
        site.put("/b", "Other b.")
        site.pages["/map.xml"] = sitemap(("/a", old), ("/b", "2021-01-01"))
        assert counts(await synchronised(bench, dataset, source)) == (0, 1, 0, 1, 0)
        assert set(site.take_requests()) == {"/map.xml", "/b"}
        site.pages["/map.xml"] = sitemap(("/a", old))
        assert counts(await synchronised(bench, dataset, source)) == (0, 0, 1, 1, 0)
        del site.pages["/map.xml"]
        with pytest.raises(SourceError, match=r"map\.xml cannot be read"):
            await synchronised(bench, dataset, source)
        assert list(await world.paths(bench, dataset)) == ["/a"]

    world.run(run, work)


def test_start_pages_outside_of_the_prefixes_are_visited_for_links(run: Run, world: World):  # fmt: skip
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        source = world.open(bench, prefixes=["/hr/"])
        await synchronised(bench, dataset, source)
        assert list(await world.paths(bench, dataset)) == ["/hr/pay"]
        assert counts(await synchronised(bench, dataset, source)) == (0, 0, 0, 1, 0)

    world.run(run, work)


def test_a_sitemap_that_cannot_be_read_completely_deletes_nothing(run: Run, world: World):  # fmt: skip
    async def work(bench: Bench) -> None:
        site = world.site
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        index = "".join(f"<sitemap><loc>{world.url}{path}</loc></sitemap>" for path in ("/map.xml", "/1.xml", "/2.xml"))  # fmt: skip
        site.pages["/map.xml"] = f"<sitemapindex>{index}</sitemapindex>"
        for number, path in enumerate(("/a", "/b"), 1):
            site.pages[f"/{number}.xml"] = f"<urlset><url><loc>{world.url}{path}</loc></url></urlset>"  # fmt: skip
        options: dict[str, Any] = {"urls": [], "sitemap": f"{world.url}/map.xml"}
        assert (await synchronised(bench, dataset, world.open(bench, **options))).added == 2  # fmt: skip
        site.statuses["/2.xml"] = 500
        report = await synchronised(bench, dataset, world.open(bench, **options))
        assert counts(report) == (0, 0, 0, 2, 0)
        site.statuses.clear()
        site.pages["/2.xml"] = "<urlset></urlset>"
        report = await synchronised(bench, dataset, world.open(bench, **options))
        assert counts(report) == (0, 0, 1, 1, 0)

    world.run(run, work)


def test_a_redirect_takes_the_access_of_the_page_it_leads_to(run: Run, world: World):
    async def work(bench: Bench) -> None:
        site = world.site
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        site.put("/", "Start.", "/open/pay", "/away", "/a")
        site.redirects = {"/open/pay": "/hr/pay", "/away": "https://example.com/x"}
        rules = ("/open/=everyone", "/hr/=group:hr")
        await synchronised(bench, dataset, world.open(bench, *rules))
        documents = await world.paths(bench, dataset)
        assert sorted(documents) == ["/", "/a", "/b", "/hr/pay"]
        assert documents["/hr/pay"][1] == AccessList(groups=["hr"])
        # A page that has moved is one document at its new address.
        site.redirects["/a"] = "/moved"
        site.put("/moved", "About a.", "/b")
        report = await synchronised(bench, dataset, world.open(bench, *rules))
        assert counts(report) == (1, 0, 1, 3, 0)

    world.run(run, work)


def test_a_page_whose_text_is_the_same_is_unchanged(run: Run, world: World):
    async def work(bench: Bench) -> None:
        site = world.site
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        # A copy with the same canonical address is no further document.
        for path in ("/b", "/copy"):
            site.put(path, "About b.", "/a", "/copy")
            site.pages[path] = site.pages[path].replace(f"<title>{path}</title>", "<title>b</title><link rel=canonical href=/b>")  # fmt: skip
        assert (await synchronised(bench, dataset, world.open(bench))).added == 4
        site.pages["/a"] += "<!-- another token -->"
        report = await synchronised(bench, dataset, world.open(bench))
        assert counts(report) == (0, 0, 0, 4, 0)
        assert "/copy" not in await world.paths(bench, dataset)

    world.run(run, work)


def test_robots_and_noindex_are_respected(run: Run, world: World):
    async def work(bench: Bench) -> None:
        site = world.site
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        site.pages["/robots.txt"] = "User-agent: *\nDisallow: /hr/"
        site.pages["/a"] += '<meta name="robots" content="noindex">'
        await synchronised(bench, dataset, world.open(bench))
        assert sorted(await world.paths(bench, dataset)) == ["/", "/b"]
        assert "/hr/pay" not in site.take_requests()

    world.run(run, work)


def test_pages_that_fail_do_not_stop_the_others(run: Run, world: World):
    async def work(bench: Bench) -> None:
        site = world.site
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        broken = [f"/broken/{number}" for number in range(4)]
        site.put("/", "Start.", *broken, "/a", "/large")
        site.broken = set(broken)
        site.pages["/large"] = "x" * (21 << 20)
        report = await synchronised(bench, dataset, world.open(bench))
        assert (counts(report), report.skipped) == ((3, 0, 0, 0, 0), 5)
        # If the site does not answer either, the pass stops, and deletes nothing.
        cursor = (await anext(world.open(bench).changes(""))).cursor
        site.is_away = True
        with pytest.raises(SourceError, match="cannot be read"):
            async for _ in world.open(bench, page_size=10).changes(cursor):
                pass
        # A page that is too large hinders no deletion.
        site.is_away, site.broken = False, set()
        site.put("/", "Start.", "/large")
        report = await synchronised(bench, dataset, world.open(bench))
        assert (report.deleted, report.skipped) == (2, 1)

    world.run(run, work)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs a start URL"),
        ({"urls": ["ftp://example.com/"]}, "'urls' must be http"),
        ({"urls": ["https://ada:x@example.com/"]}, "without user names"),
        ({"urls": ["https://example.com/"], "sitemap": "map.xml"}, "'sitemap' must be"),
        ({"urls": ["https://example.com/"], "max_pages": 0}, "'max_pages' must be from 1"),
        ({"urls": ["https://example.com/"], "prefixes": ["docs"]}, "beginnings of paths"),
    ],
)  # fmt: skip
def test_invalid_settings_of_a_site_are_refused(run: Run, settings: Any, message: str):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        definition = SourceDefinition(name="site", connector="web", settings=settings)
        with pytest.raises(InvokeBadRequestError, match=message):
            await bench.parts.sources.add(dataset, definition)

    run(work)
