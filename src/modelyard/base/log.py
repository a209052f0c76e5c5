"""Structured logs on standard error, as text for people or JSON for machines, with
secrets redacted.

`logger.info("call", extra={"fields": {...}})` attaches fields. Every value registered
with `redaction` is replaced in every line, wherever it comes from.
"""

import json
import logging
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

_MASK = "[redacted]"


class Redactor(logging.Filter):
    """Replaces known secrets in log output. It matches values, not field names, since a
    secret can appear under any name."""

    def __init__(self) -> None:
        super().__init__()
        self._secrets: set[str] = set()

    def add(self, values: Iterable[Any]) -> None:
        """Register values to redact. Anything but strings of at least 8 characters is
        ignored."""
        # Shorter values would redact ordinary words.
        self._secrets.update(
            value for value in values if isinstance(value, str) and len(value) >= 8
        )

    def redact(self, text: str) -> str:
        """Return the text with every registered secret replaced by a mask."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, _MASK)
        return text


redaction = Redactor()

# A library must not log unless its user configures logging.
logging.getLogger("modelyard").addHandler(logging.NullHandler())


def fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return the structured fields attached to a record, or an empty mapping."""
    return getattr(record, "fields", {})


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a JSON line, redacted."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # Redact the finished line: a secret may be in the message, a field or a
        # traceback.
        return redaction.redact(json.dumps(line, ensure_ascii=False, default=str))


class TextFormatter(logging.Formatter):
    """Formats a record as one readable line, with a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text, redacted."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        pairs = " ".join(
            f"{key}={value}"
            for key, value in fields_of(record).items()
            if value is not None
        )
        line = f"{clock} {record.levelname.lower():<7} {record.getMessage()}" + (
            f"  {pairs}" if pairs else ""
        )
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redaction.redact(line)


def configure_logging(level: str = "info", output_format: str = "text") -> None:
    """Send the `modelyard` logs and the server's warnings to standard error.

    Called by the command line, never on import. `output_format` is `text` or `json`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if output_format == "json" else TextFormatter()
    )
    # Libraries log warnings only; their info level would drown the application's own
    # lines.
    dependency_loggers = (
        ("uvicorn", "WARNING"),
        ("asyncio", "WARNING"),
        ("opentelemetry", "WARNING"),
    )
    for name, level_name in (("modelyard", level.upper()), *dependency_loggers):
        logger = logging.getLogger(name)
        # Replace the handlers, so that configuring twice does not print every line
        # twice.
        logger.handlers[:] = [handler]
        logger.setLevel(level_name)
        # The root logger's handlers would print each line once more.
        logger.propagate = False
