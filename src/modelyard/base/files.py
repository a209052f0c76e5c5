"""Files that people name."""

from pathlib import Path

from modelyard.base.errors import ConfigError


def read_file(path: Path) -> bytes:
    """Raises ConfigError that says what is wrong with the path."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"file {str(path)!r} cannot be read: {error.strerror}") from error
