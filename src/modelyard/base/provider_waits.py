"""How long a provider asks to be left alone: by the headers of its response, by the fields
of its error, and by its words where it has nothing else."""

import email.utils
import math
import re
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from modelyard.base.json_types import is_array, is_object

_MAX_WAIT_SECONDS = 24 * 3600.0
"""A longer wait is not useful to any caller, and no cooldown should last longer."""
_REMAINING = re.compile(r".*ratelimit-(?:.*-)?remaining(?:-.*)?")
"""Names such as `x-ratelimit-remaining-requests` and
`anthropic-ratelimit-requests-remaining`."""
_DURATION_TEXT = (
    r"(?:\d{1,6}d)?(?:\d{1,6}h)?(?:\d{1,6}m(?!s))?(?:\d{1,9}(?:\.\d{1,9})?s)?"
    r"(?:\d{1,9}(?:\.\d{1,9})?ms)?"
)
_DURATION = re.compile(
    r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?"
    r"(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?"
)
_DURATION_UNITS = (86_400.0, 3600.0, 60.0, 1.0, 0.001)
_WORDS = re.compile(
    r"(?:try again|retry) (?:in|after) (?:(?P<seconds>\d{1,6}(?:\.\d{1,9})?) seconds?"
    rf"|(?P<duration>(?=\d){_DURATION_TEXT}))(?![\w])",
    re.IGNORECASE,
)
"""Such as `Please try again in 6m0.5s` (OpenAI, Groq, Google) and `Please retry after 26
seconds` (Azure)."""


def retry_after(
    headers: Mapping[str, str], *, now_seconds: float | None = None
) -> float | None:
    """Return the seconds to wait, from `retry-after-ms` or Retry-After (seconds or a
    date); None if absent or invalid.

    `now_seconds` replaces the current time (Unix time) in tests.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return min(milliseconds / 1000, _MAX_WAIT_SECONDS)
    value = headers.get("retry-after")
    if value is None:
        return None
    if (seconds := _number(value)) is not None:
        return min(seconds, _MAX_WAIT_SECONDS)
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    # A date in the past means no wait.
    return min(
        max(0.0, moment - (time.time() if now_seconds is None else now_seconds)),
        _MAX_WAIT_SECONDS,
    )


def limit_reset(
    headers: Mapping[str, str], *, now_seconds: float | None = None
) -> float | None:
    """Return the seconds until the exhausted rate limits are reset, from headers such as
    `x-ratelimit-remaining-requests: 0` and `x-ratelimit-reset-requests: 6m0s`.

    None if no limit is exhausted or its reset is not named. `now_seconds` replaces the
    current time (Unix time) in tests.
    """
    now = time.time() if now_seconds is None else now_seconds
    waits: list[float] = []
    for name, value in headers.items():
        match = _REMAINING.fullmatch(name.lower())
        if match is None or _number(value) != 0:
            continue
        reset = headers.get(name.lower().replace("remaining", "reset"))
        if reset is not None and (wait := _reset_seconds(reset, now)) is not None:
            waits.append(wait)
    return min(max(waits), _MAX_WAIT_SECONDS) if waits else None


def stated_wait(fields: Mapping[str, Any], message: str) -> float | None:
    """Return the seconds that a provider's error names itself; None if it names none.

    They are in Google's RetryInfo, in the headers that OpenRouter repeats in
    `metadata`, or in the message.
    """
    wait = _retry_info(fields)
    if wait is None:
        wait = _wait_of_repeated_headers(fields)
    return _wait_in_words(message) if wait is None else wait


def _retry_info(fields: Mapping[str, Any]) -> float | None:
    """Return the seconds of Google's RetryInfo; None if there is none."""
    details = fields.get("details")
    if not is_array(details):
        return None
    for detail in details[:20]:
        if not is_object(detail):
            continue
        if str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            return _duration_seconds(detail.get("retryDelay"))
    return None


def _wait_of_repeated_headers(fields: Mapping[str, Any]) -> float | None:
    """Return the seconds that the headers in `metadata` ask for; None if there are
    none."""
    metadata = fields.get("metadata")
    headers = metadata.get("headers") if is_object(metadata) else None
    if not is_object(headers):
        return None
    texts = {
        name.lower(): str(value)
        for name, value in headers.items()
        if isinstance(value, str | int | float)
    }
    wait = retry_after(texts)
    return limit_reset(texts) if wait is None else wait


def _wait_in_words(message: str) -> float | None:
    """Return the seconds that a message names; None if it names none."""
    match = _WORDS.search(message)
    if match is None:
        return None
    if (seconds := _number(match["seconds"])) is not None:
        return min(seconds, _MAX_WAIT_SECONDS)
    return _duration_seconds(match["duration"])


def _number(text: str | None) -> float | None:
    """Return a non-negative finite number; None for anything else."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _duration_seconds(value: Any) -> float | None:
    """Return the seconds of a duration such as `37s`, `0.5s` or `6m0s`, at most a day;
    None for anything else."""
    if not isinstance(value, str) or not 0 < len(value) <= 40:
        return None
    match = _DURATION.fullmatch(value)
    if match is None:
        return None
    seconds = sum(
        float(digits or 0) * unit
        for digits, unit in zip(match.groups(), _DURATION_UNITS, strict=True)
    )
    return min(seconds, _MAX_WAIT_SECONDS)


def _reset_seconds(text: str, now: float) -> float | None:
    """Return the seconds until a reset: a duration, a moment in RFC 3339, or Unix time
    in seconds or milliseconds. None if it is none of them."""
    if (number := _number(text)) is not None:
        # Numbers of this size are moments, in seconds or in milliseconds.
        if number > 1e11:
            number /= 1000
        return max(0.0, number - now) if number > 1e9 else number
    if (seconds := _duration_seconds(text.strip())) is not None:
        return seconds
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - now) if moment.tzinfo is not None else None
