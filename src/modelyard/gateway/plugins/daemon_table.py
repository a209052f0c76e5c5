"""/plugin/TENANT/…: the interface of the plugins' usual daemon, for programs that speak to one.

Shown an internal key in `x-api-key`, from this machine unless the settings open it. Calls are the plugin's own, in its
own words: nothing here is counted or balanced, as the caller does that.
"""

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from modelyard.gateway.plugins import declarations, endpoints, listings, packages
from modelyard.gateway.plugins.daemon_calls import DAEMON, DaemonCall, DaemonEntrance
from modelyard.gateway.plugins.dispatch import ACTIONS, WHOLE, dispatch
from modelyard.gateway.schemas import ANYTHING, OBJECT, TEXT, list_of, thing
from modelyard.gateway.table import EVENTS, OWN_SECRET, Answered, Api, Body, Content, OneOf, Query, Row, Schema
from modelyard.models.types import JSON

Handler = Callable[[DaemonCall], Awaitable[Answered]]
_TENANT = "/plugin/{tenant}"
_MANAGE = f"{_TENANT}/management"
_DONE = Schema(thing({"code": {"const": 0}, "message": TEXT, "data": ANYTHING}))
_FORM, _FILE = Content("multipart/form-data"), Content("application/octet-stream")
_IDENTIFIER = Query("plugin_unique_identifier", "The plugin with its version and checksum.", is_required=True)
_PLUGIN = Query("plugin_id", "The plugin, as author/name.", is_required=True)
_PAGE = (Query("page", "Which page, from 1.", "integer"), Query("page_size", "How many, 256 at most.", "integer"))
_ONE_OF_THEIRS = ("tool", "agent_strategy", "datasource", "trigger")


def api(entrance: DaemonEntrance) -> Api:
    """`entrance`: who may call, and what with."""
    rows = (*_dispatches(), *_packages(), *_listings(), *_endpoints())
    return Api(
        name="plugins", title="Plugin daemon", about="Plugins as programs of their usual daemon know them.",
        prefixes=("/plugin",), errors=DAEMON, rows=rows, enter=entrance.enter,
    )  # fmt: skip


def _row(
    method: str, path: str, handler: Handler, summary: str, *, takes: Body | JSON | None = None,
    answer: Body = _DONE, query: tuple[Query, ...] = (),
) -> Row:  # fmt: skip
    return Row(
        method=method, path=path, auth=OWN_SECRET, handler=handler, summary=summary, answer=answer, query=query,
        takes=Schema(takes) if isinstance(takes, dict) else takes,
    )  # fmt: skip


def _dispatches() -> Iterator[Row]:
    asked = thing({"data": OBJECT}, user_id=TEXT)
    for action, (kind, name) in ACTIONS.items():
        answer = _DONE if name in WHOLE else EVENTS
        words = f"{kind.replace('_', ' ')}: {name.replace('_', ' ')}"
        yield _row("POST", f"{_TENANT}/dispatch/{action}", partial(dispatch, action),
                   f"Have a plugin act on a {words}.", takes=asked, answer=answer)  # fmt: skip


def _packages() -> Iterator[Row]:
    install = f"{_MANAGE}/install"
    identifiers = thing({"plugin_unique_identifiers": list_of(TEXT)}, metas=list_of(OBJECT), source=TEXT)
    upgrade = thing({"original_plugin_unique_identifier": TEXT, "new_plugin_unique_identifier": TEXT}, source=TEXT)
    yield _row("POST", f"{install}/upload/package", packages.upload_package, "Hand in a package.", takes=_FORM)
    yield _row("POST", f"{install}/upload/bundle", packages.upload_bundle, "Hand in a bundle.", takes=_FORM)
    yield _row("POST", f"{install}/identifiers", packages.install, "Install what was handed in.", takes=identifiers)
    yield _row("POST", f"{install}/upgrade", packages.upgrade, "Put another version in a plugin's place.",
               takes=upgrade)  # fmt: skip
    yield _row("GET", f"{install}/tasks", packages.tasks, "List installations.", query=_PAGE)
    yield _row("POST", f"{install}/tasks/delete_all", packages.delete_tasks, "Forget all installations.")
    yield _row("GET", f"{install}/tasks/{{task}}", packages.one_task, "Say how far an installation is.")
    yield _row("POST", f"{install}/tasks/{{task}}/delete", packages.delete_task, "Forget an installation.")
    yield _row("POST", f"{install}/tasks/{{task}}/delete/{{plugin:path}}", packages.delete_task,
               "Forget an installation.")  # fmt: skip
    yield _row("POST", f"{_MANAGE}/uninstall", packages.uninstall, "Remove a plugin.",
               takes=thing({"plugin_installation_id": TEXT}))  # fmt: skip


def _listings() -> Iterator[Row]:
    identifiers = thing({"plugin_unique_identifiers": list_of(TEXT)})
    yield _row("GET", f"{_MANAGE}/decode/from_identifier", listings.decoded, "Say what a package declares.",
               query=(_IDENTIFIER,))  # fmt: skip
    yield _row("GET", f"{_MANAGE}/fetch/manifest", listings.manifest, "Get a plugin's manifest.", query=(_IDENTIFIER,))
    yield _row("GET", f"{_MANAGE}/fetch/identifier", listings.identifier, "Say whether a plugin is installed.",
               query=(_IDENTIFIER,))  # fmt: skip
    yield _row("GET", f"{_MANAGE}/fetch/readme", listings.readme, "Get a plugin's readme.",
               query=(_IDENTIFIER, Query("language", "As en_US.")))  # fmt: skip
    yield _row("GET", f"{_MANAGE}/list", listings.listed, "List plugins.", query=_PAGE)
    yield _row("GET", f"{_MANAGE}/installation/ids", listings.ids, "List plugins' identifiers.")
    yield _row("POST", f"{_MANAGE}/installation/fetch/batch", listings.batch, "Get some plugins.",
               takes=thing({"plugin_ids": list_of(TEXT)}))  # fmt: skip
    yield _row("POST", f"{_MANAGE}/installation/missing", listings.missing, "Say which plugins are missing.",
               takes=identifiers)  # fmt: skip
    for kind in listings.PART_OF:
        yield _row("GET", f"{_MANAGE}/{kind}", partial(listings.providers, kind), f"List plugins with {kind}.",
                   query=_PAGE)  # fmt: skip
    for kind in _ONE_OF_THEIRS:
        words = kind.replace("_", " ")
        yield _row("GET", f"{_MANAGE}/{kind}", partial(listings.one_provider, kind),
                   f"Get a plugin's {words} provider.", query=(_PLUGIN,))  # fmt: skip
    yield _row("POST", f"{_MANAGE}/tools/check_existence", listings.tools_exist, "Say which tools there are.",
               takes=thing(provider_ids=list_of(OBJECT)))  # fmt: skip
    yield _row("GET", f"{_MANAGE}/{{category}}/list", listings.by_category, "List plugins of a category.", query=_PAGE)
    yield _row("POST", f"{_TENANT}/debugging/key", listings.debugging_key, "Get the key for debugging plugins.")
    yield _row("GET", f"{_TENANT}/extract-asset", listings.extracted, "Get a file of a package.", answer=_FILE,
               query=(_IDENTIFIER, Query("file_path", "Where it is in the package.", is_required=True)))  # fmt: skip
    yield _row("GET", f"{_TENANT}/asset/{{asset}}", declarations.asset, "Get a plugin's picture.",
               answer=OneOf((Content("image/svg+xml"), _FILE)))  # fmt: skip


def _endpoints() -> Iterator[Row]:
    place, settings = f"{_TENANT}/endpoint", thing({"name": TEXT, "plugin_unique_identifier": TEXT}, settings=OBJECT)
    named = thing({"endpoint_id": TEXT})
    yield _row("POST", f"{place}/setup", endpoints.set_up_endpoint, "Set up an address of a plugin.", takes=settings)
    yield _row("POST", f"{place}/update", endpoints.update_endpoint, "Change an address.",
               takes=thing({"endpoint_id": TEXT}, name=TEXT, settings=OBJECT))  # fmt: skip
    yield _row("POST", f"{place}/remove", endpoints.remove_endpoint, "Remove an address.", takes=named)
    yield _row("POST", f"{place}/enable", endpoints.enable_endpoint, "Switch an address on.", takes=named)
    yield _row("POST", f"{place}/disable", endpoints.disable_endpoint, "Switch an address off.", takes=named)
    listing = (*_PAGE, Query("plugin_id", "Those of one plugin."))
    for path in (f"{place}/list", f"{place}/list/plugin"):
        yield _row("GET", path, endpoints.endpoints, "List addresses.", query=listing)
