"""A human-input form as an HTML page without scripts. No I/O.

All texts come from an app, a model or a person: they are escaped and shown as they are
written, Markdown included. The page loads nothing.
"""

import base64
import hashlib
import html
import re
from collections.abc import Mapping
from typing import Any

from modelyard.base.json_types import is_array

FIELD = "field:"
"""Prefix of the names of form fields, so that none of them can be the action."""
_INPUT_MARK = re.compile(r"\{\{#\$output\.([a-zA-Z_][a-zA-Z0-9_]{0,29})#\}\}")
_STYLE = """
body { font-family: system-ui, sans-serif; line-height: 1.5; margin: 0 auto;
  max-width: 42rem; padding: 1.5rem; color: #1a1a1a; background: #fff; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
label { display: block; font-weight: 600; margin-top: 1rem; overflow-wrap: anywhere; }
textarea, select, input { box-sizing: border-box; font: inherit; margin: .25rem 0 1rem;
  padding: .5rem; width: 100%; }
button { border: 1px solid #767676; border-radius: .4rem; cursor: pointer; font: inherit;
  margin: .5rem .5rem 0 0; padding: .5rem 1.25rem; }
button.primary { background: #1d4ed8; border-color: #1d4ed8; color: #fff; }
button.accent { background: #b91c1c; border-color: #b91c1c; color: #fff; }
[role=alert] { border-left: .3rem solid #b91c1c; padding-left: .75rem; }
"""
# The policy allows this style sheet by its hash, since 'unsafe-inline' would allow
# those of an attacker too.
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: only the page's own style sheet, and a form that is sent to
this server."""
_BUTTON_CLASSES = frozenset({"primary", "accent"})


def notice_page(title: str, text: str) -> bytes:
    """Return a page with a heading and a text."""
    return _document(title, f'<p class="text">{html.escape(text)}</p>')


def form_page(
    definition: Mapping[str, Any],
    *,
    values: Mapping[str, str] | None = None,
    error: str = "",
) -> bytes:
    """Return the page of a form. `values` are texts that were entered before, and
    `error` says why they were not accepted."""
    defaults: Mapping[str, Any] = definition["resolved_default_values"]
    entered = {name: _text(value) for name, value in defaults.items()}
    # What a person has typed is kept over a refused answer.
    entered |= values or {}
    fields = {
        str(field["output_variable_name"]): field for field in definition["inputs"]
    }
    blocks: list[str] = []
    # The author's text has each input at its place; inputs without one come last.
    for index, fragment in enumerate(_INPUT_MARK.split(definition["form_content"])):
        # Splitting alternates texts and names, so the names have odd indexes. An input
        # is taken out once shown: a name that the text repeats is not asked for twice.
        if index % 2 and fragment in fields:
            blocks.append(_control(fragment, fields.pop(fragment), entered))
        elif fragment.strip() and not index % 2:
            blocks.append(f'<div class="text">{html.escape(fragment.strip())}</div>')
    blocks += [_control(name, field, entered) for name, field in fields.items()]
    blocks += [_button(action) for action in definition["actions"]]
    alert = f'<p role="alert">{html.escape(error)}</p>' if error else ""
    # Browsers send the content of files in this encoding only.
    return _document(
        "Form",
        f'{alert}<form method="post" enctype="multipart/form-data">'
        f"{''.join(blocks)}</form>",
    )


def _control(name: str, field: Mapping[str, Any], entered: Mapping[str, str]) -> str:
    """Return one input with its label."""
    label, attribute = html.escape(name), html.escape(FIELD + name)
    start = f'<label for="{attribute}">{label}</label>'
    named = f'id="{attribute}" name="{attribute}"'
    text = html.escape(entered.get(name, ""))
    options = field.get("options")
    match field.get("type"):
        case "select" if is_array(options) and options:
            return f"{start}<select {named}>{_options(options, entered.get(name))}</select>"
        case "file" if takes_files(field):
            return f'{start}<input type="file" {named}>'
        case "file-list" if takes_files(field):
            return f'{start}<input type="file" multiple {named}>'
        case "file":
            return f'{start}<input type="url" placeholder="https://" {named}>'
        case "file-list":
            hint = "One address per line"
            return f'{start}<textarea rows="3" placeholder="{hint}" {named}></textarea>'
        # A selection without options could not be answered, so any text is accepted.
        case "select":
            return f'{start}<input type="text" value="{text}" {named}>'
        case _:
            return f'{start}<textarea rows="4" {named}>{text}</textarea>'


def takes_files(field: Mapping[str, Any]) -> bool:
    """Return whether a field of files takes uploads; otherwise it takes addresses."""
    methods = field.get("allowed_file_upload_methods") or ()
    return not methods or "local_file" in methods


def _options(options: list[Any], selected: str | None) -> str:
    """Return the options of a selection."""
    return "".join(
        f"<option{' selected' if str(option) == selected else ''}>"
        f"{html.escape(str(option))}</option>"
        for option in options
    )


def _button(action: Mapping[str, Any]) -> str:
    """Return the button of an action."""
    style = action.get("button_style")
    # Only known styles: the value comes from an app's file.
    css_class = f' class="{style}"' if style in _BUTTON_CLASSES else ""
    title = html.escape(str(action.get("title") or action["id"]))
    value = html.escape(str(action["id"]))
    return f'<button name="action" value="{value}"{css_class}>{title}</button>'


def _text(value: Any) -> str:
    """Return a default value as text; files and lists have none."""
    return str(value) if isinstance(value, str | int | float) else ""


def _document(title: str, body: str) -> bytes:
    """Return a complete page."""
    heading = html.escape(title)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{heading}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{heading}</h1>{body}</body></html>"
    ).encode()
