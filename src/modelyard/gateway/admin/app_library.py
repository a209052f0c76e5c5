"""/admin/v1/apps/ID/duplicate, /admin/v1/app-tags and /admin/v1/app-templates: how a
team copies, sorts and starts apps."""

from dataclasses import dataclass

from modelyard.base.cpu_work import run_in_thread
from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import optional_field, required_field, short_repr
from modelyard.gateway.admin.apps import ImportedApps, optional_body
from modelyard.gateway.admin.requests import app_of, tenant_of
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.knowledge.datasets import Datasets
from modelyard.models.types import JSON
from modelyard.workflow.app_library import AppLibrary
from modelyard.workflow.app_templates import list_templates, template_file


@dataclass(frozen=True, slots=True)
class AppCopies:
    """Routes that create apps from other apps and from templates."""

    apps: ImportedApps
    datasets: Datasets

    async def duplicate(self, request: Request) -> Reply:
        """Copy an app under another name.

        Raises NotFoundError, InvokeBadRequestError.
        """
        app_record = app_of(request, self.apps.apps)
        body = await optional_body(request)
        copy, app = await self.apps.library.duplicate(
            app_record,
            name=optional_field(body, "name", str) or "",
            # A copy is made to be changed, so it is a draft unless stated otherwise.
            publishes=optional_field(body, "publish", bool) is True,
        )
        return await self.apps.imported_reply(copy, app, was_replaced=False)

    async def templates(self, request: Request) -> Reply:
        """List the templates.

        Raises NotFoundError for a tenant that the caller may not access.
        """
        # Every tenant has the same templates, but another tenant's path must not exist.
        tenant_of(request)
        return json_reply({"data": await run_in_thread(list_templates)})

    async def create(self, request: Request) -> Reply:
        """Create an app from a template. An app of the same name is not replaced.

        Raises NotFoundError, InvokeBadRequestError.
        """
        tenant, body = tenant_of(request), await optional_body(request)
        # Checked before the app is created, so that a typing error leaves nothing.
        dataset_name = optional_field(body, "dataset", str)
        datasets = (
            [(await self.datasets.get_by_id_or_name(tenant, dataset_name)).id]
            if dataset_name
            else []
        )
        text = await run_in_thread(
            template_file,
            request.names["template"],
            model=optional_field(body, "model", str) or "",
            datasets=datasets,
        )
        created, app = await self.apps.library.add_new(
            tenant,
            text,
            name=optional_field(body, "name", str) or "",
            # A template works as it is, so its app is published unless stated
            # otherwise.
            publishes=optional_field(body, "publish", bool) is not False,
        )
        return await self.apps.imported_reply(created, app, was_replaced=False)


@dataclass(frozen=True, slots=True)
class AppTags:
    """Routes for the tags by which a tenant sorts its apps."""

    library: AppLibrary

    async def listed(self, request: Request) -> Reply:
        """List the tags with their numbers of apps.

        Raises NotFoundError for a tenant that the caller may not access.
        """
        return json_reply({"data": self.library.tags(tenant_of(request))})

    async def add(self, request: Request) -> Reply:
        """Create a tag.

        Raises InvokeBadRequestError, NotFoundError.
        """
        tenant = tenant_of(request)
        name = _tag_name(await request.json())
        return json_reply(await self.library.add_tag(tenant, name), status=201)

    async def rename(self, request: Request) -> Reply:
        """Rename a tag.

        Raises InvokeBadRequestError, NotFoundError.
        """
        tenant, tag = tenant_of(request), request.names["tag"]
        name = _tag_name(await request.json())
        return json_reply(await self.library.rename_tag(tenant, tag, name))

    async def remove(self, request: Request) -> Reply:
        """Remove a tag, also from its apps.

        Raises NotFoundError.
        """
        tag = await self.library.remove_tag(tenant_of(request), request.names["tag"])
        return json_reply(Removed(id=tag, deleted=True))


def _tag_name(body: JSON) -> str:
    """Return the name of a tag in a request. Raises InvokeBadRequestError."""
    name = required_field(body, "name", str)
    unknown = sorted(body.keys() - {"name"})
    # A field that is not known is more likely a mistake than a wish.
    if unknown:
        problem = f"Unknown field {short_repr(unknown[0])}; expected 'name' alone"
        raise InvokeBadRequestError(problem, param=unknown[0][:60])
    return name
