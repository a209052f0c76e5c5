"""Whatever stands anywhere in a request or an answer: it is read, or refused by name; never a fault of ours."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from tools.show.exchanges import exchanges

from modelyard.base.errors import ModelyardError
from tests.wire.formats import MODULES

_OTHERS: tuple[Any, ...] = (None, True, -1, 1.5, "", "x", [], [None], [[]], ["x"], [{}], {}, {"a": 1}, {"type": [None]})
_MOST = 40
"""Documents of each format: those that have the most different places."""

Path = tuple[str | int, ...]


def places(document: Any, path: Path = ()) -> Iterator[Path]:
    """All of it, from above. Of a list's items that are alike in shape only the first."""
    if path:
        yield path
    if isinstance(document, dict):
        for name, value in document.items():
            yield from places(value, (*path, name))
    elif isinstance(document, list):
        for at, value in enumerate(document[:3]):
            yield from places(value, (*path, at))


def changed(document: Any, path: Path, value: Any) -> Any:
    """A copy with another value in one place."""
    first, *rest = path
    copy: Any = dict(document) if isinstance(document, dict) else list(document)
    copy[first] = changed(copy[first], tuple(rest), value) if rest else value
    return copy


def distinct(documents: Iterator[Any]) -> list[Any]:
    """Those that bring a place that none before had, whatever stands there."""
    seen: set[tuple[str, ...]] = set()
    found: list[Any] = []
    for document in documents:
        kinds = {tuple("*" if isinstance(step, int) else step for step in path) for path in places(document)}
        if kinds - seen:
            seen |= kinds
            found.append(document)
    return found[:_MOST]


def faults(documents: list[Any], read: Callable[[Any], Any]) -> Mapping[str, str]:
    """Error → the first place and value that met it."""
    found: dict[str, str] = {}
    tried: set[tuple[Any, ...]] = set()
    for document in documents:
        for path in places(document):
            kind = tuple("*" if isinstance(step, int) else step for step in path)
            for value in _OTHERS:
                key = (*kind, json.dumps(value), str(document.get("type")))
                if key in tried:
                    continue
                tried.add(key)
                try:
                    read(changed(document, path, value))
                except ModelyardError:
                    pass
                except Exception as error:  # noqa: BLE001  whatever it is, it is what is looked for
                    at = error.__traceback__
                    while at is not None and at.tb_next is not None:
                        at = at.tb_next
                    where = f"{at.tb_frame.f_code.co_filename.rpartition('/')[2]}:{at.tb_lineno}" if at else ""
                    found.setdefault(f"{where} {type(error).__name__}: {error}", f"{path} = {value!r}")
    return found


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_request_of_any_shape_is_read_or_refused(name: str):
    requests = distinct(one.request for one in exchanges() if one.format == name and isinstance(one.request, dict))
    if not requests:
        pytest.skip("no recording of it")
    assert faults(requests, MODULES[name].parse_request) == {}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_an_answer_of_any_shape_is_read_or_refused(name: str):
    answers = distinct(one.response for one in exchanges() if one.format == name and isinstance(one.response, dict))
    if not answers:
        pytest.skip("no recording of it")
    assert faults(answers, MODULES[name].parse_result) == {}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_events_of_any_shape_are_read_or_refused(name: str):
    streams = distinct({"events": one.events[:12]} for one in exchanges() if one.format == name and one.events)
    if not streams:
        pytest.skip("no recording of it")
    module = MODULES[name]
    assert faults(streams, lambda stream: list(module.parse_stream(stream["events"]))) == {}
