"""Read the text of parts of Word documents: paragraphs with their content controls and
text boxes. Runs only inside the sandbox.

Source: ECMA-376, part 1, sections 17.3 (paragraphs), 17.5 (content controls) and 17.16
(fields).
"""
# This program imports nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_COMPATIBILITY = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
PARAGRAPH, BOX = f"{_W}p", f"{_W}txbxContent"
# Text that is deleted, moved away or only instructs; boxes are read after their paragraph.
_SKIPPED = frozenset(
    [
        *(f"{_W}del", f"{_W}moveFrom", f"{_W}instrText", f"{_W}delText"),
        *(f"{_W}pPr", f"{_W}rPr", f"{_W}sdtPr", BOX),
    ]
)
_CHARACTERS = {f"{_W}tab": "\t", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}


def block_text(element: Any) -> Any:
    """Return the text of all paragraphs of an element, which may be one itself, with
    the text boxes that are anchored in them: a line for each paragraph."""
    lines = []
    for paragraph in _paragraphs(element):
        lines.append(_inline_text(paragraph))
        lines += [block_text(box) for box in _boxes(paragraph)]
    return "\n".join(lines)


def _paragraphs(element: Any) -> Any:
    """Yield the paragraphs of an element that are in no text box below it."""
    if element.tag == PARAGRAPH:
        yield element
        return
    for child in element.iterchildren():
        # The tag of a comment or a processing instruction is a function.
        if child.tag != BOX and isinstance(child.tag, str):
            yield from _paragraphs(child)


def _boxes(element: Any) -> Any:
    """Yield the text boxes below an element. Most are written twice, for programs of
    different age; the newer form comes first."""
    for child in element.iterchildren():
        if child.tag == BOX:
            yield child
        elif child.tag == f"{_COMPATIBILITY}AlternateContent":
            boxes = (list(_boxes(choice)) for choice in child.iterchildren())
            yield from next(
                (choice_boxes for choice_boxes in boxes if choice_boxes), []
            )
        elif isinstance(child.tag, str):
            yield from _boxes(child)


def _inline_text(element: Any) -> Any:
    """Return the text of a paragraph, with that of its content controls."""
    fragments = []
    for child in element.iterchildren():
        if child.tag == f"{_W}t":
            fragments.append(child.text or "")
        elif child.tag in _CHARACTERS:
            fragments.append(_CHARACTERS[child.tag])
        elif child.tag == f"{_W}br":
            # Breaks of pages and columns are no breaks of lines.
            fragments.append("" if child.get(f"{_W}type") else "\n")
        elif child.tag not in _SKIPPED and isinstance(child.tag, str):
            fragments.append(_inline_text(child))
    return "".join(fragments)
