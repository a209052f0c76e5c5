"""What plugins cost: starts, calls, streams, installs; beside the plain way in the same run."""

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
from tools.show.plugged import EXAMPLES, share_mb
from tools.show.proof import ready_home, weights_folder

from modelyard.app import Modelyard
from modelyard.base.settings import Settings, load_settings
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import UserPromptMessage
from modelyard.models.types import ModelType
from modelyard.plugins.environment import Environments
from modelyard.plugins.package import Package, package_folder
from modelyard.testing import Upstream, chat_answer

NAMES = 10
_ASK = LLMRequest(messages=[UserPromptMessage(content="hi")])


def _variants(folder: Path, source: str = "mockgpt", count: int = NAMES) -> list[Package]:
    """Different plugins: the same one under other names."""
    found: list[Package] = []
    for place in range(count):
        target = folder / f"{source}{place}"
        shutil.copytree(EXAMPLES / source, target, ignore=shutil.ignore_patterns("__pycache__", ".env"))
        manifest = target / "manifest.yaml"
        manifest.write_text(manifest.read_text().replace(f"name: {source}\n", f"name: {source}{place}\n"))
        found.append(package_folder(target))
    return found


def _settings(home: Path, **plugins: Any) -> Settings:
    settings = load_settings({"MODELYARD_HOME": str(home), "MODELYARD_LOG_LEVEL": "error"})
    chosen = msgspec.structs.replace(settings.plugins, debug_port=0, **plugins)
    return msgspec.structs.replace(settings, plugins=chosen)


@asynccontextmanager
async def _yard(*, forks: bool = True, **plugins: Any) -> AsyncGenerator[tuple[Modelyard, Path]]:
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as name:
        home = ready_home(Path(name) / "home")
        async with Modelyard(_settings(home, **plugins)) as yard:
            yard.services.plugins.host._wardens._forks = forks  # pyright: ignore[reportPrivateUsage]  the plain way, beside ours
            yield yard, Path(name)


async def _noop(yard: Modelyard, plugin: str) -> None:
    data = {
        "provider": "mockgpt", "model_type": "llm", "model": "mock-gpt-v1", "credentials": {},
        "prompt_messages": [{"role": "user", "content": "hi"}], "tools": None,
    }  # fmt: skip
    async with aclosing(
        yard.services.plugins.plugins.call("default", plugin, "model", "get_llm_num_tokens", data)
    ) as answers:
        async for _ in answers:
            pass


async def _starts(*, forks: bool, count: int) -> tuple[float, float]:
    """(seconds until all of so many different plugins have answered, MB that they and their wardens share out)."""
    async with _yard(forks=forks) as (yard, folder):
        ids = [
            (await yard.services.plugins.installations.add("default", package)).plugin_id
            for package in _variants(folder / "made", count=count)
        ]
        begun = time.perf_counter()
        await asyncio.gather(*(_noop(yard, one) for one in ids))
        seconds = time.perf_counter() - begun
        return seconds, share_mb(yard.services.plugins.host.pids())


async def _calls() -> dict[str, float]:
    async with _yard() as (yard, folder):
        await yard.services.plugins.installations.add("default", package_folder(EXAMPLES / "mockgpt"))
        await yard.services.plugins.installations.add("default", package_folder(_talker(folder)))
        await _noop(yard, "modelyard/mockgpt")
        times: list[float] = []
        for _ in range(5):
            begun = time.perf_counter()
            for _ in range(200):
                await _noop(yard, "modelyard/mockgpt")
            times.append((time.perf_counter() - begun) / 200)
        chunks = 0
        begun = time.perf_counter()
        call = yard.services.plugins.plugins.call("default", "bench/talker", "tool", "invoke_tool", {
            "provider": "talker", "tool": "talk", "credentials": {}, "credential_type": "api-key",
            "tool_parameters": {"count": 20_000},
        })  # fmt: skip
        async with aclosing(call) as answers:
            async for _ in answers:
                chunks += 1
        return {"noop_ms": statistics.median(times) * 1000, "chunks_s": chunks / (time.perf_counter() - begun)}


def _talker(folder: Path) -> Path:
    """A tool that says as many words as it is asked for, as fast as it can."""
    target = folder / "talker"
    shutil.copytree(EXAMPLES / "toolbox", target, ignore=shutil.ignore_patterns("__pycache__", ".env"))
    for path in [target / "manifest.yaml", target / "provider" / "toolbox.yaml"]:
        text = path.read_text().replace("author: modelyard", "author: bench").replace("name: toolbox", "name: talker")
        path.write_text(text)
    provider = target / "provider" / "toolbox.yaml"
    head, _, tail = provider.read_text().partition("tools:\n")
    provider.write_text(f"{head}tools: [tools/talk.yaml]\nextra:{tail.partition('extra:')[2]}")
    (target / "tools" / "talk.yaml").write_text(
        (target / "tools" / "sleep.yaml").read_text().replace("sleep", "talk").replace("seconds", "count")
    )
    (target / "tools" / "talk.py").write_text(
        "from dify_plugin import Tool\n\n\nclass TalkTool(Tool):\n    def _invoke(self, tool_parameters):\n"
        "        for place in range(int(tool_parameters['count'])):\n"
        "            yield self.create_text_message(f'word {place}')\n"
    )
    return target


async def _busy(instances: int) -> float:
    """Whole answers a second, sixteen at once."""
    async with _yard(instances=instances) as (yard, _):
        await yard.services.plugins.installations.add("default", package_folder(EXAMPLES / "mockgpt"))
        await asyncio.gather(*(_noop(yard, "modelyard/mockgpt") for _ in range(instances * 4)))
        await asyncio.sleep(1.0)
        model = yard.services.calls.models.find("default", "mockgpt/mock-gpt-v1", ModelType.LLM)
        left = iter(range(1600))

        async def work() -> None:
            for _ in left:
                await model.invoke_llm(_ASK)

        begun = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(16)))
        return 1600 / (time.perf_counter() - begun)


def _relay_plugin(folder: Path, url: str) -> Path:
    """A model that asks a server, as most do."""
    target = folder / "relay"
    shutil.copytree(EXAMPLES / "mockgpt", target, ignore=shutil.ignore_patterns("__pycache__", ".env"))
    manifest = target / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace("name: mockgpt", "name: relay"))
    code = target / "models" / "llm" / "llm.py"
    text = code.read_text()
    head, _, tail = text.partition("        prompt = self.get_num_tokens")
    asked = (
        f"        said = _SESSION.post({url!r} + '/chat/completions', json={{'model': model, 'messages': [\n"
        "            {'role': 'user', 'content': str(prompt_messages[-1].content)}]}).json()\n"
    )
    text = f"{head}{asked}        prompt = self.get_num_tokens{tail}"
    text = text.replace(
        "words = list(ANSWERS[len(asked) % len(ANSWERS)])", 'words = [said["choices"][0]["message"]["content"]]'
    )
    text = text.replace("\nANSWERS = (", "\nimport requests\n\n_SESSION = requests.Session()\nANSWERS = (")
    code.write_text(text)
    return target


async def _overhead() -> tuple[float, float]:
    """(ms of a call to a server through a plugin, the same through the provider in this process)."""
    with Upstream(lambda request: chat_answer("fine")) as upstream, tempfile.TemporaryDirectory() as name:
        home = ready_home(Path(name) / "home")
        settings = _settings(home)
        environ = {"OPENAI_API_KEY": "sk-bench"}
        document = [{"name": "openai", "base_url": upstream.url, "credentials": [{"values": {"api_key": "sk-bench"}}]}]
        settings = msgspec.convert({**msgspec.to_builtins(settings), "providers": document}, Settings)
        async with Modelyard(settings, environ=environ) as yard:
            await yard.services.plugins.installations.add(
                "default", package_folder(_relay_plugin(Path(name), upstream.url))
            )
            found: list[float] = []
            for wanted in ("mockgpt/mock-gpt-v1", "openai/gpt-5-mini"):
                model = yard.services.calls.models.find("default", wanted, ModelType.LLM)
                for _ in range(20):
                    await model.invoke_llm(_ASK)
                times: list[float] = []
                for _ in range(300):
                    begun = time.perf_counter()
                    await model.invoke_llm(_ASK)
                    times.append(time.perf_counter() - begun)
                found.append(statistics.median(times) * 1000)
            return found[0], found[1]


async def _install() -> float:
    """Seconds to install a plugin with nothing but what uv has in its cache."""
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as name:
        folder = Path(name)
        cache = weights_folder().parent / "plugins" / "environments" / ".cache"
        (folder / "environments").mkdir()
        (folder / "environments" / ".cache").symlink_to(cache)
        environments = Environments(folder / "environments", os.environ, offline=True)
        package = package_folder(EXAMPLES / "mockgpt")
        begun = time.perf_counter()
        package.extract(folder / "code")
        await environments.prepare(folder / "code", name="mockgpt")
        return time.perf_counter() - begun


def measure() -> dict[str, Any]:
    asyncio.run(_starts(forks=True, count=1))  # the environment is there, and its files are in memory
    one, one_mb = asyncio.run(_starts(forks=True, count=1))
    ten, ten_mb = asyncio.run(_starts(forks=True, count=NAMES))
    plain, plain_mb = asyncio.run(_starts(forks=False, count=NAMES))
    calls = asyncio.run(_calls())
    through, direct = asyncio.run(_overhead())
    return {
        "start_one_s": round(one, 3), "start_one_mb": round(one_mb, 1),
        "start_ten_s": round(ten, 3), "start_ten_mb": round(ten_mb, 1),
        "plain_ten_s": round(plain, 3), "plain_ten_mb": round(plain_mb, 1),
        "noop_ms": round(calls["noop_ms"], 3), "chunks_s": round(calls["chunks_s"]),
        "llm_ms": round(through, 2), "direct_ms": round(direct, 2),
        "answers_s_one": round(asyncio.run(_busy(1))), "answers_s_four": round(asyncio.run(_busy(4))),
        "install_offline_s": round(asyncio.run(_install()), 2),
    }  # fmt: skip
