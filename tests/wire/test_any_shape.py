"""Whatever stands anywhere in a request or an answer: it is read, or refused by name; never a fault of ours."""

import json
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
"""Documents of each format: those that have the most different places."""

Path = tuple[str | int, ...]


def paths_of(document: Any, path: Path = ()) -> Iterator[Path]:
    """All of it, from above; of a list its first three items, since the others are mostly alike."""
    if path:
        yield path
    if isinstance(document, dict):
        for name, value in document.items():
            yield from paths_of(value, (*path, name))
    elif isinstance(document, list):
        for index, value in enumerate(document[:3]):
            yield from paths_of(value, (*path, index))


def changed(document: Any, path: Path, value: Any) -> Any:
    """A copy with another value in one place."""
    first, *remaining_path = path
    copy: Any = dict(document) if isinstance(document, dict) else list(document)
    copy[first] = (
        changed(copy[first], tuple(remaining_path), value) if remaining_path else value
    )
    return copy


def distinct(documents: Iterator[Any]) -> list[Any]:
    """Those that bring a place that none before had, whatever stands there."""
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
    """Error → the first place and value that met it."""
    stumbles: dict[str, str] = {}
    tried_keys: set[tuple[Any, ...]] = set()
    for document in documents:
        for path in paths_of(document):
            path_shape = tuple("*" if isinstance(step, int) else step for step in path)
            for value in _OTHERS:
                key = (*path_shape, json.dumps(value), str(document.get("type")))
                if key in tried_keys:
                    continue
                tried_keys.add(key)
                try:
                    read(changed(document, path, value))
                except ModelyardError:
                    pass
                except Exception as error:  # noqa: BLE001
                    frame = error.__traceback__
                    while frame is not None and frame.tb_next is not None:
                        frame = frame.tb_next
                    where = (
                        f"{frame.tb_frame.f_code.co_filename.rpartition('/')[2]}:{frame.tb_lineno}"
                        if frame
                        else ""
                    )
                    stumbles.setdefault(
                        f"{where} {type(error).__name__}: {error}",
                        f"{path} = {value!r}",
                    )
    return stumbles


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
