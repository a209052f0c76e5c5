"""Plugin packages to be installed: reading them, and admitting or refusing them by
installer and signature."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from modelyard.base.errors import PackageError
from modelyard.plugins.bundle import read_bundle
from modelyard.plugins.host import PluginHost
from modelyard.plugins.market import Market
from modelyard.plugins.package import Package, read_package
from modelyard.plugins.signature import Verification, is_signed, verify
from modelyard.tenancy.caller import DEFAULT_TENANT, ForbiddenError
from modelyard.tenancy.directory import Directory


class UnsignedError(ForbiddenError):
    """The operator may install this package, but has to confirm that it is not signed
    by a trusted key."""

    code = "unsigned_plugin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installer:
    """The person who installs a package."""

    is_operator: bool
    """Whether it is the operator of the machine. Administrators of tenants are not."""
    allows_unsigned: bool = False
    """Whether they confirmed, for this package, that it need not have a trusted
    signature."""


OPERATOR = Installer(is_operator=True)


class PluginPackages:
    """The packages on this machine. A package that one tenant uploaded may be installed
    for another."""

    def __init__(
        self,
        host: PluginHost,
        directory: Directory,
        market: Market,
        *,
        public_keys: Sequence[tuple[str, bytes]] = (),
        must_be_signed: bool = False,
    ) -> None:
        self._host = host
        self._directory = directory
        self._market = market
        self._public_keys = public_keys
        self._must_be_signed = must_be_signed

    async def upload(
        self, data: bytes, by: Installer = OPERATOR, *, verify_signature: bool = False
    ) -> tuple[Package, Verification | None]:
        """Store a package for installation.

        Raises PackageError if it is damaged, or must be signed and is not;
        ForbiddenError if this person may not install it.
        """
        # Unpacking and hashing are slow, so they run in a thread.
        package = await asyncio.to_thread(read_package, data)
        if package.manifest.type != "plugin":
            raise PackageError(
                f"The package is a {package.manifest.type}, not a plugin"
            )
        verification = await self.admit(package, by, verify_signature=verify_signature)
        await self._host.packages.save_package(package)
        return package, verification

    async def upload_bundle(
        self, data: bytes, by: Installer = OPERATOR, *, verify_signature: bool = False
    ) -> list[Package]:
        """Store all packages that a bundle contains or refers to. Raises PackageError,
        PluginError or ForbiddenError."""
        bundle = await asyncio.to_thread(read_bundle, data)
        packages = bundle.packages()
        for dependency in bundle.dependencies:
            if dependency.kind == "github":
                fetched = await self._market.github(dependency.where)
            elif dependency.kind == "marketplace":
                plugin, _, version = dependency.where.partition(":")
                fetched = await self._market.fetch(plugin, version)
            else:
                # Embedded packages are in the list already.
                continue
            packages.append(await asyncio.to_thread(read_package, fetched))
        return [
            (await self.upload(package.data, by, verify_signature=verify_signature))[0]
            for package in packages
        ]

    async def admitted(
        self, identifiers: Sequence[str], by: Installer
    ) -> list[Package]:
        """Return uploaded packages if this person may install all of them. Somebody
        with more permissions may have uploaded them.

        Raises NotFoundError, PackageError or ForbiddenError.
        """
        packages: list[Package] = []
        for identifier in identifiers:
            # Another server may have received the upload.
            await self._host.packages.fetch(identifier)
            packages.append(
                await asyncio.to_thread(self._host.packages.package, identifier)
            )
        for package in packages:
            await self.admit(package, by)
        return packages

    async def admit(
        self, package: Package, by: Installer, *, verify_signature: bool = False
    ) -> Verification | None:
        """Decide whether a person may install a package. Every way to install goes
        through this method.

        A package runs code on this machine. With a trusted signature any administrator
        may install it. Without one only the operator may, and has to confirm it once
        the machine serves several tenants. Raises PackageError if it must be signed and
        is not, ForbiddenError and UnsignedError.
        """
        must_be_signed = verify_signature or self._must_be_signed
        verification = await asyncio.to_thread(
            self._verified, package, must_be_signed=must_be_signed
        )
        if verification is not None:
            return verification
        name = f"{package.manifest.id} {package.manifest.version}"
        if not by.is_operator:
            raise ForbiddenError(
                f"{name} is not signed with a key that the operator trusts, so"
                " only the operator may install it; have it signed, or ask the"
                " operator"
            )
        if not by.allows_unsigned and self._is_shared():
            raise UnsignedError(
                f"{name} is not signed with a key under plugins.public_keys, and"
                " this server has several tenants; if you trust it, install it"
                " with `modelyard plugin install --unsigned`, or send"
                " 'unsigned=true'"
            )
        return None

    def _verified(
        self, package: Package, *, must_be_signed: bool
    ) -> Verification | None:
        """Return the trusted signature of a package; None if there is none and none is
        required."""
        if not must_be_signed and not (is_signed(package.data) and self._public_keys):
            return None
        try:
            return verify(package.data, self._public_keys)
        except PackageError:
            if must_be_signed:
                raise
            return None

    def _is_shared(self) -> bool:
        """Return whether the machine serves more than the default tenant."""
        return any(name != DEFAULT_TENANT for name, _ in self._directory.tenants())
