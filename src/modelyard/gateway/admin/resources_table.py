"""Route table of the configured resources: tenants, users, keys, credentials, models,
routes, limits and defaults."""

from collections.abc import Iterator, Mapping
from typing import Any

from modelyard.administration.administration import Administration
from modelyard.gateway.admin import shapes
from modelyard.gateway.admin.inputs import CHANGES, NEW, RotationInput
from modelyard.gateway.admin.resources import PLURALS, Collection, Keys, Tenants
from modelyard.gateway.admin.rows import LIMIT, global_row, row
from modelyard.gateway.schemas import FLAG
from modelyard.gateway.table import ADMIN, OWNER, Listed, Query, Row

_VIEWS: Mapping[str, type[Any]] = {
    "user": shapes.UserView,
    "key": shapes.KeyView,
    "credential": shapes.CredentialView,
    "model": shapes.CustomModelView,
    "route": shapes.RouteView,
    "limit": shapes.LimitView,
    "default": shapes.DefaultModelView,
}
"""Resource type → its response type."""
_CREATED_VIEWS: Mapping[str, type[Any]] = {**_VIEWS, "key": shapes.CreatedKey}
"""Resource type → the response to its creation. Only here a key contains its secret."""
_LABELS: Mapping[str, tuple[str, str]] = {
    "user": ("a user", "users"),
    "key": ("an API key", "API keys"),
    "credential": ("a provider credential", "provider credentials"),
    "model": ("a custom model", "custom models"),
    "route": ("a route", "routes"),
    "limit": ("a limit", "limits"),
    "default": ("a default model", "default models"),
}
"""Resource type → its label in a sentence, singular and plural."""
_PAGE = (LIMIT, Query("after", "Return items after this name."))


def rows(admin: Administration) -> Iterator[Row]:
    """Yield the uniform routes of all resource types, and the extra routes of API keys."""
    yield from _tenant_rows(Tenants(admin))
    for plural, resource_type in PLURALS.items():
        # Tenants have routes of their own, because they do not belong to a tenant.
        if resource_type != "tenant":
            collection = Collection(admin, resource_type)
            yield from _collection_rows(plural, resource_type, collection)
    yield from _key_rows(Keys(admin, "key"))


def _collection_rows(
    plural: str, resource_type: str, collection: Collection
) -> Iterator[Row]:
    """Yield the list, create, read, change and delete routes of one resource type."""
    path, resource_path, view = f"/{plural}", f"/{plural}/{{id}}", _VIEWS[resource_type]
    single, plural_label = _LABELS[resource_type]
    listed = Listed(view, {"has_more": FLAG})
    yield row(
        "GET",
        path,
        ADMIN,
        collection.listed,
        f"List {plural_label} by name.",
        listed,
        query=_PAGE,
    )
    yield row(
        "POST",
        path,
        ADMIN,
        collection.create,
        f"Create {single}.",
        _CREATED_VIEWS[resource_type],
        request_body=NEW[resource_type],
        status=201,
    )
    yield row("GET", resource_path, ADMIN, collection.get, f"Get {single}.", view)
    yield row(
        "PATCH",
        resource_path,
        ADMIN,
        collection.change,
        f"Change {single}; omitted fields stay unchanged.",
        view,
        request_body=CHANGES[resource_type],
    )
    yield row(
        "DELETE",
        resource_path,
        ADMIN,
        collection.remove,
        f"Remove {single}.",
        shapes.Removed,
    )


def _key_rows(keys: Keys) -> Iterator[Row]:
    """Yield the routes that revoke and rotate API keys."""
    yield row(
        "POST",
        "/keys/{id}/revoke",
        ADMIN,
        keys.revoke,
        "Revoke an API key; its record is retained.",
        shapes.KeyView,
    )
    yield row(
        "POST",
        "/keys/{id}/rotate",
        ADMIN,
        keys.rotate,
        "Replace an API key by a new one.",
        shapes.CreatedKey,
        request_body=RotationInput,
        needs_body=False,
        status=201,
    )


def _tenant_rows(tenants: Tenants) -> Iterator[Row]:
    """Yield the routes of tenants."""
    path, tenant_view = "/tenants/{id}", shapes.TenantView
    yield global_row(
        "GET",
        "/tenants",
        ADMIN,
        tenants.listed,
        "List tenants; callers who are not operators see only their own.",
        Listed(tenant_view, {"has_more": FLAG}),
    )
    yield global_row(
        "POST",
        "/tenants",
        OWNER,
        tenants.create,
        "Create a tenant.",
        tenant_view,
        request_body=NEW["tenant"],
        status=201,
    )
    yield global_row("GET", path, ADMIN, tenants.get, "Get a tenant.", tenant_view)
    yield global_row(
        "PATCH",
        path,
        OWNER,
        tenants.change,
        "Change a tenant; omitted fields stay unchanged.",
        tenant_view,
        request_body=CHANGES["tenant"],
    )
    yield global_row(
        "DELETE", path, OWNER, tenants.remove, "Remove a tenant.", shapes.Removed
    )
