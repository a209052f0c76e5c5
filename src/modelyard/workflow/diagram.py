"""A workflow as a diagram: Mermaid for documents, SVG for everything else. Pure
functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from modelyard.workflow.dsl import App
from modelyard.workflow.graph import SOURCE, Edge, Graph
from modelyard.workflow.node import Node, NodeKind

_COLOURS: Mapping[str, str] = {
    "start": "#2f6fed",
    "end": "#c4622d",
    "answer": "#c4622d",
    "llm": "#6b4fd8",
    "code": "#2a7f8e",
    "template-transform": "#2a7f8e",
    "if-else": "#a8781e",
    "question-classifier": "#3f8f4f",
    "parameter-extractor": "#3f8f4f",
    "http-request": "#7a4a9e",
    "tool": "#55606e",
    "iteration": "#1c7c9c",
    "loop": "#1c7c9c",
    "knowledge-retrieval": "#3f8f4f",
    "agent": "#6b4fd8",
    "human-input": "#a8781e",
}
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _PADDING, _HEADER_HEIGHT = 176, 46, 64, 20, 22, 26


def mermaid(app: App, root: str = "") -> str:
    """Return the workflow as a Mermaid flowchart."""
    lines = ["flowchart LR"]
    _mermaid(app.graph(root), lines, "  ", {})
    return "\n".join(lines) + "\n"


def _mermaid(
    graph: Graph, lines: list[str], indent: str, names: dict[str, str]
) -> None:
    """Append the nodes and edges of a graph. `names` holds the short name of each node
    that was drawn."""
    for node_id, node in graph.nodes.items():
        # Nodes that the root cannot reach never run, so they are not drawn.
        if node_id not in graph.reachable:
            continue
        # Node ids may contain characters that Mermaid does not accept: short names
        # replace them.
        name = names.setdefault(node_id, f"n{len(names)}")
        label = f"{_safe_label(node.title)}<br/><small>{node.type}</small>"
        # Containers become subgraphs.
        if node_id in graph.children:
            lines.append(
                f'{indent}subgraph {name}["{_safe_label(node.title)} ({node.type})"]'
            )
            _mermaid(
                graph.children[node_id],
                lines,
                indent + "  ",
                names,
            )
            lines.append(f"{indent}end")
        else:
            left, right = _brackets(node)
            lines.append(f'{indent}{name}{left}"{label}"{right}')
    lines += [
        f"{indent}{_mermaid_edge(graph, edge, names)}"
        for edge in graph.edges
        if edge.source in names and edge.target in names
    ]


def _mermaid_edge(graph: Graph, edge: Edge, names: Mapping[str, str]) -> str:
    """Return the line of one edge, labelled with its branch."""
    label = handle_label(graph.nodes[edge.source], edge.handle)
    arrow = f'-- "{_safe_label(label)}" -->' if label else "-->"
    return f"{names[edge.source]} {arrow} {names[edge.target]}"


def _safe_label(text: str) -> str:
    """Return a label without the characters that have a meaning in Mermaid."""
    cleaned = "".join(char if char not in '"<>|[]{}#;\n' else " " for char in text)
    return " ".join(cleaned.split())[:60]


_HANDLE_LABELS = {
    "false": "else",
    "true": "if",
    "fail-branch": "on error",
    "success-branch": "",
    "__timeout": "timeout",
}


def _brackets(node: Node) -> tuple[str, str]:
    """Return the brackets by which Mermaid draws a node's shape.

    Starts and answers are rounded, branches are hexagons, all others are boxes.
    """
    match node.kind:
        case NodeKind.ROOT | NodeKind.RESPONSE:
            return "([", "])"
        case NodeKind.BRANCH:
            return "{{", "}}"
        case _:
            return "[", "]"


def handle_label(node: Node, handle: str) -> str:
    """Return the display name of a branch of a node.

    A name that the app's author has given comes first. Empty for the ordinary output.
    """
    if handle in (SOURCE, ""):
        return ""
    label = _configured_labels(node).get(handle)
    return label if label is not None else _HANDLE_LABELS.get(handle, handle)


def _configured_labels(node: Node) -> dict[str, str]:
    """Return the names of the branches that the app's author has configured, by their
    handle."""
    # Only the data of classifiers has `classes`, of human input `user_actions`, of
    # if-else `cases`. Reversed, so that the first of several equal handles wins.
    labels: dict[str, str] = {}
    cases = list(getattr(node.data, "cases", ()) or ())
    for case_index, case in reversed(list(enumerate(cases))):
        labels[case.case_id] = f"else if {case_index}" if case_index else "if"
    for action in reversed(getattr(node.data, "user_actions", ()) or ()):
        labels[action.id] = action.title or action.id
    for category in reversed(getattr(node.data, "classes", ()) or ()):
        labels[category.id] = category.label or category.name
    return labels


# ---------------------------------------------------------------------------------------------- SVG


@dataclass(slots=True)
class _Box:
    """A node's rectangle, in units of its layout."""

    node: Node
    width: float = _WIDTH
    height: float = _HEIGHT
    x: float = 0.0
    y: float = 0.0
    inner: "_Layout | None" = None


@dataclass(slots=True)
class _Layout:
    """The layout of one graph."""

    graph: Graph
    boxes: dict[str, _Box] = field(default_factory=dict[str, _Box])
    width: float = 0.0
    height: float = 0.0


def svg(app: App, root: str = "") -> str:
    """Return the workflow as a self-contained SVG image."""
    picture = _layout(app.graph(root))
    width, height = picture.width + 2 * _PADDING, picture.height + 2 * _PADDING
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f}'
            f' {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="img"'
            f' aria-label="{escape(app.name, quote=True)}">'
        ),
        (
            "<style>text{font:12px"
            " system-ui,sans-serif;fill:#1d2433}.k{font-size:10px;fill:#5d6678}.e{fill:none;stroke:#8a93a5;stroke-width:1.5}.l{font-size:10px;fill:#5d6678}.b{fill:#fff;stroke:#ccd2dd}.c{fill:#f3f6fa;stroke:#b9c3d3;stroke-dasharray:5"  # noqa: E501
            " 3}</style>"
        ),
        (
            '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
            ' markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"'
            ' fill="#8a93a5"/></marker></defs>'
        ),
        '<rect width="100%" height="100%" fill="#fafbfc"/>',
    ]
    _draw(picture, _PADDING, _PADDING, parts)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _layout(graph: Graph) -> _Layout:
    """Lay out a graph: columns by the longest path from the root, rows by the mean
    height of a node's sources."""
    picture = _Layout(graph)
    column = _columns(graph)
    columns: dict[int, list[str]] = {}
    for name in graph.nodes:
        if name in graph.reachable:
            picture.boxes[name] = _sized_box(graph, name)
            columns.setdefault(column[name], []).append(name)
    x = 0.0
    for column_index in sorted(columns):
        names = sorted(
            columns[column_index], key=lambda name: _mean_source_y(name, picture)
        )
        # A single node in its column is centred on its sources.
        is_centred = column_index > 0 and len(names) == 1
        _stack_column(picture, names, x, is_centred=is_centred)
        width = max(picture.boxes[name].width for name in names)
        picture.width = x + width
        x += width + _GAP_X
    return picture


def _sized_box(graph: Graph, name: str) -> _Box:
    """Return a node's box with its size, without its position."""
    box = _Box(graph.nodes[name])
    # A container is sized after its own layout.
    if name in graph.children:
        box.inner = _layout(graph.children[name])
        box.width = max(_WIDTH, box.inner.width + 2 * _PADDING)
        box.height = box.inner.height + _HEADER_HEIGHT + _PADDING
    return box


def _stack_column(
    picture: _Layout, names: Sequence[str], x: float, *, is_centred: bool
) -> None:
    """Position the boxes of one column below each other."""
    y = 0.0
    for name in names:
        box = picture.boxes[name]
        box.x, box.y = x, y
        if is_centred:
            box.y = max(y, _mean_source_y(name, picture) - box.height / 2)
        y = box.y + box.height + _GAP_Y
        picture.height = max(picture.height, box.y + box.height)


def _columns(graph: Graph) -> dict[str, int]:
    """Return each node's column: the length of the longest path from the root."""
    waits = {
        name: sum(
            graph.edges[edge_index].source in graph.reachable
            for edge_index in graph.incoming[name]
        )
        for name in graph.reachable
    }
    column = {graph.root: 0}
    todo = [name for name, count in waits.items() if not count]
    while todo:
        # Kahn's algorithm: a node is placed after all its sources.
        name = todo.pop()
        for edge_index in graph.outgoing[name]:
            target = graph.edges[edge_index].target
            column[target] = max(column.get(target, 0), column.get(name, 0) + 1)
            waits[target] -= 1
            if not waits[target]:
                todo.append(target)
    return column


def _mean_source_y(name: str, picture: _Layout) -> float:
    """Return the mean height of the centres of a node's sources, 0 without any.

    Sources that are not positioned yet are ignored.
    """
    sources = [
        picture.graph.edges[edge_index].source
        for edge_index in picture.graph.incoming[name]
    ]
    boxes = [picture.boxes[source] for source in sources if source in picture.boxes]
    return sum(box.y + box.height / 2 for box in boxes) / len(boxes) if boxes else 0.0


def _draw(picture: _Layout, left: float, top: float, parts: list[str]) -> None:
    """Append the SVG elements of a layout: edges, their labels, then boxes.

    `left` and `top` are the position of the layout in the image, in pixels.
    """
    # Edges first, so that the boxes cover their ends.
    for edge in picture.graph.edges:
        if edge.source in picture.boxes and edge.target in picture.boxes:
            source, target = picture.boxes[edge.source], picture.boxes[edge.target]
            x1, y1 = left + source.x + source.width, top + source.y + source.height / 2
            x2, y2 = left + target.x, top + target.y + target.height / 2
            bend = max(24.0, (x2 - x1) / 2)
            parts.append(
                f'<path class="e" marker-end="url(#a)" d="M{x1:.0f}'
                f" {y1:.0f}C{x1 + bend:.0f} {y1:.0f} {x2 - bend:.0f} {y2:.0f}"
                f' {x2 - 2:.0f} {y2:.0f}"/>'
            )
            if label := handle_label(source.node, edge.handle):
                label_text = escape(label if len(label) <= 14 else f"{label[:13]}…")
                parts.append(
                    f'<text class="l" x="{x1 + 6:.0f}"'
                    f' y="{y1 + (y2 - y1) * 0.25 - 4:.0f}">{label_text}</text>'
                )
    for box in picture.boxes.values():
        _draw_box(
            box,
            left + box.x,
            top + box.y,
            parts,
        )


def _draw_box(box: _Box, x: float, y: float, parts: list[str]) -> None:
    """Append the SVG elements of a node's box, with the content of a container.

    `x` and `y` are its upper left corner in the image. Long titles are shortened.
    """
    node = box.node
    colour = _COLOURS.get(node.type, "#55606e")
    css_class = "c" if box.inner is not None else "b"
    # A container shows its content in place of its type.
    type_label = "" if box.inner is not None else escape(node.type)
    title = node.title if len(node.title) <= 22 else f"{node.title[:21]}…"
    parts.append(
        f'<g><title>{escape(node.title)}</title><rect class="{css_class}" x="{x:.0f}"'
        f' y="{y:.0f}" width="{box.width:.0f}" height="{box.height:.0f}" rx="8"/><rect'
        f' x="{x:.0f}" y="{y:.0f}" width="5" height="{box.height:.0f}" rx="2.5"'
        f' fill="{colour}"/><text x="{x + 14:.0f}"'
        f' y="{y + 19:.0f}">{escape(title)}</text><text class="k" x="{x + 14:.0f}"'
        f' y="{y + 34:.0f}">{type_label}</text></g>'
    )
    if box.inner is not None:
        _draw(
            box.inner,
            x + _PADDING,
            y + _HEADER_HEIGHT,
            parts,
        )
