"""/plugin/TENANT/…: the interface of the usual plugin daemon, for programs that use
one.

Callers present an internal key in `x-api-key`, from this machine unless the settings
open the interface. Calls go straight to the plugin, without usage records and load
balancing, which the calling program does itself.
"""

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from modelyard.gateway.plugins import declarations, endpoints, listings, packages
from modelyard.gateway.plugins.daemon_calls import DAEMON, DaemonCall, DaemonGateway
from modelyard.gateway.plugins.dispatch import ACTIONS, SINGLE_REPLY_ACTIONS, dispatch
from modelyard.gateway.schemas import ANYTHING, OBJECT, TEXT, list_of, object_schema
from modelyard.gateway.table import (
    EVENTS,
    OWN_SECRET,
    Answered,
    Api,
    Body,
    Content,
    OneOf,
    Query,
    Row,
    Schema,
)
from modelyard.models.types import JSON

Handler = Callable[[DaemonCall], Awaitable[Answered]]
_TENANT = "/plugin/{tenant}"
_MANAGE = f"{_TENANT}/management"
_INSTALL = f"{_MANAGE}/install"
# An error that concerns a plugin has a negative code in the body of a 200.
_CODE: JSON = {"type": "integer", "maximum": 0}
_DONE = Schema(object_schema({"code": _CODE, "message": TEXT, "data": ANYTHING}))
_FORM, _FILE = Content("multipart/form-data"), Content("application/octet-stream")
_IDENTIFIER = Query(
    "plugin_unique_identifier",
    "The plugin with its version and checksum.",
    is_required=True,
)
_PLUGIN = Query("plugin_id", "The plugin, as author/name.", is_required=True)
_PAGE = (
    Query("page", "Page number, from 1.", "integer"),
    Query("page_size", "Page size, at most 256.", "integer"),
)
_SINGLE_PROVIDER_TYPES = ("tool", "agent_strategy", "datasource", "trigger")


def api(entrance: DaemonGateway) -> Api:
    """Return the daemon's API. `entrance` authorises the callers."""
    rows = (
        *_dispatch_rows(),
        *_installation_rows(),
        *_task_rows(),
        *_plugin_rows(),
        *_provider_rows(),
        *_package_file_rows(),
        *_endpoint_rows(),
    )
    return Api(
        name="plugins",
        title="Plugin daemon",
        about="Plugins, for clients of Dify's plugin daemon.",
        prefixes=("/plugin",),
        errors=DAEMON,
        rows=rows,
        enter=entrance.enter,
    )


def _row(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    *,
    request_body: Body | JSON | None = None,
    answer: Body = _DONE,
    query: tuple[Query, ...] = (),
) -> Row:
    """Return a row of this API. A plain dictionary is a JSON schema."""
    return Row(
        method=method,
        path=path,
        auth=OWN_SECRET,
        handler=handler,
        summary=summary,
        answer=answer,
        query=query,
        takes=Schema(request_body) if isinstance(request_body, dict) else request_body,
    )


def _dispatch_rows() -> Iterator[Row]:
    """Yield the rows that call a plugin, one for each action."""
    dispatch_body = object_schema({"data": OBJECT}, user_id=TEXT)
    for action, (plugin_type, name) in ACTIONS.items():
        # Some actions return one result, all others a stream.
        answer = _DONE if name in SINGLE_REPLY_ACTIONS else EVENTS
        label = f"{plugin_type.replace('_', ' ')}: {name.replace('_', ' ')}"
        yield _row(
            "POST",
            f"{_TENANT}/dispatch/{action}",
            partial(dispatch, action),
            f"Call a plugin ({label}).",
            request_body=dispatch_body,
            answer=answer,
        )


def _installation_rows() -> Iterator[Row]:
    """Yield the rows that upload, install and remove packages."""
    identifiers = object_schema(
        {"plugin_unique_identifiers": list_of(TEXT)}, metas=list_of(OBJECT), source=TEXT
    )
    upgrade = object_schema(
        {
            "original_plugin_unique_identifier": TEXT,
            "new_plugin_unique_identifier": TEXT,
        },
        source=TEXT,
    )
    yield _row(
        "POST",
        f"{_INSTALL}/upload/package",
        packages.upload_package,
        "Upload a package.",
        request_body=_FORM,
    )
    yield _row(
        "POST",
        f"{_INSTALL}/upload/bundle",
        packages.upload_bundle,
        "Upload a bundle.",
        request_body=_FORM,
    )
    yield _row(
        "POST",
        f"{_INSTALL}/identifiers",
        packages.install,
        "Install uploaded packages.",
        request_body=identifiers,
    )
    yield _row(
        "POST",
        f"{_INSTALL}/upgrade",
        packages.upgrade,
        "Replace a plugin by another version.",
        request_body=upgrade,
    )
    yield _row(
        "POST",
        f"{_MANAGE}/uninstall",
        packages.uninstall,
        "Remove a plugin.",
        request_body=object_schema({"plugin_installation_id": TEXT}),
    )


def _task_rows() -> Iterator[Row]:
    """Yield the rows of installation tasks."""
    yield _row(
        "GET",
        f"{_INSTALL}/tasks",
        packages.list_tasks,
        "List installation tasks.",
        query=_PAGE,
    )
    yield _row(
        "POST",
        f"{_INSTALL}/tasks/delete_all",
        packages.delete_tasks,
        "Delete all installation tasks.",
    )
    yield _row(
        "GET",
        f"{_INSTALL}/tasks/{{task}}",
        packages.get_task,
        "Get the progress of an installation.",
    )
    yield _row(
        "POST",
        f"{_INSTALL}/tasks/{{task}}/delete",
        packages.delete_task,
        "Delete an installation task.",
    )
    # The path that names a plugin of the task has the same handler.
    yield _row(
        "POST",
        f"{_INSTALL}/tasks/{{task}}/delete/{{plugin:path}}",
        packages.delete_task,
        "Delete an installation task.",
    )


def _plugin_rows() -> Iterator[Row]:
    """Yield the rows that list plugins and read their declarations."""
    identifiers = object_schema({"plugin_unique_identifiers": list_of(TEXT)})
    yield _row(
        "GET",
        f"{_MANAGE}/decode/from_identifier",
        listings.decode_package,
        "Get the declaration of a package.",
        query=(_IDENTIFIER,),
    )
    yield _row(
        "GET",
        f"{_MANAGE}/fetch/manifest",
        listings.manifest,
        "Get a plugin's manifest.",
        query=(_IDENTIFIER,),
    )
    yield _row(
        "GET",
        f"{_MANAGE}/fetch/identifier",
        listings.is_installed,
        "Check whether a plugin is installed.",
        query=(_IDENTIFIER,),
    )
    yield _row(
        "GET",
        f"{_MANAGE}/fetch/readme",
        listings.readme,
        "Get a plugin's readme.",
        query=(_IDENTIFIER, Query("language", "Language code, for example en_US.")),
    )
    yield _row(
        "GET",
        f"{_MANAGE}/list",
        listings.list_installations,
        "List plugins.",
        query=_PAGE,
    )
    yield _row(
        "GET",
        f"{_MANAGE}/installation/ids",
        listings.list_plugin_ids,
        "List the ids of installed plugins.",
        query=(Query("category", "Only plugins of this category."),),
    )
    yield _row(
        "POST",
        f"{_MANAGE}/installation/fetch/batch",
        listings.list_by_plugin_ids,
        "Get several plugins by id.",
        request_body=object_schema({"plugin_ids": list_of(TEXT)}),
    )
    yield _row(
        "POST",
        f"{_MANAGE}/installation/missing",
        listings.list_missing,
        "List the plugins that are not installed.",
        request_body=identifiers,
    )


def _provider_rows() -> Iterator[Row]:
    """Yield the rows of the providers that plugins declare, by type."""
    for plugin_type in listings.DECLARATION_KEYS:
        yield _row(
            "GET",
            f"{_MANAGE}/{plugin_type}",
            partial(listings.list_providers, plugin_type),
            f"List plugins with {plugin_type}.",
            query=_PAGE,
        )
    # These types also have a route for a single provider, with the singular in its
    # path.
    for plugin_type in _SINGLE_PROVIDER_TYPES:
        label = plugin_type.replace("_", " ")
        yield _row(
            "GET",
            f"{_MANAGE}/{plugin_type}",
            partial(listings.get_provider, plugin_type),
            f"Get a plugin's {label} provider.",
            query=(_PLUGIN,),
        )
    yield _row(
        "POST",
        f"{_MANAGE}/tools/check_existence",
        listings.tools_exist,
        "Check which tool providers exist.",
        request_body=object_schema(provider_ids=list_of(OBJECT)),
    )
    yield _row(
        "GET",
        f"{_MANAGE}/models/bindings",
        listings.list_model_bindings,
        "List which plugin serves each model provider.",
    )
    yield _row(
        "GET",
        f"{_MANAGE}/{{category}}/list",
        listings.by_category,
        "List plugins of a category.",
        query=_PAGE,
    )


def _package_file_rows() -> Iterator[Row]:
    """Yield the rows of the debugging key and of files in packages."""
    yield _row(
        "POST",
        f"{_TENANT}/debugging/key",
        listings.debugging_key,
        "Get the key for debugging plugins.",
    )
    yield _row(
        "GET",
        f"{_TENANT}/extract-asset",
        listings.read_package_file,
        "Get a file of a package.",
        answer=_FILE,
        query=(
            _IDENTIFIER,
            Query("file_path", "Path of the file in the package.", is_required=True),
        ),
    )
    yield _row(
        "GET",
        f"{_TENANT}/asset/{{asset}}",
        declarations.asset,
        "Get a plugin's icon.",
        answer=OneOf((Content("image/svg+xml"), _FILE)),
    )


def _endpoint_rows() -> Iterator[Row]:
    """Yield the rows of plugin endpoints."""
    path_prefix = f"{_TENANT}/endpoint"
    settings = object_schema(
        {"name": TEXT, "plugin_unique_identifier": TEXT}, settings=OBJECT
    )
    endpoint_id_body = object_schema({"endpoint_id": TEXT})
    yield _row(
        "POST",
        f"{path_prefix}/setup",
        endpoints.set_up_endpoint,
        "Create an endpoint of a plugin.",
        request_body=settings,
    )
    yield _row(
        "POST",
        f"{path_prefix}/update",
        endpoints.update_endpoint,
        "Change an endpoint.",
        request_body=object_schema({"endpoint_id": TEXT}, name=TEXT, settings=OBJECT),
    )
    yield _row(
        "POST",
        f"{path_prefix}/remove",
        endpoints.remove_endpoint,
        "Remove an endpoint.",
        request_body=endpoint_id_body,
    )
    yield _row(
        "POST",
        f"{path_prefix}/enable",
        endpoints.enable_endpoint,
        "Enable an endpoint.",
        request_body=endpoint_id_body,
    )
    yield _row(
        "POST",
        f"{path_prefix}/disable",
        endpoints.disable_endpoint,
        "Disable an endpoint.",
        request_body=endpoint_id_body,
    )
    listing = (*_PAGE, Query("plugin_id", "Only endpoints of this plugin."))
    # Both paths list endpoints; the filter by plugin is optional on either.
    for path in (f"{path_prefix}/list", f"{path_prefix}/list/plugin"):
        yield _row("GET", path, endpoints.endpoints, "List endpoints.", query=listing)
