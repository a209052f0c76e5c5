"""Values for the secret variables of an app, which exported files leave out."""

import hashlib
from collections.abc import Mapping

from modelyard.base import cpu_work
from modelyard.base.errors import InvokeBadRequestError, suggestion
from modelyard.workflow.app_documents import AppDocuments
from modelyard.workflow.dsl import App, dump_with_environment, loads


def with_secret_values(app: App, values: Mapping[str, str]) -> tuple[App, str]:
    """Return the app and its file with values of secret variables. Takes long for large
    files.

    Raises InvokeBadRequestError for a name that is no secret variable of the app. The
    message never contains a value.
    """
    names = [
        variable.name for variable in app.environment if variable.value_type == "secret"
    ]
    for name in values:
        if name not in names:
            hint = suggestion(name, names, label="its secret variables are")
            raise InvokeBadRequestError(
                f"App {app.name!r} has no secret variable {name!r};"
                f" {hint if names else 'it has none'}",
                param="secrets",
            )
    # Read again from the text, so that what is stored is what was checked.
    text = dump_with_environment(app, values)
    return loads(text, name=app.file, mapping=app.mapping), text


async def store_file(documents: AppDocuments, tenant: str, app: App, text: str) -> str:
    """Store the file of an app and return its digest. A file with secrets is encrypted."""
    # 128 bits are enough: a tenant's files can only collide with each other.
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    await documents.save(tenant, digest, text, has_secrets=app.has_secrets)
    return digest


async def store_with_secrets(
    documents: AppDocuments, tenant: str, app: App, values: Mapping[str, str]
) -> tuple[App, str]:
    """Store the file of an app with values of secret variables; return the app and the
    digest. Raises InvokeBadRequestError."""
    app, text = await cpu_work.run_in_thread(with_secret_values, app, values)
    return app, await store_file(documents, tenant, app, text)
