"""Route table of the admin API, assembled from the tables of its parts."""

from collections.abc import Iterator

from modelyard.gateway.admin import (
    apps_table,
    inputs,
    models_table,
    plugins_table,
    resources_table,
    shapes,
    sources_table,
)
from modelyard.gateway.admin.dependencies import AdminDependencies, AdminParts
from modelyard.gateway.admin.rows import global_row, row
from modelyard.gateway.admin.server_state import (
    ChangeNotifications,
    ServerAboutRoute,
    SettingsRoutes,
)
from modelyard.gateway.admin.sources import SourceRoutes
from modelyard.gateway.errors import OPENAI
from modelyard.gateway.table import EVENTS, OWNER, VIEWER, Api, Row


def api(parts: AdminParts) -> Api:
    """Return the admin API.

    A caller reaches its own tenant. The owner of the default tenant may name another
    with `?tenant=`; for everyone else that tenant does not exist.
    """
    rows = (
        *resources_table.rows(parts.administration),
        *models_table.rows(parts),
        *plugins_table.rows(parts),
        *apps_table.rows(parts),
        *sources_table.rows(
            SourceRoutes(parts.datasets.datasets, parts.datasets.sources)
        ),
        *_server_rows(parts.manage),
    )
    return Api(
        name="admin",
        title="Admin API",
        about="Tenants, keys, providers, models, usage, plugins, apps, settings.",
        prefixes=("/admin",),
        errors=OPENAI,
        rows=rows,
    )


def _server_rows(manage: AdminDependencies) -> Iterator[Row]:
    """Yield the routes about the server itself."""
    settings = SettingsRoutes(
        manage.settings, manage.settings_schema, manage.overridden
    )
    yield global_row(
        "GET",
        "/about",
        VIEWER,
        ServerAboutRoute(manage).show,
        "Get version and state of the server.",
        shapes.About,
    )
    yield global_row("GET", "/settings", OWNER, settings.show,
                     "Get the settings without their secrets.",
                     shapes.SettingsView)  # fmt: skip
    yield global_row("PUT", "/settings", OWNER, settings.write,
                     "Validate and store the settings.", shapes.SettingsView,
                     request_body=inputs.SettingsInput)  # fmt: skip
    # One instance serves all clients; each stream polls the shared in-memory state.
    news = ChangeNotifications(
        manage.ledger,
        manage.requests.unserved,
        manage.models.providers.health,
        manage.directory,
    )
    yield row(
        "GET",
        "/live",
        VIEWER,
        news.stream,
        "Stream an event for each change.",
        EVENTS,
    )
