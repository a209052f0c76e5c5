"""How a team keeps its apps: copies, tags, and changes of what people see of an app.

Apps, their files and versions are in `apps`.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec

from modelyard.base.cpu_work import run_in_thread
from modelyard.base.errors import InvokeBadRequestError, NotFoundError, suggestion
from modelyard.storage.resources import Resources
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.resource_types import AppTag
from modelyard.workflow.app_appearance import AppearanceChange, checked_change
from modelyard.workflow.apps import AppRecord, Apps
from modelyard.workflow.dsl import App, AppMapping, loads

# Tags are listed without pages, so their number is limited.
_MAX_TAGS = 500
# All tags of an app are stored in its record, and shown with it.
_MAX_TAGS_PER_APP = 50
_MAX_TAG_LENGTH = 50


class Tag(msgspec.Struct, frozen=True, kw_only=True):
    """A tag of a tenant, and how many apps have it."""

    id: str
    name: str
    apps: int = 0


class AppLibrary:
    """Copies apps, sorts them by tags, and changes their appearance."""

    def __init__(self, apps: Apps, resources: Resources, directory: Directory) -> None:
        self._apps = apps
        self._resources = resources
        self._directory = directory

    # Copies

    async def duplicate(
        self, app_record: AppRecord, *, name: str = "", publishes: bool = False
    ) -> tuple[AppRecord, App]:
        """Copy an app's draft, or its published version if it has no draft, and return
        the copy with its parsed file.

        The copy has the secrets and tags of the original, but no keys, page, versions
        and conversations. Its name is by default `NAME copy`. Raises
        InvokeBadRequestError if the name is in use.
        """
        # With secrets: the copy stays within the tenant, and would not run without.
        text = await self._apps.export(app_record, with_secrets=True)
        copy, app = await self.add_new(
            app_record.tenant,
            text,
            name=name.strip() or self._name_of_copy(app_record),
            mapping=msgspec.convert(app_record.stored.mapping, AppMapping),
            publishes=publishes,
        )
        stored = msgspec.structs.replace(copy.stored, tags=app_record.stored.tags)
        return await self._apps.save(copy, stored), app

    def _name_of_copy(self, app_record: AppRecord) -> str:
        """Return a name for a copy that no app has yet."""
        taken = {other.name for other in self._apps.list_all(app_record.tenant)}
        # A name has at most 200 characters, with the words and the number that follow.
        return _free_name(f"{app_record.name[:180]} copy", taken)

    async def add_new(
        self,
        tenant: str,
        text: str,
        *,
        name: str = "",
        mapping: AppMapping | None = None,
        publishes: bool = True,
    ) -> tuple[AppRecord, App]:
        """Import a file as a new app, and return it with its parsed file.

        Without a name the app gets the file's, with a number if that is in use. A name
        that is in use raises InvokeBadRequestError: an import would replace that app.
        """
        taken = {other.name for other in self._apps.list_all(tenant)}
        if name in taken:
            raise InvokeBadRequestError(f"App {name!r} already exists", param="name")
        if name:
            # The rules for a new name of an existing app hold here too.
            checked_change(AppearanceChange(name=name))
        else:
            # Parsed here for its name alone; `add` reads the file with its mapping.
            parsed = await run_in_thread(loads, text)
            name = _free_name(parsed.name, taken)
        created, app, _ = await self._apps.add(
            tenant,
            text,
            mapping=mapping,
            name=name,
            publishes=publishes,
        )
        return created, app

    # Appearance

    async def change_appearance(
        self, app_record: AppRecord, change: AppearanceChange
    ) -> AppRecord:
        """Change name, description or icon of an app, for its published version and its
        draft at once. Raises InvokeBadRequestError for an invalid value or a name that
        is in use."""
        change = checked_change(change)
        # None means that the request did not name the field.
        changes = {
            field: value
            for field in ("description", "icon", "icon_type", "icon_background")
            if (value := getattr(change, field)) is not None
        }
        stored = msgspec.structs.replace(app_record.stored, **changes)
        return await self._apps.save(
            app_record,
            stored,
            name=change.name or "",
        )

    # Tags

    def tags(self, tenant: str) -> list[Tag]:
        """Return a tenant's tags with their numbers of apps, ordered by name."""
        counts = Counter(
            tag
            for app_record in self._apps.list_all(tenant)
            for tag in app_record.stored.tags
        )
        rows = self._directory.of(tenant, AppTag)
        tags = [
            Tag(
                id=resource.id,
                name=resource.name,
                apps=counts[resource.id],
            )
            for resource, _ in rows
        ]
        return sorted(tags, key=lambda tag: tag.name)

    def _names(self, tenant: str) -> dict[str, str]:
        """Return the names of a tenant's tags by their ids."""
        # Without counts, which would need all apps: a list of apps asks for each of them.
        rows = self._directory.of(tenant, AppTag)
        return {resource.id: resource.name for resource, _ in rows}

    def _tag_id(self, tenant: str, name: str) -> str:
        """Return the id of a tag, given by its id or name. Raises NotFoundError with
        similar names."""
        names = self._names(tenant)
        for tag_id, tag_name in names.items():
            if name in (tag_id, tag_name):
                return tag_id
        hint = suggestion(name, list(names.values()), label="existing tags:")
        problem = f"Tag {name[:80]!r} does not exist; {hint}"
        raise NotFoundError(problem, code="tag_not_found")

    def tags_of(self, app_record: AppRecord) -> list[tuple[str, str]]:
        """Return (id, name) of an app's tags, ordered by name."""
        if not app_record.stored.tags:
            return []
        names = self._names(app_record.tenant)
        # The id of a tag that was removed may remain in a record for a moment.
        known_ids = [tag_id for tag_id in app_record.stored.tags if tag_id in names]
        tags = [(tag_id, names[tag_id]) for tag_id in known_ids]
        return sorted(tags, key=lambda tag: tag[1])

    async def add_tag(self, tenant: str, name: str) -> Tag:
        """Create a tag. Raises InvokeBadRequestError if the name is invalid or in use,
        or if the tenant has too many tags."""
        name = _checked_tag_name(name)
        if len(self._directory.of(tenant, AppTag)) >= _MAX_TAGS:
            raise InvokeBadRequestError(f"A tenant has at most {_MAX_TAGS} tags")
        row = await self._resources.add(
            tenant,
            AppTag.kind,
            name,
            lambda _: "{}",
        )
        await self._directory.refresh()
        return Tag(id=row.id, name=row.name)

    async def rename_tag(self, tenant: str, tag: str, name: str) -> Tag:
        """Rename a tag. Raises NotFoundError, or InvokeBadRequestError if the name is
        invalid or in use."""
        # By its id from here on: the name is what changes.
        tag_id = self._tag_id(tenant, tag)
        row = await self._resources.get(tenant, AppTag.kind, tag_id)
        new_name = _checked_tag_name(name)
        await self._resources.change(row, name=new_name, body=row.body)
        await self._directory.refresh()
        return next(renamed for renamed in self.tags(tenant) if renamed.id == tag_id)

    async def remove_tag(self, tenant: str, tag: str) -> str:
        """Remove a tag from the tenant and from its apps. Returns its id. Raises
        NotFoundError."""
        tag_id = self._tag_id(tenant, tag)
        # The tag goes first: an app that is saved meanwhile cannot get it again.
        await self._resources.remove(tenant, AppTag.kind, tag_id)
        for app_record in self._apps.list_all(tenant):
            if tag_id in app_record.stored.tags:
                remaining = [
                    other for other in app_record.stored.tags if other != tag_id
                ]
                await self._apps.save(
                    app_record,
                    msgspec.structs.replace(app_record.stored, tags=remaining),
                )
        await self._directory.refresh()
        return tag_id

    async def set_tags(self, app_record: AppRecord, tags: Sequence[str]) -> AppRecord:
        """Give an app these tags, by id or name, and no others. Raises NotFoundError
        for an unknown tag, InvokeBadRequestError for too many."""
        # Sorted, so that the same tags are always the same record.
        ids = sorted({self._tag_id(app_record.tenant, tag) for tag in tags})
        if len(ids) > _MAX_TAGS_PER_APP:
            problem = f"An app has at most {_MAX_TAGS_PER_APP} tags"
            raise InvokeBadRequestError(problem, param="tags")
        stored = msgspec.structs.replace(app_record.stored, tags=ids)
        return await self._apps.save(app_record, stored)

    def list_tagged(self, tenant: str, tags: Sequence[str]) -> list[AppRecord]:
        """Return the apps that have any of the tags, given by id or name, ordered by
        name; all apps without tags. Raises NotFoundError for an unknown tag."""
        ids = {self._tag_id(tenant, tag) for tag in tags}
        return [
            app_record
            for app_record in self._apps.list_all(tenant)
            if not ids or ids & set(app_record.stored.tags)
        ]

    def tag_names(self, app_record: AppRecord) -> list[str]:
        """Return the names of an app's tags, in order."""
        return [name for _, name in self.tags_of(app_record)]


def _free_name(name: str, taken: set[str]) -> str:
    """Return the name, followed by a number if it is taken."""
    free_name, number = name, 2
    while free_name in taken:
        free_name = f"{name} {number}"
        number += 1
    return free_name


def _checked_tag_name(name: str) -> str:
    """Return a tag's name without surrounding space. Raises InvokeBadRequestError."""
    name = name.strip()
    # Names are printed on terminals, on which control characters would act.
    if not 1 <= len(name) <= _MAX_TAG_LENGTH or not name.isprintable():
        raise InvokeBadRequestError(
            f"'name' must be 1 to {_MAX_TAG_LENGTH} printable characters", param="name"
        )
    return name
