"""Creates new plugins from templates: one for each category, which runs at once and is
then adapted by its author."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from modelyard.base.errors import ConfigError, suggestion
from modelyard.plugins.identity import AUTHOR, NAME
from modelyard.plugins.manifest import Permissions

TEMPLATES = Path(__file__).with_name("templates")
CATEGORIES = {
    "llm": "models",
    "text-embedding": "models",
    "rerank": "models",
    "tts": "models",
    "speech2text": "models",
    "moderation": "models",
    "tool": "tools",
    "agent-strategy": "agent_strategies",
    "extension": "endpoints",
    "datasource": "datasources",
    "trigger": "triggers",
}
"""Category that can be created → kind in the manifest."""
PERMISSIONS = (
    "tool",
    "model.llm",
    "model.text_embedding",
    "model.rerank",
    "model.tts",
    "model.speech2text",
    "model.moderation",
    "node",
    "endpoint",
    "app",
    "storage",
)
_IMPLIED_PERMISSIONS = {
    "agent-strategy": ("tool", "model.llm"),
    "extension": ("endpoint",),
}
"""Permissions that a category always needs."""


class ScaffoldOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options for a new plugin."""

    name: str
    author: str
    category: str
    description: str = ""
    repo: str = ""
    permissions: tuple[str, ...] = ()
    storage_size: int = 1_048_576


def create(folder: Path, answers: ScaffoldOptions) -> list[Path]:
    """Write a new plugin's files and return their paths. Raises ConfigError for invalid
    options or a folder in use."""
    _check(answers)
    # An existing empty folder is fine.
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"{str(folder)!r} already exists and is not empty; choose another folder"
        )
    replacements = _replacements(answers)
    written_paths: list[Path] = []
    # Common files first, so that a category can override them.
    for source in (TEMPLATES / "common", TEMPLATES / answers.category):
        for path in sorted(
            candidate for candidate in source.rglob("*") if candidate.is_file()
        ):
            target = folder / _fill_template(
                path.relative_to(source).as_posix().removesuffix(".tpl"), replacements
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(
                _fill_template(path.read_text("utf-8"), replacements), "utf-8"
            )
            written_paths.append(target)
    return written_paths


def _check(answers: ScaffoldOptions) -> None:
    """Check the options for a new plugin.

    Raises ConfigError for an invalid name or author, and, with a suggestion, for an
    unknown category or permission.
    """
    if not NAME.fullmatch(answers.name):
        raise ConfigError(
            f"Name {answers.name!r} may contain a-z, 0-9, _ and -, at most 128"
            " characters"
        )
    if not AUTHOR.fullmatch(answers.author):
        raise ConfigError(
            f"Author {answers.author!r} may contain letters, 0-9, _ and -, at"
            " most 64 characters"
        )
    if answers.category not in CATEGORIES:
        raise ConfigError(
            f"Unknown category {answers.category!r};"
            f" {suggestion(answers.category, CATEGORIES)}"
        )
    for permission in answers.permissions:
        if permission not in PERMISSIONS:
            raise ConfigError(
                f"Unknown permission {permission!r};"
                f" {suggestion(permission, PERMISSIONS)}"
            )


def _replacements(answers: ScaffoldOptions) -> dict[str, str]:
    """Return the values of the templates' placeholders, by name.

    `NAME` stands for `@NAME@` in the text and the file names of templates.
    """
    plugin_kind = CATEGORIES[answers.category]
    folder = "group" if answers.category == "extension" else "provider"
    label = answers.name.replace("_", " ").replace("-", " ").title()
    return {
        "AUTHOR": answers.author,
        "NAME": answers.name,
        "LABEL": label,
        # The class name must be a valid identifier, while plugin names may start with a
        # digit.
        "CLASS": (
            label.replace(" ", "")
            if label[0].isalpha()
            else f"My{label.replace(' ', '')}"
        ),
        # The text is inserted into quoted YAML.
        "DESCRIPTION": (
            (answers.description or f"A {answers.category} plugin.").replace('"', "'")
        ),
        "NOW": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "KIND": plugin_kind,
        "PROVIDER": f"{folder}/{answers.name}.yaml",
        "PERMISSION": _permission(answers),
    }


def _permission(answers: ScaffoldOptions) -> str:
    """Return the permissions as the manifest has them, on one line."""
    permissions = [
        *_IMPLIED_PERMISSIONS.get(answers.category, ()),
        *answers.permissions,
    ]
    requested = {
        permission: {"enabled": True}
        for permission in permissions
        if "." not in permission and permission != "storage"
    }
    if models := [
        permission.partition(".")[2]
        for permission in permissions
        if permission.startswith("model.")
    ]:
        requested["model"] = {"enabled": True, **dict.fromkeys(models, True)}
    document: dict[str, object] = {**requested}
    if "storage" in permissions:
        document["storage"] = {"enabled": True, "size": answers.storage_size}
    # Validates the document; the result itself is not needed.
    msgspec.convert(document, Permissions)
    return msgspec.json.encode(document).decode().replace(":", ": ").replace(",", ", ")


def _fill_template(text: str, replacements: dict[str, str]) -> str:
    for name, value in replacements.items():
        text = text.replace(f"@{name}@", value)
    return text
