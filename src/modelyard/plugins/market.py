"""Where packages are listed: a folder of them, or an address with an index. An open format, described in
docs/reference/market.md."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from modelyard.base.errors import NotFoundError, PackageError, PluginError
from modelyard.base.urls import join
from modelyard.plugins.identity import newer
from modelyard.plugins.package import MAX_BYTES, load_package, save
from modelyard.transport.egress import Egress, EgressError

INDEX = "index.json"
_MOST_INDEX = 16 * 1024 * 1024
_CONNECT, _READ = 10.0, 60.0
_ASSET = re.compile(r"(?P<owner>[\w.-]+)/(?P<repo>[\w.-]+):(?P<version>[\w.+-]+)/(?P<asset>[\w.+@-]+)")


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A package as an index names it."""

    plugin: str
    """`author/name`."""
    version: str
    checksum: str
    file: str
    """Where it is, seen from the index."""
    category: str = ""
    label: str = ""
    description: str = ""

    @property
    def identifier(self) -> str:
        return f"{self.plugin}:{self.version}@{self.checksum}"


class Index(msgspec.Struct, frozen=True, kw_only=True):
    plugins: list[Listed]


def add_to_folder(folder: Path, path: Path) -> Listed:
    """Put a package, or a plugin's folder, into a market. Raises PackageError."""
    package = load_package(path)
    manifest = package.manifest
    name = f"{manifest.author or '_'}-{manifest.name}-{manifest.version}.difypkg"
    listed = Listed(
        plugin=manifest.id,
        version=manifest.version,
        checksum=package.checksum,
        file=name,
        category=manifest.category,
        label=manifest.label.get("en_US", manifest.name),
        description=manifest.description.get("en_US", ""),
    )
    save(folder / name, package.data)
    others = [one for one in _read(folder).plugins if (one.plugin, one.version) != (listed.plugin, listed.version)]
    index = Index(plugins=sorted([*others, listed], key=lambda one: (one.plugin, newer(one.version))))
    save(folder / INDEX, msgspec.json.format(msgspec.json.encode(index)))
    return listed


def _read(folder: Path) -> Index:
    path = folder / INDEX
    if not path.is_file():
        return Index(plugins=[])
    return _decoded(path.read_bytes(), str(path))


def _decoded(data: bytes, source: str) -> Index:
    try:
        return msgspec.json.decode(data, type=Index)
    except msgspec.MsgspecError as error:
        raise PackageError(f"{source} is no index of packages: {error}") from error


class Market:
    """Several places, looked through in their order. They are the operator's, and may be private; what their indexes,
    redirects and other people name may not."""

    def __init__(self, places: Sequence[str], egress: Egress, *, github: str = "https://github.com") -> None:
        self._places = list(places)
        self._egress = egress
        self._github = github.rstrip("/")

    async def search(self, words: str = "") -> list[tuple[str, Listed]]:
        """(place, package): the newest of each plugin that all the words are said of."""
        wanted = words.casefold().split()
        newest: dict[str, tuple[str, Listed]] = {}
        for place in self._places:
            for one in (await self._index(place)).plugins:
                text = f"{one.plugin} {one.category} {one.label} {one.description}".casefold()
                before = newest.get(one.plugin)
                is_newer = before is None or newer(before[1].version) < newer(one.version)
                if is_newer and all(word in text for word in wanted):
                    newest[one.plugin] = (place, one)
        return list(newest.values())

    async def fetch(self, plugin: str, version: str = "") -> bytes:
        """A package, the newest where no version is named. Raises NotFoundError."""
        found: list[tuple[str, Listed]] = []
        for place in self._places:
            listed = (await self._index(place)).plugins
            found += [(place, one) for one in listed if one.plugin == plugin and version in ("", one.version)]
        if not found:
            where = ", ".join(self._places) or "no market is set; plugins.markets names them"
            what = f"plugin {plugin!r}" + (f" {version}" if version else "")
            raise NotFoundError(f"{what} is not listed ({where})", code="plugin_not_found")
        place, one = max(found, key=lambda pair: newer(pair[1].version))
        return await self._file(place, one.file)

    async def _index(self, place: str) -> Index:
        if _is_address(place):
            return _decoded(await self.download(_joined(place, INDEX), most=_MOST_INDEX, operators=place), place)
        return await asyncio.to_thread(_read, _folder(place))

    async def _file(self, place: str, file: str) -> bytes:
        if _is_address(place):
            return await self.download(_joined(place, file), operators=place)
        if "/" in file or file.startswith("."):
            raise PackageError(f"the market {place!r} names a file outside itself: {file!r}")
        try:
            return await asyncio.to_thread((_folder(place) / file).read_bytes)
        except OSError as error:
            raise PackageError(
                f"the market {place!r} names {file!r}, which cannot be read: {error.strerror}"
            ) from error

    async def github(self, asset: str, *, is_operators: bool = False) -> bytes:
        """A release's file, by its address or as `owner/repo:VERSION/asset`. An address that is not the operator's word
        must be public."""
        if _is_address(asset):
            return await self.download(asset, operators=asset if is_operators else "")
        found = _ASSET.fullmatch(asset)
        if found is None:
            raise PackageError(f"{asset!r} names no release's file; write owner/repo:VERSION/file.difypkg")
        path = f"{found['owner']}/{found['repo']}/releases/download/{found['version']}/{found['asset']}"
        return await self.download(f"{self._github}/{path}", operators=self._github)

    async def download(self, address: str, *, most: int = MAX_BYTES, operators: str = "") -> bytes:
        """What is at an address, over a few redirections. `operators`: the address that the operator wrote, whose host
        may be private. Raises PluginError."""
        try:
            answer = await self._egress.fetch(
                "GET", address, headers=[("accept", "*/*")], connect=_CONNECT, read=_READ, most_bytes=most,
                operators=operators,
            )  # fmt: skip
        except EgressError as error:
            raise PluginError(f"{address} cannot be had: {error}") from error
        if answer.status != 200:
            raise PluginError(f"{address} answered with HTTP status {answer.status}")
        return answer.body


def _folder(place: str) -> Path:
    return Path(place).expanduser()


def _is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _joined(place: str, file: str) -> str:
    if not (address := join(place.rstrip("/") + "/", file)):
        raise PackageError(f"the market {place!r} names a file that has no address: {file[:200]!r}")
    return address
