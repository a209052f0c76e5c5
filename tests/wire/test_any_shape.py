"""Property tests: any value anywhere in a document is read, or refused by name."""

import itertools
import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from tools.show.exchanges import exchanges

from modelyard.base.errors import ModelyardError
from tests.wire.formats import MODULES

_OTHERS: tuple[Any, ...] = (
    None,
    True,
    -1,
    1.5,
    "",
    "x",
    [],
    [None],
    [[]],
    ["x"],
    [{}],
    {},
    {"a": 1},
    {"type": [None]},
)
_MOST = 40
"""The maximum of documents per format: those with the most different paths."""

Path = tuple[str | int, ...]


def paths_of(document: Any, path: Path = ()) -> Iterator[Path]:
    """Yield all paths, parents first.

    Of a list only the first three items, since the others are mostly alike.
    """
    if path:
        yield path
    if isinstance(document, dict):
        for name, value in document.items():
            yield from paths_of(value, (*path, name))
    elif isinstance(document, list):
        for index, value in enumerate(document[:3]):
            yield from paths_of(value, (*path, index))


def changed(document: Any, path: Path, value: Any) -> Any:
    """Return a copy with another value at a path."""
    first, *remaining_path = path
    copy: Any = dict(document) if isinstance(document, dict) else list(document)
    copy[first] = (
        changed(copy[first], tuple(remaining_path), value) if remaining_path else value
    )
    return copy


def distinct(documents: Iterator[Any]) -> list[Any]:
    """Return the documents that add a path which no earlier document has."""
    seen_shapes: set[tuple[str, ...]] = set()
    selected: list[Any] = []
    for document in documents:
        kinds = {
            tuple("*" if isinstance(step, int) else step for step in path)
            for path in paths_of(document)
        }
        if kinds - seen_shapes:
            seen_shapes |= kinds
            selected.append(document)
    return selected[:_MOST]


def faults(documents: list[Any], read: Callable[[Any], Any]) -> Mapping[str, str]:
    """Return each unexpected error with the first path and value that raised it."""
    stumbles: dict[str, str] = {}
    for document, path, value in _different_changes(documents):
        try:
            read(changed(document, path, value))
        except ModelyardError:
            pass
        except Exception as error:  # noqa: BLE001
            stumbles.setdefault(_description(error), f"{path} = {value!r}")
    return stumbles


def _different_changes(documents: list[Any]) -> Iterator[tuple[Any, Path, Any]]:
    """Yield (document, path, value) of each change.

    Changes that differ only in the index of an item are tried once per document type.
    """
    tried_keys: set[tuple[Any, ...]] = set()
    for document in documents:
        document_type = str(document.get("type"))
        for path, value in itertools.product(paths_of(document), _OTHERS):
            key = (_shape(path), json.dumps(value), document_type)
            if key not in tried_keys:
                tried_keys.add(key)
                yield document, path, value


def _shape(path: Path) -> Path:
    """Return a path with `*` for each index of an item."""
    return tuple("*" if isinstance(step, int) else step for step in path)


def _description(error: Exception) -> str:
    """Return an error with the file and line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    origin = ""
    if frames:
        origin = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}"
    return f"{origin} {type(error).__name__}: {error}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_request_of_any_shape_is_read_or_refused(name: str):
    requests = distinct(
        exchange.request
        for exchange in exchanges()
        if exchange.format == name and isinstance(exchange.request, dict)
    )
    if not requests:
        pytest.skip("no recording of it")
    assert faults(requests, MODULES[name].parse_request) == {}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_an_answer_of_any_shape_is_read_or_refused(name: str):
    answers = distinct(
        exchange.response
        for exchange in exchanges()
        if exchange.format == name and isinstance(exchange.response, dict)
    )
    if not answers:
        pytest.skip("no recording of it")
    assert faults(answers, MODULES[name].parse_result) == {}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_events_of_any_shape_are_read_or_refused(name: str):
    streams = distinct(
        {"events": exchange.events[:12]}
        for exchange in exchanges()
        if exchange.format == name and exchange.events
    )
    if not streams:
        pytest.skip("no recording of it")
    module = MODULES[name]
    assert (
        faults(streams, lambda stream: list(module.parse_stream(stream["events"])))
        == {}
    )
