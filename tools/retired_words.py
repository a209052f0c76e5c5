"""Find words that the project no longer uses: see `retired_words.yaml`.

Definitions are looked for in the source's syntax trees, messages in its string literals,
help texts in what the command line prints, and the rest in the documents and in the
console's table of messages.
"""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tools.reference import cli_page

ROOT = Path(__file__).parents[1]
_SOURCE = ROOT / "src" / "modelyard"
_DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/*.md", "docs/how-to/*.md")
_MESSAGE_FILES = ("messages.ts", "languages.ts", "chat/messages.ts")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def retired_words() -> dict[str, Any]:
    """Return the lists of old words by kind."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))


def entry_count() -> int:
    """Return how many old words are looked for."""
    words = retired_words()
    definitions = sum(len(names) for names in words["definitions"].values())
    lists = ("modules", "help", "errors", "documents", "docstrings")
    return definitions + len(words["console"]) + sum(len(words[key]) for key in lists)


def remaining() -> list[str]:
    """Return each old word that is still in use, with the kind of place."""
    words = retired_words()
    return [
        *(f"module {name}" for name in _modules(words["modules"])),
        *(f"definition {name}" for name in _definitions(words["definitions"])),
        *(f"help: {text}" for text in _in_text(words["help"], _help_text())),
        *(f"message: {text}" for text in _in_text(words["errors"], _literals())),
        *(f"docstring: {text}" for text in _in_text(words["docstrings"], _literals())),
        *(f"document: {text}" for text in _in_text(words["documents"], _documents())),
        *(f"console: {key}" for key in _console(words["console"])),
    ]


def _modules(names: list[str]) -> Iterator[str]:
    return (name for name in names if (_SOURCE / name).exists())


def _definitions(names_by_package: dict[str, list[str]]) -> Iterator[str]:
    for package, names in names_by_package.items():
        path = _SOURCE if package == "*" else _SOURCE / package
        present = _defined_names(path)
        for name in names:
            if name in present:
                yield f"{package}: {name}"


@cache
def _defined_names(path: Path) -> frozenset[str]:
    """Return the names of classes and functions, and of methods as `Class.method`."""
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    names: set[str] = set()
    for file in files:
        names.update(_definitions_in(ast.parse(file.read_bytes())))
    return frozenset(names)


def _definitions_in(module: ast.Module) -> Iterator[str]:
    for node in module.body:
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            yield node.name
        if isinstance(node, ast.ClassDef):
            methods = (child for child in node.body if isinstance(child, _FUNCTIONS))
            yield from (f"{node.name}.{method.name}" for method in methods)


def _plain(text: str) -> str:
    """Return the text without markup, on one line."""
    return " ".join(re.sub(r"[`*_]", "", text).split())


def _in_text(fragments: list[str], text: str) -> Iterator[str]:
    return (fragment for fragment in fragments if _plain(fragment) in text)


@cache
def _help_text() -> str:
    """Return everything that the command line prints for `--help`, on one line."""
    return _plain(cli_page())


@cache
def _literals() -> str:
    """Return all string literals of the source, docstrings included, on one line each."""
    strings: list[str] = []
    for path in sorted(_SOURCE.rglob("*.py")):
        strings += _strings_of(ast.parse(path.read_bytes()))
    return "\n".join(strings)


def _strings_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield _plain(node.value)


@cache
def _documents() -> str:
    files = [path for pattern in _DOCUMENTS for path in sorted(ROOT.glob(pattern))]
    return _plain(" ".join(path.read_text("utf-8") for path in files))


def console_messages() -> dict[str, list[str]]:
    """Return the English texts of the console by key; nested tables may share a key."""
    messages: dict[str, list[str]] = {}
    for name in _MESSAGE_FILES:
        text = (ROOT / "console-ui" / "src" / name).read_text("utf-8")
        for key, english in re.findall(r'\b(\w+): \[\s*("(?:[^"\\]|\\.)*")', text):
            messages.setdefault(key, []).append(json.loads(english))
    return messages


def _console(old_texts: dict[str, list[str]]) -> Iterator[str]:
    messages = console_messages()
    for key, texts in old_texts.items():
        current = set(messages.get(key, []))
        # Nested tables may have a key of the same name with a text of its own: the
        # strategy of an agent is not that of a route.
        if current and current <= set(texts):
            yield f"{key} {sorted(current)}"
