"""Read the charts and comments of PPTX slides. Runs only inside the sandbox.

Source: ECMA-376, part 1, sections 13.3.2 (comments) and 21.2 (charts); comments in threads:
[MS-PPTX], section 2.6.
"""
# This program imports nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import itertools
import posixpath
from typing import Any

_MAX_SIZE = 20_000_000
_MAX_POINTS = 10_000


def charts_and_comments(deck: Any, slide_path: Any, markdown_table: Any) -> Any:
    """Return the charts of a slide as tables, and its comments, as blocks of Markdown.

    `deck` is the zip file, and `markdown_table` the function that writes rows.
    """
    blocks = []
    for kind, path in _related(deck, slide_path):
        if kind == "chart":
            blocks += _chart(_parsed(deck, path), markdown_table)
        elif kind in ("comments", "comment"):
            blocks += _comments(_parsed(deck, path))
    return blocks


def _related(deck: Any, path: Any) -> Any:
    """Yield (kind, path) of the parts that a slide refers to, if the deck has them."""
    folder, name = posixpath.split(path)
    relations = f"{folder}/_rels/{name}.rels"
    if relations not in deck.NameToInfo:
        return
    for relation in _parsed(deck, relations):
        kind = (relation.get("Type") or "").rpartition("/")[2]
        target = posixpath.join("/" + folder, relation.get("Target") or "")
        target = posixpath.normpath(target).lstrip("/")
        if target in deck.NameToInfo and relation.get("TargetMode") != "External":
            yield kind, target


def _parsed(deck: Any, path: Any) -> Any:
    """Return the root element of a part; one without children if it is too large."""
    import lxml.etree as etree

    # The size is checked before the part is unpacked: small ones can become huge.
    if deck.getinfo(path).file_size > _MAX_SIZE:
        return etree.Element("too-large")
    options = {"resolve_entities": False, "no_network": True, "load_dtd": False}
    parser = etree.XMLParser(huge_tree=False, **options)
    return etree.fromstring(deck.read(path), parser)


def _chart(root: Any, markdown_table: Any) -> Any:
    """Return the title and the table of a chart: a row for each category, a column for
    each series."""
    names, columns = [""], []
    labels: Any = {}
    for series in root.iterfind(".//{*}ser"):
        names.append(" ".join(_points(series.find("{*}tx")).values()))
        columns.append(_points(_first(series, "val", "yVal")))
        for index, label in _points(_first(series, "cat", "xVal")).items():
            labels.setdefault(index, label)
    indexes = sorted({*labels, *(index for column in columns for index in column)})
    rows = [
        [labels.get(index, ""), *(column.get(index, "") for column in columns)]
        for index in indexes
    ]
    if not rows:
        return []
    title = root.find(".//{*}chart/{*}title")
    words = [] if title is None else [text.text or "" for text in title.iter("{*}t")]
    return [*(["".join(words)] if words else []), markdown_table([names, *rows])]


def _first(series: Any, *names: Any) -> Any:
    """Return the first of the child elements that the series has; None without one."""
    found = (series.find("{*}%s" % name) for name in names)
    return next((element for element in found if element is not None), None)


def _points(element: Any) -> Any:
    """Return the texts of an element's points by their index. Points of outer levels of
    categories are written before those of inner ones."""
    points: Any = {}
    if element is None:
        return points
    for level in element.findall(".//{*}lvl")[::-1] or [element]:
        for index, text in _level_points(level):
            known = points.get(index)
            points[index] = f"{known} {text}" if known else text
    # The name of a series may be written in place.
    if not points and element.findtext("{*}v"):
        points[0] = element.findtext("{*}v")
    return points


def _level_points(level: Any) -> Any:
    """Yield (index, text) of the points of a level, at most _MAX_POINTS."""
    for point in itertools.islice(level.iterfind(".//{*}pt"), _MAX_POINTS):
        index = point.get("idx", "")
        if index.isascii() and index.isdecimal():
            yield int(index[:7]), (point.findtext("{*}v") or "").strip()


def _comments(root: Any) -> Any:
    """Return the comments, with the answers to them."""
    texts = []
    for comment in root.iter("{*}cm", "{*}reply"):
        # Older comments have one text, newer ones a body of paragraphs.
        body = _first(comment, "text", "txBody")
        if body is not None:
            texts.append(" ".join("".join(body.itertext()).split()))
    return ["Comment: %s" % text for text in texts if text]
