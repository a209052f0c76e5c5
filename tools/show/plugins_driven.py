"""Drive real plugins of every kind against played vendors: through the gateway, with
stand-ins that answer for every host. `TIKTOKEN_CACHE_DIR` names a folder with the
vocabularies with which plugins count tokens.

The variables of `real_plugins` name the repository; without one, a
plugin made with the SDK is driven. `MODELYARD_PLUGINS_ONLY` names some plugins.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
from tests.gateway.conftest import Running

from modelyard.base.errors import ModelyardError
from modelyard.plugins.package import package_folder
from modelyard.tenancy.resource_types import ToolCredential
from tools.show.driven_documents import DOCUMENTS, document_checks
from tools.show.driven_models import Failure, ModelCase, ModelDriver
from tools.show.driven_others import OTHERS, Checks, OtherDriver
from tools.show.driven_table import MODELS
from tools.show.driven_triggers import GITHUB, trigger_checks
from tools.show.made_plugins import MADE, compatible_plugin
from tools.show.played_network import played_network
from tools.show.played_services import answer
from tools.show.plugged import plugin_settings
from tools.show.proof import Proof, ready_home
from tools.show.real_plugins import repository

_VOCABULARIES = "openaipublic.blob.core.windows.net"
"""Where tiktoken downloads vocabularies, which the played network does not have."""
Results = Mapping[str, str]
"""The name of a check to why it failed; empty if it did not."""


class DrivenGateway:
    """A running gateway whose plugins reach nothing but stand-ins."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.plugins = running.yard.services.plugins
        self.client = httpx.Client(base_url=running.origin, timeout=120)

    def do(self, work: Any, seconds: float = 300) -> Any:
        """Run a coroutine on the server's event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.running.loop).result(seconds)

    def call(
        self, plugin: str, call_type: str, action: str, **data: Any
    ) -> Sequence[Any]:
        """Call a plugin and return its answers. Raises PluginError."""

        async def gather() -> list[Any]:
            answers = self.plugins.plugins.call(
                "default", plugin, call_type, action, data, user="show"
            )
            return [message async for message in answers]

        return self.do(gather(), 120)

    def install(self, folder: Path) -> Any:
        """Pack and install a plugin."""
        package = package_folder(folder)
        return self.do(self.plugins.installations.add("default", package), 600)

    def uninstall(self, plugin: str) -> None:
        """Remove a plugin with all that belongs to it."""
        self.do(self.plugins.installations.uninstall("default", plugin))

    def store_credential(self, provider: str, values: Mapping[str, Any]) -> None:
        """Store a credential of a datasource, as a sign-in does."""
        value = ToolCredential(provider=provider, label="played", type="oauth2")
        name = f"{provider}: played"
        rows = self.plugins.rows
        self.do(rows.save("default", ToolCredential.kind, name, dict(values), value))

    def dataset_key(self) -> str:
        """Return a key for the knowledge API."""
        keys = self.running.yard.services.tenancy.dataset_keys
        return str(self.do(keys.create("default")))

    def serve(self, plugin: str, settings: Mapping[str, Any]) -> str:
        """Set up the endpoints of a plugin and return their address."""
        endpoint = self.do(
            self.plugins.endpoints.set_up("default", plugin, "served", dict(settings))
        )
        return f"{self.running.origin}/e/{endpoint}"


def results_of(checks: Iterator[tuple[str, Callable[[], None]]]) -> dict[str, str]:
    """Run checks one after the other; a check that fails does not end the others."""
    results: dict[str, str] = {}
    try:
        for name, check in checks:
            results[name] = _problem_of(check)
    # What all checks need failed, such as the installation.
    except (ModelyardError, Failure) as error:
        results["prepared"] = str(error)[:300]
    return results


def _problem_of(check: Callable[[], None]) -> str:
    """Return why a check failed; empty if it did not."""
    try:
        check()
    # Plugins are foreign code; whatever they answer, the other checks go on.
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def drive_models(gateway: DrivenGateway, folder: Path, case: ModelCase) -> Results:
    """Install a model plugin, drive it, and remove it."""
    try:
        installed = gateway.install(folder / case.folder)
    except ModelyardError as error:
        return {"installed": str(error)}
    declaration = installed.declaration
    provider = installed.installation.provider or declaration.model.entity.provider
    driver = ModelDriver(case, gateway, declaration, provider)
    results = results_of(driver.checks())
    if driver.returns_thoughts:
        results[f"thoughts go back: {driver.returns_thoughts}"] = ""
    gateway.uninstall(installed.plugin_id)
    return results


def run(
    folder: Path,
    home: Path,
    models: Sequence[ModelCase],
    others: Mapping[str, Callable[[OtherDriver], Checks]],
) -> dict[str, Results]:
    """Drive plugins that lie below `folder`; return the results by plugin."""
    outcomes: dict[str, Results] = {}
    with played_network(answer, home) as network:
        settings = plugin_settings(ready_home(home / "home"))
        # Endpoints of plugins have keys of their own, which callers send.
        content = msgspec.structs.replace(settings.content, pass_authorization=True)
        running = Running(msgspec.structs.replace(settings, retries=0, content=content))
        gateway = DrivenGateway(running)
        try:
            network.lead(gateway.plugins.host)
            for name, work in _jobs(gateway, folder, models, others):
                outcomes[name] = work()
                _log(name, outcomes[name])
        finally:
            gateway.client.close()
            running.close()
    return outcomes


def _jobs(
    gateway: DrivenGateway,
    folder: Path,
    models: Sequence[ModelCase],
    others: Mapping[str, Callable[[OtherDriver], Checks]],
) -> Iterator[tuple[str, Callable[[], Results]]]:
    """Yield what is driven with what drives it, as far as it was chosen."""
    jobs: dict[str, Callable[[], Results]] = {
        case.folder: partial(drive_models, gateway, folder, case) for case in models
    }
    for name, drive in others.items():
        jobs[name] = partial(_drive_other, gateway, folder, drive)
    for name in DOCUMENTS if others else ():
        jobs[f"{name}, imported"] = partial(_import_documents, gateway, folder, name)
    if others:
        jobs[GITHUB] = partial(_drive_trigger, gateway, folder)
    chosen = os.environ.get("MODELYARD_PLUGINS_ONLY", "")
    for name, work in jobs.items():
        if not chosen or name.partition(",")[0] in chosen.split(","):
            yield name, work


def _drive_other(
    gateway: DrivenGateway, folder: Path, drive: Callable[[OtherDriver], Checks]
) -> Results:
    return results_of(drive(OtherDriver(gateway, folder)))


def _drive_trigger(gateway: DrivenGateway, folder: Path) -> Results:
    return results_of(trigger_checks(gateway, folder))


def _import_documents(gateway: DrivenGateway, folder: Path, name: str) -> Results:
    return results_of(document_checks(gateway, folder, name))


def _log(name: str, results: Results) -> None:
    """Print the results of a plugin, for the log of a run that takes long."""
    print(json.dumps({name: results}, ensure_ascii=False), file=sys.stderr, flush=True)


def prove() -> Proof:
    """Drive the plugins and report which checks each passes."""
    proof = Proof()
    folder = repository()
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as name:
        if folder is None:
            # Without real plugins, one that is made of the SDK's own classes.
            compatible_plugin(Path(name))
            outcomes = run(Path(name), Path(name), MADE, {})
        else:
            outcomes = run(folder, Path(name), MODELS, OTHERS)
    for plugin, results in outcomes.items():
        failed = {check: problem for check, problem in results.items() if problem}
        passed = ", ".join(check for check in results if check not in failed)
        proof.line(plugin, passed or "nothing", not failed)
        for check, problem in failed.items():
            proof.line(f"  {check}", problem, False)
    _report_vocabularies(proof, outcomes)
    proof.figures["plugins"] = len(outcomes)
    return proof


def _report_vocabularies(proof: Proof, outcomes: Mapping[str, Results]) -> None:
    """Say why plugins could not count tokens, if some could not."""
    texts = [text for results in outcomes.values() for text in results.values()]
    if any(_VOCABULARIES in text for text in texts):
        proof.line(
            "  vocabularies of tiktoken",
            "plugins cannot count tokens without them, as plain processes cannot;"
            " TIKTOKEN_CACHE_DIR names a folder that has them",
            False,
        )
