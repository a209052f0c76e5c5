"""Sites on loopback, and the requests that a crawler may send them.

Used by the tests and by `make show WHAT=crawl`.
"""

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

from modelyard.testing import Answer, UpstreamRequest

_ATOM = 'xmlns="http://www.w3.org/2005/Atom"'
_RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/"'
_SITEMAP = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'


@dataclass(frozen=True)
class Reply:
    """A site's response. `BASE` in a text body stands for the site's own URL."""

    body: str | bytes = ""
    kind: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


Files = Mapping[str, str | bytes | Reply | Callable[[int], Reply]]
"""A path → its response, or a function of the number of earlier requests."""


@dataclass(frozen=True)
class Case:
    name: str
    files: Files
    asked: Sequence[str]
    """The requested paths in order, without robots.txt; with the host if it is another.
    """
    how: str = "pages"
    start: str = "/"
    error: str = ""
    """A pattern of the error if nothing can be loaded."""
    left_out: Sequence[str] = ()
    """Patterns of the reasons, in order."""
    documents: int | None = None
    again: Sequence[str] | None = None
    """The paths that a second crawl of the same site requests."""
    counts: Mapping[str, int] | None = None
    """The counts that the second crawl reports."""
    max_pages: int = 50
    manners: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Site:
    """Answers as a case describes, and records its requests."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._count: dict[str, int] = {}
        self.asked: list[str] = []
        self.base = ""

    def answer(self, request: UpstreamRequest) -> Answer:
        if request.path != "/robots.txt":
            host = request.headers.get("host", "")
            self.asked.append(
                request.path
                if self.base.endswith(f"/{host}")
                else f"{host.partition(':')[0]}{request.path}"
            )
        count = self._count[request.path] = self._count.get(request.path, -1) + 1
        configured_reply = self._files.get(request.path, Reply(status=404))
        reply = (
            configured_reply(count) if callable(configured_reply) else configured_reply
        )
        return self._sent(request, reply if isinstance(reply, Reply) else Reply(reply))

    def _sent(self, request: UpstreamRequest, reply: Reply) -> Answer:
        body = (
            reply.body.replace("BASE", self.base).encode()
            if isinstance(reply.body, str)
            else reply.body
        )
        headers = {
            name: value.replace("BASE", self.base)
            for name, value in reply.headers.items()
        }
        if (etag := headers.get("etag")) and request.headers.get(
            "if-none-match"
        ) == etag:
            return Answer(status=304, headers=headers)
        if (modified := headers.get("last-modified")) and request.headers.get(
            "if-modified-since"
        ) == modified:
            return Answer(status=304, headers=headers)
        content_type = reply.kind or _kind_of(request.path, body)
        return Answer(
            status=reply.status,
            headers={"content-type": content_type, **headers},
            body=body,
        )


def _kind_of(path: str, body: bytes) -> str:
    if path == "/robots.txt":
        return "text/plain"
    return "text/xml" if "map" in path or "feed" in path else "text/html"


def html(body: str, head: str = "") -> str:
    return f"<!doctype html><html><head><title>t</title>{head}</head><body><p>Words of a page.</p>{body}</body></html>"


def urlset(*entries: str) -> str:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><urlset {_SITEMAP}>'
        + "".join(entries)
        + "</urlset>"
    )


def rss(items: str, attributes: str = "") -> str:
    return f'<rss version="2.0" {attributes}><channel><link>BASE/channel</link>{items}</channel></rss>'


def atom(entries: str, attributes: str = "") -> str:
    return f'<feed {_ATOM} {attributes}><link href="BASE/feed-page"/>{entries}</feed>'


def page_of(name: str) -> str:
    return html(f"<p>This is {name}.</p>")


def redirect_reply(to: str, status: int = 301) -> Reply:
    return Reply(status=status, headers={"location": to})


def _html_case(
    name: str, body: str, *paths: str, head: str = "", **fields: Any
) -> Case:
    """Return a case with this start page; the linked pages have no links."""
    files = {"/": html(body, head)} | {path: page_of(path) for path in paths}
    return Case(f"HTML: {name}", files, ["/", *paths], **fields)


def _sitemap_case(
    name: str,
    body: str | bytes | Reply,
    *paths: str,
    start: str = "/map.xml",
    **fields: Any,
) -> Case:
    files = (
        {start: body}
        | {path: page_of(path) for path in paths}
        | fields.pop("files", {})
    )
    return Case(
        f"sitemap: {name}", files, [start, *paths], how="sitemap", start=start, **fields
    )


def _feed_case(
    name: str,
    body: str | bytes | Reply,
    *paths: str,
    start: str = "/feed",
    **fields: Any,
) -> Case:
    files = {start: body} | {path: page_of(path) for path in paths}
    return Case(
        f"feed: {name}", files, [start, *paths], how="feed", start=start, **fields
    )


def _robots_case(
    name: str, robots: str | Reply | Callable[[int], Reply], *paths: str, **fields: Any
) -> Case:
    """Return a case of a site with /a, /b/1 and /b/2."""
    files: Files = {
        "/robots.txt": robots, "/": html("<a href=/a>a</a><a href=/b/1>1</a><a href=/b/2>2</a>"),
        "/a": page_of("a"), "/b/1": page_of("one"), "/b/2": page_of("two"),
    }  # fmt: skip
    return Case(f"robots: {name}", files, paths, **fields)


_BARRED = "does not allow modelyard to fetch"
_ALL = ("/", "/a", "/b/1", "/b/2")
_DAY = "Mon, 02 Nov 2026 10:00:00 GMT"

HTML = (
    _html_case("an address without quotes", "<a href=/unquoted>x</a>", "/unquoted"),
    _html_case("a comment", '<!-- <a href="/commented"> --><a href="/b">x</a>', "/b"),
    _html_case("entities, once", '<a href="/q?a=1&amp;b=2">x</a>', "/q?a=1&b=2"),
    _html_case(
        "entities twice written", '<a href="/q?a=1&amp;amp;b=2">x</a>', "/q?a=1&amp;b=2"
    ),
    _html_case(
        "an ampersand by itself",
        '<a href="/q?a=1&b=2&copy=3">x</a>',
        "/q?a=1&b=2&copy=3",
    ),
    _html_case("a numeric entity", '<a href="/q&#x2F;r&#47;s">x</a>', "/q/r/s"),
    _html_case("area", '<map><area href="/area"></map>', "/area"),
    _html_case(
        "base",
        '<a href="x">x</a><a href="/y">y</a>',
        "/docs/x",
        "/y",
        head='<base href="BASE/docs/">',
    ),
    _html_case(
        "a base that is relative",
        '<a href="x">x</a>',
        "/docs/x",
        head='<base href="docs/">',
    ),
    _html_case(
        "the first base",
        '<a href="x">x</a>',
        "/one/x",
        head='<base href="/one/"><base href="/two/">',
    ),
    _html_case(
        "a base on another site",
        '<a href="x">x</a><a href="BASE/y">y</a>',
        "/y",
        head='<base href="http://localhost:1/">',
    ),
    _html_case(
        "nofollow",
        '<a rel="nofollow" href="/no">x</a><a rel="noopener NoFollow" href="/no2">x</a><a rel=noopener href="/yes">x</a>',
        "/yes",
    ),
    _html_case(
        "nofollow, followed where that is set",
        '<a rel="nofollow" href="/no">x</a>',
        "/no",
        manners={"follows_nofollow": True},
    ),
    _html_case(
        "meta robots nofollow",
        '<a href="/no">x</a>',
        head='<meta name="ROBOTS" content="index, NoFollow">',
        documents=1,
    ),
    _html_case(
        "meta for another crawler",
        '<a href="/yes">x</a>',
        "/yes",
        head='<meta name="otherbot" content="noindex, nofollow">',
    ),
    _html_case(
        "meta for this crawler",
        '<a href="/no">x</a>',
        head='<meta name="modelyard" content="nofollow">',
    ),
    _html_case(
        "noindex",
        '<a href="/b">x</a>',
        "/b",
        head='<meta name="robots" content="noindex">',
        documents=1,
        left_out=["noindex"],
    ),
    _html_case(
        "none",
        '<a href="/b">x</a>',
        head='<meta name="robots" content="none">',
        documents=0,
        left_out=["noindex"],
    ),
    _html_case(
        "scripts, styles and areas of text",
        "<script>var a = \"<a href='/script'>\";</script><style><a href=/style></style><textarea><a href=/text></textarea><template><a href=/template></template><a href=/b>x</a>",
        "/b",
    ),
    _html_case(
        "attributes of other names",
        """<a data-href="/data" title='href="/title"'>x</a><a href="/b" href="/second">x</a>""",
        "/b",
    ),
    _html_case("a sign that ends a tag", '<a title="a > b" href="/b">x</a>', "/b"),
    _html_case(
        "spaces and line breaks",
        '<a href=" /a b\n">x</a><a href="/c\nd">x</a>',
        "/a%20b",
        "/cd",
    ),
    _html_case("backslashes", r'<a href="\win\b">x</a>', "/win/b"),
    _html_case(
        "other schemes",
        '<a href="mailto:a@b.example">x</a><a href="javascript:go()">x</a><a href="tel:1">x</a><a href="data:text/html,x">x</a><a href="#top">x</a><a href="">x</a>',
    ),
    _html_case("capitals", '<A HREF="/b">x</A>', "/b"),
    _html_case(
        "an address that cannot be read",
        '<a href="http://[::1">x</a><a href="http://h:99999/">x</a><a href="/b">x</a>',
        "/b",
    ),
    _html_case(
        "the same page, spelt otherwise",
        '<a href="/a">x</a><a href="/a#part">x</a><a href="/./b/../a">x</a><a href="/%61">x</a><a href="BASE/a">x</a><a href="/c%2fd">x</a><a href="/c%2Fd">x</a><a href="?">x</a>',
        "/a",
        "/c%2fd",
    ),
    _html_case(
        "letters of other languages",
        '<a href="/straße?q=grün">x</a>',
        "/stra%C3%9Fe?q=gr%C3%BCn",
    ),
    Case(
        "HTML: windows-1251, said by the page",
        {
            "/": Reply(
                html('<a href="/д?q=д">x</a>', "<meta charset=windows-1251>").encode(
                    "cp1251"
                )
            ),
            "/%D0%B4?q=%E4": page_of("x"),
        },
        ["/", "/%D0%B4?q=%E4"],
    ),
    Case(
        "HTML: windows-1251, said by the header",
        {
            "/": Reply(
                html('<a href="/д">x</a>').encode("cp1251"),
                "text/html; charset=windows-1251",
            ),
            "/%D0%B4": page_of("x"),
        },
        ["/", "/%D0%B4"],
    ),
    Case(
        "HTML: an encoding that takes hours",
        {
            "/": Reply(
                html(
                    f'<a href="/x?q={"ü" * 500}">x</a><a href=/b>x</a>',
                    "<meta charset=punycode>",
                ).encode("latin-1")
            ),
            "/b": page_of("b"),
        },
        ["/", "/x?q=" + "%FC" * 500, "/b"],
        left_out=["404"],
    ),
    Case(
        "HTML: UTF-16",
        {"/": Reply(html('<a href="/b">x</a>').encode("utf-16")), "/b": page_of("x")},
        ["/", "/b"],
    ),
    Case(
        "HTML: the header X-Robots-Tag",
        {
            "/": Reply(
                html("<a href=/no>x</a>"), headers={"x-robots-tag": "noindex, nofollow"}
            )
        },
        ["/"],
        left_out=["noindex"],
        documents=0,
    ),
    Case(
        "HTML: X-Robots-Tag for another crawler",
        {
            "/": Reply(
                html("<a href=/b>x</a>"),
                headers={"x-robots-tag": "otherbot: noindex, nofollow"},
            ),
            "/b": page_of("b"),
        },
        ["/", "/b"],
        documents=2,
    ),
    Case(
        "HTML: a copy with a canonical address",
        {
            "/": html("<a href=/a?from=home>x</a><a href=/a>x</a>"),
            "/a?from=home": html("Lamp.", '<link rel="canonical" href="/a">'),
            "/a": html("Lamp.", '<link rel=canonical href="BASE/a">'),
        },
        ["/", "/a?from=home", "/a"],
        documents=2,
    ),
    Case(
        "HTML: a wrong canonical address",
        {
            "/": html("<a href=/a>x</a><a href=/b>x</a>"),
            "/a": html("One.", '<link rel="canonical" href="/">'),
            "/b": html("Two.", '<link rel="canonical" href="/">'),
        },
        ["/", "/a", "/b"],
        documents=3,
    ),
    Case(
        "HTML: another site",
        {
            "/": html(
                '<a href="http://localhost:1/x">x</a><a href="//other.example/">x</a><a href=/b>x</a>'
            ),
            "/b": page_of("b"),
        },
        ["/", "/b"],
    ),
    Case(
        "HTML: a document that is none",
        {
            "/": html("<a href=/f.txt>x</a>"),
            "/f.txt": Reply('See <a href="/inside">.', "text/plain"),
        },
        ["/", "/f.txt"],
    ),
)

SITEMAPS = (
    _sitemap_case(
        "entities", urlset("<url><loc>BASE/p?a=1&amp;b=2</loc></url>"), "/p?a=1&b=2"
    ),
    _sitemap_case(
        "CDATA",
        urlset("<url><loc><![CDATA[BASE/cd?a=1&b=2]]></loc></url>"),
        "/cd?a=1&b=2",
    ),
    _sitemap_case("spaces around", urlset("<url><loc>\n  BASE/a\n </loc></url>"), "/a"),
    _sitemap_case(
        "a comment",
        urlset(
            "<!-- <url><loc>BASE/no</loc></url> --><url><loc>BASE/<!-- x -->a</loc></url>"
        ),
        "/a",
    ),
    _sitemap_case(
        "no namespace, relative", "<urlset><url><loc>/a</loc></url></urlset>", "/a"
    ),
    _sitemap_case(
        "a prefix",
        f"<s:urlset {_SITEMAP.replace('xmlns', 'xmlns:s')}><s:url><s:loc>BASE/a</s:loc></s:url></s:urlset>",
        "/a",
    ),
    _sitemap_case(
        "pictures beside",
        f'<urlset {_SITEMAP} xmlns:image="http://www.google.com/schemas/sitemap-image/1.1"><url><image:image><image:loc>BASE/i.png</image:loc></image:image><loc>BASE/a</loc></url></urlset>',
        "/a",
    ),
    _sitemap_case(
        "gzip",
        gzip.compress(b"<urlset><url><loc>/a</loc></url></urlset>"),
        "/a",
        start="/map.xml.gz",
    ),
    _sitemap_case(
        "gzip, sent as gzip",
        Reply(
            gzip.compress(gzip.compress(b"<urlset><url><loc>/a</loc></url></urlset>")),
            "application/gzip",
            headers={"content-encoding": "gzip"},
        ),
        "/a",
        start="/map.xml.gz",
    ),
    _sitemap_case(
        "a gzip bomb",
        gzip.compress(b"<urlset>" + b" " * (60 << 20)),
        start="/map.xml.gz",
        error="unpacked size exceeds 50 MB",
    ),
    _sitemap_case(
        "UTF-16 with a declaration",
        '<?xml version="1.0" encoding="UTF-16"?><urlset><url><loc>/a</loc></url></urlset>'.encode(
            "utf-16"
        ),
        "/a",
    ),
    _sitemap_case(
        "UTF-16, big end first",
        b"\xfe\xff"
        + '<?xml version="1.0" encoding="UTF-16"?><urlset><url><loc>/a</loc></url></urlset>'.encode(
            "utf-16-be"
        ),
        "/a",
    ),
    _sitemap_case(
        "UTF-16 without a mark",
        '<?xml version="1.0" encoding="UTF-16"?><urlset><url><loc>/a</loc></url></urlset>'.encode(
            "utf-16-le"
        ),
        "/a",
    ),
    _sitemap_case(
        "UTF-8 with a mark",
        b"\xef\xbb\xbf"
        + b'<?xml version="1.0" encoding="UTF-8"?><urlset><url><loc>/a</loc></url></urlset>',
        "/a",
    ),
    _sitemap_case(
        "UTF-8 that says UTF-16",
        b'<?xml version="1.0" encoding="UTF-16"?><urlset><url><loc>/a</loc></url></urlset>',
        "/a",
    ),
    _sitemap_case(
        "Latin-1 by its declaration",
        '<?xml version="1.0" encoding="ISO-8859-1"?><urlset><url><loc>/é</loc></url></urlset>'.encode(
            "latin-1"
        ),
        "/%C3%A9",
    ),
    _sitemap_case(
        "Latin-1 by its header",
        Reply(
            "<urlset><url><loc>/é</loc></url></urlset>".encode("latin-1"),
            "text/xml; charset=iso-8859-1",
        ),
        "/%C3%A9",
    ),
    _sitemap_case(
        "an ampersand by itself",
        urlset("<url><loc>BASE/p?a=1&b=2</loc></url>"),
        "/p?a=1&b=2",
    ),
    _sitemap_case(
        "a space before the declaration",
        "\n " + urlset("<url><loc>BASE/a</loc></url>"),
        "/a",
    ),
    _sitemap_case(
        "an entity that reads a file",
        '<!DOCTYPE urlset [<!ENTITY f SYSTEM "file:///etc/passwd">]><urlset><url><loc>BASE/&f;</loc></url><url><loc>BASE/a</loc></url></urlset>',
        "/a",
    ),
    _sitemap_case(
        "a billion laughs",
        "<!DOCTYPE urlset [<!ENTITY a0 'ha'>"
        + "".join(
            f"<!ENTITY a{index} '{f'&a{index - 1};' * 10}'>" for index in range(1, 10)
        )
        + "]><urlset><url><loc>BASE/&a9;</loc></url></urlset>",
        error="Not a sitemap",
    ),
    _sitemap_case(
        "an entity of its own",
        "<!DOCTYPE urlset [<!ENTITY h 'x'>]><urlset><url><loc>BASE/&h;</loc></url><url><loc>BASE/a</loc></url></urlset>",
        "/a",
    ),
    _sitemap_case(
        "lines of text",
        Reply("BASE/a\nBASE/b\n", "text/plain"),
        "/a",
        "/b",
        start="/map.txt",
    ),
    _sitemap_case("a feed as a sitemap", rss("<item><link>BASE/a</link></item>"), "/a"),
    _sitemap_case(
        "a page that is none", html("<a href=/a>x</a>"), error="Not a sitemap"
    ),
    _sitemap_case(
        "an address twice",
        urlset("<url><loc>BASE/a</loc></url>", "<url><loc>BASE/a#x</loc></url>"),
        "/a",
    ),
    _sitemap_case(
        "an address of no web",
        urlset(
            "<url><loc>ftp://x.example/</loc></url>", "<url><loc>BASE/a</loc></url>"
        ),
        "/a",
        left_out=[r"Not an http\(s\) URL"],
    ),
    _sitemap_case(
        "too many entries",
        urlset(
            *(
                f"<url><loc>BASE/{'a' if index % 2 else 'b'}</loc></url>"
                for index in range(50_001)
            )
        ),
        "/b",
        "/a",
        left_out=["more than 50,000"],
    ),
    Case(
        "sitemap: an index",
        {
            "/map.xml": f"<sitemapindex {_SITEMAP}><sitemap><loc>BASE/m1.map?a=1&amp;b=2</loc></sitemap><sitemap><loc>BASE/lost.map</loc></sitemap><sitemap><loc>BASE/m2.map.gz</loc></sitemap></sitemapindex>",
            "/m1.map?a=1&b=2": urlset("<url><loc>BASE/a</loc></url>"),
            "/m2.map.gz": gzip.compress(b"<urlset><url><loc>/b</loc></url></urlset>"),
            "/a": page_of("a"),
            "/b": page_of("b"),
        },
        ["/map.xml", "/m1.map?a=1&b=2", "/lost.map", "/m2.map.gz", "/a", "/b"],
        how="sitemap",
        start="/map.xml",
        left_out=["404"],
    ),
    Case(
        "sitemap: an index that lists itself",
        {
            "/map.xml": "<sitemapindex><sitemap><loc>/map.xml</loc></sitemap><sitemap><loc>/m.map</loc></sitemap></sitemapindex>",
            "/m.map": "<urlset><url><loc>/a</loc></url></urlset>",
            "/a": page_of("a"),
        },
        ["/map.xml", "/m.map", "/a"],
        how="sitemap",
        start="/map.xml",
    ),
    Case(
        "sitemap: lastmod skips what did not change",
        {
            "/map.xml": lambda count: Reply(
                urlset(
                    "<url><loc>BASE/a</loc><lastmod>2020-01-01</lastmod></url>",
                    f"<url><loc>BASE/b</loc><lastmod>202{count}-01-01T00:00:00Z</lastmod></url>",
                    "<url><loc>BASE/c</loc></url>",
                    "<url><loc>BASE/d</loc><lastmod>2999-01-01</lastmod></url>",
                )
            ),
            "/a": page_of("a"),
            "/b": page_of("b"),
            "/c": page_of("c"),
            "/d": page_of("d"),
        },
        ["/map.xml", "/a", "/b", "/c", "/d"],
        how="sitemap",
        start="/map.xml",
        again=["/map.xml", "/b", "/c", "/d"],
        counts={"added": 0, "changed": 0, "deleted": 0, "same": 4},
    ),
)

FEEDS = (
    _feed_case(
        "RSS, CDATA",
        rss("<item><link><![CDATA[BASE/1?u=1&v=2]]></link></item>"),
        "/1?u=1&v=2",
    ),
    _feed_case(
        "RSS, entities",
        rss("<item><link>BASE/2?a=1&amp;b=2</link></item>"),
        "/2?a=1&b=2",
    ),
    _feed_case(
        "RSS, guid",
        rss(
            "<item><guid>BASE/g</guid></item><item><guid isPermaLink='true'>BASE/h</guid></item>"
        ),
        "/g",
        "/h",
    ),
    _feed_case(
        "RSS, a guid that is no address",
        rss(
            "<item><guid isPermaLink='false'>BASE/no</guid></item><item><guid>tag:1</guid></item><item><guid isPermaLink='false'>1</guid><link>BASE/a</link></item>"
        ),
        "/a",
        left_out=[r"no http\(s\) link", r"no http\(s\) link"],
    ),
    _feed_case(
        "RSS, link before guid",
        rss("<item><guid>BASE/g</guid><link>BASE/a</link></item>"),
        "/a",
    ),
    _feed_case(
        "RSS with Atom's self",
        rss(
            '<item><atom:link rel="self" href="BASE/self"/><link>BASE/a</link></item>',
            'xmlns:atom="http://www.w3.org/2005/Atom"',
        ),
        "/a",
    ),
    _feed_case(
        "RSS, a comment",
        rss("<item><!-- <link>BASE/no</link> --><link>BASE/a</link></item>"),
        "/a",
    ),
    _feed_case(
        "RSS, enclosure and source",
        rss(
            '<item><enclosure url="BASE/e.mp3"/><source url="BASE/s"/><link>BASE/a</link></item>'
        ),
        "/a",
    ),
    _feed_case(
        "RSS, markup in a description",
        rss(
            "<item><description>&lt;link&gt;BASE/no&lt;/link&gt;<![CDATA[<item><link>BASE/no2</link></item>]]></description><link>BASE/a</link></item>"
        ),
        "/a",
    ),
    _feed_case(
        "RSS, HTML's entities",
        rss("<item><title>a&nbsp;&eacute;</title><link>BASE/a</link></item>"),
        "/a",
    ),
    _feed_case(
        "RSS, an ampersand by itself",
        rss("<item><link>BASE/a?x=1&y=2</link></item>"),
        "/a?x=1&y=2",
    ),
    _feed_case(
        "RSS, relative with xml:base",
        rss('<item xml:base="BASE/deep/"><link>a</link></item>', 'xml:base="BASE/x/"'),
        "/deep/a",
    ),
    _feed_case(
        "RSS 1.0",
        f'<rdf:RDF {_RDF}><channel rdf:about="BASE/"><link>BASE/c</link></channel><item rdf:about="BASE/about"><link>BASE/a</link></item><item rdf:about="BASE/b"><title>b</title></item></rdf:RDF>',
        "/a",
        "/b",
    ),
    _feed_case(
        "Atom, alternate",
        atom(
            '<entry><link rel="self" href="BASE/self"/><link rel="alternate" href="BASE/page"/></entry>'
        ),
        "/page",
    ),
    _feed_case(
        "Atom, no rel",
        atom(
            '<entry><link rel="enclosure" href="BASE/e.mp3"/><link href="BASE/a"/></entry>'
        ),
        "/a",
    ),
    _feed_case(
        "Atom, a page before other forms",
        atom(
            '<entry><link rel="alternate" type="application/pdf" href="BASE/p.pdf"/><link rel="alternate" type="text/html" href="BASE/a"/></entry>'
        ),
        "/a",
    ),
    _feed_case(
        "Atom, self alone",
        atom(
            '<entry><id>BASE/id</id><link rel="self" href="BASE/self"/></entry><entry><link href="BASE/a"/></entry>'
        ),
        "/a",
        left_out=[r"no http\(s\) link"],
    ),
    _feed_case(
        "Atom, the relation as an address",
        atom(
            '<entry><link rel="http://www.iana.org/assignments/relation/alternate" href="BASE/a"/></entry>'
        ),
        "/a",
    ),
    _feed_case(
        "Atom, xml:base",
        atom(
            '<entry xml:base="c/"><link href="d?a=1&amp;b=2"/></entry>',
            'xml:base="BASE/b/"',
        ),
        "/b/c/d?a=1&b=2",
    ),
    _feed_case(
        "Atom, a source within",
        atom(
            '<entry><source><link href="BASE/source"/></source><link href="BASE/a"/></entry>'
        ),
        "/a",
    ),
    _feed_case(
        "Atom, a prefix",
        '<a:feed xmlns:a="http://www.w3.org/2005/Atom"><a:entry><a:link href="BASE/a"/></a:entry></a:feed>',
        "/a",
    ),
    _feed_case(
        "UTF-16",
        (
            '<?xml version="1.0" encoding="utf-16"?>'
            + '<rss version="2.0"><channel><item><link>/a</link></item></channel></rss>'
        ).encode("utf-16"),
        "/a",
    ),
    _feed_case("gone", Reply(status=410), error="status 410"),
    _feed_case("none", rss(""), error="Not an RSS or Atom feed, or no entries"),
    _feed_case("a page", html("<a href=/a>x</a>"), error="Not an RSS or Atom feed"),
)

ROBOTS = (
    _robots_case("everything", "User-agent: *\nDisallow: /", error=_BARRED),
    _robots_case(
        "a folder",
        "User-agent: *\nDisallow: /b/",
        "/",
        "/a",
        left_out=[_BARRED, _BARRED],
    ),
    _robots_case(
        "the longest match",
        "User-agent: *\nDisallow: /b/\nAllow: /b/2",
        "/",
        "/a",
        "/b/2",
        left_out=[_BARRED],
    ),
    _robots_case(
        "as long: allowed", "User-agent: *\nDisallow: /b/1\nAllow: /b/1", *_ALL
    ),
    _robots_case(
        "signs for many",
        "User-agent: *\nDisallow: /*/1$\nDisallow: /a$",
        "/",
        "/b/2",
        left_out=[_BARRED, _BARRED],
    ),
    _robots_case(
        "its own group alone",
        "User-agent: *\nDisallow: /\n\nUser-agent: Modelyard\nDisallow: /a",
        "/",
        "/b/1",
        "/b/2",
        left_out=[_BARRED],
    ),
    _robots_case(
        "two groups of its own",
        "User-agent: modelyard\nDisallow: /a\n\nUser-agent: x\nDisallow: /\n\nUser-agent: modelyard\nDisallow: /b/1",
        "/",
        "/b/2",
        left_out=[_BARRED, _BARRED],
    ),
    _robots_case(
        "a group for several",
        "User-agent: x\nUser-agent: modelyard\nDisallow: /a",
        "/",
        "/b/1",
        "/b/2",
        left_out=[_BARRED],
    ),
    _robots_case(
        "a group for another of a like name",
        "User-agent: model\nDisallow: /\n\nUser-agent: modelyard-images\nDisallow: /",
        *_ALL,
    ),
    _robots_case(
        "with a version",
        "User-agent: modelyard/2.0\nDisallow: /a",
        "/",
        "/b/1",
        "/b/2",
        left_out=[_BARRED],
    ),
    _robots_case(
        "an empty rule, a comment, a mark",
        "\ufeffUser-agent: * # all\r\nDisallow:\r\n",
        *_ALL,
    ),
    _robots_case("not there", Reply(status=404), *_ALL),
    _robots_case("forbidden", Reply("User-agent: *\nDisallow: /", status=403), *_ALL),
    _robots_case("broken", Reply(status=500), error="is not available.*status 500"),
    _robots_case(
        "out of order", Reply(status=503), error="is not available.*status 503"
    ),
    _robots_case("moved", redirect_reply("/elsewhere.txt"), "/elsewhere.txt", *_ALL),
    _robots_case(
        "ignored on one's own site",
        "User-agent: *\nDisallow: /",
        *_ALL,
        manners={"own_sites": True},
    ),
    _robots_case(
        "read once a day",
        lambda count: Reply("" if count == 0 else "User-agent: *\nDisallow: /"),
        *_ALL,
        again=_ALL,
        counts={"added": 0, "changed": 0, "deleted": 0, "same": 4},
    ),
    Case(
        "robots: where a redirect leads",
        {
            "/robots.txt": "User-agent: *\nDisallow: /secret",
            "/": html("<a href=/a>x</a>"),
            "/a": redirect_reply("/secret/a"),
        },
        ["/", "/a"],
        left_out=[_BARRED],
    ),
    Case(
        "robots: of a sitemap's pages",
        {
            "/robots.txt": "User-agent: *\nDisallow: /a",
            "/map.xml": urlset(
                "<url><loc>BASE/a</loc></url>", "<url><loc>BASE/b</loc></url>"
            ),
            "/b": page_of("b"),
        },
        ["/map.xml", "/b"],
        how="sitemap",
        start="/map.xml",
        left_out=[_BARRED],
    ),
    Case(
        "robots: of a feed",
        {"/robots.txt": "User-agent: *\nDisallow: /feed"},
        [],
        how="feed",
        start="/feed",
        error=_BARRED,
    ),
)

BEHAVIOUR_CASES = (
    Case(
        "redirect: within the site, seen once",
        {
            "/": html("<a href=/old>x</a><a href=/new>x</a><a href=/older>x</a>"),
            "/old": redirect_reply("/new"),
            "/older": redirect_reply("BASE/new#x", 302),
            "/new": page_of("new"),
        },
        ["/", "/old", "/new", "/older"],
        documents=2,
    ),
    Case(
        "redirect: from one spelling to another",
        {
            "/": html("<a href=/%7Eann>x</a>"),
            "/%7Eann": redirect_reply("/~ann"),
            "/~ann": page_of("ann"),
        },
        ["/", "/%7Eann", "/~ann"],
        documents=2,
    ),
    Case(
        "redirect: in a circle",
        {"/": html("<a href=/x>x</a>"), "/x": redirect_reply("/x")},
        ["/", *["/x"] * 6],
        left_out=["redirected more than 5 times"],
    ),
    Case(
        "redirect: to another site",
        {"/": html("<a href=/x>x</a>"), "/x": redirect_reply("http://localhost:1/")},
        ["/", "/x"],
        left_out=["another site"],
    ),
    Case(
        "redirect: the start to another site",
        {"/": redirect_reply("http://localhost:1/")},
        ["/"],
        error="another site",
    ),
    Case(
        "redirect: to no address",
        {"/": html("<a href=/x>x</a>"), "/x": redirect_reply("javascript:x")},
        ["/", "/x"],
        left_out=[r"not an http\(s\) URL"],
    ),
    Case(
        "failures: counted, with reasons",
        {
            "/": html("".join(f"<a href=/{index}>x</a>" for index in range(12))),
            "/3": Reply(status=500),
            "/4": page_of("four"),
            "/5": Reply(b"\0\1\2\3", "application/octet-stream"),
        },
        ["/", *(f"/{index}" for index in range(12))],
        left_out=[*["404"] * 3, "500", "neither text nor", *["404"] * 6],
        documents=2,
    ),
    Case(
        "failures: a page without text",
        {"/": html("<a href=/x>x</a>"), "/x": "<html><body></body></html>"},
        ["/", "/x"],
        left_out=["has no text"],
    ),
    Case("failures: the first page", {}, ["/"], error="status 404"),
    Case(
        "failures: nothing is deleted for a page that is away",
        {
            "/": html("<a href=/a>x</a>"),
            "/a": lambda count: (
                Reply(page_of("a")) if count == 0 else Reply(status=500)
            ),
        },
        ["/", "/a"],
        again=["/", "/a"],
        counts={"added": 0, "changed": 0, "deleted": 0, "same": 1},
    ),
    Case(
        "failures: a page that is gone is deleted",
        {
            "/": html("<a href=/a>x</a>"),
            "/a": lambda count: (
                Reply(page_of("a")) if count == 0 else Reply(status=410)
            ),
        },
        ["/", "/a"],
        again=["/", "/a"],
        counts={"added": 0, "changed": 0, "deleted": 1, "same": 1},
    ),
    Case(
        "again: ETag",
        {
            "/": Reply(html("<a href=/a>x</a>"), headers={"etag": '"1"'}),
            "/a": Reply(page_of("a"), headers={"etag": 'W/"2"'}),
        },
        ["/", "/a"],
        again=["/", "/a"],
        counts={"added": 0, "changed": 0, "deleted": 0, "same": 2},
    ),
    Case(
        "again: Last-Modified",
        {
            "/": Reply(html("<a href=/a>x</a>"), headers={"last-modified": _DAY}),
            "/a": page_of("a"),
        },
        ["/", "/a"],
        again=["/", "/a"],
        counts={"added": 0, "changed": 0, "deleted": 0, "same": 2},
    ),
    Case(
        "again: what changed",
        {
            "/": lambda count: Reply(
                html("<a href=/a>x</a>" + "News. " * count),
                headers={"etag": f'"{count}"'},
            ),
            "/a": page_of("a"),
        },
        ["/", "/a"],
        again=["/", "/a"],
        counts={"added": 0, "changed": 1, "deleted": 0, "same": 1},
    ),
    Case(
        "again: copies of a page that is the same",
        {
            "/": html("<a href=/a>x</a><a href=/a?x>x</a>"),
            "/a": Reply(html("Lamp."), headers={"etag": '"1"'}),
            "/a?x": html("Lamp.", '<link rel=canonical href="/a">'),
        },
        ["/", "/a", "/a?x"],
        again=["/", "/a", "/a?x"],
        counts={"added": 0, "changed": 0, "deleted": 0, "same": 2},
    ),
    Case(
        "busy: Retry-After in seconds",
        {
            "/": lambda count: (
                Reply(status=429, headers={"retry-after": "1"})
                if count == 0
                else Reply(page_of("x"))
            )
        },
        ["/", "/"],
        documents=1,
    ),
    Case(
        "busy: Retry-After as a date",
        {
            "/": lambda count: (
                Reply(status=503, headers={"retry-after": formatdate(usegmt=True)})
                if count == 0
                else Reply(page_of("x"))
            )
        },
        ["/", "/"],
        documents=1,
    ),
    Case(
        "busy: too often",
        {"/": Reply(status=429, headers={"retry-after": "0"})},
        ["/", "/", "/"],
        error="status 429",
    ),
    Case(
        "busy: longer than a crawl waits",
        {
            "/": html("<a href=/a>x</a><a href=/b>x</a>"),
            "/a": Reply(status=429, headers={"retry-after": "3600"}),
            "/b": page_of("b"),
        },
        ["/", "/a"],
        left_out=["429", "accepts the next request only in"],
        documents=1,
    ),
    Case(
        "busy: no word of when",
        {"/": html("<a href=/a>x</a>"), "/a": Reply(status=503)},
        ["/", "/a"],
        left_out=["503"],
    ),
)

CASES = {
    case.name: case for case in (*HTML, *SITEMAPS, *FEEDS, *ROBOTS, *BEHAVIOUR_CASES)
}
