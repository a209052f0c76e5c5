"""`modelyard knowledge access`: who may read the documents of a dataset."""

from typing import TYPE_CHECKING, Any

import click
import msgspec

from modelyard.base.errors import NotFoundError
from modelyard.cli.output import (
    json_option,
    print_json,
    print_table,
    run_with_modelyard,
)
from modelyard.cli.usage import tenant_option

if TYPE_CHECKING:
    from modelyard.app import Modelyard
    from modelyard.knowledge.access import AccessList
    from modelyard.knowledge.entities import Dataset, Document


@click.command("access")
@click.argument("dataset")
@click.argument("documents", nargs=-1)
@click.option("--user", "users", multiple=True, help="User who may read; repeatable.")
@click.option(
    "--group", "groups", multiple=True, help="Group that may read; repeatable."
)
@click.option("--everyone", is_flag=True, help="Everyone in the tenant may read.")
@click.option("--nobody", is_flag=True, help="Nobody may read.")
@click.option(
    "--remove", is_flag=True, help="Remove the lists: the dataset's default applies."
)
@click.option(
    "--default",
    "default_access",
    type=click.Choice(["everyone", "nobody"]),
    help="Who may read documents of the dataset that have no list.",
)
@tenant_option
@json_option
@click.pass_context
def access(
    ctx: click.Context,
    dataset: str,
    documents: tuple[str, ...],
    users: tuple[str, ...],
    groups: tuple[str, ...],
    everyone: bool,
    nobody: bool,
    remove: bool,
    default_access: str | None,
    tenant: str,
    as_json: bool,
) -> None:
    """Show or set who may read DOCUMENTS of DATASET, by id or name. Without DOCUMENTS the
    lists of all documents are shown. Changes apply to the next search."""
    changes = _changes(users, groups, everyone, nobody, remove)
    # A wrong combination must not leave a document open that was to be closed.
    if changes and not documents:
        raise click.UsageError("Name the documents whose access lists are to change")

    async def work(yard: "Modelyard") -> None:
        """Change what the options say, and show the result."""
        datasets = yard.knowledge.datasets
        record = await datasets.get_by_id_or_name(tenant, dataset)
        if default_access is not None:
            settings = msgspec.structs.replace(
                record.settings, default_access=default_access
            )
            record = await datasets.update(
                msgspec.structs.replace(record, settings=settings)
            )
        chosen = await _documents(yard, record, documents)
        # At most one: all documents get the same list.
        for access_list in changes:
            await datasets.access.set(record, {row.id: access_list for row in chosen})
            chosen = await _documents(yard, record, [row.id for row in chosen])
        _show(record, chosen, as_json=as_json)

    run_with_modelyard(ctx, work)


def _changes(
    users: tuple[str, ...],
    groups: tuple[str, ...],
    everyone: bool,
    nobody: bool,
    remove: bool,
) -> "list[AccessList | None]":
    """Return the list that the options describe, None to remove it; nothing if they
    describe none. Raises click.UsageError if they contradict each other."""
    from modelyard.knowledge.access import AccessList

    is_open = bool(users or groups or everyone)
    if is_open + nobody + remove > 1:
        raise click.UsageError(
            "Give users, groups or --everyone; or --nobody; or --remove"
        )
    if remove:
        return [None]
    if not is_open and not nobody:
        return []
    return [AccessList(users=list(users), groups=list(groups), everyone=everyone)]


async def _documents(
    yard: "Modelyard", dataset: "Dataset", names: "tuple[str, ...] | list[str]"
) -> "list[Document]":
    """Return the documents with these ids or names, all for none. Raises
    NotFoundError."""
    documents = await yard.knowledge.stored.documents.list_all(
        dataset.tenant, dataset.id
    )
    if not names:
        return documents
    unknown = set(names) - {value for row in documents for value in (row.id, row.name)}
    if unknown:
        raise NotFoundError(
            f"Dataset {dataset.name!r} has no document {min(unknown)[:80]!r}",
            code="document_not_found",
        )
    # Names are not unique: the list is for all documents of a name.
    return [row for row in documents if row.id in names or row.name in names]


def _show(
    dataset: "Dataset",
    documents: "list[Document]",
    *,
    as_json: bool,
) -> None:
    """Print the dataset's default and the access lists of documents."""
    from modelyard.knowledge.access import list_of_principals

    default = dataset.settings.default_access
    lists = [(document, list_of_principals(document.readers)) for document in documents]
    if as_json:
        print_json(
            {
                "id": dataset.id,
                "default_access": default,
                "documents": [
                    {
                        "id": document.id,
                        "name": document.name,
                        "access": msgspec.to_builtins(access_list),
                    }
                    for document, access_list in lists
                ],
            }
        )
        return
    click.echo(f"{dataset.name} {dataset.id}, documents without a list: {default}")
    rows: list[tuple[Any, ...]] = [
        (document.name, _described(access_list), document.id)
        for document, access_list in lists
    ]
    print_table("", ("document", "who may read it", "id"), rows)


def _described(access_list: "AccessList | None") -> str:
    """Return an access list as a text for a table."""
    if access_list is None:
        return "default"
    names = ["everyone"] if access_list.everyone else []
    names += access_list.users
    names += (f"group {group}" for group in access_list.groups)
    return ", ".join(names) or "nobody"
