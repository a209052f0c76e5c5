"""What a plugin is called: `author/name`, with its version, and with the checksum of its package behind that."""

import re
from typing import NamedTuple, Self

from modelyard.base.errors import PackageError

AUTHOR = re.compile(r"[A-Za-z0-9_-]{1,64}")
NAME = re.compile(r"[a-z0-9_-]{1,128}")
VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){2}(-\w{1,16})?")
_FORM = re.compile(
    r"(?:(?P<author>[A-Za-z0-9_-]{1,64})/)?(?P<name>[a-z0-9_-]{1,128}):"
    r"(?P<version>\d{1,4}(?:\.\d{1,4}){1,3}(?:-\w{1,16})?)@(?P<checksum>[a-f0-9]{32,64})"
)


class PluginIdentifier(NamedTuple):
    """One package of one version of a plugin: `author/name:version@checksum`."""

    author: str
    name: str
    version: str
    checksum: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises PackageError that shows how one is written."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise PackageError(f"{text!r} names no plugin; one is written author/name:1.2.3@checksum")
        return cls(found["author"] or "", found["name"], found["version"], found["checksum"])

    @property
    def id(self) -> str:
        """`author/name`, whatever the version."""
        return f"{self.author}/{self.name}" if self.author else self.name

    @property
    def folder(self) -> str:
        """Where it lies, below a folder of packages."""
        return f"{self.author or '_'}/{self.name}-{self.version}@{self.checksum}"

    def __str__(self) -> str:
        return f"{self.id}:{self.version}@{self.checksum}"


def newer(version: str) -> tuple[tuple[int, ...], bool, str]:
    """A key that sorts versions: numbers first, a release behind its candidates."""
    numbers, _, candidate = version.partition("-")
    return tuple(int(one) for one in numbers.split(".")), not candidate, candidate
