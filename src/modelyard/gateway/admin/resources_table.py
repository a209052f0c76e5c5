"""The rows of what is set up: tenants, users, keys, credentials, models, routes, limits, defaults."""

from collections.abc import Iterator, Mapping
from typing import Any

from modelyard.administration.administration import Administration
from modelyard.gateway.admin import shapes
from modelyard.gateway.admin.inputs import CHANGES, NEW, RotationInput
from modelyard.gateway.admin.resources import PLURALS, Collection, Keys, Tenants
from modelyard.gateway.admin.rows import LIMIT, row, row_for_all
from modelyard.gateway.schemas import FLAG
from modelyard.gateway.table import ADMIN, OWNER, Listed, Query, Row

_SHOWN: Mapping[str, type[Any]] = {
    "user": shapes.UserShown,
    "key": shapes.KeyShown,
    "credential": shapes.CredentialShown,
    "model": shapes.ModelShown,
    "route": shapes.RouteShown,
    "limit": shapes.LimitShown,
    "default": shapes.DefaultShown,
}
"""Kind → how it is answered with."""
_MADE: Mapping[str, type[Any]] = {**_SHOWN, "key": shapes.KeyMade}
"""Kind → the answer that tells of a new one."""
_WORDS: Mapping[str, tuple[str, str]] = {
    "user": ("a user", "users"),
    "key": ("an API key", "API keys"),
    "credential": ("a provider's credential", "providers' credentials"),
    "model": ("a model beyond the catalogue's", "models beyond the catalogue's"),
    "route": ("a route", "routes"),
    "limit": ("a limit", "limits"),
    "default": ("a default model", "default models"),
}
"""Kind → one and several, in a sentence."""
_PAGE = (LIMIT, Query("after", "From the name after this one on."))


def rows(admin: Administration) -> Iterator[Row]:
    """Every kind's, and those that keys have besides."""
    yield from _tenants(Tenants(admin))
    for plural, kind in PLURALS.items():
        if kind != "tenant":
            yield from _collection(plural, kind, Collection(admin, kind))
    yield from _keys(Keys(admin, "key"))


def _collection(plural: str, kind: str, things: Collection) -> Iterator[Row]:
    path, thing_path, shown = f"/{plural}", f"/{plural}/{{id}}", _SHOWN[kind]
    single, several = _WORDS[kind]
    listed = Listed(shown, {"has_more": FLAG})
    yield row("GET", path, ADMIN, things.listed, f"List {several} by name.", listed, query=_PAGE)
    yield row("POST", path, ADMIN, things.make, f"Make {single}.", _MADE[kind], takes=NEW[kind], status=201)
    yield row("GET", thing_path, ADMIN, things.one, f"Get {single}.", shown)
    yield row("PATCH", thing_path, ADMIN, things.change, f"Change {single}; what is not sent stays.", shown,
              takes=CHANGES[kind])  # fmt: skip
    yield row("DELETE", thing_path, ADMIN, things.remove, f"Remove {single}.", shapes.Removed)


def _keys(keys: Keys) -> Iterator[Row]:
    yield row("POST", "/keys/{id}/revoke", ADMIN, keys.revoke, "Take an API key out of service; its row stays.",
              shapes.KeyShown)  # fmt: skip
    yield row("POST", "/keys/{id}/rotate", ADMIN, keys.rotate, "Put a new API key in an old one's place.",
              shapes.KeyMade, takes=RotationInput, needs_body=False, status=201)  # fmt: skip


def _tenants(tenants: Tenants) -> Iterator[Row]:
    path, shown = "/tenants/{id}", shapes.TenantShown
    yield row_for_all("GET", "/tenants", ADMIN, tenants.listed, "List tenants; without being an operator, one's own.",
                      Listed(shown, {"has_more": FLAG}))  # fmt: skip
    yield row_for_all("POST", "/tenants", OWNER, tenants.make, "Make a tenant.", shown, takes=NEW["tenant"], status=201)
    yield row_for_all("GET", path, ADMIN, tenants.one, "Get a tenant.", shown)
    yield row_for_all("PATCH", path, OWNER, tenants.change, "Change a tenant; what is not sent stays.", shown,
                      takes=CHANGES["tenant"])  # fmt: skip
    yield row_for_all("DELETE", path, OWNER, tenants.remove, "Remove a tenant.", shapes.Removed)
