"""The app templates that ship with the product: ordinary app files, which name no model
and at most one dataset. No I/O except reading the package's own files."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import msgspec

from modelyard.base.errors import NotFoundError, suggestion
from modelyard.base.json_types import is_mapping
from modelyard.workflow.dsl import dump, loads

_PLACEHOLDER_DATASET = "documents"
"""The dataset that the files name; whoever creates an app chooses another."""


class AppTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """A template, as shown before an app is created from it."""

    id: str
    name: str
    mode: str
    description: str
    icon: str
    icon_background: str
    needs_dataset: bool
    """Whether the app answers from a dataset, which has to be chosen."""


def list_templates() -> list[AppTemplate]:
    """Return all templates, ordered by id."""
    return [_describe(name, text) for name, text in sorted(_texts().items())]


@lru_cache(1)
def _texts() -> Mapping[str, str]:
    """Return the files' texts by template id."""
    # Read once: the package's files do not change while a server runs.
    folder = files("modelyard.workflow") / "templates"
    return {
        file.name.removesuffix(".yml"): file.read_text("utf-8")
        for file in folder.iterdir()
        if file.name.endswith(".yml")
    }


def _describe(id: str, text: str) -> AppTemplate:
    """Return the description of a template."""
    # Name and icon stand in the file itself, as in every exported app.
    app = loads(text, name=f"{id}.yml")
    return AppTemplate(
        id=id,
        name=app.name,
        mode=app.mode,
        description=app.description,
        icon=app.icon,
        icon_background=app.icon_background,
        needs_dataset=any(needed.kind == "dataset" for needed in app.requirements),
    )


def template_file(id: str, *, model: str = "", datasets: Sequence[str] = ()) -> str:
    """Return a template as an app file, with a model (`provider/name`, or a route) and
    datasets (ids) in place of the tenant's default model and the placeholder.

    They are written into the file, not into a mapping, so that exports contain them.
    Raises NotFoundError with the ids of the templates.
    """
    text = _texts().get(id)
    if text is None:
        hint = suggestion(id, sorted(_texts()), label="existing templates:")
        raise NotFoundError(
            f"Template {id[:80]!r} does not exist; {hint}", code="template_not_found"
        )
    app = loads(text, name=f"{id}.yml")
    # The document was parsed for this call alone, so it may be changed.
    for data in _nodes_of(app.document):
        _fill_in(data, model, datasets)
    return dump(app)


def _nodes_of(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the data of each node of a template."""
    for node in document["workflow"]["graph"]["nodes"]:
        yield node["data"]


def _fill_in(data: dict[str, Any], model: str, datasets: Sequence[str]) -> None:
    """Write the chosen model and datasets into a node's data."""
    if model and is_mapping(data.get("model")):
        # A name without a provider is a route or an alias of this server.
        provider, slash, name = model.partition("/")
        chosen = {"provider": provider, "name": name} if slash else {"name": model}
        # The template's own parameters stay, such as its temperature.
        data["model"] = {**data["model"], **chosen}
    if datasets and data.get("dataset_ids") == [_PLACEHOLDER_DATASET]:
        data["dataset_ids"] = list(datasets)
