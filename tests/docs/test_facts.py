"""Names, numbers and defaults on the pages, compared with the source they describe."""

import ast
import dataclasses
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import click
import msgspec
import numpy as np
import pytest
import yaml
from bench.starts import core_size
from tools.show.console_journeys import JOURNEYS
from tools.show.corruptions import CORRUPTIONS, REPLY_CORRUPTIONS
from tools.show.exchanges import exchanges
from tools.show.retrieval import SETS
from tools.show.truth import READERS

from modelyard.agents.strategies import STRATEGIES
from modelyard.app.services import Services
from modelyard.base import settings as settings_module
from modelyard.base.settings import Settings
from modelyard.cli import root
from modelyard.knowledge import crawl, polite_fetch
from modelyard.models.types import ModelType
from modelyard.people import accounts, sessions
from modelyard.plugins import watch
from modelyard.providers.factory import catalog_definition, catalog_names
from modelyard.providers.local import provider as local_provider
from modelyard.providers.local.engines import ocr, whisper
from modelyard.providers.local.weights import WeightStore, manifest
from modelyard.runtime.load_balancing import Strategy
from modelyard.sandbox import program_network
from modelyard.tools import openapi
from modelyard.wire import openai_audio
from modelyard.workflow import code_network, dsl
from tests.docs.pages import PAGES, ROOT, blocks_of, text_of
from tests.wire.formats import EGRESS, MODULES

SOURCE = ROOT / "src" / "modelyard"
MIB = 1 << 20


def text_without_blocks(page: str) -> str:
    """Return a page's Markdown without its code blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text_of(page), flags=re.M | re.S)


def everything() -> str:
    return "\n".join(text_without_blocks(page) for page in PAGES)


def figures_in(page: str, pattern: str) -> list[str]:
    """Return what a pattern's group matches on a page. Raises AssertionError if that is
    nothing, as after a change of the sentence."""
    matches = re.findall(pattern, " ".join(text_of(page).split()))
    assert matches, f"{page} no longer says {pattern!r}"
    return matches


# ----------------------------------------------------------------------- counts


def test_the_catalogue_has_as_many_providers_as_the_pages_say():
    vendors = [name for name in catalog_names() if name != "local"]
    counts = [
        *figures_in("README.md", r"\[(\d+) providers\]"),
        *figures_in("README.md", r"\[(\d+) in the catalogue\]"),
        *figures_in("docs/why.md", r"has (\d+) providers"),
    ]
    assert {int(count) for count in counts} == {len(vendors)}


def test_corruptions_are_as_many_as_the_readme_says():
    count = len(CORRUPTIONS) + len(REPLY_CORRUPTIONS)
    assert f"[{count} kinds of corruption]" in (ROOT / "README.md").read_text()


def test_recorded_exchanges_are_as_many_as_the_readme_says():
    (count,) = figures_in("README.md", r"\[([\d,]+) recorded exchanges\]")
    supported = [exchange for exchange in exchanges() if exchange.format in READERS]
    assert int(count.replace(",", "")) == len(supported)
    assert "in each of five formats" in " ".join(text_of("README.md").split())
    assert len({"the recording's own", *EGRESS}) == 5


def test_there_are_nine_chat_formats():
    figures_in("README.md", r"(Nine) chat formats")
    assert len(MODULES) == 9


def test_there_are_six_model_types_and_the_glossary_names_them():
    (names,) = figures_in("docs/glossary.md", r"six types of calls: ([\w, -]+) \|")
    assert set(names.split(", ")) == {model_type.value for model_type in ModelType}
    assert len(ModelType) == 6


def test_the_page_on_agents_names_all_strategies():
    (names,) = figures_in("docs/how-to/use-agents.md", r"Strategies: (.+?)\. ##")
    assert set(re.findall(r"`(\w+)`", names)) == set(STRATEGIES)
    assert len(STRATEGIES) == 5


def test_the_page_on_routes_names_all_strategies():
    (names,) = figures_in("docs/how-to/routes.md", r"\| `strategy` \| ([\w, ]+) \|")
    assert names.split(", ") == list(Strategy.__args__)


def test_retrieval_is_measured_on_as_many_collections_as_the_readme_says():
    figures_in("README.md", r"measured on (six) collections")
    assert len(SETS) == 6


def test_the_proof_of_journeys_has_as_many_as_its_line_says():
    from tools.show.__main__ import PROOFS

    assert PROOFS["console-journeys"].startswith("Twelve")
    assert len(JOURNEYS) == 12


def test_the_library_is_five_lines():
    figures_in("README.md", r"(five lines) to chat and stream")
    shortest = min(
        len([line for line in block.body.splitlines() if line.strip()])
        for block in blocks_of("README.md")
        if "SyncModelyard" in block.body
    )
    assert shortest == 5


# ------------------------------------------------------------------------- sizes


def downloaded_bytes(*models: str) -> int:
    """Return the bytes of the files of models that are downloaded as such; some come
    with an installed package."""
    files = {file.name: file for model in models for file in manifest().files_of(model)}
    return sum(file.size for file in files.values() if not file.installed)


def test_the_weights_are_as_large_as_the_page_says():
    rows = figures_in(
        "docs/local-models.md", r"\| `([\w.-]+)` \| [\w ]+ \| ([\d,]+) MB"
    )
    assert len(rows) == 8
    sizes = {name: int(size.replace(",", "")) for name, size in rows}
    assert sizes == {name: round(downloaded_bytes(name) / MIB) for name in sizes}


def test_the_sets_are_as_large_as_the_pages_say():
    shown = text_of("docs/local-models.md")
    sets = {name: downloaded_bytes(*models) for name, models in manifest().sets.items()}
    assert f"{round(sets['mini'] / MIB)} MB" in shown
    assert f"all six types, {sets['small'] / (MIB << 10):.1f} GB" in shown
    assert f"1.5B chat model: {sets['large'] / (MIB << 10):.1f} GB" in shown
    assert f"download {sets['small'] / (MIB << 10):.1f} GB" in text_of("README.md")
    pulled = downloaded_bytes("use-multilingual-v3")
    assert f"{round(pulled / MIB)} MB, for both" in text_of("docs/how-to/upgrade.md")


def test_the_moderation_head_is_as_small_as_the_page_says():
    (size,) = figures_in("docs/local-models.md", r"moderation \| (\d+) kB")
    head = SOURCE / "providers" / "local" / "moderation_head.npz"
    assert round(head.stat().st_size / 1024) == int(size)


def test_the_core_is_as_large_as_the_readme_says():
    ((packages, megabytes),) = figures_in("README.md", r"(\d+) packages and (\d+) MB")
    size = core_size()
    assert size["packages"] == int(packages)
    # The built console, of a few megabytes, is not in every checkout.
    assert size["megabytes"] == pytest.approx(int(megabytes), abs=4)


# ------------------------------------------------------------- the moderation head


def phrases() -> dict[str, dict[str, list[str]]]:
    return yaml.safe_load(
        (ROOT / "tools" / "moderation_phrases.yaml").read_text("utf-8")
    )


def test_the_moderation_head_was_trained_on_as_many_phrases_as_the_page_says():
    counts = {
        part: sum(len(texts) for texts in classes.values())
        for part, classes in phrases().items()
    }
    figures = figures_in("docs/local-models.md", r"with (\d+) phrases")
    held_out = figures_in("docs/local-models.md", r"held-out set of (\d+) phrases")
    assert [*figures, *held_out] == [str(counts["train"]), str(counts["held_out"])]


@pytest.mark.local
def test_held_out_phrases_are_detected_as_the_page_says(weights_folder: Path):
    from modelyard.providers.local.engines.multilingual_encoder import (
        MultilingualEncoder,
    )

    ((caught, harmful, alarms, safe),) = figures_in(
        "docs/local-models.md",
        r"detected (\d+) of (\d+) harmful phrases, with (\d+) false positive in (\d+)",
    )
    paths = WeightStore(weights_folder).paths("use-multilingual-v3-moderation")
    encoder = MultilingualEncoder(paths["weights"], paths["vocabulary"])
    flagged = {
        name: [_is_flagged(encoder, text) for text in texts]
        for name, texts in phrases()["held_out"].items()
    }
    expected_alarms = flagged.pop("safe")
    judged = [is_flagged for values in flagged.values() for is_flagged in values]
    assert [str(sum(judged)), str(len(judged))] == [caught, harmful]
    assert [str(sum(expected_alarms)), str(len(expected_alarms))] == [alarms, safe]


def _is_flagged(encoder: Any, text: str) -> bool:
    """Return whether the head takes a text for anything but safe."""
    head = np.load(SOURCE / "providers" / "local" / "moderation_head.npz")
    vector = np.asarray(encoder.encode([text])[0], np.float64)
    scores = vector / np.linalg.norm(vector) @ head["weights"] * 6.0 + head["bias"]
    return str(head["classes"][scores.argmax()]) != "safe"


# --------------------------------------------------------------- limits and defaults


def setting(name: str) -> Any:
    """Return the default of `section.field` or `field`; a field of a section may stand
    alone if no other section has it. Raises AttributeError for an unknown setting."""
    value: Any = Settings()
    for part in name.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(
    ("page", "name", "phrase"),
    [
        ("docs/how-to/ask-documents.md", "knowledge.crawl_delay_seconds", "half a second"),
        ("docs/how-to/run-workflows.md", "workflows.catch_up_seconds", "(an hour)"),
        ("docs/how-to/run-workflows.md", "workflows.code_seconds", "30 seconds"),
        ("docs/how-to/run-workflows.md", "workflows.code_memory_mb", "half a gigabyte"),
        ("docs/how-to/run-workflows.md", "egress.ports", "ports 80 and 443"),
        ("docs/how-to/upgrade.md", "database_wait_seconds", "(60)"),
        ("README.md", "port", "http://127.0.0.1:8790"),
    ],
)  # fmt: skip
def test_a_default_is_as_the_page_says(page: str, name: str, phrase: str):
    meant = {
        "half a second": 0.5, "(an hour)": 3600.0, "30 seconds": 30.0, "half a gigabyte": 512,
        "ports 80 and 443": [80, 443], "(60)": 60.0, "http://127.0.0.1:8790": 8790,
    }  # fmt: skip
    assert phrase in " ".join(text_of(page).split())
    assert setting(name) == meant[phrase]


def test_the_limits_on_connections_are_the_defaults_in_the_table():
    page = "docs/how-to/run-for-others.md"
    shown = dict(figures_in(page, r"`(\w+)` \((\d+)(?: bytes per second)?\)"))
    assert len(shown) >= 10
    defaults = {name: getattr(Settings().connections, name) for name in shown}
    assert {name: float(value) for name, value in shown.items()} == defaults


def test_the_resource_limits_of_plugins_are_the_defaults():
    (shown,) = figures_in(
        "docs/how-to/use-plugins.md", r"plugins: (\{memory_mb:[^}]*\})"
    )
    values = yaml.safe_load(shown)
    assert values == {name: getattr(Settings().plugins, name) for name in values}


def _constant_in_the_sandbox(name: str) -> int:
    """Return a number of the reader of web pages, which only the sandbox can import."""
    source = (SOURCE / "sandbox" / "inside" / "web_pages.py").read_text("utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return eval(ast.unparse(node.value), {})
    raise AssertionError(f"the sandbox has no {name}")


CONSTANTS = {
    "A text to embed, rerank or moderate may have up to 50,000": (
        local_provider._MAX_TEXT_CHARS, 50_000,
    ),
    "text for speech up to 100,000": (openai_audio._MAX_CHARACTERS, 100_000),
    "An image may have up to 40 million pixels": (ocr._MAX_PIXELS, 40_000_000),
    "a recording may last up to four hours": (whisper._MAX_SECONDS, 4 * 3600),
    "a `Crawl-delay` of up to 30 s": (polite_fetch._MAX_DELAY_SECONDS, 30.0),
    "503 responses, up to two minutes": (polite_fetch._MAX_WAIT_SECONDS, 120.0),
    "is fetched again after a day": (polite_fetch._ROBOTS_CACHE_SECONDS, 24 * 3600.0),
    "and the first ten with the reason": (crawl._MAX_REASONS, 10),
    "up to 50 MB unpacked": (_constant_in_the_sandbox("_MAX_UNPACKED"), 50 * MIB),
    "At most 50,000 URLs are used of each": (_constant_in_the_sandbox("MAX_ENTRIES"), 50_000),
    "as JSON or YAML, up to 20 MB": (openapi.MAX_BYTES, 20 * MIB),
    "unused sessions end after fourteen days": (sessions.SESSION_SECONDS, 14 * 86_400.0),
    "the link is valid for a week": (accounts._INVITATION_SECONDS, 7 * 86_400.0),
    "can have 32 connections at once": (program_network.MAX_OPEN_CONNECTIONS, 32),
    "transfer 256 MB": (code_network._MAX_BYTES, 256 * MIB),
    "terminates it, within half a second": (watch._CHECK_INTERVAL_SECONDS, 0.5),
    "format versions up to 0.7.0": (dsl.VERSION, "0.7.0"),
}  # fmt: skip
"""What a page says, with the constant that it describes and its value in the phrase."""


@pytest.mark.parametrize("phrase", CONSTANTS)
def test_a_constant_is_as_the_page_says(phrase: str):
    pages = [page for page in PAGES if phrase in " ".join(text_of(page).split())]
    actual, expected = CONSTANTS[phrase]
    assert pages
    assert actual == expected


# ------------------------------------------------------------------------- names


@cache
def settings_sections() -> dict[str, type[msgspec.Struct]]:
    """Return the sections of the settings by name."""
    hints = get_type_hints(Settings)
    return {
        name: hint
        for name, hint in hints.items()
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct)
    }


def settings_named_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield (section, field) of the settings that a text names: `section.field`, and
    `section: {field: …}`."""
    for section, field in re.findall(r"`([a-z]+)\.([a-z_]+)`", text):
        if section in settings_sections():
            yield section, field
    for section, fields in re.findall(r"`([a-z]+): \{([^`]*)\}", text):
        if section in settings_sections():
            for field in re.findall(r"(?:^|, )([a-z_]+):", fields):
                yield section, field


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_that_a_page_names_exists(page: str):
    unknown = [
        f"{section}.{field}"
        for section, field in settings_named_in(text_without_blocks(page))
        if field not in settings_sections()[section].__struct_fields__
    ]
    assert unknown == []


def test_settings_that_do_not_exist_are_noticed():
    named = settings_named_in("`egress.colour` and `plugins: {memory_mb: 1, size: 2}`")
    assert list(named) == [
        ("egress", "colour"), ("plugins", "memory_mb"), ("plugins", "size"),
    ]  # fmt: skip


_OF_USERS = ("main.py", "manifest.yaml", "requirements.txt", "modelyard.yaml")
"""Files that users have and that are not in the repository."""
_FILE = re.compile(r"`([\w./-]+\.(?:py|yaml|yml|md|json|svg)|[a-z][\w/-]*/)`")


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str):
    missing = [
        name
        for name in _FILE.findall(text_without_blocks(page))
        if not _exists(page, name)
    ]
    assert missing == []


def _exists(page: str, name: str) -> bool:
    """Return whether a file or folder is in the repository or the package."""
    if page.endswith("write-a-plugin.md"):
        return True  # its files are written by its test
    if name in _OF_USERS or (ROOT / name).exists() or (SOURCE / name).exists():
        return True
    is_users_folder = name in ("plugins/",) and "home" in text_of(page)
    return is_users_folder or any(SOURCE.rglob(name.strip("/")))


def options_of(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the options of a command and of all commands below it."""
    for parameter in command.params:
        yield from parameter.opts
        yield from parameter.secondary_opts
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from options_of(inner, context)


@cache
def all_options() -> frozenset[str]:
    return frozenset(options_of(root, click.Context(root)))


_NOT_OURS = frozenset({"--data-checksums", "--help"})


@pytest.mark.parametrize("page", PAGES)
def test_every_option_that_a_page_names_exists(page: str):
    text = text_without_blocks(page)
    named = set(re.findall(r"`(?:[^`]* )?(--[a-z-]+)[^`]*`", text))
    named -= {"--write"} if "console-ui/check --write" in text else set()
    named -= {"--full"} if "pytest -m proof --full" in text else set()
    assert named - _NOT_OURS - all_options() == set()


def test_every_extra_that_a_page_names_exists():
    text = everything()
    named = set(re.findall(r"extra `([a-z-]+)`", text))
    for names in re.findall(r"modelyard\[([a-z,]+)\]", text):
        named |= set(names.split(","))
    document = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert named
    assert named <= document["project"]["optional-dependencies"].keys()


def test_every_header_that_a_page_names_is_in_the_source():
    source = "\n".join(
        path.read_text("utf-8") for path in (SOURCE / "gateway").rglob("*.py")
    )
    named = set(re.findall(r"x-modelyard-[a-z]+", everything()))
    assert "x-modelyard-dropped" in named
    assert {header for header in named if f'"{header}"' not in source} == set()


def test_every_method_that_a_page_names_exists():
    named = set(re.findall(r"`([A-Z][a-z]+[A-Za-z]+)\.([a-z_]+)`", everything()))
    assert named
    defined = set(_members())
    assert {f"{name}.{member}" for name, member in named - defined} == set()


def _members() -> Iterator[tuple[str, str]]:
    """Yield (class, method or field) of all classes of the package."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                for statement in node.body:
                    name = getattr(statement, "name", None) or ast.unparse(
                        getattr(statement, "target", statement)
                    )
                    yield node.name, name


def test_every_proof_that_a_page_names_exists():
    from tools.show.__main__ import PROOFS

    named = set(re.findall(r"WHAT=([a-z-]+)", everything())) - {"name"}
    assert len(named) > 5
    assert named <= PROOFS.keys()


def test_a_model_in_the_examples_is_in_the_catalogue():
    named = set(re.findall(r"\b(openai|anthropic)/([\w.-]+)", everything()))
    listed = {
        (provider, model.model)
        for provider in ("openai", "anthropic")
        for model in catalog_definition(provider).entity.models
    }
    assert {model for model in named if model not in listed} == set()


# ------------------------------------------------------------------ the architecture


def test_the_policies_are_listed_in_the_order_of_the_app():
    table = text_of("docs/architecture.md").partition("| policy |")[2]
    shown = re.findall(r"^\| (\w+) \|", table.partition("\n\n")[0], re.MULTILINE)
    source = (SOURCE / "app" / "calls.py").read_text("utf-8")
    returned = source.partition("return _Policies(")[2]
    listed = re.findall(
        r"^            (\w+)=", returned.partition("\n        )\n")[0], re.MULTILINE
    )
    names = [name.removesuffix("s") for name in listed]
    assert [name for name in names if name in shown] == shown


def test_the_groups_of_services_are_built_in_the_order_of_the_page():
    (shown,) = figures_in("docs/architecture.md", r"in order: ([`\w, ]+)\. Each group")
    names = [field.name for field in dataclasses.fields(Services)]
    renamed = {"maintenance": "upkeep"}
    indexes = [
        names.index(renamed.get(name, name)) for name in re.findall(r"`(\w+)`", shown)
    ]
    assert indexes == sorted(indexes)


POLICIES = [
    path
    for path in sorted((SOURCE / "runtime" / "policies").glob("*.py"))
    if path.name != "__init__.py"
]


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_a_policy_closes_what_it_iterates(path: Path):
    tree = ast.parse(path.read_text("utf-8"))
    closed = [
        item.optional_vars.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if isinstance(item.optional_vars, ast.Name)
        and "aclosing" in ast.unparse(item.context_expr)
    ]
    assert closed


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_a_policy_never_yields_inside_a_task_group_or_a_cancel_scope(path: Path):
    tree = ast.parse(path.read_text("utf-8"))
    assert [ast.unparse(node)[:80] for node in _scopes_with_yield(tree)] == []


def _scopes_with_yield(tree: ast.AST) -> Iterator[ast.AsyncWith]:
    """Yield the task groups and cancel scopes in which something is yielded."""
    for node in ast.walk(tree):
        is_scope = isinstance(node, ast.AsyncWith) and _is_scope(node)
        if is_scope and any(isinstance(inner, ast.Yield) for inner in ast.walk(node)):
            yield node


def _is_scope(node: ast.AsyncWith) -> bool:
    expressions = " ".join(ast.unparse(item.context_expr) for item in node.items)
    return bool(re.search(r"TaskGroup|timeout", expressions))


def test_a_yield_inside_a_scope_is_noticed():
    source = "async def f():\n async with asyncio.timeout(1):\n  yield 1\n"
    assert len(list(_scopes_with_yield(ast.parse(source)))) == 1


def test_every_section_of_the_settings_has_a_page_of_reference():
    text = (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")
    assert [name for name in settings_sections() if f"## `{name}`" not in text] == []
    assert settings_module.Settings is Settings
