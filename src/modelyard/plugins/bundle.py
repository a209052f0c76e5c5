"""`.difybndl`: several plugins in one file, some of them in it, some of them to be fetched."""

from typing import Any, NamedTuple

from modelyard.base.errors import PackageError
from modelyard.models.types import JSON
from modelyard.plugins.manifest import MANIFEST, read_yaml
from modelyard.plugins.package import MAX_BUNDLE_BYTES, Package, read_package

_KINDS = {"github": "repo_pattern", "marketplace": "marketplace_pattern", "package": "path"}


class Dependency(NamedTuple):
    kind: str
    """`package`, `github` or `marketplace`."""
    where: str
    """A path in the bundle, `owner/repo:VERSION/asset`, or `author/name:VERSION`."""


class Bundle(NamedTuple):
    package: Package
    dependencies: list[Dependency]

    def packages(self) -> list[Package]:
        """Those that are in it. Raises PackageError where one is missing or damaged."""
        found: list[Package] = []
        for one in self.dependencies:
            if one.kind == "package":
                name = next((name for name in (f"_assets/{one.where}", one.where) if name in self.package.files), None)
                if name is None:
                    raise PackageError(f"the bundle names {one.where!r}, and it is not in it")
                found.append(read_package(self.package.files[name], source=name))
        return found


def read_bundle(data: bytes) -> Bundle:
    """Raises PackageError."""
    package = read_package(data, source="the bundle", most=MAX_BUNDLE_BYTES)
    if package.manifest.type != "bundle":
        raise PackageError(f"this is a {package.manifest.type}, not a bundle")
    document = read_yaml(package.files[MANIFEST], MANIFEST)
    return Bundle(package, [_dependency(one) for one in document.get("dependencies") or ()])


def _dependency(one: Any) -> Dependency:
    value: JSON = one.get("value") or {} if isinstance(one, dict) else {}
    kind = str(one.get("type")) if isinstance(one, dict) else ""
    where = value.get(_KINDS.get(kind, "")) or value.get("github_plugin_unique_identifier")
    if kind not in _KINDS or not where:
        raise PackageError(f"a dependency of the bundle cannot be read: {one!r}")
    return Dependency(kind, str(where))
