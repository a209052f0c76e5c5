"""Find words that the project no longer uses: see `retired_words.yaml`.

Definitions are looked for in the source's syntax trees, messages in its string literals,
help texts in what the command line prints, and the rest in the documents and in the
console's table of messages.
"""

import ast
import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tools.reference import cli_page

ROOT = Path(__file__).parents[1]
_SOURCE = Path("src") / "modelyard"
_DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/*.md", "docs/how-to/*.md")
MESSAGE_FILES = ("messages.ts", "languages.ts", "chat/messages.ts")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def retired_words() -> dict[str, Any]:
    """Return the lists of old words by kind."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))


def entry_count() -> int:
    """Return how many old words are looked for."""
    words = retired_words()
    definitions = sum(len(names) for names in words["definitions"].values())
    lists = ("modules", "help", "errors", "documents", "docstrings")
    return definitions + len(words["console"]) + sum(len(words[key]) for key in lists)


def remaining(root: Path = ROOT) -> list[str]:
    """Return each old word that is still in use below a repository's root, with the
    kind of place. Help texts are those of the installed package."""
    words = retired_words()
    source = root / _SOURCE
    literals, documents = _literals(source), _documents(root)
    return [
        *(f"module {name}" for name in words["modules"] if (source / name).exists()),
        *(f"definition {name}" for name in _definitions(words["definitions"], source)),
        *(f"help: {text}" for text in _in_text(words["help"], _help_text())),
        *(f"message: {text}" for text in _in_text(words["errors"], literals)),
        *(f"docstring: {text}" for text in _in_text(words["docstrings"], literals)),
        *(f"document: {text}" for text in _in_text(words["documents"], documents)),
        *(f"console: {key}" for key in _console(words["console"], root)),
    ]


def _definitions(names_by_package: dict[str, list[str]], source: Path) -> Iterator[str]:
    for package, names in names_by_package.items():
        path = source if package == "*" else source / package
        present = _defined_names(path)
        for name in names:
            if name in present:
                yield f"{package}: {name}"


def _defined_names(path: Path) -> set[str]:
    """Return the names of classes and functions, and of methods as `Class.method`."""
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    return {name for file in files for name in _contents(file).definitions}


class _Contents(NamedTuple):
    """What is looked for in a module of the source."""

    definitions: Sequence[str]
    """Names of classes and functions, and of methods as `Class.method`."""
    strings: Sequence[str]
    """String literals, docstrings included, on one line each."""


@cache
def _contents(file: Path) -> _Contents:
    """Return the contents of a module, which is parsed once."""
    tree = ast.parse(file.read_bytes())
    return _Contents([*_definitions_in(tree)], [*_strings_of(tree)])


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


def _literals(source: Path) -> str:
    """Return all string literals of the source, docstrings included, on one line each."""
    strings: list[str] = []
    for path in sorted(source.rglob("*.py")):
        strings += _contents(path).strings
    return "\n".join(strings)


def _strings_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield _plain(node.value)


def _documents(root: Path) -> str:
    files = [path for pattern in _DOCUMENTS for path in sorted(root.glob(pattern))]
    return _plain(" ".join(path.read_text("utf-8") for path in files))


def console_messages(root: Path = ROOT) -> dict[str, list[str]]:
    """Return the English texts of the console by key; nested tables may share a key."""
    messages: dict[str, list[str]] = {}
    for name in MESSAGE_FILES:
        text = (root / "console-ui" / "src" / name).read_text("utf-8")
        for key, english in re.findall(r'\b(\w+): \[\s*("(?:[^"\\]|\\.)*")', text):
            messages.setdefault(key, []).append(json.loads(english))
    return messages


def _console(old_texts: dict[str, list[str]], root: Path) -> Iterator[str]:
    messages = console_messages(root)
    for key, texts in old_texts.items():
        current = set(messages.get(key, []))
        # Nested tables may have a key of the same name with a text of its own: the
        # strategy of an agent is not that of a route.
        if current and current <= set(texts):
            yield f"{key} {sorted(current)}"
