"""Compares what a run has shown with what its file describes. Pure functions: a test
corrupts what was shown and sees each corruption found."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tools.show.app_files.runs import Shown
from tools.show.app_files.values import is_file, without_run_ids
from tools.show.app_files.walk import Expected, ExpectedCall, Reviewed
from tools.show.app_files.world import Call

_MAX_SHOWN = 400
"""Characters of a value in a finding."""
_FILE_FIELDS = ("type", "filename", "extension", "mime_type", "size")


def findings(shown: Shown, expected: Expected, reviewed: Reviewed) -> list[str]:
    """Return what is wrong with a run; nothing if it is as its file describes."""
    return [
        *expected.problems,
        *shown.disorder,
        *_wrong_end(shown, expected, reviewed),
        *_empty_questions(shown.calls),
        *_wrong_calls(shown.calls, expected.calls),
        *_wrong_nodes(shown.ran, expected.ran),
        *_wrong_conversation(shown, expected),
        *_wrong_stream(shown, expected),
        *_wrong_outputs(shown.outputs, expected.outputs),
        *_empty_outputs(expected, reviewed),
    ]


def comparable(value: Any) -> Any:
    """Return a value without what differs between two runs: ids, and where files are
    stored."""
    if is_file(value):
        return {name: value.get(name) for name in _FILE_FIELDS}
    if isinstance(value, Mapping):
        return {str(key): comparable(element) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return [comparable(element) for element in value]
    return without_run_ids(value)


def _wrong_end(shown: Shown, expected: Expected, reviewed: Reviewed) -> Iterator[str]:
    """Yield a finding if the run ends otherwise than its file makes it end."""
    if shown.status != expected.status:
        yield f"the run {shown.status} ({shown.error}), not {expected.status}"
    if not re.search(reviewed.error, shown.error):
        yield f"the error is {shown.error!r}, which does not fit {reviewed.error!r}"
    if reviewed.ends != "succeeded" and not reviewed.reason:
        yield f"the run may end as {reviewed.ends}, and nothing says why"
    if expected.status != reviewed.ends:
        yield f"the file makes the run end as {expected.status}, not {reviewed.ends}"


def _empty_questions(calls: Sequence[Call]) -> Iterator[str]:
    """Yield a finding for each question to a model that asks nothing."""
    for call in calls:
        if call.target != "model":
            continue
        asking = [
            message
            for message in call.asked
            if message.role in ("system", "user")
            and (message.text.strip() or message.files)
        ]
        if not asking:
            yield "a model is asked nothing"


def _wrong_calls(
    calls: Sequence[Call], expected: Sequence[ExpectedCall]
) -> Iterator[str]:
    """Yield a finding for each call that is missing, and for each that is not expected."""
    remaining = [(call.target, _dumped(call.asked)) for call in calls]
    # Exact calls first: a call that is known by some of its texts could take their place.
    for call in sorted(expected, key=lambda call: not call.is_exact):
        index = _index_of(call, remaining)
        if index is None:
            nearest = _nearest(call, remaining)
            yield (
                f"{call.node} has to ask ({call.target}) {_short(call.asked)};"
                f" the nearest call is {nearest}"
            )
        else:
            del remaining[index]
    for target, request_text in remaining:
        yield f"nothing in the file asks ({target}) {request_text[:_MAX_SHOWN]}"


def _dumped(request_text: Any) -> str:
    """Return what was asked as a comparable text."""
    return json.dumps(
        comparable(request_text), ensure_ascii=False, sort_keys=True, default=str
    )


def _index_of(call: ExpectedCall, remaining: Sequence[tuple[str, str]]) -> int | None:
    """Return the index of the call that is expected; None if there is none."""
    # Inside of JSON a text may be written as JSON once more.
    texts = () if call.is_exact else call.asked
    for index, (target, request_text) in enumerate(remaining):
        if target != call.target:
            continue
        if call.is_exact and request_text == _dumped(call.asked):
            return index
        if not call.is_exact and all(_is_in(text, request_text) for text in texts):
            return index
    return None


def _is_in(text: str, request_text: str) -> bool:
    """Return whether a text is in what was asked, plainly or in JSON inside of it."""
    once = json.dumps(without_run_ids(text), ensure_ascii=False)[1:-1]
    twice = json.dumps(once, ensure_ascii=False)[1:-1]
    return once in request_text or twice in request_text


def _nearest(call: ExpectedCall, remaining: Sequence[tuple[str, str]]) -> str:
    """Return the first call of the same target that is not explained yet."""
    request_text = [
        request_text for target, request_text in remaining if target == call.target
    ]
    return request_text[0][:_MAX_SHOWN] if request_text else "none"


def _wrong_nodes(ran: Sequence[str], expected: Sequence[str]) -> Iterator[str]:
    """Yield a finding if other nodes ran, or not as often."""
    for node in sorted({*ran, *expected}):
        if ran.count(node) != expected.count(node):
            yield f"{node} ran {ran.count(node)} times, not {expected.count(node)}"


def _wrong_conversation(shown: Shown, expected: Expected) -> Iterator[str]:
    """Yield a finding for each conversation variable with another value."""
    for name in {**expected.conversation, **shown.conversation}:
        left, right = shown.conversation.get(name), expected.conversation.get(name)
        if _dumped(left) != _dumped(right):
            yield f"conversation.{name} is {_short(left)}, not {_short(right)}"


def _wrong_stream(shown: Shown, expected: Expected) -> Iterator[str]:
    """Yield a finding if the streamed text is not the answer."""
    if expected.is_chat and expected.status != "failed" and shown.said != expected.said:
        shown_text, expected_text = _short(shown.said), _short(expected.said)
        yield f"the client of the chat sees {shown_text}, not {expected_text}"


def _wrong_outputs(
    outputs: Mapping[str, Any], expected: Mapping[str, Any]
) -> Iterator[str]:
    """Yield a finding for each output that is missing, additional or different."""
    for name in expected:
        if name not in outputs:
            yield f"output {name} is missing; it has to be {_short(expected[name])}"
        # As JSON, in which true is not 1.
        elif _dumped(outputs[name]) != _dumped(expected[name]):
            yield f"output {name} is {_short(outputs[name])}, not {_short(expected[name])}"
    for name in outputs:
        if name not in expected:
            yield f"nothing in the file declares the output {name}"


def _empty_outputs(expected: Expected, reviewed: Reviewed) -> Iterator[str]:
    """Yield a finding for each output without a value that is not known to have none.

    The reviewed data names those that the file itself leaves empty.
    """
    empty = {
        name
        for name, value in expected.outputs.items()
        # An answer need not have files.
        if value in (None, "", [], {}) and name != "files"
    }
    # A name with a turn is for that turn of a chat.
    suffix = f" turn {expected.turn}"
    reviewed_names = {name.removesuffix(suffix) for name in reviewed.empty}
    reviewed_names = {name for name in reviewed_names if " turn " not in name}
    for name in sorted(empty - reviewed_names):
        yield f"output {name} is empty, and nothing says why"
    for name in sorted(reviewed_names - empty):
        yield f"output {name} is said to be empty, but has a value"


def _short(value: Any) -> str:
    """Return a value for a finding."""
    return json.dumps(comparable(value), ensure_ascii=False, default=str)[:_MAX_SHOWN]
