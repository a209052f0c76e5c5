"""Mentions in the prompts of Dify's agents: `[§kind:id:label§]`, written by its editor's
slash menu. Pure functions.

    [§tool:langgenius/google/google/search:Search§]
    [§tool:langgenius/google/google/*§]
    [§knowledge:SET:Handbook§]
    [§node_output:NODE.text:the text§]
    [§output:report§]
    [§human:CONTACT:Ada§]

The label is optional and may contain colons. The mark `§` occurs in no other syntax of
prompts, so a mention cannot be mistaken for a selector.

Source: langgenius/dify, api/services/agent/prompt_mentions.py.
"""

import re
from collections.abc import Callable, Iterator

import msgspec

_MENTION = re.compile(r"\[§([A-Za-z_][A-Za-z0-9_]{0,40}):([^:§\]]+)(?::([^§]*))?§\]")
# A name comes from a DSL file.
_MAX_NAME_CHARS = 255


class Mention(msgspec.Struct, frozen=True, kw_only=True):
    """A mention: its kind, the id of what it names, and the text that the editor shows.

    Kinds are skill, file, tool, cli_tool, knowledge and human in an agent's prompt;
    node_output, output and human in a node's task.
    """

    kind: str
    id: str
    label: str = ""


Resolve = Callable[[Mention], str]
"""Returns the name of what is mentioned, as the model knows it; empty if unknown."""


def mentions_in(prompt: str) -> Iterator[Mention]:
    """Yield the mentions of a prompt in order."""
    for match in _MENTION.finditer(prompt):
        yield _mention_of(match)


def expand_mentions(prompt: str, resolve: Resolve) -> str:
    """Return the prompt with each mention replaced by a name.

    A mention that `resolve` does not know becomes its label, without a label its id:
    the editor's marks never reach a model.
    """

    def name_of(match: re.Match[str]) -> str:
        """Return the name that replaces a mention."""
        mention = _mention_of(match)
        name = resolve(mention).strip() or mention.label or mention.id
        # A label may be any text, and must not fill the prompt.
        return name[:_MAX_NAME_CHARS]

    return _MENTION.sub(name_of, prompt)


def _mention_of(match: re.Match[str]) -> Mention:
    """Return the mention that a match has found."""
    return Mention(kind=match[1], id=match[2], label=(match[3] or "").strip())
