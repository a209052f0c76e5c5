"""The app files of the proof, with their tiers, scripts and reviewed values."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from tools.show.app_files.reading import ReadApp, ReadNode, read
from tools.show.app_files.walk import Reviewed
from tools.show.app_files.world import Script, chosen_category
from tools.show.proof import ROOT

FOLDER = ROOT / "tests" / "data" / "dsl"
"""Files that other people have exported."""
OWN_FOLDER = ROOT / "tests" / "data" / "dsl-own"
"""Files in the shapes that none of these has."""
SCRIPTS = ROOT / "tests" / "data" / "dsl-scripts.yml"
"""Answers of models, URLs and tools for single files for which the general answer is
not sufficient."""
EXPECTED = ROOT / "tests" / "data" / "dsl-expected.yml"
"""What people have read in the files: see `Reviewed`."""
OWN_EXPECTED = OWN_FOLDER / "expected.yml"
_PLUGIN_TIERS = ("D", "X")
"""Tiers whose apps need plugins of others, which stand-ins replace."""
OWN_TIER = "O"
"""The tier of the files in `OWN_FOLDER`."""


@dataclass(frozen=True, slots=True)
class Case:
    """A file of the proof."""

    name: str
    path: Path
    tier: str
    app: ReadApp
    script: Script = field(default_factory=Script)
    expected: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What people have read in the file: the fields of `Reviewed`."""
    expected_by_name: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The same for all files of the folder, and for variants of them."""
    variants: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict[str, Mapping[str, Any]]
    )
    """Further scripts for the file by their names: what they change."""
    is_variant: bool = False
    """Whether the file has a case before."""

    @property
    def reviewed(self) -> Reviewed:
        """What people have read in the file."""
        return Reviewed(**self.expected)


def tiers() -> dict[str, str]:
    """Return the tier of each exported file, from the table in INDEX.md."""
    tier_by_file: dict[str, str] = {}
    for line in (FOLDER / "INDEX.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 5 and cells[1].endswith((".yml", ".yaml")):
            tier_by_file[cells[1]] = cells[4]
    return tier_by_file


def cases() -> list[Case]:
    """Return all files of the proof, those of other people first.

    After the case of a file come its variants: every other branch that a choice of the
    scripted world decides.
    """
    scripts, expected = _mapping(SCRIPTS), _mapping(EXPECTED)
    exported = [
        _case(FOLDER, name, tier, scripts.get(Path(name).stem), expected)
        for name, tier in sorted(tiers().items())
    ]
    own_expected = _mapping(OWN_EXPECTED)
    own = [
        _case(
            OWN_FOLDER,
            path.name,
            OWN_TIER,
            _script_in(own_expected, path),
            own_expected,
        )
        for path in sorted(OWN_FOLDER.glob("*.yml"))
        if path != OWN_EXPECTED
    ]
    return [variant for case in exported + own for variant in (case, *_variants(case))]


def _script_in(expected: Mapping[str, Any], path: Path) -> Any:
    """Return the script for one of our own files."""
    return (expected.get(path.name) or {}).get("script")


def _case(
    folder: Path, name: str, tier: str, script: Any, expected: Mapping[str, Any]
) -> Case:
    """Return the case of a file. Raises TypeError for an unknown field of its data."""
    path = folder / name
    script = dict(script or {})
    variants = script.pop("variants", {})
    script.setdefault("plugins", tier in _PLUGIN_TIERS)
    return Case(
        name=name,
        path=path,
        tier=tier,
        app=read(path),
        script=Script(**script),
        variants=variants,
        expected=expected.get(name) or {},
        expected_by_name=expected,
    )


def _variants(case: Case) -> Iterator[Case]:
    """Yield the cases of a file for the other categories, options and actions."""
    for node in case.app.nodes.values():
        match node.type:
            case "question-classifier":
                choices = _categories(node, case.script)
            case "start":
                choices = _options(node, case.script)
            case "human-input":
                choices = _actions(node, case.script)
            case _:
                continue
        for label, changes in choices:
            yield _variant(case, label, changes)
    for label, changes in case.variants.items():
        yield _variant(case, label, changes)


def _variant(case: Case, label: str, changes: Mapping[str, Any]) -> Case:
    """Return a case of the same file with another script."""
    name = f"{case.name} [{label}]"
    expected = {**case.expected, **(case.expected_by_name.get(name) or {})}
    script = replace(case.script, **changes)
    return replace(case, name=name, script=script, expected=expected, is_variant=True)


_Choices = Iterator[tuple[str, dict[str, Any]]]


def _categories(node: ReadNode, script: Script) -> _Choices:
    """Yield the categories that the script does not choose."""
    count = len(node.list_of("classes"))
    for index in range(count):
        if index != chosen_category(count, script):
            yield f"category {index}", {"category": index}


def _options(node: ReadNode, script: Script) -> _Choices:
    """Yield the options of selections that are not chosen by default or by the script."""
    for variable in node.list_of("variables"):
        name = str(variable["variable"])
        options = [str(option) for option in variable.get("options") or ()]
        if variable.get("type") != "select" or not options:
            continue
        for option in options:
            if option != script.inputs.get(name, options[-1]):
                yield f"{name} {option}", {"inputs": {**script.inputs, name: option}}


def _actions(node: ReadNode, script: Script) -> _Choices:
    """Yield the actions of a form that the script does not choose, and its end."""
    actions = [str(action["id"]) for action in node.list_of("user_actions")]
    for action in [*dict.fromkeys(actions), "timeout"]:
        if action != script.action.get(node.id, actions[0]):
            yield f"action {action}", {"action": {**script.action, node.id: action}}


def _mapping(path: Path) -> Mapping[str, Any]:
    """Return the mapping in a YAML file; an empty one if there is no such file."""
    if not path.exists():
        return {}
    return yaml.safe_load(path.read_text("utf-8")) or {}
