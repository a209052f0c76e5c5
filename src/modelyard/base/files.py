"""Access to files that users name."""

from pathlib import Path

from modelyard.base.errors import ConfigError


def read_file(path: Path) -> bytes:
    """Return the content of a file. Raises ConfigError with the path and the reason if
    it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"File {str(path)!r} cannot be read: {error.strerror}"
        ) from error
