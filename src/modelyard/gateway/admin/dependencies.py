"""Dependencies of the admin API's routes, beyond those of model calls."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.administration.administration import Administration
from modelyard.base.clock import Clock
from modelyard.gateway.admin.app_network import AppNetwork
from modelyard.gateway.admin.app_traces import AppTraces
from modelyard.gateway.admin.apps import ImportedApps
from modelyard.gateway.admin.settings_document import SettingsDocument
from modelyard.gateway.knowledge.calls import DatasetParts
from modelyard.gateway.operations.health import Problem
from modelyard.gateway.plugins.dependencies import PluginDependencies
from modelyard.gateway.service.dependencies import ServiceDependencies
from modelyard.models.types import JSON
from modelyard.providers.local.weights import WeightStore
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.limits import ApplicableLimit, CounterStart, Subject
from modelyard.runtime.model_manager import ModelManager
from modelyard.runtime.request_table import RequestTable
from modelyard.runtime.traces import Traces
from modelyard.storage.counters import Counters
from modelyard.storage.response_cache import ResponseCache
from modelyard.tenancy.directory import Directory
from modelyard.tenant_plugins.plugins import Plugins
from modelyard.tools.manager import ToolManager
from modelyard.tools.providers import ToolProviders
from modelyard.workflow.app_statistics import AppStatistics
from modelyard.workflow.dsl import App
from modelyard.workflow.generators import Generators
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.node import Services

CredentialProbe = Callable[
    [str, str, Mapping[str, Any], str, str], Awaitable[list[str]]
]
"""(tenant, provider, credential form values) → ids of the provider's models. Raises the
provider's error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """Facts about the running server that routes report."""

    workers: int
    records: bool
    """Whether the requests and responses of calls are recorded."""
    debug_address: str
    """Address at which plugins being debugged connect; empty if it is off."""
    mail_problem: str
    """Why forms cannot be sent by mail; empty if they can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminDependencies:
    """Dependencies of the routes for models, usage and the server itself."""

    models: ModelManager
    directory: Directory
    ledger: Ledger
    traces: Traces
    requests: RequestTable
    clock: Clock
    weights: WeightStore
    plugins: Plugins
    counters: Counters
    start_counters: Callable[[Subject, Sequence[CounterStart]], Awaitable[None]]
    applicable_limits: Callable[[Subject], Sequence[ApplicableLimit]]
    cache_seconds: Callable[[str, str], float]
    """(tenant, route) → seconds for which responses may be cached."""
    check: CredentialProbe
    server: Callable[[], ServerState]
    settings_schema: Callable[[], JSON]
    settings: SettingsDocument
    overridden: Sequence[str]
    database: str
    sandbox: Callable[[], str]
    problem: Callable[[], Problem | None]
    services: Callable[[App, RunRecord], Services]
    started_at: float
    """Start time of the server on the monotonic clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminParts:
    """Everything from which the route table of the admin API builds its handlers."""

    administration: Administration
    answers: ResponseCache
    manage: AdminDependencies
    plugins: PluginDependencies
    service: ServiceDependencies
    datasets: DatasetParts
    apps: ImportedApps
    app_statistics: AppStatistics
    generators: Generators
    app_traces: AppTraces
    app_network: AppNetwork
    tools: ToolManager
    tool_providers: ToolProviders
    origin: Callable[[], str]
    content_origin: Callable[[], str]
