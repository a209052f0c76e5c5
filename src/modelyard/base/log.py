"""Structured logs on standard error: words for people, JSON for machines. Secrets never get this far.

`logger.info("call", extra={"fields": {...}})` carries the fields. What is registered in `secrets` is struck out of
every line, whatever brought it there.
"""

import json
import logging
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

_MASK = "[redacted]"


class Redaction(logging.Filter):
    """Strikes live secrets out of records: values, not names, since a secret travels under any name."""

    def __init__(self) -> None:
        super().__init__()
        self._secrets: set[str] = set()

    def add(self, values: Iterable[Any]) -> None:
        # Shorter values would blank out ordinary words.
        self._secrets.update(value for value in values if isinstance(value, str) and len(value) >= 8)

    def strike(self, text: str) -> str:
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, _MASK)
        return text


redaction = Redaction()

# As a library we say nothing until somebody asks.
logging.getLogger("modelyard").addHandler(logging.NullHandler())


def fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    return getattr(record, "fields", {})


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return redaction.strike(json.dumps(line, ensure_ascii=False, default=str))


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        pairs = " ".join(f"{key}={value}" for key, value in fields_of(record).items() if value is not None)
        line = f"{clock} {record.levelname.lower():<7} {record.getMessage()}" + (f"  {pairs}" if pairs else "")
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redaction.strike(line)


def configure_logging(level: str = "info", form: str = "text") -> None:
    """Send `modelyard.*` and the server's warnings to standard error. Called by the command line, never on import."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    others = (("uvicorn", "WARNING"), ("asyncio", "WARNING"), ("opentelemetry", "WARNING"))
    for name, at in (("modelyard", level.upper()), *others):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(at)
        logger.propagate = False
