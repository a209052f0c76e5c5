"""The mail of a form: its recipients and its text, as a run's step writes them. No I/O."""

from typing import Any

import msgspec

from modelyard.workflow.template import render
from modelyard.workflow.variables import Secret, VariablePool, masked, to_markdown

_URL = "{{#url#}}"
# The subject may hold values of the run, of any length.
_MAX_SUBJECT_CHARS = 200
_MAX_FRAGMENT_CHARS = 100_000


class FormMail(msgspec.Struct, frozen=True, kw_only=True):
    """One e-mail about a form, to several recipients."""

    subject: str
    body: list[str | None]
    """Texts in order; None for the link to the form's page."""
    addresses: list[str] = []
    """Recipients by address."""
    members: list[str] = []
    """Recipients by the id of their account."""
    is_for_everyone: bool = False
    """Whether all accounts of the tenant get it."""
    is_debugged: bool = False
    """Whether a run from the console sends it only to the person who started the run."""


def render_for_people(template: str, pool: VariablePool) -> str:
    """Return a text with a run's values in Markdown; secrets are masked, since it leaves
    the run for people's eyes."""
    return render(template, pool, _print_value)


def render_body(template: str, pool: VariablePool) -> list[str | None]:
    """Return the body of a mail with the run's values, and None for each link.

    Only `{{#url#}}` in the author's text is a link: the template is cut before values
    are inserted. A body without one gets a link at its end, since the mail would be of
    no use.
    """
    segments: list[str | None] = []
    for number, fragment in enumerate(template.split(_URL)):
        text = render_for_people(fragment, pool)[:_MAX_FRAGMENT_CHARS]
        segments += [None, text] if number else [text]
    return segments if None in segments else [*segments, "\n\n", None]


def clean_subject(text: str) -> str:
    """Return a text as the subject of a mail: one line without control characters,
    which could start another header."""
    # Each becomes a blank, so that words stay apart.
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.split())[:_MAX_SUBJECT_CHARS]


def _print_value(value: Any) -> str:
    """Return a value for people."""
    return masked(value) if isinstance(value, Secret) else to_markdown(value)
