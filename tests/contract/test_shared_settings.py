"""Settings of several servers: in the database, for all of them, or in a file that nobody
but its owner changes."""

import asyncio
import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from modelyard.base.clock import SystemClock
from modelyard.base.errors import ConfigError, InvokeBadRequestError
from modelyard.base.ids import new_id
from modelyard.base.settings import CacheSettings, Settings
from modelyard.base.shared_settings import changed_at_start_only, with_shared
from modelyard.cli.providers import providers
from modelyard.storage.database import Database
from modelyard.storage.secrets import load_key_ring
from modelyard.storage.server_settings import ServerSettingsStore
from tests.conftest import make_settings
from tests.gateway.conftest import Running
from tests.gateway.test_traffic import Got, ask

pytestmark = pytest.mark.proof("three-nodes")
KEY = "k:" + base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = "k:" + base64.b64encode(bytes(range(1, 33))).decode()
BOSS = "operator-key-1"
PATH = "/admin/v1/settings"
Start = Callable[..., Running]


@pytest.fixture
def own_database_url(database_url: str) -> str:
    """A database that no other test uses: settings hold for all who do."""
    if "://" not in database_url:
        return database_url
    import psycopg

    name = new_id("db").replace("-", "_").lower()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')  # pyright: ignore
    head, _, query = database_url.partition("?")
    return f"{head.rpartition('/')[0]}/{name}{'?' + query if query else ''}"


@pytest.fixture
def start(tmp_path: Path, weights_folder: Path, own_database_url: str) -> Iterator[Start]:  # fmt: skip
    started: list[Running] = []

    def run(**changes: Any) -> Running:
        home = tmp_path / f"home{len(started)}"
        home.mkdir()
        fields = {"database": own_database_url, "master_key": KEY, "api_keys": [BOSS],
                  "settings_source": "database", "shared": "database", **changes}  # fmt: skip
        started.append(Running(make_settings(home, weights_folder, **fields)))
        return started[-1]

    yield run
    for running in started:
        running.close()


def put(running: Running, text: str, **fields: Any) -> Got:
    return ask(running, "PUT", PATH, {"text": text, **fields}, key=BOSS)


def shown(running: Running) -> Any:
    return ask(running, "GET", PATH, key=BOSS).json


def until(check: Callable[[], bool]) -> None:
    """Wait for what the page promises within a second; longer on a busy machine."""
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_change_reaches_all_servers(start: Start):
    first, second = start(), start()
    text = f"api_keys: [{BOSS}, second-key]\nmax_body_mb: 1\ndefaults: {{llm: echo/echo}}\n"  # fmt: skip
    answer = put(first, text, version=0)
    assert (answer.status, answer.json["version"], answer.json["path"]) == (200, 1, "database"), answer.body  # fmt: skip
    assert "second-key" not in answer.body.decode()
    large = {"text": "x" * (2 << 20)}
    for running in (first, second):
        until(
            lambda running=running: (
                ask(running, "GET", "/admin/v1/about", key="second-key").status == 200
            )
        )
        assert ask(running, "PUT", PATH, large, key=BOSS).status == 413
        assert running.yard.settings.defaults == {"llm": "echo/echo"}
    # The masks of one are the secrets of the other.
    masked = shown(second)["text"]
    assert "********" in masked
    assert put(second, masked.replace("max_body_mb: 1", "max_body_mb: 3")).status == 200
    until(lambda: first.yard.settings.max_body_mb == 3)
    assert first.yard.settings.api_keys == [BOSS, "second-key"]
    # A key that is taken away is refused everywhere.
    assert put(first, f"api_keys: [{BOSS}]\n").status == 200
    until(lambda: ask(second, "GET", "/admin/v1/about", key="second-key").status == 401)
    # And a server that starts later has the settings of the others, not of its file.
    third = start(max_body_mb=9)
    assert (third.yard.settings.max_body_mb, shown(third)["version"]) == (32, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_body_mb: many", "Settings in the database:1: max_body_mb: Expected `int`"),
        ("max_bodies: 3", "Unknown setting 'max_bodies'"),
        ("a: [", "The settings are not YAML"),
        ("- a", "must be a mapping of names to values"),
        ("defaults: {llmm: x}", "defaults.llmm: unknown model type"),
        ("providers: [{name: nobody}]", "Provider 'nobody' is neither in the catalogue"),
        ("port: 1", "port: takes effect at a start only"),
        ("cache: {store: database}\nretries: 7", "cache.store, retries: takes effect at a start only"),
        ("api_keys: ['********']", "api_keys[0] is masked"),
        ("routes: {a: {targets: ['${NOWHERE}']}}", "refers to ${NOWHERE}, which is not set"),
    ],
)  # fmt: skip
def test_a_change_that_cannot_reach_all_is_refused(start: Start, text: str, message: str):  # fmt: skip
    running = start()
    answer = put(running, text)
    assert answer.status == 400, answer.body
    assert message in answer.json["error"]["message"]
    assert shown(running)["version"] == 0
    assert running.yard.settings.max_body_mb == 32


def test_of_two_changes_at_once_one_is_refused(start: Start):
    first, second = start(), start()
    assert put(first, f"api_keys: [{BOSS}]\nmax_body_mb: 4\n", version=0).status == 200
    late = put(second, f"api_keys: [{BOSS}]\nmax_body_mb: 5\n", version=0)
    assert late.status == 400
    assert "have version 1 by now, not 0; load them again" in late.json["error"]["message"]  # fmt: skip
    assert first.yard.settings.max_body_mb == 4


def test_a_server_that_cannot_use_a_change_is_not_ready(start: Start, tmp_path: Path):
    first, second = start(), start()

    async def add() -> None:
        # As another server would, which has a file that these two lack.
        database = Database(first.yard.settings.database)
        store = ServerSettingsStore(database, load_key_ring(tmp_path / "k", KEY), SystemClock())  # fmt: skip
        text = f"api_keys: [{BOSS}]\nproviders: [{{path: /nowhere.yaml}}]\n"
        await store.add(text, after=0, changed_by="x")
        await asyncio.to_thread(database.close)

    asyncio.run(add())
    for running in (first, second):
        until(
            lambda running=running: ask(running, "GET", "/health/ready").status == 503
        )
        answer = ask(running, "GET", "/health/ready")
        assert "Changed settings cannot be used" in answer.body.decode()
        assert "nowhere" not in answer.body.decode()
    # The next version mends it.
    assert put(first, f"api_keys: [{BOSS}]\n").status == 200
    until(lambda: ask(second, "GET", "/health/ready").status == 200)


def test_a_file_that_is_the_one_source_is_not_changed(start: Start):
    running = start(settings_source="file")
    answer = put(running, "max_body_mb: 4\n")
    assert answer.status == 400
    assert "settings_source is 'file'" in answer.json["error"]["message"]
    assert "only source of settings" in shown(running)["fixed"]
    assert running.yard.settings.max_body_mb == 32


def test_settings_are_encrypted_and_bound_to_their_version(tmp_path: Path, own_database_url: str):  # fmt: skip
    async def work() -> None:
        database = Database(own_database_url)
        keys = load_key_ring(tmp_path / "k", KEY)
        store = ServerSettingsStore(database, keys, SystemClock())
        assert (await store.version(), await store.latest()) == (0, None)
        assert await store.add("api_keys: [hush]", after=0, changed_by="ada") == 1
        with pytest.raises(InvokeBadRequestError, match="changed meanwhile"):
            await store.add("api_keys: [late]", after=0, changed_by="bob")
        latest = await store.latest()
        assert latest is not None
        assert (latest.text, latest.version, latest.changed_by) == ("api_keys: [hush]", 1, "ada")  # fmt: skip
        rows = await database.fetch("SELECT sealed FROM server_settings")
        assert "hush" not in rows[0]["sealed"]
        other = ServerSettingsStore(database, load_key_ring(tmp_path / "other", OTHER_KEY), SystemClock())  # fmt: skip
        with pytest.raises(ConfigError):
            await other.latest()
        for version in range(1, 30):
            await store.add(f"retries: {version}", after=version, changed_by="")
        rows = await database.fetch("SELECT version FROM server_settings")
        assert sorted(row["version"] for row in rows) == list(range(10, 31))
        await asyncio.to_thread(database.close)

    asyncio.run(work())


def test_variables_of_a_server_take_precedence_and_its_own_settings_stay():
    own = Settings(port=9, max_body_mb=5, cache=CacheSettings(store="shared", seconds=1.0))  # fmt: skip
    text = (
        "max_body_mb: 6\nport: 10\ncache: {store: memory, seconds: 2.0}\nretries: 9\n"
    )
    merged = with_shared(own, text, {"MODELYARD_MAX_BODY_MB": "7"})
    assert merged == msgspec.structs.replace(own, max_body_mb=7, cache=CacheSettings(store="shared", seconds=2.0))  # fmt: skip
    # What the text leaves out has its default, not the value of the file.
    assert with_shared(own, "", {}).max_body_mb == 32


def test_what_takes_effect_at_a_start_is_found():
    assert changed_at_start_only("", "") == []
    assert (
        changed_at_start_only("port: 1\nlimits: {}", "limits: {a: {}}\nport: 1") == []
    )
    assert changed_at_start_only("port: 1", "") == ["port"]
    assert changed_at_start_only("cache: {store: memory}", "cache: {seconds: 2}") == ["cache.store"]  # fmt: skip
    assert changed_at_start_only("", "network: {ca_file: x, proxy: y}") == ["network.ca_file"]  # fmt: skip


def test_providers_are_not_added_to_the_file_of_one_server(tmp_path: Path):
    result = CliRunner().invoke(
        providers,
        ["add", "openai", "--api-key", "sk-x"],
        env={"MODELYARD_HOME": str(tmp_path), "MODELYARD_DATABASE": "postgresql://x/y"},
    )
    assert isinstance(result.exception, ConfigError)
    assert "are in the database" in str(result.exception)
    assert list(tmp_path.iterdir()) == []
