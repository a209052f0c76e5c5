"""Plugin packages in the storage that all servers share, from which each server fetches
those that it needs."""

from modelyard.base.errors import NotFoundError, PackageError
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.package import Package, read_package
from modelyard.storage.file_storage import (
    SERVER_SCOPE,
    FileStorage,
    one_chunk,
    read_all,
)


class SharedPackages:
    """The packages of an installation by identifier. They belong to no tenant: a package
    that one tenant uploaded may be installed for another.

    All methods raise StorageUnavailableError.
    """

    def __init__(self, storage: FileStorage) -> None:
        self._storage = storage

    async def put(self, package: Package) -> None:
        """Store a package. One of the same identifier has the same content."""
        name = _name(package.identifier)
        await self._storage.write(SERVER_SCOPE, name, one_chunk(package.data))

    async def has(self, identifier: PluginIdentifier) -> bool:
        """Return whether a package is stored."""
        try:
            await self._storage.info(SERVER_SCOPE, _name(identifier))
        except NotFoundError:
            return False
        return True

    async def get(self, identifier: PluginIdentifier) -> Package:
        """Return a package.

        Raises NotFoundError, and PackageError if the stored bytes are another package:
        whoever can write to the storage must not decide which code runs.
        """
        data = await read_all(self._storage, SERVER_SCOPE, _name(identifier))
        package = read_package(data, source=str(identifier))
        if package.identifier != identifier:
            raise PackageError(
                f"The shared storage has {package.identifier} in the place of"
                f" {identifier}; install the plugin again"
            )
        return package

    async def remove(self, identifier: PluginIdentifier) -> None:
        """Delete a package."""
        await self._storage.delete(SERVER_SCOPE, _name(identifier))


def _name(identifier: PluginIdentifier) -> str:
    return f"plugins/{identifier.folder}.difypkg"
