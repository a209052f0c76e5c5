"""What the routes of the admin API work with, beyond what calls need."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard.administration.administration import Administration
from modelyard.base.clock import Clock
from modelyard.gateway.admin.apps import ImportedApps
from modelyard.gateway.knowledge.calls import DatasetParts
from modelyard.gateway.plugins.parts import PluginParts
from modelyard.gateway.service.parts import ServiceParts
from modelyard.models.types import JSON
from modelyard.providers.local.weights import WeightStore
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.limits import Applied, Subject
from modelyard.runtime.model_manager import ModelManager
from modelyard.runtime.traces import Traces
from modelyard.storage.answers import Answers
from modelyard.storage.counters import Counters
from modelyard.tenancy.directory import Directory
from modelyard.tenant_plugins.plugins import Plugins
from modelyard.tools.manager import ToolManager
from modelyard.tools.providers import ToolProviders
from modelyard.workflow.annotations import Annotations
from modelyard.workflow.dsl import App
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.node import Services

CredentialProbe = Callable[[str, str, Mapping[str, Any]], Awaitable[list[str]]]
"""(tenant, provider, a filled-in form) → the models that it offers. Raises the provider's own refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    workers: int
    records: bool
    """Whether what calls ask and answer is kept."""
    debug_address: str
    """Where plugins that their authors run connect to; empty for nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManageParts:
    models: ModelManager
    directory: Directory
    ledger: Ledger
    traces: Traces
    clock: Clock
    weights: WeightStore
    plugins: Plugins
    counters: Counters
    applying: Callable[[Subject], Sequence[Applied]]
    cache_seconds: Callable[[str, str], float]
    """(tenant, route) → how long answers may be given again."""
    check: CredentialProbe
    server: Callable[[], ServerState]
    settings_schema: Callable[[], JSON]
    settings_file: Path
    load_settings: Callable[[Path], object]
    """What a file would say, with the environment's word over it. Raises ConfigError."""
    overridden: Sequence[str]
    database: str
    jail: Callable[[], str]
    problem: Callable[[], str | None]
    services: Callable[[App, RunRecord], Services]
    annotations: Annotations
    began: float
    """On the clock's monotonic time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminParts:
    """What the admin API's table makes its handlers of."""

    administration: Administration
    answers: Answers
    manage: ManageParts
    plugins: PluginParts
    service: ServiceParts
    datasets: DatasetParts
    apps: ImportedApps
    tools: ToolManager
    tool_providers: ToolProviders
    origin: Callable[[], str]
    content_origin: Callable[[], str]
