"""Error messages are sentences: they begin with a capital letter, or with a name, a code
or a quotation."""

import ast
import builtins
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "modelyard"

# One worker reads the package's sources once for all of these tests.
pytestmark = pytest.mark.xdist_group("house")

# Exceptions of libraries that the package raises.
_LIBRARY_EXCEPTIONS = {"ClickException", "UsageError", "ValidationError"}

# Callables whose text continues a sentence, or always follows a colon.
_FRAGMENTS = {
    "BodyError": "The request is not JSON: …",
    "BombError": "SERVER …",
    "LedgerUnavailableError": "Calls are refused because …: …",
    "UnpackError": "SERVER …",
    "_interpreter_error": "Interpreter 'PATH' cannot be used: …",
    "_invalid_operand": "OPERATION of NAME does not accept …",
    "_invalid_parameter": "Parameter 'NAME' must be …",
    "_invalid_value": "Parameter 'NAME' must be …",
    "_queue_full_error": "The server is busy: …",
    "_reject": "SERVER …",
    "_schema_error": "MODEL did not give a valid answer: …",
    "invalid_field": "'FIELD' must be …",
}

# Callables other than exceptions that take a message as an exception does.
_REPORTERS = {"Problem", "_add_problem", "_add_warning"}

# Beginnings of messages in the words of others, and names of one lower-case word.
_OWNED_BY_OTHERS: Mapping[str, tuple[str, ...]] = {
    "Dify's service API": (
        "name is required when auto_generate is false",
        "query is required",
    ),
    "Dify's workflow nodes and tools": (
        "cannot fetch file with selector",
        "got invalid json object",
        "invalid body data, should have only one item",
        "invalid iterator value:",
        "iterator variable ",
        "tool parameter ",
        "url is required",
        "url should start with",
    ),
    "Dify's plugin daemon, debugging protocol": (
        "assets too large, at most",
        "handshake failed,",
        "no registration transferred,",
        "register failed,",
    ),
    "Python's words for a missing name of a module": ("module ",),
    "names of settings": ("failover: ", "providers: ", "shared: "),
    "names of functions": ("factorial: ", "round: ", "seccomp: "),
}


class Message(NamedTuple):
    """A message and its position."""

    file: str
    line: int
    callable_name: str
    beginning: str


def _base_names(trees: Mapping[Path, ast.Module]) -> Mapping[str, set[str]]:
    """Return the names of the base classes of each class of the package."""
    bases: defaultdict[str, set[str]] = defaultdict(set)
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] |= {_last_name(base) for base in node.bases}
    return bases


def _exception_names(trees: Mapping[Path, ast.Module]) -> set[str]:
    """Return the names of all exception classes: built in, of libraries, and own."""
    names = _LIBRARY_EXCEPTIONS | {
        name
        for name, value in vars(builtins).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    bases = _base_names(trees)
    while added := {name for name, parents in bases.items() if parents & names} - names:
        names |= added
    return names


def _raised_names(tree: ast.Module) -> set[str]:
    """Return the names of all callables whose results are raised."""
    return {
        _last_name(node.exc.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    }


def _last_name(node: ast.expr) -> str:
    """Return the name of a name or attribute, without its module; otherwise an empty
    string."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _beginnings(node: ast.expr, texts: Mapping[str, list[ast.expr]]) -> Iterator[str]:
    """Yield the constant text with which an expression can begin.

    `texts` holds what is assigned to each name of the file.
    """
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            yield text
        case ast.BinOp(left=left):
            yield from _beginnings(left, texts)
        case ast.IfExp(body=body, orelse=alternative):
            yield from _beginnings(body, texts)
            yield from _beginnings(alternative, texts)
        case ast.BoolOp(values=values):
            for value in values:
                yield from _beginnings(value, texts)
        case ast.Name(id=name):
            for value in texts.get(name, ()):
                yield from _beginnings(value, {})


def _assigned_texts(tree: ast.Module) -> Mapping[str, list[ast.expr]]:
    """Return the values assigned to each name of the file's top level."""
    texts: defaultdict[str, list[ast.expr]] = defaultdict(list)
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            texts[node.targets[0].id].append(node.value)
    return texts


def _message_beginnings(
    call: ast.Call, texts: Mapping[str, list[ast.expr]]
) -> list[str]:
    """Return the beginnings of a call's message: of its first text that is not a code
    before another argument, or of its argument `message`."""
    for keyword in call.keywords:
        if keyword.arg == "message":
            return list(_beginnings(keyword.value, texts))
    for index, argument in enumerate(call.args):
        beginnings = list(_beginnings(argument, texts))
        is_last = index == len(call.args) - 1
        is_code = all(re.fullmatch(r"[a-z_]+", text) for text in beginnings)
        if beginnings and (is_last or not is_code):
            return beginnings
    return []


def _messages(folder: Path) -> list[Message]:
    """Return the messages of all exceptions that a folder's modules construct."""
    trees = {
        path: ast.parse(path.read_text("utf-8"))
        for path in sorted(folder.rglob("*.py"))
    }
    exceptions = _exception_names(trees) | _REPORTERS
    messages: list[Message] = []
    for path, tree in trees.items():
        names = (exceptions | _raised_names(tree)) - set(_FRAGMENTS)
        texts = _assigned_texts(tree)
        file = path.relative_to(folder).as_posix()
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _last_name(node.func) in names:
                messages += [
                    Message(file, node.lineno, _last_name(node.func), beginning)
                    for beginning in _message_beginnings(node, texts)
                ]
    return messages


@cache
def _own_messages() -> Sequence[Message]:
    """Return the messages of the package."""
    return _messages(SOURCE)


def _begins_lower_case(text: str) -> bool:
    """Return whether a text begins with an ordinary word in lower case, as opposed to a
    name with a dot, an underscore, a digit or a capital letter."""
    first_word = re.split(r"[\s]", text, maxsplit=1)[0].rstrip(",;:")
    return re.fullmatch(r"[a-z]+(['’-][a-z]+)*", first_word) is not None


_ALLOWED = tuple(text for texts in _OWNED_BY_OTHERS.values() for text in texts)


def test_messages_begin_with_a_capital_letter():
    messages = _own_messages()
    # Fewer would mean that the search does not see them any more.
    assert len(messages) > 1000
    wrong = [
        message
        for message in messages
        if _begins_lower_case(message.beginning)
        and not message.beginning.startswith(_ALLOWED)
    ]
    assert not wrong, "\n".join(map(str, wrong))


def test_the_table_lists_only_what_is_in_use():
    beginnings = [message.beginning for message in _own_messages()]
    unused = [
        text
        for text in _ALLOWED
        if not any(beginning.startswith(text) for beginning in beginnings)
    ]
    assert not unused
    source_text = "\n".join(
        path.read_text("utf-8") for path in sorted(SOURCE.rglob("*.py"))
    )
    assert not [name for name in _FRAGMENTS if f"{name}(" not in source_text]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise ValueError('no luck')", ["no luck"]),
        ("raise ValueError(f'key {1} is bad')", ["key "]),
        ("raise ValueError(f'{1} is bad')", []),
        ("raise ValueError('no ' 'luck ' + str(1))", ["no luck "]),
        ("raise ValueError('no' if x else 'nothing')", ["no", "nothing"]),
        ("raise ValueError(text or 'no luck')", ["no luck"]),
        ("class AError(KeyError): ...\nreturned = AError('no luck')", ["no luck"]),
        ("raise _refused(400, 'bad_request', 'no luck')", ["no luck"]),
        ("raise _refused(400, 'bad_request', text)", []),
        ("raise _refused(message='no luck')", ["no luck"]),
        ("_BAD = 'no luck'\nraise ValueError(_BAD)", ["no luck"]),
        ("raise invalid_field('name', value, 'a string')", []),
        ("print('no luck')", []),
    ],
)
def test_messages_of_exceptions_are_detected(
    tmp_path: Path, code: str, expected: list[str]
):
    (tmp_path / "module.py").write_text(code, "utf-8")
    assert [message.beginning for message in _messages(tmp_path)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the key is bad", True),
        ("key ", True),
        ("unauthorized", True),
        ("stopped: idle", True),
        ("x-visitor must be set", True),
        ("The key is bad", False),
        ("'key' is bad", False),
        ("top_k must be 1", False),
        ("uv.lock is missing", False),
        ("--set: expected a value", False),
        ("pageSize must be 1", False),
        ("valkey:// needs its driver", False),
        ("$ref is bad", False),
        ("", False),
    ],
)
def test_ordinary_words_are_distinguished_from_names(text: str, expected: bool):
    assert _begins_lower_case(text) is expected
