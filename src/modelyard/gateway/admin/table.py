"""The admin API: what administrators set up, look at and try. Its rows stand in the tables of its parts."""

from collections.abc import Iterator

from modelyard.gateway.admin import apps_table, inputs, models_table, plugins_table, resources_table, shapes
from modelyard.gateway.admin.parts import AdminParts, ManageParts
from modelyard.gateway.admin.rows import row, row_for_all
from modelyard.gateway.admin.server_state import News, ServerAccount, SettingsFile
from modelyard.gateway.errors import OPENAI
from modelyard.gateway.table import EVENTS, OWNER, VIEWER, Api, Row


def api(parts: AdminParts) -> Api:
    """A caller reaches its own tenant. The default tenant's owner may name another with `?tenant=`; for anybody else
    that tenant does not exist."""
    rows = (
        *resources_table.rows(parts.administration), *models_table.rows(parts), *plugins_table.rows(parts),
        *apps_table.rows(parts), *_server(parts.manage),
    )  # fmt: skip
    return Api(
        name="admin", title="Admin API", about="Tenants, keys, providers, models, usage, plugins, apps, settings.",
        prefixes=("/admin",), errors=OPENAI, rows=rows,
    )  # fmt: skip


def _server(manage: ManageParts) -> Iterator[Row]:
    settings = SettingsFile(manage.settings_file, manage.settings_schema, manage.load_settings, manage.overridden)
    yield row_for_all("GET", "/about", VIEWER, ServerAccount(manage).show, "Say what runs here.", shapes.About)
    yield row_for_all("GET", "/settings", OWNER, settings.show, "Get the settings' file, without its secrets.",
                      shapes.SettingsShown)  # fmt: skip
    yield row_for_all("PUT", "/settings", OWNER, settings.write, "Write the settings' file; it is checked first.",
                      shapes.SettingsShown, takes=inputs.SettingsInput)  # fmt: skip
    news = News(manage.ledger, manage.models.providers.health, manage.directory)
    yield row("GET", "/live", VIEWER, news.tell, "Send a line whenever something is new.", EVENTS)
