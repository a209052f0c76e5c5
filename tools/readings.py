"""What the codecs read from requests, answers and streams, and how they write it in every
format.

    python -m tools.readings

The inputs are the features of `tools.lost_and_kept`, each as its vendor's clients and
servers write it, and the same with one value after another replaced by an odd one. The
readings are stored, so that a test can show every change of them; this command stores new
ones and prints what has changed, for a person to judge.
"""

import copy
import difflib
import gzip
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.models.capabilities import (
    DEFAULT_CAPABILITIES,
    Capabilities,
    ReasoningStyle,
)
from modelyard.models.llm import LLMResult, LLMResultChunk, fold
from modelyard.wire import (
    anthropic,
    bedrock,
    cohere,
    dashscope,
    gemini,
    ollama,
    openai_chat,
    openai_completions,
    openai_responses,
)
from tools.lost_and_kept.answer_features import ANSWERS
from tools.lost_and_kept.answers import events_of_answer
from tools.lost_and_kept.features import Feature
from tools.lost_and_kept.formats import CALLERS, JSON
from tools.lost_and_kept.parameter_features import (
    ACCOUNT,
    CACHE,
    OUTPUT,
    SAMPLING,
    THINKING,
    TOOLS,
)
from tools.lost_and_kept.request_features import CONTENT, HISTORY
from tools.show.exchanges import Exchange, exchanges

STORED = Path(__file__).parents[1] / "tests" / "wire" / "readings.json.gz"
FORMATS: dict[str, ModuleType] = {
    module.FORMAT: module
    for module in (
        openai_chat, openai_responses, anthropic, gemini, bedrock, cohere, ollama, dashscope, openai_completions,
    )
}  # fmt: skip
_ODD: tuple[Any, ...] = (None, True, -1, 2.5, "odd", "", [], ["odd"], {}, {"odd": 1})
"""What takes the place of a value."""
_ABSENT = object()
"""Takes the place of a value that is left out."""
_REASONING: tuple[ReasoningStyle, ...] = (
    "thinking", "thinking_effort", "enable_thinking", "openrouter",
)  # fmt: skip
_CAPABILITIES = (
    Capabilities(developer_role=True, custom_tools=True, cache_marks=True),
    Capabilities(drop=("temperature", "tools"), rename={"seed": "random_seed"}),
    Capabilities(max_tokens_field="max_completion_tokens", no_stream_options=True),
    Capabilities(required_tool_choice="any", thinking_parts=True),
    Capabilities(reasoning_field="", max_tokens=77, adaptive_thinking=True),
    Capabilities(reasoning_field="reasoning", structured="output_format"),
    *(Capabilities(reasoning=style) for style in _REASONING),
)
"""Servers that deviate from their format in one way or another."""
_PER_READING = 40
"""Recorded exchanges in one reading."""
_STATUSES = (400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 429, 500, 503, 504, 529)
# Generated ids and times differ each time.
_GENERATED = re.compile(r"\b([a-z]+[_-])?[0-9a-f]{8}-?[0-9a-f]{4}[0-9a-f-]{12,}\b")
_TIME = re.compile(r'("created(?:_at)?": ?)1[0-9]{9}(?:\.[0-9]+)?')


def all_inputs() -> Mapping[str, Callable[[], JSON]]:
    """Return what reads each input, by the input's name."""
    return dict(chain(_requests(), _answers(), _errors(), _recordings()))


def _requests() -> Iterator[tuple[str, Callable[[], JSON]]]:
    groups = (CONTENT, HISTORY, SAMPLING, OUTPUT, THINKING, ACCOUNT, TOOLS, CACHE)
    features: Iterable[Feature] = chain.from_iterable(groups)
    for feature in features:
        for caller, fields in feature.requests.items():
            body = {"model": "m", **CALLERS[caller].body, **fields}
            name = f"request: {feature.name}: {caller}"
            yield name, partial(_request_reading, caller, body)


def _request_reading(caller: str, body: JSON) -> JSON:
    """Return what a request says, in every format, and what is said of odd ones."""
    module = FORMATS[caller]
    request = _outcome(lambda: module.parse_request(copy.deepcopy(body)))
    reading = {"read": request}
    if not isinstance(request, ModelyardError):
        reading |= {name: _again(target, request) for name, target in FORMATS.items()}
    reading["odd"] = dict(_odd_outcomes(body, module.parse_request))
    return reading


def _again(target: ModuleType, request: Any) -> Any:
    """Return a request as it is written in another format, how that is read, and the
    digests of what other servers of the format get."""

    def dump(capabilities: Capabilities) -> Any:
        return _outcome(lambda: target.dump_request(request, "m", capabilities))

    body = dump(DEFAULT_CAPABILITIES)
    digests = [_digest(_text(dump(known))) for known in _CAPABILITIES]
    if isinstance(body, ModelyardError):
        return body, digests
    return body, _outcome(lambda: target.parse_request(copy.deepcopy(body))), digests


def _answers() -> Iterator[tuple[str, Callable[[], JSON]]]:
    for feature in ANSWERS:
        for target, answer in feature.answers.items():
            module = FORMATS[target]
            name = f"{feature.name}: {target}"
            yield f"answer: {name}", partial(_answer_reading, module, answer)
            events = list(events_of_answer(target, answer))
            yield f"stream: {name}", partial(_stream_reading, module, events)


def _answer_reading(module: ModuleType, answer: JSON) -> JSON:
    result = _outcome(lambda: module.parse_result(copy.deepcopy(answer)))
    reading = {"read": result}
    if isinstance(result, LLMResult):
        reading |= {
            name: _outcome(lambda target=target: target.dump_result(result))
            for name, target in FORMATS.items()
        }
    reading["odd"] = dict(_odd_outcomes(answer, module.parse_result))
    return reading


def _stream_reading(module: ModuleType, events: list[JSON]) -> JSON:
    def parse(events: list[JSON]) -> list[LLMResultChunk]:
        return list(module.parse_stream(events))

    chunks = _outcome(lambda: parse(copy.deepcopy(events)))
    reading = {"read": chunks}
    if isinstance(chunks, list):
        reading["folded"] = _outcome(lambda: fold(chunks))
        reading |= {
            name: _outcome(lambda target=target: list(target.dump_stream(chunks)))
            for name, target in FORMATS.items()
        }
    reading["odd"] = dict(_odd_outcomes(events, parse))
    reading["order"] = [
        _digest(_text(_outcome(lambda changed=changed: parse(changed))))
        for changed in _disorders(events)
    ]
    return reading


def _disorders(events: list[JSON]) -> Iterator[list[JSON]]:
    """Yield a stream that ends early, repeats an event, or has two in the wrong order,
    at each place."""
    for index in range(len(events)):
        yield copy.deepcopy(events[:index])
        yield copy.deepcopy([*events[: index + 1], *events[index:]])
        swapped = [*events[:index], *events[index + 1 : index + 2], events[index]]
        yield copy.deepcopy([*swapped, *events[index + 2 :]])


def _errors() -> Iterator[tuple[str, Callable[[], JSON]]]:
    for name, module in FORMATS.items():
        if hasattr(module, "dump_error"):
            yield f"errors: {name}", partial(_error_reading, module)


def _error_reading(module: ModuleType) -> JSON:
    """Return how a format writes errors."""
    return {
        f"{status} {request_id}": module.dump_error(status, "Why", request_id)
        for status in _STATUSES
        for request_id in ("", "req_1")
    }


def _recordings() -> Iterator[tuple[str, Callable[[], JSON]]]:
    by_format: dict[str, list[Exchange]] = {}
    # Read anew: what others have been given of them, they may have changed.
    for exchange in exchanges.__wrapped__():
        if exchange.format in FORMATS and exchange.status == 200:
            by_format.setdefault(exchange.format, []).append(exchange)
    for name, recorded in by_format.items():
        for first in range(0, len(recorded), _PER_READING):
            group = recorded[first : first + _PER_READING]
            yield f"recorded: {name}: {first}", partial(_recorded_reading, name, group)


def _recorded_reading(name: str, recorded: list[Exchange]) -> JSON:
    """Return the digests of real exchanges, as they are read and written."""
    module = FORMATS[name]
    digests: list[list[str]] = []
    for exchange in recorded:
        request = copy.deepcopy(exchange.request)
        values = [_request_again(module, request), _answer_again(module, exchange)]
        digests.append([_digest(_text(value)) for value in values])
    return {"digests": digests}


def _request_again(module: ModuleType, body: Any) -> Any:
    request = _outcome(lambda: module.parse_request(body))
    if isinstance(request, ModelyardError):
        return request
    return request, [
        _outcome(
            lambda target=target: target.dump_request(
                request, "m", DEFAULT_CAPABILITIES
            )
        )
        for target in FORMATS.values()
    ]


def _answer_again(module: ModuleType, exchange: Exchange) -> Any:
    if exchange.events is not None:
        events = copy.deepcopy(exchange.events)
        chunks = _outcome(lambda: list(module.parse_stream(events)))
        result = _outcome(lambda: fold(chunks)) if isinstance(chunks, list) else chunks
    else:
        response = copy.deepcopy(exchange.response)
        result = _outcome(lambda: module.parse_result(response))
        chunks = list(result.as_chunks()) if isinstance(result, LLMResult) else result
    if isinstance(result, ModelyardError):
        return result
    return (
        result,
        [_outcome(lambda t=t: t.dump_result(result)) for t in FORMATS.values()],
        [_outcome(lambda t=t: list(t.dump_stream(chunks))) for t in FORMATS.values()],
    )


def _odd_outcomes(
    document: Any, parse: Callable[[Any], Any]
) -> Iterator[tuple[str, list[str]]]:
    """Yield the path of each value, with the outcome for each odd one in its place: the
    error, or the digest of what is read."""
    for path in _paths(document):
        outcomes: list[str] = []
        for odd in (_ABSENT, *_ODD):
            changed = _replaced(document, path, odd)
            outcome = _outcome(lambda changed=changed: parse(changed))
            text = _text(outcome)
            is_error = isinstance(outcome, ModelyardError)
            outcomes.append(text if is_error else _digest(text))
        yield ".".join(map(str, path)), outcomes


def _paths(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values in a document, except its own."""
    if path:
        yield path
    steps: Iterable[Any] = ()
    if isinstance(document, dict):
        steps = document
    elif isinstance(document, list):
        steps = range(len(document))
    for step in steps:
        yield from _paths(document[step], (*path, step))


def _replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of a document with another value at a path, or none."""
    changed = copy.deepcopy(document)
    container = changed
    for step in path[:-1]:
        container = container[step]
    if value is _ABSENT:
        del container[path[-1]]
    else:
        container[path[-1]] = value
    return changed


def _outcome(work: Callable[[], Any]) -> Any:
    """Return a result, or the error in its place."""
    try:
        return work()
    except ModelyardError as error:
        return error


def _text(value: Any) -> str:
    """Return anything that a codec returns as JSON, always the same."""
    text = json.dumps(_plain(value), ensure_ascii=False)
    return _TIME.sub(r"\1 0", _GENERATED.sub(r"\1N", text))


def _plain(value: Any) -> Any:
    """Return a value as what JSON can hold."""
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_described)


def _described(value: Any) -> Any:
    """Return an error as its class, text and fields."""
    if not isinstance(value, ModelyardError):
        return repr(value)
    fields = {
        name: repr(field)
        for name, field in sorted(vars(value).items())
        if field is not None
    }
    return f"{type(value).__name__}: {value} {fields}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def measured(read: Callable[[], JSON]) -> JSON:
    """Return what is read from an input, as it is stored."""
    return {part: json.loads(_text(value)) for part, value in read().items()}


def stored() -> dict[str, Any]:
    """Return the readings that a person has judged."""
    return json.loads(gzip.decompress(STORED.read_bytes()))


def difference(before: Any, after: Any) -> list[str]:
    """Return the lines in which two readings differ."""
    lines = [
        json.dumps(reading, indent=1, ensure_ascii=False).splitlines()
        for reading in (before, after)
    ]
    return list(difflib.unified_diff(*lines, "stored", "now", lineterm="", n=4))


def main() -> None:
    """Store the readings, and print what has changed."""
    before = stored() if STORED.exists() else {}
    after = {name: measured(read) for name, read in all_inputs().items()}
    for name in sorted({*before, *after}):
        if changes := difference(before.get(name), after.get(name)):
            print(f"\n{name}")
            print("\n".join(changes[:60]))
    text = json.dumps(after, ensure_ascii=False, separators=(",", ":"))
    # Without a time, so that equal readings are equal files.
    STORED.write_bytes(gzip.compress(text.encode(), mtime=0))
    sys.stdout.write(f"{len(after)} readings\n")


if __name__ == "__main__":
    main()
