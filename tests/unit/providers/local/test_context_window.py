"""Tests for the context of local models: what is asked for, or what the memory allows."""

from pathlib import Path

import pytest

from modelyard.base.errors import ContextTooLongError, TokenCounts
from modelyard.providers.local import context_window
from modelyard.providers.local.context_window import available_bytes, window_of
from modelyard.providers.local.messages import Failure
from modelyard.providers.local.process import error_of
from modelyard.providers.local.runtime import LocalOptions, LocalRuntime
from modelyard.providers.local.weights import WeightStore

_MEGABYTE = 1_000_000


def window(
    monkeypatch: pytest.MonkeyPatch, free: int | None, configured: int = 0
) -> context_window.ContextWindow:
    monkeypatch.setattr(context_window, "available_bytes", lambda: free)
    return window_of(
        configured, 32_768, token_bytes=28_672, other_bytes=1_100_000_000, parallel=2
    )


def test_the_whole_window_if_the_memory_suffices(monkeypatch: pytest.MonkeyPatch):
    assert window(monkeypatch, 16_000 * _MEGABYTE).tokens == 32_768
    # A system that does not say how much is free.
    assert window(monkeypatch, None).tokens == 32_768


@pytest.mark.parametrize(
    ("free", "tokens"), [(4_000, 16_384), (3_000, 16_384), (2_000, 4_096), (100, 2_048)]
)
def test_less_memory_halves_the_window(
    monkeypatch: pytest.MonkeyPatch, free: int, tokens: int
):
    chosen = window(monkeypatch, free * _MEGABYTE)
    assert chosen.tokens == tokens
    assert f"this machine had {free / 1000:.1f} GB" in chosen.reason


def test_the_setting_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch):
    chosen = window(monkeypatch, 100 * _MEGABYTE, configured=50_000)
    assert (chosen.tokens, chosen.reason) == (50_000, "by the setting 'local.context'")


def test_the_limit_of_a_container_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:   2000 kB\n")
    monkeypatch.setattr(context_window, "_MEMINFO", meminfo)
    monkeypatch.setattr(context_window, "_CGROUP", tmp_path)
    assert available_bytes() == 2_048_000
    (tmp_path / "memory.current").write_text("500\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes() == 2_048_000
    (tmp_path / "memory.max").write_text("1500\n")
    assert available_bytes() == 1_000
    meminfo.unlink()
    (tmp_path / "memory.max").unlink()
    assert available_bytes() is None


def test_each_model_has_its_own_window(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(context_window, "available_bytes", lambda: 10**11)
    runtime = LocalRuntime(WeightStore(tmp_path), LocalOptions())
    assert runtime.window("qwen2.5-coder-1.5b").tokens == 32_768
    assert runtime.window("qwen2.5-coder-0.5b").tokens == 4_096


def test_the_counts_of_a_process_reach_the_caller():
    counts = TokenCounts(18_836, limit=4_096)
    failure = Failure(id=1, kind="ContextTooLongError", message="m", tokens=counts)
    error = error_of(failure)
    assert isinstance(error, ContextTooLongError)
    assert error.tokens == counts
