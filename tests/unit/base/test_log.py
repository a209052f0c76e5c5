import json
import logging

from modelyard.base.ids import new_id
from modelyard.base.log import JsonFormatter, TextFormatter, redaction


def record(message: str, **fields: object) -> logging.LogRecord:
    log_record = logging.LogRecord(
        "modelyard.x", logging.INFO, "f", 1, message, (), None
    )
    log_record.fields = fields
    return log_record


def test_secrets_are_redacted_everywhere():
    redaction.add(["canary-secret-123", "short"])
    line = JsonFormatter().format(
        record(
            "with canary-secret-123", header="Bearer canary-secret-123", word="short"
        )
    )
    assert "canary" not in line
    assert json.loads(line)["word"] == "short"
    assert "canary" not in TextFormatter().format(record("canary-secret-123"))


def test_fields_follow_the_message():
    assert (
        TextFormatter()
        .format(record("call", model="m", user=None))
        .endswith("call  model=m")
    )


def test_ids_sort_by_time_and_are_unique():
    ids = [new_id("x") for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert [generated_id[:11] for generated_id in ids] == sorted(
        generated_id[:11] for generated_id in ids
    )
