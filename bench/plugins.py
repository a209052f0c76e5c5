"""Cost of plugins: starts, calls, streams and installations, compared with the plain
way in the same run."""

import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from tools.show.plugged import EXAMPLES, plugin_settings, proportional_memory_mb
from tools.show.proof import ready_home, weights_folder

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import UserPromptMessage
from modelyard.models.types import ModelType
from modelyard.plugins.environment import Environments
from modelyard.plugins.package import Package, package_folder
from modelyard.testing import Upstream, chat_answer

NAMES = 10
_ASK = LLMRequest(messages=[UserPromptMessage(content="hi")])


def _variants(
    folder: Path, source: str = "mockgpt", count: int = NAMES
) -> list[Package]:
    """Return `count` different packages: copies of one example plugin under different
    names."""
    packages: list[Package] = []
    for index in range(count):
        target = folder / f"{source}{index}"
        shutil.copytree(
            EXAMPLES / source,
            target,
            ignore=shutil.ignore_patterns("__pycache__", ".env"),
        )
        manifest = target / "manifest.yaml"
        # The host treats packages with different names as different plugins.
        manifest.write_text(
            manifest.read_text().replace(
                f"name: {source}\n", f"name: {source}{index}\n"
            )
        )
        packages.append(package_folder(target))
    return packages


@asynccontextmanager
async def _yard(
    *, forks: bool = True, **plugins: Any
) -> AsyncGenerator[tuple[Modelyard, Path]]:
    """Run Modelyard in a temporary home and yield it with the folder.

    With `forks` off, each plugin process starts its own interpreter instead of a fork
    of a preloaded process.
    """
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as name:
        home = ready_home(Path(name) / "home")
        async with Modelyard(plugin_settings(home, **plugins)) as yard:
            # the baseline
            yard.services.plugins.host._supervisors._forks = forks  # pyright: ignore[reportPrivateUsage]
            yield yard, Path(name)


async def _noop(yard: Modelyard, plugin: str) -> None:
    """Make the cheapest call of the mock plugin: count the tokens of a short prompt."""
    data = {
        "provider": "mockgpt",
        "model_type": "llm",
        "model": "mock-gpt-v1",
        "credentials": {},
        "prompt_messages": [{"role": "user", "content": "hi"}],
        "tools": None,
    }
    async with aclosing(
        yard.services.plugins.plugins.call(
            "default", plugin, "model", "get_llm_num_tokens", data
        )
    ) as answers:
        async for _ in answers:
            pass


async def _starts(*, forks: bool, count: int) -> tuple[float, float]:
    """Return (seconds until `count` different plugins have answered, their memory in
    MB).

    The memory includes the supervisors' and counts shared pages proportionally.
    """
    async with _yard(forks=forks) as (yard, folder):
        # Installing is done before the clock starts; only starts and first calls are
        # measured.
        ids = [
            (
                await yard.services.plugins.installations.add("default", package)
            ).plugin_id
            for package in _variants(folder / "made", count=count)
        ]
        started_at = time.perf_counter()
        await asyncio.gather(*(_noop(yard, plugin_id) for plugin_id in ids))
        seconds = time.perf_counter() - started_at
        return seconds, proportional_memory_mb(yard.services.plugins.host.pids())


async def _calls() -> dict[str, float]:
    """Return the median ms of an empty call, and the chunks per second of a stream."""
    async with _yard() as (yard, folder):
        await yard.services.plugins.installations.add(
            "default", package_folder(EXAMPLES / "mockgpt")
        )
        await yard.services.plugins.installations.add(
            "default", package_folder(_talker(folder))
        )
        # The first call starts the plugin's process; it is not part of the measurement.
        await _noop(yard, "modelyard/mockgpt")
        times: list[float] = []
        for _ in range(5):
            started_at = time.perf_counter()
            for _ in range(200):
                await _noop(yard, "modelyard/mockgpt")
            times.append((time.perf_counter() - started_at) / 200)
        chunks = 0
        started_at = time.perf_counter()
        # One call that streams 20,000 messages from the plugin.
        call = yard.services.plugins.plugins.call(
            "default",
            "bench/talker",
            "tool",
            "invoke_tool",
            {
                "provider": "talker",
                "tool": "talk",
                "credentials": {},
                "credential_type": "api-key",
                "tool_parameters": {"count": 20_000},
            },
        )
        async with aclosing(call) as answers:
            async for _ in answers:
                chunks += 1
        return {
            "noop_ms": statistics.median(times) * 1000,
            "chunks_s": chunks / (time.perf_counter() - started_at),
        }


def _talker(folder: Path) -> Path:
    """Build a tool plugin that emits as many text messages as requested, as fast as it
    can."""
    target = folder / "talker"
    shutil.copytree(
        EXAMPLES / "toolbox",
        target,
        ignore=shutil.ignore_patterns("__pycache__", ".env"),
    )
    # Rename the toolbox example, then replace its tools by the single `talk` tool.
    for path in [target / "manifest.yaml", target / "provider" / "toolbox.yaml"]:
        text = (
            path.read_text()
            .replace("author: modelyard", "author: bench")
            .replace("name: toolbox", "name: talker")
        )
        path.write_text(text)
    provider = target / "provider" / "toolbox.yaml"
    head, _, tail = provider.read_text().partition("tools:\n")
    provider.write_text(
        f"{head}tools: [tools/talk.yaml]\nextra:{tail.partition('extra:')[2]}"
    )
    (target / "tools" / "talk.yaml").write_text(
        (target / "tools" / "sleep.yaml")
        .read_text()
        .replace("sleep", "talk")
        .replace("seconds", "count")
    )
    # The messages are created in a tight loop: only the transport limits their rate.
    (target / "tools" / "talk.py").write_text(
        "from dify_plugin import Tool\n\n\nclass TalkTool(Tool):\n    def _invoke(self, tool_parameters):\n"
        "        for place in range(int(tool_parameters['count'])):\n"
        "            yield self.create_text_message(f'word {place}')\n"
    )
    return target


async def _busy(instances: int) -> float:
    """Return the complete answers per second with sixteen concurrent callers."""
    async with _yard(instances=instances) as (yard, _):
        await yard.services.plugins.installations.add(
            "default", package_folder(EXAMPLES / "mockgpt")
        )
        # Starts all instances before the measurement.
        await asyncio.gather(
            *(_noop(yard, "modelyard/mockgpt") for _ in range(instances * 4))
        )
        await asyncio.sleep(1.0)
        model = yard.services.calls.models.find(
            "default", "mockgpt/mock-gpt-v1", ModelType.LLM
        )
        # All callers share one iterator, so that a fast caller takes over a slow one's
        # calls.
        left = iter(range(1600))

        async def work() -> None:
            """Make calls until the shared iterator is exhausted."""
            for _ in left:
                await model.invoke_llm(_ASK)

        started_at = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(16)))
        return 1600 / (time.perf_counter() - started_at)


def _relay_plugin(folder: Path, url: str) -> Path:
    """Build a model plugin that calls a server, as most model plugins do."""
    target = folder / "relay"
    shutil.copytree(
        EXAMPLES / "mockgpt",
        target,
        ignore=shutil.ignore_patterns("__pycache__", ".env"),
    )
    manifest = target / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace("name: mockgpt", "name: relay"))
    code = target / "models" / "llm" / "llm.py"
    text = code.read_text()
    head, _, tail = text.partition("        prompt = self.get_num_tokens")
    # Insert an HTTP call before the mock model's answer and return the server's text
    # instead.
    request_code = (
        f"        said = _SESSION.post({url!r} + '/chat/completions', json={{'model': model, 'messages': [\n"
        "            {'role': 'user', 'content': str(prompt_messages[-1].content)}]}).json()\n"
    )
    text = f"{head}{request_code}        prompt = self.get_num_tokens{tail}"
    text = text.replace(
        "words = list(ANSWERS[len(asked) % len(ANSWERS)])",
        'words = [said["choices"][0]["message"]["content"]]',
    )
    text = text.replace(
        "\nANSWERS = (",
        "\nimport requests\n\n_SESSION = requests.Session()\nANSWERS = (",
    )
    code.write_text(text)
    return target


async def _overhead() -> tuple[float, float]:
    """Return (ms of a call to a server through a plugin, ms through the built-in
    provider)."""
    with (
        Upstream(lambda request: chat_answer("fine")) as upstream,
        tempfile.TemporaryDirectory() as name,
    ):
        home = ready_home(Path(name) / "home")
        settings = plugin_settings(home)
        environ = {"OPENAI_API_KEY": "sk-bench"}
        document = [
            {
                "name": "openai",
                "base_url": upstream.url,
                "credentials": [{"values": {"api_key": "sk-bench"}}],
            }
        ]
        # Plugins reach addresses of this machine only where the operator lists them.
        address = upstream.url.removeprefix("http://").partition("/")[0]
        changes = {"providers": document, "egress": {"private": [address]}}
        # Converting the settings again validates them as the settings file would be.
        settings = msgspec.convert(
            {**msgspec.to_builtins(settings), **changes}, Settings
        )
        async with Modelyard(settings, environ=environ) as yard:
            await yard.services.plugins.installations.add(
                "default", package_folder(_relay_plugin(Path(name), upstream.url))
            )
            medians: list[float] = []
            for model_name in ("mockgpt/mock-gpt-v1", "openai/gpt-5-mini"):
                model = yard.services.calls.models.find(
                    "default", model_name, ModelType.LLM
                )
                # Warm-up: starts the plugin's process and opens the connections.
                for _ in range(20):
                    await model.invoke_llm(_ASK)
                times: list[float] = []
                for _ in range(300):
                    started_at = time.perf_counter()
                    await model.invoke_llm(_ASK)
                    times.append(time.perf_counter() - started_at)
                medians.append(statistics.median(times) * 1000)
            return medians[0], medians[1]


async def _install() -> float:
    """Return the seconds to install a plugin offline, with only the packages in uv's
    cache."""
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as name:
        folder = Path(name)
        cache = weights_folder().parent / "plugins" / "environments" / ".cache"
        (folder / "environments").mkdir()
        # A new environments folder, but with uv's existing cache, so that nothing is
        # downloaded.
        (folder / "environments" / ".cache").symlink_to(cache)
        environments = Environments(folder / "environments", os.environ, offline=True)
        package = package_folder(EXAMPLES / "mockgpt")
        started_at = time.perf_counter()
        package.extract(folder / "code")
        await environments.prepare(folder / "code", name="mockgpt")
        return time.perf_counter() - started_at


def measure() -> dict[str, Any]:
    """Measure all plugin costs; return the figures with their units in the names."""
    # Warm-up: creates the environment and fills the page cache.
    asyncio.run(_starts(forks=True, count=1))
    single_seconds, single_mb = asyncio.run(_starts(forks=True, count=1))
    ten, ten_mb = asyncio.run(_starts(forks=True, count=NAMES))
    plain, plain_mb = asyncio.run(_starts(forks=False, count=NAMES))
    calls = asyncio.run(_calls())
    relayed_ms, direct = asyncio.run(_overhead())
    return {
        "start_one_s": round(single_seconds, 3),
        "start_one_mb": round(single_mb, 1),
        "start_ten_s": round(ten, 3),
        "start_ten_mb": round(ten_mb, 1),
        "plain_ten_s": round(plain, 3),
        "plain_ten_mb": round(plain_mb, 1),
        "noop_ms": round(calls["noop_ms"], 3),
        "chunks_s": round(calls["chunks_s"]),
        "llm_ms": round(relayed_ms, 2),
        "direct_ms": round(direct, 2),
        "answers_s_one": round(asyncio.run(_busy(1))),
        "answers_s_four": round(asyncio.run(_busy(4))),
        "install_offline_s": round(asyncio.run(_install()), 2),
    }
