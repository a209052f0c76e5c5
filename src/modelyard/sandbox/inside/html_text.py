"""Read web pages as Markdown. Runs only inside the sandbox."""
# This program imports nothing of ours, and the packages it uses have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import re
from typing import Any

import document_formats  # pyright: ignore[reportMissingImports]
import html_boilerplate  # pyright: ignore[reportMissingImports]

# HTML elements without content for a reader.
_SKIPPED_TAGS = frozenset(
    {
        "script",
        "style",
        "noscript",
        "template",
        "svg",
        "nav",
        "footer",
        "aside",
        "form",
        "iframe",
        "button",
        "head",
    }
)


def page(data: Any) -> Any:
    """Return (title, [(0, Markdown)]) of an HTML page.

    Only its `main` or `article` element is used if there is exactly one with more than
    200 characters. The title is put in front unless the text begins with a heading of
    the first level.
    """
    import lxml.html

    parser = lxml.html.HTMLParser(
        huge_tree=False, remove_comments=True, encoding="utf-8"
    )
    tree = lxml.html.document_fromstring(
        document_formats.text(data).encode("utf-8", "replace"), parser=parser
    )
    title = (tree.findtext(".//title") or "").strip()
    body = tree.find("body")
    body = tree if body is None else body
    html_boilerplate.remove(body)
    # Prefer the main content, if it is unambiguous and not trivial.
    for name in ("main", "article"):
        candidates = body.findall(".//%s" % name)
        if len(candidates) == 1 and len(candidates[0].text_content().strip()) > 200:
            body = candidates[0]
            break
    lines = []
    _append_markdown(body, lines)
    # White space is significant inside code blocks, so it is only cleaned up in pages
    # without them.
    text = (
        re.sub(r"[ \t]*\n[ \t]*", "\n", "".join(lines))
        if "```" not in "".join(lines)
        else "".join(lines)
    )
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    if title and not text.startswith("# "):
        text = "# %s\n\n%s" % (title, text)
    return title, [(0, text)]


_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_BLOCKS = (
    "div",
    "section",
    "article",
    "main",
    "header",
    "ul",
    "ol",
    "dl",
    "dt",
    "dd",
    "blockquote",
    "figure",
    "figcaption",
    "tr",
    "address",
    "details",
    "summary",
)
# Tag to what is written before and after the element's content.
_SEPARATORS = {
    "br": ("\n", ""),
    "li": ("\n- ", "\n"),
    "p": ("\n\n", "\n\n"),
    **dict.fromkeys(_BLOCKS, ("\n", "\n")),
}


def _append_markdown(node: Any, fragments: Any, depth: Any = 0) -> Any:
    """Append a node's content to `fragments` as Markdown."""
    tag = node.tag if isinstance(node.tag, str) else ""
    if tag in _SKIPPED_TAGS or not tag or depth > 200:
        return
    block = _undivided_block(node, tag)
    if block is not None:
        fragments.append(block)
        return
    before, after = _SEPARATORS.get(tag, ("", ""))
    fragments.append(before)
    if node.text:
        fragments.append(re.sub(r"\s+", " ", node.text))
    # Text between child elements is in their tails.
    for child in node:
        _append_markdown(child, fragments, depth + 1)
        if child.tail:
            fragments.append(re.sub(r"\s+", " ", child.tail))
    fragments.append(after)


def _undivided_block(node: Any, tag: Any) -> Any:
    """Return a heading, preformatted text or an innermost table as Markdown; None for
    elements whose children are converted one by one."""
    if tag in _HEADINGS:
        heading = " ".join(_cell_text(node).split())
        return "\n\n%s %s\n\n" % ("#" * int(tag[1]), heading) if heading else ""
    if tag == "pre":
        return "\n\n```\n%s\n```\n\n" % node.text_content().strip("\n")
    # Nested tables are used for layout, so only innermost ones become Markdown tables.
    if tag == "table" and not node.findall(".//table"):
        rows = [
            [_cell_text(cell) for cell in row.iter("td", "th")]
            for row in node.iter("tr")
        ]
        return "\n\n%s\n\n" % document_formats._markdown_table(rows)
    return None


_LINES = frozenset({"br", "li", "p", "div", "ul", "ol", "dt", "dd", "tr", "blockquote"})


def _cell_text(node: Any) -> Any:
    """Return the text of a table's cell or a heading: a line for each of its lines,
    paragraphs and list items."""
    fragments: Any = []
    _append_text(node, fragments)
    lines = [" ".join(line.split()) for line in "".join(fragments).split("\n")]
    return "\n".join(line for line in lines if line)


def _append_text(node: Any, fragments: Any, depth: Any = 0) -> Any:
    """Append an element's text to `fragments`, with a line break around blocks."""
    if not isinstance(node.tag, str) or node.tag in _SKIPPED_TAGS or depth > 200:
        return
    separator = "\n" if node.tag in _LINES else ""
    fragments += [separator, _one_line(node.text)]
    for child in node:
        _append_text(child, fragments, depth + 1)
        fragments.append(_one_line(child.tail))
    fragments.append(separator)


def _one_line(text: Any) -> Any:
    """Return a text as a browser shows it: every run of white space is one blank."""
    return re.sub(r"\s+", " ", text or "")
