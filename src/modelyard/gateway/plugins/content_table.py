"""Route table of tenants' own content: plugin endpoints, triggers, webhooks, files, and
OAuth redirects."""

from collections.abc import Callable
from dataclasses import dataclass

from modelyard.gateway.errors import OPENAI
from modelyard.gateway.plugins.dependencies import PluginDependencies
from modelyard.gateway.plugins.hooks import (
    EndpointRoute,
    Files,
    TransactionRoute,
)
from modelyard.gateway.plugins.oauth import BrowserSteps
from modelyard.gateway.plugins.trigger_webhooks import EventListener, TriggerRoute
from modelyard.gateway.plugins.webhooks import WebhookRoute
from modelyard.gateway.table import (
    OWN_SECRET,
    SIGNED_ADDRESS,
    Api,
    Content,
    Query,
    Row,
    Schema,
)
from modelyard.gateway.tenant_content import WEBHOOK, WEBHOOK_OF_DRAFT, ContentRules
from modelyard.plugins.serverless import ServerlessSessions
from modelyard.storage.files import FileStore
from modelyard.tenant_plugins.credentials import PluginCredentials
from modelyard.workflow.runs import Runs
from modelyard.workflow.services import TenantFiles
from modelyard.workflow.triggers import Triggers

_SIGNATURE = (
    Query("tenant", "Tenant of the file.", is_required=True),
    Query("until", "Expiry of the signature in Unix seconds.", is_required=True),
    Query("sign", "The signature.", is_required=True),
)
_UPLOAD = (
    Query("plugin", "Plugin that uploads the file."),
    Query("name", "The file's name."),
    Query("mimetype"),
)
_ANYTHING = Content("*/*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentDependencies:
    """Dependencies of the routes for tenants' content."""

    plugins: PluginDependencies
    triggers: Triggers
    runs: Runs
    files: FileStore
    files_of: Callable[[str, str], TenantFiles]
    """(tenant, user) → the files of their runs."""
    sessions: ServerlessSessions
    on_event: Callable[[], EventListener | None]
    """Returns the listener for the events of trigger plugins, or None if there is none.
    """
    origin: Callable[[], str]
    content_origin: Callable[[], str]
    rules: ContentRules
    is_disabled: Callable[[str], bool]
    """Whether a tenant was disabled."""


def api(parts: ContentDependencies) -> Api:
    """Return the API. Callers have no API key; a secret or a signature in the URL
    authorises them."""
    rows = (
        *_hook_rows(parts),
        *_webhook_rows(parts),
        *_file_rows(parts),
        *_oauth_rows(parts.plugins.credentials, parts.origin),
    )
    return Api(
        name="content",
        title="Tenants' content",
        about="Plugin endpoints, webhooks, files and OAuth redirects.",
        prefixes=("/e", "/t", "/triggers", "/files", "/oauth", "/backwards-invocation"),
        errors=OPENAI,
        rows=rows,
    )


def _hook_rows(parts: ContentDependencies) -> list[Row]:
    """Return the rows of plugin endpoints, triggers and transactions."""
    plugins, endpoints, subscriptions = (
        parts.plugins.plugins,
        parts.plugins.endpoints,
        parts.plugins.subscriptions,
    )
    endpoint = EndpointRoute(plugins, endpoints, parts.content_origin, parts.rules)
    trigger = TriggerRoute(
        plugins, subscriptions, parts.triggers, parts.on_event, parts.rules
    )
    transaction = TransactionRoute(parts.sessions)
    # Plugins choose their own methods and subpaths, so these rows accept all of them.
    rows = [
        Row(
            method="GET",
            path=path,
            auth=OWN_SECRET,
            handler=endpoint,
            answer=_ANYTHING,
            takes_any_method=True,
            summary="Call a plugin endpoint.",
        )
        for path in ("/e/{hook}", "/e/{hook}/{rest:path}")
    ]
    rows += [
        Row(
            method="POST",
            path=path,
            auth=OWN_SECRET,
            handler=trigger,
            answer=_ANYTHING,
            takes_any_method=True,
            summary="Send an event to a trigger plugin.",
        )
        for path in ("/t/{subscription}", "/t/{subscription}/{rest:path}")
    ]
    # Plugins that run elsewhere call their host by this route.
    rows.append(
        Row(
            method="POST",
            path="/backwards-invocation/transaction",
            auth=OWN_SECRET,
            handler=transaction,
            takes=Content("application/octet-stream"),
            answer=Content("application/octet-stream"),
            errors=(400,),
            summary="Call the host from a plugin on a serverless runtime.",
        )
    )
    return rows


def _webhook_rows(parts: ContentDependencies) -> list[Row]:
    """Return the rows of apps' webhooks, for published versions and for drafts."""
    webhook = WebhookRoute(parts.triggers, parts.runs, parts.files_of, parts.rules)
    return [
        Row(
            method="POST",
            path=f"{prefix}{{token}}",
            auth=OWN_SECRET,
            handler=webhook,
            answer=_ANYTHING,
            takes_any_method=True,
            summary="Start a run of an app.",
            errors=(405,),
        )
        for prefix in (WEBHOOK, WEBHOOK_OF_DRAFT)
    ]


def _file_rows(parts: ContentDependencies) -> list[Row]:
    """Return the rows of signed file URLs."""
    files = Files(parts.files, parts.is_disabled)
    file_schema = Schema(
        {
            "type": "object",
            "required": ["id", "name", "size", "mime_type", "extension", "preview_url"],
        }
    )
    return [
        Row(
            method="GET",
            path="/files/{file}",
            auth=SIGNED_ADDRESS,
            handler=files.read,
            query=_SIGNATURE,
            answer=_ANYTHING,
            errors=(404,),
            summary="Get a file.",
        ),
        Row(
            method="POST",
            path="/files/plugins/upload",
            auth=SIGNED_ADDRESS,
            handler=files.upload,
            answer=file_schema,
            status=201,
            takes=Content("multipart/form-data"),
            query=(*_SIGNATURE, *_UPLOAD),
            errors=(404,),
            summary="Upload a file as a plugin.",
        ),
    ]


def _oauth_rows(credentials: PluginCredentials, origin: Callable[[], str]) -> list[Row]:
    """Return the rows of the OAuth redirects."""
    steps = BrowserSteps(credentials, origin)
    return [
        Row(
            method="GET",
            path="/oauth/begin/{ticket:path}",
            auth=OWN_SECRET,
            handler=steps.begin,
            status=302,
            summary="Redirect to a provider's authorization page.",
        ),
        Row(
            method="GET",
            path="/oauth/callback/{provider:path}",
            auth=OWN_SECRET,
            handler=steps.back,
            answer=Content("text/html"),
            summary="Finish the authorization with a provider.",
            errors=(400,),
        ),
    ]
