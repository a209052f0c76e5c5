"""Fixtures that several folders share. They use no network except loopback."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.testing import Handler, Upstream, echo_models, echo_provider
from tests.answers import watch

os.environ.setdefault("NO_PROXY", "*")

# No deadline for one example: on a busy machine any example can take long.
hypothesis.settings.register_profile("modelyard", deadline=None)
hypothesis.settings.load_profile("modelyard")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="run the proofs at full size (hours); combine with `-m proof`",
    )


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave out proofs at full size unless they are asked for."""
    if config.getoption("--full"):
        return
    full = [item for item in items if item.get_closest_marker("full")]
    if full:
        config.hook.pytest_deselected(items=full)
        items[:] = [item for item in items if item not in full]


@pytest.fixture(autouse=True)
def answers_are_as_promised() -> Iterator[None]:
    """Fail if a response in this process does not match the API's table."""
    with watch() as misfits:
        yield
    assert not misfits, misfits[:5]


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    """The folder to which `make test` downloaded the weights of the set `small`."""
    return (
        Path(os.environ.get("MODELYARD_HOME", "~/.modelyard")).expanduser() / "models"
    )


@pytest.fixture
def settings(tmp_path: Path, weights_folder: Path) -> Settings:
    """Settings that share only the weights with this machine's own installation."""
    return make_settings(tmp_path, weights_folder)


def make_settings(home: Path, weights: Path, **changes: object) -> Settings:
    import msgspec

    document = {"home": str(home), "local": {"weights": str(weights), "hub": "", "idle_seconds": 60},
                "plugins": {"debug_port": 0}, **changes}  # fmt: skip
    return msgspec.convert(document, Settings)


@pytest.fixture
def upstream() -> Iterator[Callable[[Handler], Upstream]]:
    """Start upstream servers that are stopped at the end of the test."""
    started: list[Upstream] = []

    def start(handler: Handler) -> Upstream:
        upstream_server = Upstream(handler)
        upstream_server.__enter__()
        started.append(upstream_server)
        return upstream_server

    yield start
    for upstream_server in started:
        upstream_server.__exit__()


@pytest.fixture
def echo_yard(settings: Settings) -> Callable[..., Modelyard]:
    """A Modelyard with the echo provider, to be closed by the test."""

    def make(**options: object) -> Modelyard:
        return Modelyard(
            settings,
            definitions=[echo_provider()],
            builders={"echo": echo_models},
            environ={},
            **options,
        )

    return make
