"""Plugin identifiers: `author/name`, with version and package checksum as
`author/name:version@checksum`."""

import re
from typing import NamedTuple, Self

from modelyard.base.errors import PackageError

AUTHOR = re.compile(r"[A-Za-z0-9_-]{1,64}")
NAME = re.compile(r"[a-z0-9_-]{1,128}")
VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){2}(-\w{1,16})?")
# The author is optional: a manifest may leave it out.
_IDENTIFIER = re.compile(
    r"(?:(?P<author>[A-Za-z0-9_-]{1,64})/)?(?P<name>[a-z0-9_-]{1,128}):"
    r"(?P<version>\d{1,4}(?:\.\d{1,4}){1,3}(?:-\w{1,16})?)@(?P<checksum>[a-f0-9]{32,64})"
)
_FOLDER = re.compile(
    r"(?P<author>[A-Za-z0-9_-]{1,64})/(?P<name>[a-z0-9_-]{1,128})-"
    r"(?P<version>\d{1,4}(?:\.\d{1,4}){1,3}(?:-\w{1,16})?)@(?P<checksum>[a-f0-9]{32,64})"
)


class PluginIdentifier(NamedTuple):
    """Identifies one package of one version of a plugin:
    `author/name:version@checksum`."""

    author: str
    name: str
    version: str
    checksum: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an identifier. Raises PackageError that shows the expected format."""
        match = _IDENTIFIER.fullmatch(text)
        if match is None:
            raise PackageError(
                f"{text!r} is not a plugin identifier; expected"
                " author/name:1.2.3@checksum"
            )
        return cls(
            match["author"] or "", match["name"], match["version"], match["checksum"]
        )

    @classmethod
    def of_folder(cls, folder: str) -> Self | None:
        """Return the identifier whose `folder` is a relative path; None if there is
        none."""
        match = _FOLDER.fullmatch(folder)
        if match is None:
            return None
        author = "" if match["author"] == "_" else match["author"]
        return cls(author, match["name"], match["version"], match["checksum"])

    @property
    def id(self) -> str:
        """`author/name`, independent of the version."""
        return f"{self.author}/{self.name}" if self.author else self.name

    @property
    def folder(self) -> str:
        """Relative path of the package below a package folder."""
        return f"{self.author or '_'}/{self.name}-{self.version}@{self.checksum}"

    def __str__(self) -> str:
        return f"{self.id}:{self.version}@{self.checksum}"


def version_sort_key(version: str) -> tuple[tuple[int, ...], bool, str]:
    """Return a sort key for versions: numeric, and a release after its release
    candidates."""
    numbers, _, candidate = version.partition("-")
    return tuple(int(number) for number in numbers.split(".")), not candidate, candidate
