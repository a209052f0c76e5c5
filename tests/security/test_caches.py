"""In-memory caches are separated by tenant.

The key of each cache holds the tenant and everything else that the value depends on.
Every cache is listed below; a new one fails the test until somebody has reviewed it.
"""

import ast
import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import modelyard
from modelyard.base.clock import SystemClock
from modelyard.base.errors import ConfigError
from modelyard.base.settings import CacheSettings, EgressSettings, ProviderSettings
from modelyard.people.account import SignInError
from modelyard.people.oidc import Oidc
from modelyard.providers.auth import GoogleAuth
from modelyard.testing import (
    Answer,
    Upstream,
    UpstreamRequest,
    chat_answer,
    embedding_answer,
    error_answer,
    json_answer,
)
from modelyard.transport.egress import EgressClient
from modelyard.transport.http import HttpClient
from tests.gateway.conftest import Running, start_gateway
from tests.gateway.test_traffic import ask

__all__ = ["start_gateway"]
pytestmark = pytest.mark.anyio
SOURCE = Path(modelyard.__file__).parent

# ----------------------------------------------------------------------------- the list

_CALL = "lives for one call"
_RUN = "lives for one run"
_PURE = "a pure function of its key, which is all that it is given; it is told to nobody but whoever brings the key"
_OURS = "holds nothing of a tenant: what comes with the product, or with this machine"
_LOCK = "locks: nothing is read from them"
_COUNT = "counts and times: no words of a tenant"

KEPT = {
    # counters on Valkey
    "storage/valkey.py:ValkeyCounters._tag_by_call": "by the name of an open call: the hash tag of its tenant; removed when it is settled",
    "storage/valkey_client.py:Valkey._scripts": "by the text of one of three scripts",
    # agents
    "agents/loop.py:_Run.repeat_counts": _RUN,
    "agents/loop.py:_Run.recorded_steps": _RUN,
    "agents/loop.py:_CallBatch.results": _RUN,
    "agents/state.py:Task.parameters": _RUN,
    # calls without an attempt
    "runtime/unserved_calls.py:UnservedCalls._groups": "by tenant, key, endpoint and status: counts, dropped each minute",
    "runtime/unserved_calls.py:UnservedCalls._groups_of_tenant": "by tenant: how many groups it has this minute",
    "runtime/unserved_calls.py:UnservedCalls._rows_of_minute": "by tenant: how many rows it got this minute",
    "runtime/unserved_calls.py:UnservedCalls._rows_of_day": "by tenant: how many rows it got today",
    "runtime/unserved_calls.py:UnservedCalls.added": "by tenant: how many calls were recorded",
    "runtime/unserved_calls.py:UnservedCalls._unsaved_groups": "by a random id: counts that wait to be written, with their tenant",
    # app
    "app/network.py:Clients._own": "by proxy, as the operator's settings name it: clients that keep nothing but connections",
    "app/knowledge.py:Indexes._open": "by the name of a store; each keeps its entries by dataset",
    "app/admission.py:Admission._known": "by subject, which holds tenant, key, user and model; emptied at each change",
    "app/admission.py:_PER_TOKEN": "by the identity of a price, which it holds on to: prices as numbers",
    "app/admission.py:HostedQuotas._held": "by the invocation's id and deployment",
    "sandbox/inside/javascript_fetch.py:Requests._bodies": "by the number of a request, in the process of one program",
    "workflow/code_network.py:CodeNetwork._lookups": "by tenant: the limit of its lookups, as long as a program of it runs",
    "cli/workers.py:Supervisor._workers": _OURS,
    "cli/workflows.py:_RunPrinter._started_at": _RUN,
    "app/admission.py:CounterInitialiser._starting": "by the names of counters, which hold the limit's id and its tenant",
    # base
    "base/json_repair.py:_parser()": _OURS,
    "base/number_bounds.py:_field_bounds()": _OURS,
    "base/patterns.py:_compiled()": _PURE,
    "base/patterns.py:_parse_glob()": _PURE,
    "base/schemas.py:_WorkEstimate._totals": _CALL,
    "base/schemas.py:_can_be_read()": _PURE,
    "base/schemas.py:_compile_cached()": _PURE,
    "base/schemas.py:_steps()": _PURE,
    # connections
    "cli/connection_limits.py:ConnectionLimiter._beginning": _COUNT,
    "cli/connection_limits.py:ConnectionLimiter._idle": _COUNT,
    "cli/connection_limits.py:ConnectionLimiter._leaving": _COUNT,
    "cli/connection_limits.py:ConnectionLimiter._origins": _COUNT,
    "cli/connection_limits.py:ConnectionLimiter._sending": _COUNT,
    "cli/connection_limits.py:ConnectionLimiter._unread": _COUNT,
    "cli/connection_limits.py:ClientNetwork.waiting": _COUNT,
    "cli/connection_limits.py:network_of()": _PURE,
    "gateway/answer_losses.py:AnswerLosses._names": "of one answer: names of its fields",
    "gateway/answer_losses.py:AnswerLosses._lengths": "of one answer: its texts",
    "gateway/http.py:Request.names": _CALL,
    "gateway/router.py:Router._exact": _OURS,
    "gateway/router.py:_NO_NAMES": _OURS,
    "gateway/router.py:_PathEntry.rows": _OURS,
    "gateway/schemas.py:ANYTHING": _OURS,
    "gateway/bodies.py:_Pool._by": _COUNT,
    # sandbox
    "sandbox/inside/rich_text.py:_Reader.fonts": "lives for one document: character sets of its fonts",
    "sandbox/inside/spreadsheet_cells.py:_Details._paths": "lives for one document",
    "sandbox/inside/spreadsheet_cells.py:_Details.formats": "lives for one document",
    "sandbox/inside/word_numbering.py:Numbering._abstract": "lives for one document",
    "sandbox/inside/word_numbering.py:Numbering._counters": "lives for one document",
    "sandbox/inside/word_numbering.py:Numbering._known": "lives for one document",
    "sandbox/inside/word_numbering.py:Numbering._lists": "lives for one document",
    "sandbox/inside/word_text.py:WordText._parts": "lives for one document",
    "sandbox/inside/zygote.py:ForkServer.children": "by the number of a process: its descriptors",
    "sandbox/slots.py:Slots._running": _COUNT,
    "sandbox/slots.py:Slots._waiting": _COUNT,
    # plugins, each tenant's apart
    "plugins/inside/zygote.py:Zygote._plugins": "by the number of a process, of one tenant and environment",
    "plugins/tenant_folders.py:WorkFolderStore._users": "by tenant: the number of its user on this machine",
    "plugins/supervisors.py:_Supervisor.environ": "what one tenant's plugins of one environment are given",
    "tools/sources.py:ApiSource._by_name": "by tenant and row",
    # sign-in
    "people/sessions.py:Sessions._invalid_digests": "by the digest of a session's token: that there is none",
    "people/sign_in_limits.py:Attempts._try_times": _COUNT,
    "people/passwords.py:_Lane._waiting": _COUNT,
    "people/passwords.py:_lane()": _OURS,
    # gateway
    "gateway/service/agui_events.py:AgUiEvents._calls": _CALL,
    "gateway/auth.py:Authenticator._cached_callers": "by the digest of the whole key that was shown; emptied at each change",
    "gateway/auth.py:_names_loopback()": _PURE,
    "gateway/chat_page/page.py:_read_embed()": _OURS,
    "gateway/forms.py:Form.file_lists": _CALL,
    "gateway/forms.py:Form.lists": _CALL,
    "gateway/openai/hosted_tools.py:HostedToolSet.kinds": _CALL,
    "gateway/openai/hosted_tools.py:HostedToolSet.tools": _CALL,
    "gateway/admin/node_types.py:_node_type_views()": _OURS,
    "gateway/console_api/static.py:_list_built_files()": _OURS,
    "gateway/console_api/static.py:_read()": _OURS,
    "gateway/admin/server_state.py:_packages()": _OURS,
    "gateway/service/shapes.py:ChatInput.inputs": _CALL,
    "gateway/service/shapes.py:CompletionInput.inputs": _CALL,
    "gateway/service/shapes.py:FilledFormInput.inputs": _CALL,
    "gateway/service/shapes.py:WorkflowInput.inputs": _CALL,
    # sandbox
    "sandbox/runner.py:Sandbox._starting": _LOCK,
    "sandbox/runner.py:Sandbox._zygotes": "by what is imported before: a fork for each run, which sees no other",
    "sandbox/runner.py:_Zygote.runs": "by number: each run's own future",
    "sandbox/templates.py:_EVALUATORS": _OURS,
    "sandbox/templates.py:_environment()": _OURS,
    "sandbox/templates.py:_parse()": _PURE,
    "sandbox/templates.py:_template_error()": _OURS,
    # knowledge
    "knowledge/analysis.py:_stemmer()": _OURS,
    "knowledge/answer.py:Answer.milliseconds": _CALL,
    "knowledge/retrieve.py:Retrieval.milliseconds": _CALL,
    "knowledge/rows.py:IndexContent.metadata": _CALL,
    "knowledge/evaluate.py:_ScoreTally.stages": _CALL,
    "knowledge/fact_check.py:_SourceWindows._frequencies": _CALL,
    "knowledge/segment_edits.py:_ContentBuilder.texts": _CALL,
    "knowledge/index/follower.py:ExternalIndex._centroids": "by dataset, which is found by its tenant before: the mean of its vectors",
    "knowledge/index/follower.py:ExternalIndex._generations": "by dataset and dimensions: how far the index is",
    "knowledge/index/follower.py:ExternalIndex._locks": _LOCK,
    "knowledge/index/memory.py:MemoryIndex._locks": _LOCK,
    "knowledge/index/memory.py:MemoryIndex._spaces": "by dataset, which is found by its tenant before",
    "knowledge/index/memory.py:SpaceIndex._document_numbers": "of one dataset",
    "knowledge/ingest.py:Indexer._commands": "by document: that it is to stop",
    "knowledge/ingest.py:_IndexingJob.texts": _CALL,
    "knowledge/prepare.py:_IndexBuilder.texts": _CALL,
    "knowledge/document_filters.py:DocumentFilters._indexes": "by dataset, which is found by its tenant before",
    "knowledge/document_filters.py:DocumentFilters._results": "by dataset and generation, its default, the reader's principals and conditions",
    "knowledge/document_filters.py:MetadataIndex._readable": "of one dataset: by principal",
    "knowledge/index/memory.py:SpaceIndex._masks": "of one dataset: by the identity of a set of documents, which is held",
    "tenancy/memberships.py:Memberships._views": "by tenant, at one state of the directory",
    "knowledge/document_filters.py:MetadataIndex._values": "of one dataset: by document",
    "knowledge/document_filters.py:MetadataIndex._readers": "of one dataset: by document",
    "knowledge/document_filters.py:MetadataIndex._columns": "of one dataset: by field and value",
    "knowledge/retrieve.py:Retriever._vectors": "by tenant, embedding model and question",
    "knowledge/connectors/web.py:WebSource._bodies": "by address, of one pass of one source of a dataset",
    "knowledge/connectors/web.py:WebSource._known": "by address, of one pass of one source of a dataset",
    "knowledge/connectors/web.py:WebSource._problems": "by address, of one pass of one source of a dataset",
    "knowledge/polite_fetch.py:PageFetcher._hosts": _COUNT,
    "knowledge/polite_fetch.py:PageFetcher._rules": "by a site's origin: the robots.txt that it shows to everybody",
    # plugins
    "plugins/connection.py:PluginConnection._sessions": "by a random session: each call's own",
    "tenant_plugins/tool_files.py:ToolFiles._pieces": "of one call, whose tenant the object has",
    "tenant_plugins/tool_files.py:ToolFiles._sizes": "of one call, whose tenant the object has",
    "plugins/debug.py:_Connection._assets": "of one connection, whose key says whose it is",
    "plugins/debug.py:_Connection._parts": "of one connection, whose key says whose it is",
    "plugins/environment.py:Environments.substitutes": _OURS,
    "plugins/environment.py:_NO_VARIABLES": _OURS,
    "plugins/requirements.py:NO_SUBSTITUTES": _OURS,
    "plugins/host.py:PluginHost._intended": "by tenant and package, while it is installed: the permissions that it will have",
    "plugins/host.py:PluginHost._serverless_urls": _OURS,
    "plugins/installed.py:InstalledPackages._declarations": "by a package's checksum: what the package says of itself",
    "plugins/host.py:PluginHost._making": "by a package's checksum: processes that start",
    "plugins/host.py:PluginHost._runtimes": "by a package's checksum: processes; calls have sessions of their own",
    "plugins/monitor.py:Monitor._measurements": _COUNT,
    "plugins/serverless.py:ServerlessSessions._open": "by a random session: each call's own",
    "plugins/supervisor.py:Supervisor._plugins": _OURS,
    "plugins/supervisors.py:Supervisors._by_name": _OURS,
    "plugins/supervisors.py:Supervisors._starting": _OURS,
    "plugins/supervisors.py:_Supervisor._pids": _OURS,
    "plugins/supervisors.py:_Supervisor._waiting": _OURS,
    "plugins/supervisors.py:_Supervisor.exit_listeners": _OURS,
    # providers
    "providers/adaptation/searches.py:SearchRestorer._pages": "within one call: pages of its searches",
    "providers/adaptation/signatures.py:SignatureRestorer._waiting": _CALL,
    "providers/auth.py:GoogleAuth._tokens": "by the digest of the whole account, its private key included",
    "providers/definition.py:ProviderDefinition._capabilities_by_name": _PURE,
    "providers/endpoint.py:_names_in()": _PURE,
    "providers/factory.py:catalog_definition()": _OURS,
    "providers/factory.py:catalog_names()": _OURS,
    "providers/factory.py:ModelProviderFactory._models_by_provider": "by provider, in a factory of the tenant's where it adds some",
    "providers/factory.py:ModelProviderFactory._schemas": "by provider, in a factory of the tenant's where it adds some",
    "providers/adaptation/call_restorer.py:CallRestorer._indexes": "within one call: numbers of its calls",
    "providers/adaptation/call_restorer.py:CallRestorer._open_texts": "within one call: texts that are not complete",
    "providers/adaptation/call_restorer.py:CallRestorer._seen": "within one call: forms of its calls",
    "providers/adaptation/tool_kinds.py:_ToolAdapter._definitions": "within one call: its tools",
    "providers/adaptation/tool_kinds.py:_ToolAdapter._names": "within one call: names of its tools",
    "providers/adaptation/tool_kinds.py:_ToolAdapter._replaced": "within one call: tools that stand for others",
    "providers/adaptation/tool_kinds.py:_ToolAdapter.forms": "within one call: forms of its tools",
    "providers/http_provider.py:HttpLargeLanguageModel._selections": "by model and format: which wire is spoken",
    "providers/quirks.py:_read_shared_families()": _OURS,
    "providers/local/process.py:ModelProcess._response_queues": "by number: each call's own",
    "providers/local/runtime.py:LocalRuntime._slots": _OURS,
    "providers/local/runtime.py:LocalRuntime._windows": _OURS,
    "providers/local/weights.py:Packages._archives": _OURS,
    "providers/local/weights.py:_is_installed()": _OURS,
    "providers/local/weights.py:manifest()": _OURS,
    # runtime
    "people/sessions.py:Sessions._cached_sessions": "by the digest of the session's whole token",
    "runtime/direct_call.py:Target._prepared": "of one caller: by the format and the names of the parameters of a request",
    "runtime/fair_queue.py:FairQueue._by_tenant": _COUNT,
    "runtime/fair_queue.py:FairQueue._last_turn": _COUNT,
    "runtime/fair_queue.py:FairQueue._waiting": "by tenant",
    "runtime/ledger.py:Ledger.settled": "by the invocation's id",
    "runtime/limits.py:_window_name()": _PURE,
    "runtime/load_balancing.py:DeploymentHealth._failures": "by deployment, which begins with the tenant",
    "runtime/load_balancing.py:DeploymentHealth._in_flight": "by deployment, which begins with the tenant",
    "runtime/load_balancing.py:DeploymentHealth._latency": "by deployment, which begins with the tenant",
    "runtime/load_balancing.py:DeploymentHealth.cooldowns": "by deployment and by the domain of a credential, with its tenant",
    "runtime/load_balancing.py:DeploymentHealth._samples": "by deployment, which begins with the tenant",
    "runtime/metrics.py:Series.buckets": _COUNT,
    "runtime/metrics.py:Series.values": _COUNT,
    "runtime/model_manager.py:ModelManager._bound": "by caller, which holds the tenant, name and type",
    "runtime/model_manager.py:ModelManager._instances_by_name": "by tenant, name and type",
    "runtime/model_manager.py:ModelManager._instances": "by tenant, provider, type and model",
    "people/passwords.py:_dummy_hash()": _OURS,
    "tenant_plugins/credentials.py:PluginCredentials._locks": _LOCK,
    "tenant_plugins/debug_plugins.py:DebuggedPlugins._connected": "by tenant, then by plugin",
    "tenant_plugins/plugins.py:Plugins._views": "by tenant",
    "runtime/policies/batch.py:Batch._open": "by tenant, provider, model, credential and what is asked",
    "runtime/policies/cache.py:Semantic._indexes": "by tenant and by model, provider and beginning of the conversation",
    "runtime/policies/cache.py:_FreshEmbeddings.vectors": _CALL,
    "runtime/policies/cache.py:_SemanticIndex.entries": "of one of those",
    "runtime/provider_manager.py:ProviderManager._factories": "by tenant",
    "runtime/provider_credentials.py:ProviderCredentials._hosted": "the operator's, for all",
    "runtime/provider_credentials.py:ProviderCredentials._own": "by tenant and provider",
    "runtime/provider_credentials.py:ProviderCredentials._deferred": "by tenant and provider",
    "runtime/provider_credentials.py:ProviderCredentials._of_plugins": "by tenant and provider",
    "runtime/provider_credentials.py:ProviderCredentials._stored": "by tenant, provider and model",
    "runtime/declared_models.py:DeclaredModels._models_by_tenant": "by tenant",
    "gateway/early_refusals.py:EarlyRefusals._heads": "by the hash of a head, with its credential",
    "gateway/known_heads.py:KnownHeads._meanings": "by the digest of a request's head, the caller's key among its lines; used only while the key is valid",
    "gateway/early_refusals.py:EarlyRefusals._refusals": "by the hash of a request line and a credential",
    "runtime/overload.py:LoadController._accounts": "by tenant",
    "providers/learnt.py:LearntServers._formats": "by the address of a server: which formats it has refused",
    "providers/learnt.py:LearntServers._fields": "by the address of a server and a model: which optional fields it has refused",
    "providers/endpoint.py:Endpoint._ready_heads": "by URL, credential object and headers",
    "runtime/routing_plans.py:Plans._managers": "by tenant, provider, type and model",
    "runtime/routing_plans.py:Plans._plans": "by tenant, provider, model, type and route",
    "runtime/response_store.py:ResponseStore._recent": "by a random id; holds the tenant, which is compared",
    "runtime/retry_budget.py:RetryBudget._pots": _COUNT,
    "tenancy/directory.py:Directory._all": "by tenant and kind",
    "tenancy/directory.py:Directory._owner_of_key": "by a key's id: whose it is",
    # storage
    "storage/response_cache.py:MemoryResponseCache._entries": "by tenant and digest of what was asked",
    "storage/counters.py:MemoryCounters._forget_at": _COUNT,
    "storage/counters.py:MemoryCounters._levels": _COUNT,
    "storage/counters.py:MemoryCounters._reserved": _COUNT,
    "storage/statements.py:_multi_row_statement()": _PURE,
    "storage/postgresql.py:_with_placeholders()": _PURE,
    # tools
    "tools/api.py:Tokens.cached_tokens": "by tenant, row and digest of address, client, secret and scopes",
    "tools/api.py:Tokens.locks": _LOCK,
    "tools/api.py:_Request._fields": _CALL,
    "tools/api.py:_Request._files": _CALL,
    "tools/manager.py:Observation.arguments": _CALL,
    "tools/manager.py:ToolManager._cache": "by tenant, credential, tool and arguments",
    "tools/manager.py:Tools._tools": _OURS,
    "tools/mcp/client.py:McpClient.capabilities": "of one client, which is one row's",
    "tools/mcp/client.py:McpClient.server": "of one client, which is one row's",
    "tools/mcp/client.py:SseChannel._waiting": "of one client, which is one row's",
    "tools/mcp/client.py:StdioChannel._waiting": "of one client, which is one row's",
    "tools/mcp/server.py:_LineServer._running": "of one client's connection: tasks by request id",
    "tools/observation.py:ToolOutputCollector._blob_chunks": _CALL,
    "tools/observation.py:ToolOutputCollector.variables": _CALL,
    "tools/openapi.py:_OperationBuilder.locations": _CALL,
    "tools/openapi.py:_OperationBuilder.properties": _CALL,
    "tools/mcp/clients.py:McpClients._clients": "by tenant and row, with the address and the encrypted secret",
    "tools/provider_store.py:ProviderStore._content_cache": "by tenant and row",
    # transport
    "transport/response.py:IncomingResponse._first_lines": _CALL,
    "transport/response.py:_kind_of()": "names of headers that servers send",
    "transport/turn_writes.py:TurnWrites._pending": "by transport: what one connection is sent, until the turn ends",
    "transport/idle_pool.py:IdlePool._connections": "by origin and proxy: connections, over which nothing is said but each request's own",
    "transport/http.py:_cached_head()": _PURE,
    "transport/origins.py:parse_url()": _PURE,
    # workflow
    "tenant_plugins/fetching.py:PluginFetcher._fetching": "by package, which is the same for all tenants; a download as long as it runs",
    "workflow/run_reader.py:RunReader._asked_at": "by run; holds a time",
    "workflow/run_reader.py:RunReader._reads": "by tenant, run and event; a query as long as it runs",
    "storage/signals.py:Signals._listeners": "by topic; a signal says that there is news, and nothing else",
    "storage/signals.py:Signals._observers": _OURS,
    "workflow/run_spans.py:_Builder._executions": _RUN,
    "workflow/run_spans.py:_Builder._logs": _RUN,
    "workflow/trace_export.py:TraceExport._senders": "by the id of a destination, which belongs to one app; each keeps its own runs",
    "workflow/app_templates.py:_texts()": _OURS,
    "workflow/apps.py:Apps._apps_by_page_token": "by a random token; holds whose app it is",
    "workflow/apps.py:Apps._parsed": "by tenant, digest and mapping",
    "workflow/diagram.py:_Layout.boxes": _CALL,
    "workflow/dsl.py:App._graphs": "of one app, which is kept by tenant and digest",
    "workflow/dsl.py:App.document": "of one app, which is kept by tenant and digest",
    "workflow/dsl.py:App.features": "of one app, which is kept by tenant and digest",
    "workflow/dsl.py:App.levels": "of one app, which is kept by tenant and digest",
    "workflow/dsl.py:App.model_config": "of one app, which is kept by tenant and digest",
    "workflow/dsl.py:_AppParser._packages": _CALL,
    "workflow/dsl.py:Level.nodes": "of one app, which is kept by tenant and digest",
    "workflow/engine.py:Outcome.outputs": _RUN,
    "workflow/graph_state.py:GraphState.outputs": _RUN,
    "workflow/running.py:RunningNodes._running": _RUN,
    "workflow/graph.py:Frontier._taken_in": _RUN,
    "workflow/node.py:NodeResult.inputs": _RUN,
    "workflow/node.py:NodeResult.metadata": _RUN,
    "workflow/node.py:NodeResult.outputs": _RUN,
    "workflow/node.py:NodeResult.process_data": _RUN,
    "workflow/nodes/__init__.py:node_class()": _OURS,
    "workflow/nodes/agent_v2.py:_JobExecution._answers": _RUN,
    "workflow/nodes/loop.py:_LoopProgress.durations": _RUN,
    "workflow/nodes/loop.py:_LoopProgress.variables": _RUN,
    "workflow/nodes/unknown.py:NODES": _OURS,
    "workflow/agent_execution.py:BuiltInStrategy.logs": _RUN,
    "workflow/agent_execution.py:_Round.results": _RUN,
    "workflow/tool_messages.py:ToolMessageCollector._blobs": _CALL,
    "workflow/tool_messages.py:ToolMessageCollector._variables": _CALL,
    "workflow/live_run.py:JournalRecorder._by_path": _RUN,
    "workflow/carriers/queued.py:QueuedCarrier._waiting": "by a run's random id: queued runs that the engine could not be given",
    "workflow/live_runs.py:LiveRuns._live_runs": "by a run's random id; each is looked up with its tenant",
    "workflow/live_runs.py:LiveRuns._postponed": "by a run's random id: runs of this process that are tried again",
    "workflow/runs.py:Runs._starting": "by a run's random id",
    "workflow/schedule.py:_zone()": _OURS,
    "workflow/streaming.py:ResponseStream._sessions": _RUN,
    "workflow/streaming.py:ResponseStream._streams": _RUN,
    "workflow/streaming.py:ResponseStream._waiting_answers": _RUN,
    "workflow/template.py:parts_of()": _PURE,
    "workflow/triggers.py:Triggers._due": "by tenant, app and node",
    "workflow/triggers.py:Triggers._webhooks": "by a random token; holds whose app it is",
    "workflow/variables.py:VariablePool.declared": _RUN,
}
"""file:owner.name → what its key holds, or why it holds no tenant's data"""
_CALLS_OWN = ("wire/", "models/")
"""Folders whose objects live for one call: formats and values, without tenants."""
_VALUES = (
    "workflow/events.py",
    "agents/events.py",
    "gateway/admin/shapes.py",
    "gateway/admin/app_shapes.py",
    "gateway/admin/plugin_shapes.py",
    "gateway/a2a/shapes.py",
)
"""Files that define only values: events and responses."""

_MAPS = frozenset({"dict", "OrderedDict", "defaultdict", "Counter", "WeakValueDictionary", "WeakKeyDictionary", "ChainMap",
                   "TTLCache", "LRUCache"})  # fmt: skip
_MEMORIES = frozenset(
    {"lru_cache", "cache", "alru_cache", "cached", "ttl_cache", "memoize"}
)


def _name(node: ast.AST) -> str:
    """Return the plain name: 'OrderedDict' for `collections.OrderedDict[str, int]`."""
    return ast.unparse(node).partition("[")[0].partition("(")[0].rpartition(".")[2]


def _is_empty_map(node: ast.expr | None) -> bool:
    match node:
        case ast.Dict(keys=[]):
            return True
        case ast.Call(keywords=keywords) if _name(node.func) == "field":
            return any(
                keyword.arg == "default_factory" and _name(keyword.value) in _MAPS
                for keyword in keywords
            )
        case ast.Call(args=arguments) if _name(node.func) in _MAPS:
            return not arguments or _name(node.func) == "defaultdict"
        case _:
            return False


def _assigned(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr, bool]]:
    """Yield (name, value, whether annotated) of the assignments in a body."""
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value, False
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value, True
            case _:
                pass


def _of_class(owner: ast.ClassDef) -> Iterator[str]:
    """Yield the attributes of a class and of its instances that start as empty maps."""
    bases = " ".join(ast.unparse(base) for base in owner.bases)
    decorators = " ".join(ast.unparse(decorator) for decorator in owner.decorator_list)
    is_value = "Struct" in bases or "NodeData" in bases or "frozen=True" in decorators
    for name, value, is_annotated in _assigned(owner.body):
        # The default of a struct's field is not a cache; a private field may be one.
        is_default = is_annotated and is_value and not name.startswith("_")
        if _is_empty_map(value) and not is_default:
            yield f"{owner.name}.{name}"
    for method in owner.body:
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (f"{owner.name}.{name}" for name in _own_empty_maps(method))


def _own_empty_maps(method: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Yield the attributes of `self` to which a method assigns an empty map."""
    for node in ast.walk(method):
        is_plain = isinstance(node, ast.Assign)
        target = node.targets[0] if is_plain else getattr(node, "target", None)
        if not isinstance(target, ast.Attribute):
            continue
        is_own = ast.unparse(target.value) == "self"
        if is_own and _is_empty_map(getattr(node, "value", None)):
            yield target.attr


def caches_in(tree: ast.Module) -> Iterator[str]:
    """Yield the caches of a module.

    These are maps of the module, of classes and of their instances, and memoized
    functions.
    """
    yield from (name for name, value, _ in _assigned(tree.body) if _is_empty_map(value))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from _of_class(node)
        elif any(
            _name(decorator) in _MEMORIES
            for decorator in getattr(node, "decorator_list", ())
        ):
            yield f"{node.name}()"  # type: ignore[attr-defined]


def all_caches() -> set[str]:
    caches: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        file = str(path.relative_to(SOURCE))
        if not file.startswith((*_CALLS_OWN, *_VALUES, "testing/")):
            caches |= {
                f"{file}:{name}"
                for name in caches_in(ast.parse(path.read_text("utf-8")))
            }
    return caches


def test_every_cache_is_listed():
    caches = all_caches()
    new = sorted(caches - set(KEPT))
    assert not new, (
        f"say in KEPT what the key of each holds, or why it holds nothing of a tenant: {new}"
    )
    assert not sorted(set(KEPT) - caches), "the list names what is gone"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("known = {}", "known"), ("_known: dict[str, int] = {}", "_known"), ("class A:\n    known = {}", "A.known"),
        ("class A:\n    def __init__(self):\n        self.x = OrderedDict()", "A.x"),
        ("class A:\n    def __init__(self):\n        self.x: dict[str, int] = defaultdict(list)", "A.x"),
        ("@dataclass\nclass A:\n    x: dict[str, int] = field(default_factory=dict[str, int])", "A.x"),
        ("@dataclass(frozen=True)\nclass A:\n    _x: dict[str, int] = field(default_factory=dict)", "A._x"),
        ("@functools.lru_cache(9)\ndef f(x): ...", "f()"), ("class A:\n    @cache\n    def f(self): ...", "f()"),
        ("known = TTLCache()", "known"), ("known = weakref.WeakValueDictionary()", "known"),
    ],
)  # fmt: skip
def test_the_law_sees_each_kind(text: str, name: str):
    assert list(caches_in(ast.parse(text))) == [name]


def test_formats_and_values_cache_nothing_between_calls():
    for path in [
        module_path
        for folder in _CALLS_OWN
        for module_path in (SOURCE / folder).rglob("*.py")
    ]:
        tree = ast.parse(path.read_text("utf-8"))
        remembered = [name for name in caches_in(tree) if "." not in name]
        assert not remembered, (path.name, remembered)


# ---------------------------------------------------------- two tenants, the same names

BOSS = "operator-key-1"
Start = Callable[..., Running]


def tenants(running: Running, *names: str) -> list[str]:
    """Create tenants and return the keys of their administrators."""
    keys: list[str] = []
    for name in names:
        assert (
            ask(running, "POST", "/admin/v1/tenants", {"name": name}, key=BOSS).status
            == 201
        )
        key_fields = {"name": "admin", "role": "owner"}
        keys.append(
            ask(
                running, "POST", f"/admin/v1/keys?tenant={name}", key_fields, key=BOSS
            ).json["key"]
        )
    return keys


def host_of(upstream: Upstream) -> str:
    return upstream.url.removeprefix("http://").removesuffix("/v1")


@pytest.fixture
def api() -> Iterator[Upstream]:
    """A mock API with client credentials tokens, and an MCP server.

    The MCP server returns the caller's credentials.
    """
    with Upstream(_api_answer) as server:
        yield server


def _api_answer(request: UpstreamRequest) -> Answer:
    """Answer as the token endpoint, the MCP server or the API."""
    if request.path.endswith("/token"):
        return _token_answer(request)
    if request.method == "POST":
        return _mcp_answer(request)
    return json_answer({"seen": request.headers.get("authorization")})


def _token_answer(request: UpstreamRequest) -> Answer:
    """Answer with a token that has the client's secret and scope in it."""
    body = parse_qs(request.body.decode())
    secret, scope = body["client_secret"][0], body.get("scope", [""])[0]
    if secret not in ("right", "other"):
        return json_answer({"error": "invalid_client"}, status=401)
    token = {"access_token": f"token-of-{secret}-{scope}", "expires_in": 3600}
    return json_answer(token, status=200)


def _mcp_answer(request: UpstreamRequest) -> Answer:
    """Answer as an MCP server with one tool."""
    message = request.json
    if "id" not in message:
        return Answer(status=202)
    credentials = request.headers.get("authorization", "")
    match message["method"]:
        case "initialize":
            result: Any = {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "serverInfo": {"name": "x"},
            }
        case "tools/list":
            tool = {
                "name": "who",
                "description": "Says who.",
                "inputSchema": {"type": "object"},
            }
            result = {"tools": [tool]}
        case "tools/call":
            session = request.headers.get("mcp-session-id", "none")
            text = f"{credentials} in session {session}"
            result = {"content": [{"type": "text", "text": text}]}
        case _:
            error = {"code": -32601, "message": "no"}
            return json_answer({"jsonrpc": "2.0", "id": message["id"], "error": error})
    return json_answer(
        {"jsonrpc": "2.0", "id": message["id"], "result": result},
        mcp_session_id=f"session-of-{credentials[-5:]}",
    )


def tool_call(running: Running, tool: str, key: str) -> Any:
    return ask(running, "POST", "/admin/tools/call", {"tool": tool}, key=key).json


def test_a_cached_token_is_used_only_with_its_secret(
    start_gateway: Start, api: Upstream
):
    running = start_gateway(
        api_keys=[BOSS], egress=EgressSettings(private=[host_of(api)])
    )
    first, second = tenants(running, "acme", "globex")
    description = {
        "openapi": "3.0.0", "info": {"title": "x", "version": "1"}, "servers": [{"url": api.url}],
        "paths": {"/look": {"get": {"operationId": "look", "responses": {}}}},
    }  # fmt: skip

    def add(key: str, secret: str, **auth_fields: Any) -> None:
        auth = {
            "type": "oauth2",
            "user": "same-client",
            "value": secret,
            "token_url": f"{api.url}/token",
            **auth_fields,
        }
        provider_fields = {
            "name": "api",
            "type": "api",
            "description": json.dumps(description),
            "auth": auth,
        }
        assert (
            ask(
                running, "POST", "/admin/tool-providers", provider_fields, key=key
            ).status
            == 201
        )

    add(first, "right")
    add(second, "wrong")
    assert tool_call(running, "api/look", first)["values"] == [
        {"seen": "Bearer token-of-right-"}
    ]
    refused = tool_call(running, "api/look", second)
    assert refused["error"] == "tool_credentials", refused
    assert [
        request
        for request in api.requests
        if request.headers.get("authorization") == "Bearer token-of-right-"
    ][1:] == []
    # Within one tenant, a token also depends on secret and scopes.
    add(first, "wrong")
    assert tool_call(running, "api/look", first)["error"] == "tool_credentials"
    add(first, "right", scopes=["more"])
    assert tool_call(running, "api/look", first)["values"] == [
        {"seen": "Bearer token-of-right-more"}
    ]
    request_count = len(api.requests)
    assert tool_call(running, "api/look", first)["values"] == [
        {"seen": "Bearer token-of-right-more"}
    ]
    # The token is cached for its own configuration.
    assert len(api.requests) == request_count + 1


def test_an_mcp_session_belongs_to_its_tenant(start_gateway: Start, api: Upstream):
    running = start_gateway(
        api_keys=[BOSS], egress=EgressSettings(private=[host_of(api)])
    )
    keys = tenants(running, "acme", "globex")
    for key, secret in zip(keys, ("alpha", "bravo"), strict=True):
        provider_fields = {
            "name": "who",
            "type": "mcp",
            "url": api.url,
            "headers": {"authorization": f"Bearer {secret}"},
        }
        response = ask(
            running, "POST", "/admin/tool-providers", provider_fields, key=key
        )
        assert response.status == 201, response.body
    for _ in range(2):
        for key, secret in zip(keys, ("alpha", "bravo"), strict=True):
            result = tool_call(running, "who/who", key)
            assert result["text"] == f"Bearer {secret} in session session-of-{secret}"


def test_a_changed_mcp_server_is_called_only_with_its_new_secret(
    start_gateway: Start, api: Upstream
):
    """The row changes as if by another process: the client is not notified."""
    running = start_gateway(egress=EgressSettings(private=[host_of(api)]))
    providers = running.yard.services.tools.providers

    async def clients() -> list[bool]:
        await providers.add_mcp(
            "default", "who", url=api.url, headers={"authorization": "Bearer alpha"}
        )
        provider_row, provider_config = providers.find("default", "who")
        first = await providers.client("default", provider_row.id, provider_config)
        repeated_client = await providers.client(
            "default", provider_row.id, provider_config
        )
        changed = msgspec.structs.replace(provider_config, url=f"{api.url}/other")
        return [
            repeated_client is first,
            await providers.client("default", provider_row.id, changed) is first,
        ]

    assert asyncio.run_coroutine_threadsafe(clients(), running.loop).result(20) == [
        True,
        False,
    ]


def test_answers_credentials_and_provider_clients_are_their_tenants(
    start_gateway: Start,
):
    vectors = {"sk-alpha": [1.0, 0.0], "sk-bravo": [0.0, 1.0]}

    def answer(request: UpstreamRequest) -> Answer:
        if request.path.endswith("/embeddings"):
            vector = vectors[request.key]
            return embedding_answer([vector for _ in request.json["input"]])
        return chat_answer(f"for {request.key}")

    with Upstream(answer) as upstream:
        running = start_gateway(
            api_keys=[BOSS], cache=CacheSettings(seconds=3600, semantic_model="shop/e", semantic_threshold=0.1),
            providers=[ProviderSettings(name="shop", base_url=upstream.url)],
        )  # fmt: skip
        keys = dict(zip(vectors, tenants(running, "acme", "globex"), strict=True))
        for secret, key in keys.items():
            row = {"name": "same", "provider": "shop", "values": {"api_key": secret}}
            created = ask(running, "POST", "/admin/v1/credentials", row, key=key)
            assert created.status == 201
        chat = {
            "model": "shop/m",
            "messages": [{"role": "user", "content": "who?"}],
            "temperature": 0,
        }
        embed = {"model": "shop/e", "input": "who?"}
        # The second round is answered from the caches.
        for secret, key in [*keys.items()] * 2:
            reply = ask(running, "POST", "/v1/chat/completions", chat, key=key)
            text = reply.json["choices"][0]["message"]["content"]
            assert text == f"for {secret}"
            embedded = ask(running, "POST", "/v1/embeddings", embed, key=key)
            assert embedded.json["data"][0]["embedding"] == vectors[secret]
        assert {request.key for request in upstream.requests} == vectors.keys()


def test_domains_with_the_same_name_in_two_tenants_are_separate(
    start_gateway: Start,
):
    def answer(request: UpstreamRequest) -> Answer:
        return (
            error_answer(429, "slow down", retry_after="60")
            if request.key == "sk-alpha"
            else chat_answer("fine")
        )

    with Upstream(answer) as upstream:
        running = start_gateway(
            api_keys=[BOSS],
            providers=[ProviderSettings(name="shop", base_url=upstream.url)],
        )
        keys = tenants(running, "acme", "globex")
        for key, secret in zip(keys, ("sk-alpha", "sk-bravo"), strict=True):
            row = {
                "name": "own",
                "provider": "shop",
                "domain": "same",
                "values": {"api_key": secret},
            }
            assert (
                ask(running, "POST", "/admin/v1/credentials", row, key=key).status
                == 201
            )
        chat = {"model": "shop/m", "messages": [{"role": "user", "content": "hi"}]}
        assert (
            ask(running, "POST", "/v1/chat/completions", chat, key=keys[0]).status
            == 429
        )
        assert (
            ask(running, "POST", "/v1/chat/completions", chat, key=keys[1]).status
            == 200
        )


async def test_a_service_accounts_cached_token_needs_the_same_key(
    upstream: Callable[[Any], Upstream],
):
    server = upstream(
        lambda request: json_answer(
            {"access_token": f"token-{len(server.requests)}", "expires_in": 3600}
        )
    )
    client = HttpClient()
    auth = GoogleAuth(client)
    try:
        pem = rsa.generate_private_key(
            public_exponent=65537, key_size=2048
        ).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

        async def token(**extra_fields: str) -> str:
            account = {
                "client_email": "a@b.example",
                "private_key": pem.decode(),
                "token_uri": server.url,
                **extra_fields,
            }
            headers = await auth.headers(
                "POST", "x", {"service_account_key": json.dumps(account)}, []
            )
            return headers["authorization"]

        assert [await token(), await token(), await token(private_key_id="2")] == [
            "Bearer token-1", "Bearer token-1", "Bearer token-2",
        ]  # fmt: skip
        # Same values, but a wrong secret.
        with pytest.raises(ConfigError, match="Invalid private_key"):
            await token(private_key="nothing")
    finally:
        await client.aclose()


async def test_a_sign_in_begun_in_one_browser_ends_in_no_other(
    upstream: Callable[[Any], Upstream],
):
    def issuer(request: UpstreamRequest) -> Answer:
        return json_answer({"issuer": server.url, "authorization_endpoint": f"{server.url}/authorize",
                            "token_endpoint": f"{server.url}/token", "jwks_uri": f"{server.url}/keys"})  # fmt: skip

    server = upstream(issuer)
    egress = EgressClient()
    try:
        oidc = Oidc(
            egress, SystemClock(), issuer=server.url, client_id="me", client_secret=""
        )
        _, mine = await oidc.begin("http://here.example/back")
        _, other_sign_in = await oidc.begin("http://here.example/back")
        assert (
            len(
                {
                    mine.state,
                    other_sign_in.state,
                    mine.nonce,
                    other_sign_in.nonce,
                    mine.verifier,
                    other_sign_in.verifier,
                }
            )
            == 6
        )
        with pytest.raises(SignInError, match="was not started in this browser"):
            await oidc.end(
                mine,
                code="c",
                state=other_sign_in.state,
                back="http://here.example/back",
            )
    finally:
        await egress.aclose()
