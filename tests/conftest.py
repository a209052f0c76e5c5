"""Fixtures that several folders share. They use no network except loopback."""

import gc
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
from _pytest.nodeid import NodeId
from httpx._config import DEFAULT_TIMEOUT_CONFIG

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.storage.database import Database
from modelyard.testing import Handler, Upstream, echo_models, echo_provider
from tests.answers import watch

os.environ.setdefault("NO_PROXY", "*")

# No deadline for one example: on a busy machine any example can take long.
hypothesis.settings.register_profile("modelyard", deadline=None)
hypothesis.settings.load_profile("modelyard")
# For the same reason no client gives up after the five seconds that are httpx's default.
for phase in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, phase, 120.0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="run the proofs at full size (hours); combine with `-m proof`",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Let groups of tests work, and leave out proofs at full size unless they are asked
    for."""
    _name_groups(items)
    if config.getoption("--full"):
        return
    full = [item for item in items if item.get_closest_marker("full")]
    if full:
        config.hook.pytest_deselected(items=full)
        items[:] = [item for item in items if item not in full]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the tests without collecting garbage, since almost all of it stays in use;
    and leave it out of all later collections, as the server does."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        gc.enable()


def _name_groups(items: list[pytest.Item]) -> None:
    """Put the name of a test's group behind its node id, where the scheduler of
    pytest-xdist looks for it.

    pytest-xdist 3.8 sets an attribute for that which pytest 9.2 no longer reads.
    """
    for item in items:
        grouped_id = vars(item).get("_nodeid", item.nodeid)
        if grouped_id != item.nodeid:
            item._id = NodeId.parse(grouped_id)


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


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of the current schema without rows. A copy costs a fraction of what
    the migrations cost, which tests of their own cover."""
    path = tmp_path_factory.mktemp("database") / "modelyard.db"
    Database(path).close()
    return path


@pytest.fixture
def settings(tmp_path: Path, weights_folder: Path, empty_database: Path) -> Settings:
    """Settings that share only the weights with this machine's own installation."""
    shutil.copy(empty_database, tmp_path)
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
