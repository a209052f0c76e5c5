"""`.difybndl` bundles: several plugins in one file. Some are included, others must be
downloaded."""

from typing import Any, NamedTuple

from modelyard.base.errors import PackageError
from modelyard.base.json_types import is_object
from modelyard.models.types import JSON
from modelyard.plugins.manifest import MANIFEST, read_yaml
from modelyard.plugins.package import MAX_BUNDLE_BYTES, Package, read_package

# Dependency type → key under which its location is stored.
_LOCATION_KEYS = {
    "github": "repo_pattern",
    "marketplace": "marketplace_pattern",
    "package": "path",
}


class Dependency(NamedTuple):
    """One plugin of a bundle and where it comes from."""

    kind: str
    """`package`, `github` or `marketplace`."""
    where: str
    """A path in the bundle, `owner/repo:VERSION/asset`, or `author/name:VERSION`."""


class Bundle(NamedTuple):
    """A bundle file and the plugins that it lists."""

    package: Package
    dependencies: list[Dependency]

    def packages(self) -> list[Package]:
        """Return the plugins that are included in the bundle. Raises PackageError if
        one is missing or damaged."""
        packages: list[Package] = []
        for dependency in self.dependencies:
            if dependency.kind == "package":
                # A package may be stored below `_assets` or at the path itself.
                name = next(
                    (
                        name
                        for name in (f"_assets/{dependency.where}", dependency.where)
                        if name in self.package.files
                    ),
                    None,
                )
                if name is None:
                    raise PackageError(
                        f"The bundle lists {dependency.where!r}, which it does"
                        " not contain"
                    )
                packages.append(read_package(self.package.files[name], source=name))
        return packages


def read_bundle(data: bytes) -> Bundle:
    """Parse a `.difybndl` file and the list of plugins in its manifest.

    `data` is the ZIP file, at most MAX_BUNDLE_BYTES. The included plugins are not read
    yet; `Bundle.packages` does that. Raises PackageError if the file is not a valid
    package, is not a bundle, or lists an invalid dependency.
    """
    package = read_package(data, source="The bundle", max_bytes=MAX_BUNDLE_BYTES)
    if package.manifest.type != "bundle":
        raise PackageError(f"The package is a {package.manifest.type}, not a bundle")
    document = read_yaml(package.files[MANIFEST], MANIFEST)
    return Bundle(
        package,
        [
            _dependency(raw_dependency)
            for raw_dependency in document.get("dependencies") or ()
        ],
    )


def _dependency(raw_dependency: Any) -> Dependency:
    """Parse one entry of the bundle manifest's `dependencies` list.

    The location is read from `value` under the key of the entry's type (`repo_pattern`,
    `marketplace_pattern` or `path`), or else from `github_plugin_unique_identifier`.
    Raises PackageError for an unknown type or if there is no location.
    """
    value: JSON = {}
    dependency_type = ""
    if is_object(raw_dependency):
        value = raw_dependency.get("value") or {}
        dependency_type = str(raw_dependency.get("type"))
    # A dependency may also carry the identifier instead of its type's own key.
    where = value.get(_LOCATION_KEYS.get(dependency_type, "")) or value.get(
        "github_plugin_unique_identifier"
    )
    if dependency_type not in _LOCATION_KEYS or not where:
        raise PackageError(f"Invalid dependency of the bundle: {raw_dependency!r}")
    return Dependency(dependency_type, str(where))
