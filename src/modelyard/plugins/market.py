"""Plugin markets: folders or URLs with an index of packages. The open format is
described in docs/reference/market.md."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from modelyard.base.errors import NotFoundError, PackageError, PluginError
from modelyard.base.urls import join
from modelyard.plugins.identity import version_sort_key
from modelyard.plugins.package import MAX_BYTES, load_package, save
from modelyard.transport.egress import EgressClient, EgressError

INDEX = "index.json"
_MAX_INDEX_BYTES = 16 * 1024 * 1024
_CONNECT, _READ = 10.0, 60.0
_ASSET = re.compile(
    r"(?P<owner>[\w.-]+)/(?P<repo>[\w.-]+):(?P<version>[\w.+-]+)/(?P<asset>[\w.+@-]+)"
)


class PackageListing(msgspec.Struct, frozen=True, kw_only=True):
    """A package as an index lists it."""

    plugin: str
    """`author/name`."""
    version: str
    checksum: str
    file: str
    """Location of the package file, relative to the index."""
    category: str = ""
    label: str = ""
    description: str = ""

    @property
    def identifier(self) -> str:
        """The package's identifier, `author/name:version@checksum`."""
        return f"{self.plugin}:{self.version}@{self.checksum}"


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a market's index file."""

    plugins: list[PackageListing]


def add_to_folder(folder: Path, path: Path) -> PackageListing:
    """Copy a package into a market folder and list it in the index.

    `path` is a package file, or a plugin's folder from which one is built. An entry
    with the same plugin and version is replaced. Both files are written atomically.
    Returns the new entry. Raises PackageError if the package or the existing index is
    invalid.
    """
    package = load_package(path)
    manifest = package.manifest
    name = f"{manifest.author or '_'}-{manifest.name}-{manifest.version}.difypkg"
    listed = PackageListing(
        plugin=manifest.id,
        version=manifest.version,
        checksum=package.checksum,
        file=name,
        category=manifest.category,
        label=manifest.label.get("en_US", manifest.name),
        description=manifest.description.get("en_US", ""),
    )
    save(folder / name, package.data)
    # The same version of a plugin replaces its earlier entry.
    other_listings = [
        listing
        for listing in _read_index(folder).plugins
        if (listing.plugin, listing.version) != (listed.plugin, listed.version)
    ]
    index = Index(
        plugins=sorted(
            [*other_listings, listed],
            key=lambda listing: (listing.plugin, version_sort_key(listing.version)),
        )
    )
    save(folder / INDEX, msgspec.json.format(msgspec.json.encode(index)))
    return listed


def _read_index(folder: Path) -> Index:
    """Read the index of a market folder; without a file it is empty.

    Raises PackageError if the file is invalid.
    """
    path = folder / INDEX
    if not path.is_file():
        return Index(plugins=[])
    return _decode_index(path.read_bytes(), str(path))


def _decode_index(data: bytes, source: str) -> Index:
    """Parse an index file. Raises PackageError with `source` if it is invalid."""
    try:
        return msgspec.json.decode(data, type=Index)
    except msgspec.MsgspecError as error:
        raise PackageError(f"{source} is not a package index: {error}") from error


class Market:
    """Searches several markets in order.

    The markets are chosen by the operator and may have private addresses; URLs that
    come from their indexes, from redirects or from other people may not.
    """

    def __init__(
        self,
        locations: Sequence[str],
        egress: EgressClient,
        *,
        github: str = "https://github.com",
    ) -> None:
        self._locations = list(locations)
        self._egress = egress
        self._github = github.rstrip("/")

    async def search(self, query: str = "") -> list[tuple[str, PackageListing]]:
        """Return (market, package): the newest version of each plugin whose metadata
        contains all terms."""
        terms = query.casefold().split()
        newest: dict[str, tuple[str, PackageListing]] = {}
        for location in self._locations:
            for listing in (await self._index(location)).plugins:
                text = (
                    f"{listing.plugin} {listing.category} {listing.label}"
                    f" {listing.description}".casefold()
                )
                previous = newest.get(listing.plugin)
                # Between equal versions, the first market wins.
                is_newer = previous is None or version_sort_key(
                    previous[1].version
                ) < version_sort_key(listing.version)
                if is_newer and all(term in text for term in terms):
                    newest[listing.plugin] = (location, listing)
        return list(newest.values())

    async def fetch(self, plugin: str, version: str = "") -> bytes:
        """Download the package of a plugin, `author/name`, from the markets.

        Without a version the newest is taken; between equal versions the first market
        wins. The checksum is not verified. Raises NotFoundError if no market lists it,
        PluginError if a download fails, and PackageError for an invalid index or
        location.
        """
        candidates: list[tuple[str, PackageListing]] = []
        for location in self._locations:
            listed = (await self._index(location)).plugins
            candidates += [
                (location, listing)
                for listing in listed
                if listing.plugin == plugin and version in ("", listing.version)
            ]
        if not candidates:
            where = (
                ", ".join(self._locations)
                or "no plugin market is configured; set plugins.markets"
            )
            # The error names the markets that were searched.
            description = f"Plugin {plugin!r}" + (f" {version}" if version else "")
            raise NotFoundError(
                f"{description} is not listed ({where})", code="plugin_not_found"
            )
        location, listing = max(
            candidates, key=lambda pair: version_sort_key(pair[1].version)
        )
        return await self._file(location, listing.file)

    async def _index(self, location: str) -> Index:
        """Return the index of one market, which is a URL or a folder.

        A folder without an index file has an empty one. Raises PluginError if the
        download fails, and PackageError if the index is invalid.
        """
        # Remote markets need a download, local ones file access in a thread.
        if _is_url(location):
            return _decode_index(
                await self.download(
                    _join_url(location, INDEX),
                    max_bytes=_MAX_INDEX_BYTES,
                    operators=location,
                ),
                location,
            )
        return await asyncio.to_thread(_read_index, _folder(location))

    async def _file(self, location: str, file: str) -> bytes:
        """Return the content of a package file that a market's index lists.

        In a folder, `file` must be a plain file name. Raises PackageError if it is not
        or cannot be read, and PluginError if the download fails.
        """
        if _is_url(location):
            return await self.download(_join_url(location, file), operators=location)
        # An index must not refer to files outside its folder.
        if "/" in file or file.startswith("."):
            raise PackageError(
                f"The market {location!r} lists a file outside its folder: {file!r}"
            )
        try:
            return await asyncio.to_thread((_folder(location) / file).read_bytes)
        except OSError as error:
            raise PackageError(
                f"The market {location!r} lists {file!r}, which cannot be read:"
                f" {error.strerror}"
            ) from error

    async def github(self, asset: str, *, is_operators: bool = False) -> bytes:
        """Download a release asset, by URL or as `owner/repo:VERSION/asset`.

        A URL must be public unless the operator specified it. Raises PackageError,
        PluginError.
        """
        if _is_url(asset):
            return await self.download(asset, operators=asset if is_operators else "")
        match = _ASSET.fullmatch(asset)
        if match is None:
            raise PackageError(
                f"{asset!r} is not a release file; expected"
                " owner/repo:VERSION/file.difypkg"
            )
        path = f"{match['owner']}/{match['repo']}/releases/download/{match['version']}/{match['asset']}"  # noqa: E501
        # The operator chose this GitHub host, which may be an internal mirror.
        return await self.download(f"{self._github}/{path}", operators=self._github)

    async def download(
        self, address: str, *, max_bytes: int = MAX_BYTES, operators: str = ""
    ) -> bytes:
        """Download a URL, following a few redirects. Raises PluginError.

        `operators` is the URL that the operator configured, whose host may be private.
        """
        try:
            answer = await self._egress.fetch(
                "GET",
                address,
                headers=[("accept", "*/*")],
                connect=_CONNECT,
                read=_READ,
                max_bytes=max_bytes,
                operators=operators,
            )
        except EgressError as error:
            raise PluginError(f"{address} could not be downloaded: {error}") from error
        if answer.status != 200:
            raise PluginError(f"{address} returned HTTP status {answer.status}")
        return answer.body


def _folder(location: str) -> Path:
    return Path(location).expanduser()


def _is_url(location: str) -> bool:
    return location.startswith(("http://", "https://"))


def _join_url(location: str, file: str) -> str:
    """Return the URL of a file in a remote market's index.

    `file` is resolved against the market's URL as a folder and may be an absolute URL.
    Raises PackageError if the result is malformed.
    """
    if not (address := join(location.rstrip("/") + "/", file)):
        raise PackageError(
            f"The market {location!r} lists a file without a valid URL: {file[:200]!r}"
        )
    return address
