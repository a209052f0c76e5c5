"""Parse pages, sitemaps, feeds and robots.txt files for a crawler. Runs only inside the
sandbox: the input is untrusted.

URLs are returned as written and resolved outside. Feeds are read with lxml too:
feedparser took 9 s for 8 MB where lxml takes 0.3 s, and quadratic time for unclosed
elements in a hostile feed (November 2026).
"""
# This program imports nothing of ours, and the packages it uses have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import re
import zlib
from html.entities import html5
from typing import Any

import document_formats  # pyright: ignore[reportMissingImports]
import lxml.etree as etree
import lxml.html
import protego

_MAX_UNPACKED = 50 << 20  # of a sitemap, as its protocol has it
MAX_ENTRIES = 50_000  # of a sitemap, likewise
_MAX_LINKS = 20_000
_MAX_ROBOTS_BYTES = 500 << 10  # RFC 9309, 2.5: a reader takes so much at least
_MAX_URL_CHARS = 8192  # characters of an address
# Byte order marks.
_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_XML_NAMES = frozenset({"amp", "lt", "gt", "quot", "apos"})
_BASE = "{http://www.w3.org/XML/1998/namespace}base"
_RDF_ABOUT = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}about"
_ATOM = frozenset({"http://www.w3.org/2005/Atom", "http://purl.org/atom/ns#"})
_RELATION = "http://www.iana.org/assignments/relation/"


def read(task: Any, data: Any) -> Any:
    """Parse a crawler's response body as the format that `task["of"]` names.

    Formats are `page`, `sitemap`, `feed` and `robots`; the function of that name
    describes the task's other fields and the result. Raises
    document_formats.Unsupported if the data has another format.
    """
    return _READERS[task["of"]](task, data)


# --------------------------------------------------------------------------------- HTML


def page(task: Any, data: Any) -> Any:
    """Return {"links": [[address, relations]], "base", "encoding", "robots": [contents
    of meta elements], "canonical"}."""
    root, encoding = _html(data, task["charset"])
    bases = [
        element.get("href")
        for element in root.iter("base")
        if element.get("href") is not None
    ]
    robots_directives = [
        element.get("content") or ""
        for element in root.iter("meta")
        if _applies_to_agent(element.get("name"), task["agent"])
    ]
    canonical = [
        element.get("href")
        for element in root.iter("link")
        if "canonical" in _relations(element) and element.get("href")
    ]
    return {
        "links": _links(root),
        "base": bases[0] if bases else "",
        "encoding": encoding,
        "robots": robots_directives,
        "canonical": canonical[0] if canonical else "",
    }


def _links(root: Any) -> Any:
    """Return [[address, relations]] of the page's links, at most _MAX_LINKS."""
    links = []
    for anchor in root.iter("a", "area"):
        # Links in templates are not part of the page; overlong ones are useless.
        address = anchor.get("href")
        if address is None or len(address) > _MAX_URL_CHARS or _is_inert(anchor):
            continue
        links.append([address, _relations(anchor)])
        if len(links) == _MAX_LINKS:
            break
    return links


def _html(data: Any, charset: Any) -> Any:
    """Return (root, encoding) of an HTML page.

    The encoding is that of the byte order mark, else of the HTTP header, else UTF-8 if
    it is valid, else what the page declares.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _parsed_html(data[len(mark) :].decode(encoding, "replace")), encoding
    if charset:
        return _parsed_html(data.decode(charset, "replace")), charset
    try:
        return _parsed_html(data.decode("utf-8")), "utf-8"
    # Neither header nor UTF-8: let libxml2 detect the declared encoding.
    except UnicodeDecodeError:
        root = _root_of(data, lxml.html.HTMLParser(huge_tree=False, no_network=True))
        return root, root.getroottree().docinfo.encoding or "utf-8"


def _parsed_html(text: Any) -> Any:
    """Parse a page without loading anything."""
    parser = lxml.html.HTMLParser(huge_tree=False, no_network=True, encoding="utf-8")
    return _root_of(text.encode("utf-8", "replace"), parser)


def _root_of(data: Any, parser: Any) -> Any:
    """Parse an HTML page and return its root element.

    Raises document_formats.Unsupported if it is empty.
    """
    try:
        return lxml.html.document_fromstring(data, parser=parser)
    except etree.ParserError:
        raise document_formats.Unsupported("The page is empty") from None


def _applies_to_agent(name: Any, agent: Any) -> Any:
    """Return whether a `meta` element speaks to all crawlers or to this one."""
    return (name or "").strip().lower() in ("robots", agent)


def _relations(node: Any) -> Any:
    """Return the relations of a link; there can be several."""
    return (node.get("rel") or "").lower().split()


def _is_inert(node: Any) -> Any:
    """Return whether the element is inside a `template`, whose content a browser does
    not show."""
    return next(node.iterancestors("template"), None) is not None


# ---------------------------------------------------------------------------------- XML


def _xml(data: Any, charset: Any) -> Any:
    """Return the root of an XML document, or None if it cannot be parsed.

    Declared entities are not expanded: they can stand for gigabytes, or for a file of
    this machine.
    """
    # From strict to lenient; the first reading that succeeds counts.
    for attempt in (_parse_as_declared, _parse_with_header_charset, _parse_leniently):
        try:
            root = attempt(data, charset)
        except (etree.XMLSyntaxError, ValueError, LookupError):
            continue
        if root is not None:
            return root
    return None


def _parser(is_lenient: Any = False) -> Any:
    """Create an XML parser that loads nothing and expands no entities.

    A lenient one repairs malformed documents instead of raising XMLSyntaxError.
    """
    return etree.XMLParser(
        # No network, no DTD and no entities: the document must not make the parser load
        # anything.
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
        recover=is_lenient,
    )


def _parse_as_declared(data: Any, charset: Any) -> Any:
    """Parse with the encoding of the byte order mark or the XML declaration.

    Returns None if the HTTP header names one, because that takes precedence (RFC 7303,
    section 3).
    """
    has_mark = any(data.startswith(mark) for mark, _ in _BYTE_ORDER_MARKS)
    if charset and not has_mark:
        return None
    return etree.fromstring(data.lstrip(b" \t\r\n"), _parser())


def _parse_with_header_charset(data: Any, charset: Any) -> Any:
    """Parse XML as the header says; None if it names no character set."""
    if not charset:
        return None
    return etree.fromstring(_without_declaration(data.decode(charset)), _parser())


def _parse_leniently(data: Any, charset: Any) -> Any:
    """Parse almost-XML: a wrong encoding declaration, bare ampersands, HTML entities.
    None if it declares entities."""
    del charset
    text = (
        document_formats.text(data)
        if b"\0" not in data[:4] or data[:2] in (b"\xff\xfe", b"\xfe\xff")
        else _decode_utf16(data)
    )
    if "<!ENTITY" in text:
        return None  # what it declares would be taken for what it says
    text = re.sub(r"&(#?\w{1,40};)?", _escape_entity, text)
    return etree.fromstring(_without_declaration(text), _parser(is_lenient=True))


def _decode_utf16(data: Any) -> Any:
    """Decode UTF-16 without a byte order mark: an ASCII character has a zero byte
    before or after it."""
    return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le", "replace")


def _escape_entity(match: Any) -> Any:
    """Return the replacement of one `&` with its reference, if there is one.

    Numeric references and XML's own entities are kept, HTML's become their characters,
    and any other `&` is escaped. Group 1 of the match is the reference without `&`.
    """
    if match[1] is None:
        return "&amp;"
    # Numeric references and XML's own entities stay; HTML's are replaced by their
    # characters.
    if match[1].startswith("#") or match[1].rstrip(";") in _XML_NAMES:
        return match[0]
    return html5.get(match[1], "&amp;" + match[1])


def _without_declaration(text: Any) -> Any:
    """Return the text as UTF-8 without its XML declaration, which names another
    encoding."""
    return re.sub(r"^[\ufeff\s]*(<\?xml\b[^>]{0,500}\?>)?\s*", "", text).encode(
        "utf-8", "replace"
    )


def _name(node: Any) -> Any:
    """Return an element's name without its namespace; empty for a comment."""
    return node.tag.rpartition("}")[2].lower() if isinstance(node.tag, str) else ""


def _namespace(node: Any) -> Any:
    """Return an element's namespace; empty if it has none."""
    return node.tag[1:].partition("}")[0] if node.tag.startswith("{") else ""


def _element_text(node: Any) -> Any:
    """Return an element's text; "" if it contains an entity that only the document
    defines."""
    if node is None or any(isinstance(child, etree._Entity) for child in node):
        return ""
    return (node.text or "").strip()[:_MAX_URL_CHARS]


def _child(node: Any, name: Any) -> Any:
    """Return the first child of that name in the node's own namespace, or None.
    Extensions may reuse the name."""
    for child in node:
        if _name(child) == name and _namespace(child) == _namespace(node):
            return child
    return None


# ----------------------------------------------------------------------------- sitemaps


def sitemap(task: Any, data: Any) -> Any:
    """Return {"is_index", "entries": [[address, lastmod]], "is_cut": whether entries
    were left out}.

    A sitemap may also be a feed, or a text file with one URL per line.
    """
    data = _decompress(data)
    # Anything that does not start like XML is taken as a list of URLs.
    if not data.lstrip(b"\xef\xbb\xbf \t\r\n\0").startswith(
        (b"<", b"\xff\xfe", b"\xfe\xff")
    ):
        return _parse_url_list(data, task["charset"])
    root = _xml(data, task["charset"])
    if root is None:
        raise document_formats.Unsupported("Not a sitemap")
    root_name = _name(root)
    if root_name in ("rss", "feed", "rdf"):
        links = [[address, ""] for address, _ in _feed_entries(root) if address]
        return _sitemap_result(links, is_index=False)
    if root_name not in ("urlset", "sitemapindex"):
        raise document_formats.Unsupported("Not a sitemap")
    entries = _sitemap_entries(root)
    return _sitemap_result(entries, is_index=root_name == "sitemapindex")


def _sitemap_entries(root: Any) -> Any:
    """Return [[address, lastmod]]; one more than MAX_ENTRIES at most, so that
    truncation can be reported."""
    entries = []
    for element in root:
        # Unknown elements may be extensions and are skipped.
        if _name(element) not in ("url", "sitemap"):
            continue
        address = _element_text(_child(element, "loc"))
        if address:
            entries.append([address, _element_text(_child(element, "lastmod"))[:40]])
        if len(entries) > MAX_ENTRIES:
            break
    return entries


def _sitemap_result(entries: Any, is_index: Any) -> Any:
    """Return the result for a sitemap, limited to MAX_ENTRIES entries."""
    return {
        "is_index": is_index,
        "entries": entries[:MAX_ENTRIES],
        "is_cut": len(entries) > MAX_ENTRIES,
    }


def _decompress(data: Any) -> Any:
    """Unpack gzip data; return other data unchanged.

    Truncated data gives its beginning. Raises document_formats.Unsupported if it is
    damaged or unpacks to more than 50 MiB.
    """
    if data[:2] != b"\x1f\x8b":
        return data
    # 31: gzip format with its header.
    inflate = zlib.decompressobj(wbits=31)
    try:
        # The limit on the output stops decompression bombs.
        plain = inflate.decompress(data, _MAX_UNPACKED + 1)
    except zlib.error as error:
        raise document_formats.Unsupported("Invalid gzip data: %s" % error) from None
    if len(plain) > _MAX_UNPACKED:
        raise document_formats.Unsupported(
            "The unpacked size exceeds %d MB" % (_MAX_UNPACKED >> 20)
        )
    return plain


def _parse_url_list(data: Any, charset: Any) -> Any:
    """Return the result for a text sitemap, which has one URL per line.

    Other lines are ignored. Raises document_formats.Unsupported if there is no http(s)
    URL.
    """
    text = data.decode(charset, "replace") if charset else document_formats.text(data)
    entries = [
        [line.strip()[:_MAX_URL_CHARS], ""]
        for line in text.split("\n")
        if re.match(r"\s*https?://\S+\s*$", line)
    ]
    if not entries:
        raise document_formats.Unsupported("Not a sitemap")
    return _sitemap_result(entries, is_index=False)


# -------------------------------------------------------------------------------- feeds


def feed(task: Any, data: Any) -> Any:
    """Return {"entries": [[address, bases]]}.

    The address is "" if an entry has no link; `bases` are the base URLs that apply to
    it, outermost first.
    """
    root = _xml(data, task["charset"])
    if root is None or _name(root) not in ("rss", "feed", "rdf"):
        raise document_formats.Unsupported("Not an RSS or Atom feed")
    entries = _feed_entries(root)
    if not entries:
        raise document_formats.Unsupported("Not an RSS or Atom feed, or no entries")
    return {"entries": entries}


def _feed_entries(root: Any) -> Any:
    """Return [address, bases] of each entry of a feed, at most MAX_ENTRIES.

    Entries are `entry` elements in Atom and `item` elements in RSS. The address is
    empty if an entry has no link.
    """
    is_atom = _name(root) == "feed"
    entry_name, link_of = ("entry", _atom_link) if is_atom else ("item", _rss_link)
    entries = []
    for element in root.iter():
        if _name(element) == entry_name and len(entries) < MAX_ENTRIES:
            entries.append(link_of(element))
    return entries


def _rss_link(item: Any) -> Any:
    """Return [address, bases]: in RSS 2.0 the link, else a permanent guid; in RSS 1.0
    the link, else `rdf:about`."""
    link, guid = _child(item, "link"), _child(item, "guid")
    if address := _element_text(link):
        return [address, _bases(link)]
    is_permanent = (
        guid is not None
        and (guid.get("isPermaLink") or "true").strip().lower() == "true"
    )
    if is_permanent and re.match(r"(?i)https?://", _element_text(guid)):
        return [_element_text(guid), _bases(guid)]
    if about_url := item.get(_RDF_ABOUT):
        return [about_url[:_MAX_URL_CHARS], _bases(item)]
    return _atom_link(item)


def _atom_link(entry: Any) -> Any:
    """Return [address, bases] of the alternate link, HTML preferred (RFC 4287, 4.2.7).
    A link without `rel` is alternate."""
    # Old Atom elements are also used inside RSS.
    links = [
        child
        for child in entry
        if _name(child) == "link" and _namespace(child) in (_namespace(entry), *_ATOM)
    ]
    alternates = [
        link for link in links if _relation(link) == "alternate" and link.get("href")
    ]
    pages = [
        link for link in alternates if "html" in (link.get("type") or "html").lower()
    ]
    for link in (*pages, *alternates):
        return [link.get("href")[:_MAX_URL_CHARS], _bases(link)]
    return ["", []]


def _relation(link: Any) -> Any:
    """Return the relation of a feed's link; without one it is the entry itself."""
    return (link.get("rel") or "alternate").strip().lower().removeprefix(_RELATION)


def _bases(node: Any) -> Any:
    """Return the `xml:base` values that apply to an element, outermost first."""
    bases = [
        ancestor.get(_BASE)
        for ancestor in (node, *node.iterancestors())
        if ancestor.get(_BASE)
    ]
    # The closest base comes first in the ancestors, but is applied last.
    return bases[::-1]


# --------------------------------------------------------------------------- robots.txt


def robots(task: Any, data: Any) -> Any:
    """Return {"allowed": one bool per `task["addresses"]`, "delay": requested seconds
    between requests, or None}."""
    if len(data) > _MAX_ROBOTS_BYTES:
        data = data[:_MAX_ROBOTS_BYTES].rpartition(b"\n")[
            0
        ]  # half a rule would be another rule
    text = data.decode("utf-8-sig", "replace")
    rules = protego.Protego.parse(_with_exact_agents(text, task["agent"]))
    return {
        "allowed": [
            bool(rules.can_fetch(address, task["agent"]))
            for address in task["addresses"]
        ],
        "delay": rules.crawl_delay(task["agent"]),
    }


def _with_exact_agents(text: Any, agent: Any) -> Any:
    """Rewrite the user-agent lines, so that groups of other crawlers cannot match ours.

    A group applies to the crawler with exactly its product token (RFC 9309, 2.2.1);
    protego would also apply a group for `model` to `model-reader`.
    """

    def normalize_group(match: Any) -> Any:
        """Return the user-agent line with our token or `*` alone, or with a token that
        matches no crawler."""
        token = match[2].lower()
        return match[1] + (token if token in ("*", agent) else "somebody/else")

    return re.sub(
        r"(?im)^([ \t]*user-?[ \t]?agent[ \t]*:[ \t]*)([a-z_-]+|\*)[^\r\n]*",
        normalize_group,
        text,
    )


_READERS = {"page": page, "sitemap": sitemap, "feed": feed, "robots": robots}
