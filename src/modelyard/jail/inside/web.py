"""What pages, sitemaps, feeds and robots.txt files say to a crawler. Runs in the jail alone: strangers wrote them.

Addresses are given back as they were written; where they lead is worked out outside. Feeds are read with lxml too:
feedparser took 9 s for 8 MB where lxml takes 0.3 s, and time with the square of what a hostile feed leaves open
(November 2026).
"""

import re
import zlib
from html.entities import html5
from typing import Any

import documents  # pyright: ignore[reportMissingImports]
import lxml.etree as etree
import lxml.html
import protego

_MOST_UNPACKED = 50 << 20  # of a sitemap, as its protocol has it
MOST_ENTRIES = 50_000  # of a sitemap, likewise
_MOST_LINKS = 20_000
_MOST_ROBOTS = 500 << 10  # RFC 9309, 2.5: a reader takes so much at least
_LONGEST = 8192  # characters of an address
_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_XML_NAMES = frozenset({"amp", "lt", "gt", "quot", "apos"})
_BASE = "{http://www.w3.org/XML/1998/namespace}base"
_RDF_ABOUT = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}about"
_ATOM = frozenset({"http://www.w3.org/2005/Atom", "http://purl.org/atom/ns#"})
_RELATION = "http://www.iana.org/assignments/relation/"


def read(task: Any, data: Any) -> Any:
    """By `task["of"]`. Raises documents.Unsupported."""
    return _READERS[task["of"]](task, data)


# ------------------------------------------------------------------------------------------------ HTML


def page(task: Any, data: Any) -> Any:
    """{"links": [[address, relations]], "base", "encoding", "robots": [what meta elements say], "canonical"}."""
    root, encoding = _html(data, task["charset"])
    bases = [one.get("href") for one in root.iter("base") if one.get("href") is not None]
    said = [one.get("content") or "" for one in root.iter("meta") if _is_for_us(one.get("name"), task["agent"])]
    canonical = [one.get("href") for one in root.iter("link") if "canonical" in _relations(one) and one.get("href")]
    links = []
    for one in root.iter("a", "area"):
        address = one.get("href")
        if address is None or len(address) > _LONGEST or _is_inert(one):
            continue
        links.append([address, _relations(one)])
        if len(links) == _MOST_LINKS:
            break
    return {
        "links": links, "base": bases[0] if bases else "", "encoding": encoding, "robots": said,
        "canonical": canonical[0] if canonical else "",
    }  # fmt: skip


def _html(data: Any, charset: Any) -> Any:
    """(the root, its encoding): a byte order mark's, the header's, UTF-8 where it is that, else what the page says."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _parsed_html(data[len(mark) :].decode(encoding, "replace")), encoding
    if charset:
        return _parsed_html(data.decode(charset, "replace")), charset
    try:
        return _parsed_html(data.decode("utf-8")), "utf-8"
    except UnicodeDecodeError:
        root = _root_of(data, lxml.html.HTMLParser(huge_tree=False, no_network=True))
        return root, root.getroottree().docinfo.encoding or "utf-8"


def _parsed_html(text: Any) -> Any:
    parser = lxml.html.HTMLParser(huge_tree=False, no_network=True, encoding="utf-8")
    return _root_of(text.encode("utf-8", "replace"), parser)


def _root_of(data: Any, parser: Any) -> Any:
    try:
        return lxml.html.document_fromstring(data, parser=parser)
    except etree.ParserError:
        raise documents.Unsupported("the page is empty") from None


def _is_for_us(name: Any, agent: Any) -> Any:
    return (name or "").strip().lower() in ("robots", agent)


def _relations(node: Any) -> Any:
    return (node.get("rel") or "").lower().split()


def _is_inert(node: Any) -> Any:
    """Whether it is part of a template, which a page does not show."""
    return next(node.iterancestors("template"), None) is not None


# ------------------------------------------------------------------------------------------------ XML


def _xml(data: Any, charset: Any) -> Any:
    """The root of a document, or None. Entities that it declares stay what they are: a few lines of them can stand for
    gigabytes, or for a file of this machine."""
    for attempt in (_as_declared, _as_the_header_says, _as_it_was_meant):
        try:
            root = attempt(data, charset)
        except (etree.XMLSyntaxError, ValueError, LookupError):
            continue
        if root is not None:
            return root
    return None


def _parser(is_lenient: Any = False) -> Any:
    return etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True,
        remove_pis=True, recover=is_lenient,
    )  # fmt: skip


def _as_declared(data: Any, charset: Any) -> Any:
    """By its byte order mark or its declaration. The header's encoding comes before the declaration (RFC 7303, 3)."""
    has_mark = any(data.startswith(mark) for mark, _ in _MARKS)
    if charset and not has_mark:
        return None
    return etree.fromstring(data.lstrip(b" \t\r\n"), _parser())


def _as_the_header_says(data: Any, charset: Any) -> Any:
    if not charset:
        return None
    return etree.fromstring(_undeclared(data.decode(charset)), _parser())


def _as_it_was_meant(data: Any, charset: Any) -> Any:
    """What is nearly XML: an encoding that is not the declared one, ampersands that stand for themselves, HTML's
    entities."""
    del charset
    text = documents.text(data) if b"\0" not in data[:4] or data[:2] in (b"\xff\xfe", b"\xfe\xff") else _wide(data)
    if "<!ENTITY" in text:
        return None  # what it declares would be taken for what it says
    text = re.sub(r"&(#?\w{1,40};)?", _escaped, text)
    return etree.fromstring(_undeclared(text), _parser(is_lenient=True))


def _wide(data: Any) -> Any:
    """UTF-16 that has no byte order mark: what begins with a sign of ASCII has a zero before or behind it."""
    return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le", "replace")


def _escaped(found: Any) -> Any:
    if found[1] is None:
        return "&amp;"
    if found[1].startswith("#") or found[1].rstrip(";") in _XML_NAMES:
        return found[0]
    return html5.get(found[1], "&amp;" + found[1])


def _undeclared(text: Any) -> Any:
    """As UTF-8, without the declaration, which names another encoding."""
    return re.sub(r"^[\ufeff\s]*(<\?xml\b[^>]{0,500}\?>)?\s*", "", text).encode("utf-8", "replace")


def _name(node: Any) -> Any:
    return node.tag.rpartition("}")[2].lower() if isinstance(node.tag, str) else ""


def _namespace(node: Any) -> Any:
    return node.tag[1:].partition("}")[0] if node.tag.startswith("{") else ""


def _words(node: Any) -> Any:
    """What an element says; nothing where an entity stands in it that only its document knows."""
    if node is None or any(isinstance(one, etree._Entity) for one in node):
        return ""
    return (node.text or "").strip()[:_LONGEST]


def _child(node: Any, name: Any) -> Any:
    """The first child of that name which the node's own vocabulary has, and not an extension's."""
    for one in node:
        if _name(one) == name and _namespace(one) == _namespace(node):
            return one
    return None


# ------------------------------------------------------------------------------------------------ sitemaps


def sitemap(task: Any, data: Any) -> Any:
    """{"is_index", "entries": [[address, lastmod]], "is_cut": whether there are more than may be}. A sitemap may be a
    feed, or addresses in lines of text, too."""
    data = _unpacked(data)
    if not data.lstrip(b"\xef\xbb\xbf \t\r\n\0").startswith((b"<", b"\xff\xfe", b"\xfe\xff")):
        return _lines(data, task["charset"])
    root = _xml(data, task["charset"])
    if root is None:
        raise documents.Unsupported("it is no sitemap")
    kind = _name(root)
    if kind in ("rss", "feed", "rdf"):
        links = [[address, ""] for address, _ in _feed_entries(root) if address]
        return _cut(links, is_index=False)
    if kind not in ("urlset", "sitemapindex"):
        raise documents.Unsupported("it is no sitemap")
    entries = []
    for one in root:
        address = _words(_child(one, "loc")) if _name(one) in ("url", "sitemap") else ""
        if address:
            entries.append([address, _words(_child(one, "lastmod"))[:40]])
        if len(entries) > MOST_ENTRIES:
            break
    return _cut(entries, is_index=kind == "sitemapindex")


def _cut(entries: Any, is_index: Any) -> Any:
    return {"is_index": is_index, "entries": entries[:MOST_ENTRIES], "is_cut": len(entries) > MOST_ENTRIES}


def _unpacked(data: Any) -> Any:
    if data[:2] != b"\x1f\x8b":
        return data
    inflate = zlib.decompressobj(wbits=31)
    try:
        plain = inflate.decompress(data, _MOST_UNPACKED + 1)
    except zlib.error as error:
        raise documents.Unsupported("it cannot be unpacked: %s" % error) from None
    if len(plain) > _MOST_UNPACKED:
        raise documents.Unsupported("it unpacks to more than %d MB" % (_MOST_UNPACKED >> 20))
    return plain


def _lines(data: Any, charset: Any) -> Any:
    text = data.decode(charset, "replace") if charset else documents.text(data)
    entries = [[one.strip()[:_LONGEST], ""] for one in text.split("\n") if re.match(r"\s*https?://\S+\s*$", one)]
    if not entries:
        raise documents.Unsupported("it is no sitemap")
    return _cut(entries, is_index=False)


# ------------------------------------------------------------------------------------------------ feeds


def feed(task: Any, data: Any) -> Any:
    """{"entries": [[address, bases]]}: an address is empty where an entry leads nowhere; `bases` are those that hold
    for it, outermost first."""
    root = _xml(data, task["charset"])
    if root is None or _name(root) not in ("rss", "feed", "rdf"):
        raise documents.Unsupported("it is no RSS or Atom feed")
    entries = _feed_entries(root)
    if not entries:
        raise documents.Unsupported("it is no RSS or Atom feed with entries")
    return {"entries": entries}


def _feed_entries(root: Any) -> Any:
    wanted = "entry" if _name(root) == "feed" else "item"
    found = []
    for one in root.iter():
        if _name(one) == wanted and len(found) < MOST_ENTRIES:
            found.append(_atom_link(one) if wanted == "entry" else _rss_link(one))
    return found


def _rss_link(item: Any) -> Any:
    """RSS 2.0: its link, else a guid that is a permanent address; RSS 1.0: its link, else what it is about."""
    link, guid = _child(item, "link"), _child(item, "guid")
    if address := _words(link):
        return [address, _bases(link)]
    is_permanent = guid is not None and (guid.get("isPermaLink") or "true").strip().lower() == "true"
    if is_permanent and re.match(r"(?i)https?://", _words(guid)):
        return [_words(guid), _bases(guid)]
    if about := item.get(_RDF_ABOUT):
        return [about[:_LONGEST], _bases(item)]
    return _atom_link(item)


def _atom_link(entry: Any) -> Any:
    """RFC 4287, 4.2.7: the alternate, which is what a link is that does not say what it is. A page comes first."""
    links = [one for one in entry if _name(one) == "link" and _namespace(one) in (_namespace(entry), *_ATOM)]
    alternates = [one for one in links if _relation(one) == "alternate" and one.get("href")]
    pages = [one for one in alternates if "html" in (one.get("type") or "html").lower()]
    for one in (*pages, *alternates):
        return [one.get("href")[:_LONGEST], _bases(one)]
    return ["", []]


def _relation(link: Any) -> Any:
    return (link.get("rel") or "alternate").strip().lower().removeprefix(_RELATION)


def _bases(node: Any) -> Any:
    found = [one.get(_BASE) for one in (node, *node.iterancestors()) if one.get(_BASE)]
    return found[::-1]


# ------------------------------------------------------------------------------------------------ robots.txt


def robots(task: Any, data: Any) -> Any:
    """{"allowed": for each of `task["addresses"]`, "delay": seconds that it asks for between two requests, or None}."""
    if len(data) > _MOST_ROBOTS:
        data = data[:_MOST_ROBOTS].rpartition(b"\n")[0]  # half a rule would be another rule
    text = data.decode("utf-8-sig", "replace")
    rules = protego.Protego.parse(_named_exactly(text, task["agent"]))
    return {
        "allowed": [bool(rules.can_fetch(one, task["agent"])) for one in task["addresses"]],
        "delay": rules.crawl_delay(task["agent"]),
    }


def _named_exactly(text: Any, agent: Any) -> Any:
    """With groups for this crawler, for all, and for others. A group is for whom its product token names (RFC 9309,
    2.2.1), and protego takes one for `model` as one for `model-reader` too."""

    def named(found: Any) -> Any:
        token = found[2].lower()
        return found[1] + (token if token in ("*", agent) else "somebody/else")

    return re.sub(r"(?im)^([ \t]*user-?[ \t]?agent[ \t]*:[ \t]*)([a-z_-]+|\*)[^\r\n]*", named, text)


_READERS = {"page": page, "sitemap": sitemap, "feed": feed, "robots": robots}
