"""Tests for schedules: conversion to cron, and due times, also across DST changes."""

from datetime import UTC, datetime
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.workflow.nodes.trigger import ScheduleData
from modelyard.workflow.schedule import Schedule, ScheduleError, schedule_of

BERLIN = ZoneInfo("Europe/Berlin")


def schedule_data(**data: Any) -> ScheduleData:
    return msgspec.convert(
        {"type": "trigger-schedule", "title": "s", **data}, ScheduleData
    )


def timestamp_of(
    year: int, month: int, day: int, hour: int = 0, minute: int = 0, zone: Any = UTC
) -> float:
    return datetime(year, month, day, hour, minute, tzinfo=zone).timestamp()


@pytest.mark.parametrize(("data", "cron"), [
    ({"mode": "cron", "cron_expression": " */5 9-17 * * 1-5 "}, "*/5 9-17 * * 1-5"),
    ({"mode": "cron", "cron_expression": "@hourly"}, "0 * * * *"),
    ({"mode": "cron", "cron_expression": " @Daily "}, "0 0 * * *"),
    ({"mode": "cron", "cron_expression": "@midnight"}, "0 0 * * *"),
    ({"mode": "cron", "cron_expression": "@weekly"}, "0 0 * * 0"),
    ({"mode": "cron", "cron_expression": "@monthly"}, "0 0 1 * *"),
    ({"mode": "cron", "cron_expression": "@yearly"}, "0 0 1 1 *"),
    ({"mode": "cron", "cron_expression": "@annually"}, "0 0 1 1 *"),
    ({"mode": "cron", "cron_expression": "0 12 ? * MON-FRI"}, "0 12 * * MON-FRI"),
    ({"mode": "cron", "cron_expression": "0 9 15 * ?"}, "0 9 15 * *"),
    ({"mode": "cron", "cron_expression": "0 9 L JAN *"}, "0 9 L JAN *"),
    ({"frequency": "hourly", "visual_config": {"on_minute": 7}}, "7 * * * *"),
    ({"frequency": "daily", "visual_config": {"time": "12:00 AM"}}, "0 0 * * *"),
    ({"frequency": "daily", "visual_config": {"time": "12:30 PM"}}, "30 12 * * *"),
    ({"frequency": "daily", "visual_config": {"time": "21:05"}}, "5 21 * * *"),
    ({"frequency": "weekly", "visual_config": {"time": "9:15 AM", "weekdays": ["mon", "sun"]}}, "15 9 * * 1,0"),
    ({"frequency": "monthly", "visual_config": {"time": "6:00 PM", "monthly_days": [1, "last"]}}, "0 18 1,L * *"),
    ({}, "0 0 * * *"),
])  # fmt: skip
def test_a_form_is_converted_to_a_cron_expression(data: dict[str, Any], cron: str):
    assert schedule_of(schedule_data(**data)) == Schedule(cron, "UTC")


@pytest.mark.parametrize(("data", "error_pattern"), [
    ({"mode": "cron", "cron_expression": "0 9 * *"}, "must have five fields"),
    ({"mode": "cron", "cron_expression": "61 * * * *"}, "Invalid cron expression .*: bad minute"),
    ({"mode": "cron", "cron_expression": "0 0 30 2 *"}, "Invalid cron expression"),
    ({"mode": "cron", "cron_expression": "0 9 * * * *"}, "must have five fields"),
    ({"mode": "cron", "cron_expression": "@reboot"}, "Unknown schedule '@reboot'; expected one of @hourly"),
    ({"mode": "cron", "cron_expression": "@every 5m"}, "Unknown schedule"),
    ({"mode": "cron", "cron_expression": "0 9 ?/2 * *"}, "Invalid cron expression"),
    ({"mode": "cron", "cron_expression": "0 9 * * FOO"}, "Invalid cron expression"),
    ({"mode": "cron", "cron_expression": "0 9 * BAR *"}, "Invalid cron expression"),
    ({"mode": "yearly"}, "Unknown mode 'yearly'"),
    ({"frequency": "fortnightly"}, "Unknown frequency 'fortnightly'"),
    ({"frequency": "daily", "visual_config": {"time": "25:00"}}, "expected a time like"),
    ({"frequency": "hourly", "visual_config": {"on_minute": 60}}, "must be 0 to 59"),
    ({"frequency": "weekly", "visual_config": {"weekdays": ["someday"]}}, "unknown weekday 'someday'"),
    ({"timezone": "Mars/Olympus"}, "Unknown timezone 'Mars/Olympus'"),
    ({"timezone": "../../etc/passwd"}, "Unknown timezone"),
])  # fmt: skip
def test_invalid_schedules_are_named(data: dict[str, Any], error_pattern: str):
    with pytest.raises(ScheduleError, match=error_pattern):
        schedule_of(schedule_data(**data))


def test_a_daily_time_occurs_once_a_day_in_its_zone_across_dst_changes():
    schedule = Schedule("30 2 * * *", "Europe/Berlin")
    spring = list(
        islice(schedule.times_after(timestamp_of(2026, 3, 27, 12, zone=BERLIN)), 4)
    )
    assert [datetime.fromtimestamp(timestamp, BERLIN).strftime("%d %H:%M") for timestamp in spring] == [
        "28 02:30", "29 03:00", "30 02:30", "31 02:30",
    ]  # fmt: skip
    autumn = list(
        islice(schedule.times_after(timestamp_of(2026, 10, 23, 12, zone=BERLIN)), 3)
    )
    assert [datetime.fromtimestamp(timestamp, BERLIN).strftime("%d %H:%M") for timestamp in autumn] == [
        "24 02:30", "25 02:30", "26 02:30",
    ]  # fmt: skip


@given(
    minute=st.integers(0, 59), hour=st.integers(0, 23), moment=st.integers(1_600_000_000, 2_000_000_000),
    zone=st.sampled_from(["UTC", "Asia/Shanghai", "America/New_York", "Asia/Kathmandu"]),
)  # fmt: skip
def test_the_next_time_is_later_and_the_latest_is_not(
    minute: int, hour: int, moment: int, zone: str
):
    schedule = Schedule(f"{minute} {hour} * * *", zone)
    following = schedule.next(moment)
    assert following is not None
    assert moment < following <= moment + 25 * 3600 + 60
    last = schedule.latest(moment - 3 * 86_400, moment)
    assert last is not None
    assert last <= moment < (schedule.next(last) or 0)
    assert schedule.latest(following - 1, following - 0.5) is None
