"""How many tokens a local chat model takes: what its file says, or less where this
machine's memory does not suffice."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelyard.base.fields import whole_number

DEFAULT_CONTEXT = 4096
"""Tokens of models for which the manifest names no window."""
# With less, a prompt of the usual size leaves no room for the answer.
_MIN_CONTEXT = 2048
_SHARE_OF_MEMORY = 0.7
"""The rest stays free for the answers and for other programs."""
_ADVICE = "unless the setting 'local.context' allows more"
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class ContextWindow:
    """The window of one loaded model, and why it has this size."""

    tokens: int
    reason: str = ""
    """The end of a sentence for callers whose request does not fit."""


def window_of(
    configured: int, wanted: int, *, token_bytes: int, other_bytes: int, parallel: int
) -> ContextWindow:
    """Return the window of a model.

    `configured`: the tokens that the settings ask for, 0 for an automatic choice.
    `wanted`: those that the model is made for. `token_bytes`: memory for each token of
    each of the `parallel` chats. `other_bytes`: memory that the model itself takes.
    """
    if configured:
        return ContextWindow(configured, "by the setting 'local.context'")
    free_bytes = available_bytes()
    # Where free memory or need is unknown, the file's own number has to do.
    if free_bytes is None or not token_bytes:
        return ContextWindow(wanted, _ADVICE)
    usable_bytes = free_bytes * _SHARE_OF_MEMORY - other_bytes
    tokens = wanted
    # A smaller window would be of no use, even where memory is short.
    while tokens > _MIN_CONTEXT and tokens * token_bytes * parallel > usable_bytes:
        tokens //= 2
    if tokens == wanted:
        return ContextWindow(wanted, _ADVICE)
    return ContextWindow(
        tokens,
        f"instead of {wanted:,}, since this machine had {free_bytes / 1e9:.1f} GB of"
        " free memory when the model was loaded",
    )


def available_bytes() -> int | None:
    """Return the memory that this process can still get; None where the system does not
    say it as Linux does."""
    return min(_available_amounts(), default=None)


def _available_amounts() -> Iterator[int]:
    """Yield what the machine has left, and what a container's limit leaves."""
    for line in _lines(_MEMINFO):
        name, _, amount = line.partition(":")
        # `MemFree` leaves out caches, which the system gives up when asked.
        if name == "MemAvailable":
            # The kernel counts in KiB here, although it writes kB.
            yield (whole_number(amount.split()[0]) or 0) * 1024
    # "max" stands for no limit.
    limit = whole_number("".join(_lines(_CGROUP / "memory.max")))
    used = whole_number("".join(_lines(_CGROUP / "memory.current")))
    if limit is not None and used is not None:
        yield max(limit - used, 0)


def _lines(path: Path) -> list[str]:
    """Return the lines of a file of the system; none if it is not there."""
    try:
        return path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
