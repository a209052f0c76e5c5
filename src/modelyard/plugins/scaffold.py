"""New plugins: a folder that runs at once, for each kind, to be changed into what its author wants."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from modelyard.base.errors import ConfigError, suggestion
from modelyard.plugins.identity import AUTHOR, NAME
from modelyard.plugins.manifest import Permissions

TEMPLATES = Path(__file__).with_name("templates")
CATEGORIES = {
    "llm": "models", "text-embedding": "models", "rerank": "models", "tts": "models", "speech2text": "models",
    "moderation": "models", "tool": "tools", "agent-strategy": "agent_strategies", "extension": "endpoints",
    "datasource": "datasources", "trigger": "triggers",
}  # fmt: skip
"""What may be made → what the manifest calls it."""
PERMISSIONS = (
    "tool", "model.llm", "model.text_embedding", "model.rerank", "model.tts", "model.speech2text", "model.moderation",
    "node", "endpoint", "app", "storage",
)  # fmt: skip
_ALWAYS = {"agent-strategy": ("tool", "model.llm"), "extension": ("endpoint",)}
"""What a kind cannot do without."""


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked when a plugin is made."""

    name: str
    author: str
    category: str
    description: str = ""
    repo: str = ""
    permissions: tuple[str, ...] = ()
    storage_size: int = 1_048_576


def create(folder: Path, answers: Answers) -> list[Path]:
    """Write the plugin's files; their paths. Raises ConfigError for answers that cannot be, or a folder in use."""
    _check(answers)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{str(folder)!r} is there already and not empty; name another folder")
    words = _words(answers)
    written: list[Path] = []
    for source in (TEMPLATES / "common", TEMPLATES / answers.category):
        for path in sorted(one for one in source.rglob("*") if one.is_file()):
            target = folder / _filled(path.relative_to(source).as_posix().removesuffix(".tpl"), words)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_filled(path.read_text("utf-8"), words), "utf-8")
            written.append(target)
    return written


def _check(answers: Answers) -> None:
    if not NAME.fullmatch(answers.name):
        raise ConfigError(f"name {answers.name!r} must be made of a-z, 0-9, _ and -, at most 128 of them")
    if not AUTHOR.fullmatch(answers.author):
        raise ConfigError(f"author {answers.author!r} must be made of letters, 0-9, _ and -, at most 64 of them")
    if answers.category not in CATEGORIES:
        raise ConfigError(
            f"category {answers.category!r} is unknown; {suggestion(answers.category, CATEGORIES, label='there are')}"
        )
    for word in answers.permissions:
        if word not in PERMISSIONS:
            raise ConfigError(f"permission {word!r} is unknown; {suggestion(word, PERMISSIONS, label='there are')}")


def _words(answers: Answers) -> dict[str, str]:
    kind = CATEGORIES[answers.category]
    folder = "group" if answers.category == "extension" else "provider"
    label = answers.name.replace("_", " ").replace("-", " ").title()
    return {
        "AUTHOR": answers.author,
        "NAME": answers.name,
        "LABEL": label,
        "CLASS": label.replace(" ", "") if label[0].isalpha() else f"My{label.replace(' ', '')}",
        "DESCRIPTION": (answers.description or f"A {answers.category} plugin.").replace('"', "'"),
        "NOW": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "KIND": kind,
        "PROVIDER": f"{folder}/{answers.name}.yaml",
        "PERMISSION": _permission(answers),
    }


def _permission(answers: Answers) -> str:
    """As the manifest writes it, on one line."""
    words = [*_ALWAYS.get(answers.category, ()), *answers.permissions]
    asked = {word: {"enabled": True} for word in words if "." not in word and word != "storage"}
    if models := [word.partition(".")[2] for word in words if word.startswith("model.")]:
        asked["model"] = {"enabled": True, **dict.fromkeys(models, True)}
    document: dict[str, object] = {**asked}
    if "storage" in words:
        document["storage"] = {"enabled": True, "size": answers.storage_size}
    msgspec.convert(document, Permissions)
    return msgspec.json.encode(document).decode().replace(":", ": ").replace(",", ", ")


def _filled(text: str, words: dict[str, str]) -> str:
    for name, value in words.items():
        text = text.replace(f"@{name}@", value)
    return text
