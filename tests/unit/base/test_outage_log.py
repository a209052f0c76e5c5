"""Tests for log entries about something that is away."""

import logging

import pytest

from modelyard.base import outage_log
from modelyard.base.outage_log import OutageLog


def test_an_outage_is_logged_once_a_minute_and_at_its_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    now = 0.0
    monkeypatch.setattr(outage_log.time, "monotonic", lambda: now)
    log = OutageLog(logging.getLogger("test"), "it is away", "it is back")
    caplog.set_level(logging.INFO, "test")
    log.worked()
    for second in range(130):
        now = float(second)
        log.failed(OSError("refused\n\ton that socket"))
    log.worked()
    log.worked()
    entries = [
        (record.message, getattr(record, "fields", None)) for record in caplog.records
    ]
    reason = "refused on that socket"
    assert entries == [
        ("it is away", {"error": reason}),
        ("it is away", {"error": reason, "repeated": "59"}),
        ("it is away", {"error": reason, "repeated": "59"}),
        ("it is back", None),
    ]
    # A new outage is news again.
    log.failed(OSError("refused"))
    assert caplog.records[-1].message == "it is away"
