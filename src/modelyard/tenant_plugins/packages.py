"""Packages that are to be installed: taken up, and let in or refused by who brings them and who signed them."""

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
    """The operator may install this package, and has to say that it need not be signed."""

    code = "unsigned_plugin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installer:
    """Who asks for an installation."""

    is_operator: bool
    """Whether the machine is theirs. Tenants' own administrators are not."""
    allows_unsigned: bool = False
    """Whether they said, for this package, that it need not be signed by anybody trusted."""


OPERATOR = Installer(is_operator=True)


class PluginPackages:
    """Of this machine: a package that one tenant brought may be installed for another."""

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
        """Keep a package that is to be installed. Raises PackageError for one that is damaged, or that must be signed
        and is not; ForbiddenError for one that is not theirs to install."""
        package = await asyncio.to_thread(read_package, data)
        if package.manifest.type != "plugin":
            raise PackageError(f"this is a {package.manifest.type}, not a plugin")
        verification = await self.admit(package, by, verify_signature=verify_signature)
        await asyncio.to_thread(self._host.packages.keep, package)
        return package, verification

    async def upload_bundle(
        self, data: bytes, by: Installer = OPERATOR, *, verify_signature: bool = False
    ) -> list[Package]:
        """Keep all that a bundle holds or names, to be installed. Raises PackageError, PluginError, ForbiddenError."""
        bundle = await asyncio.to_thread(read_bundle, data)
        packages = bundle.packages()
        for dependency in bundle.dependencies:
            if dependency.kind == "github":
                fetched = await self._market.github(dependency.where)
            elif dependency.kind == "marketplace":
                plugin, _, version = dependency.where.partition(":")
                fetched = await self._market.fetch(plugin, version)
            else:
                continue
            packages.append(await asyncio.to_thread(read_package, fetched))
        return [(await self.upload(one.data, by, verify_signature=verify_signature))[0] for one in packages]

    async def admitted(self, identifiers: Sequence[str], by: Installer) -> list[Package]:
        """Packages that were uploaded, if all are theirs to install: they may be here because somebody else uploaded
        them, who may do more. Raises NotFoundError, PackageError, ForbiddenError."""
        packages = [await asyncio.to_thread(self._host.packages.package, identifier) for identifier in identifiers]
        for package in packages:
            await self.admit(package, by)
        return packages

    async def admit(self, package: Package, by: Installer, *, verify_signature: bool = False) -> Verification | None:
        """The one place that decides who may install what: every way to install comes through here.

        A package runs code on this machine. One that somebody trusted has signed may be installed by any administrator;
        another by the operator alone, who has to say so once the machine serves more tenants than one.
        Raises PackageError where it must be signed and is not, ForbiddenError, UnsignedError.
        """
        must_be_signed = verify_signature or self._must_be_signed
        verification = await asyncio.to_thread(self._verified, package, must_be_signed=must_be_signed)
        if verification is not None:
            return verification
        name = f"{package.manifest.id} {package.manifest.version}"
        if not by.is_operator:
            raise ForbiddenError(
                f"{name} is not signed with a key that the operator trusts, so the operator alone may install it; "
                "have it signed, or ask the operator"
            )
        if not by.allows_unsigned and self._is_shared():
            raise UnsignedError(
                f"{name} is not signed with a key under plugins.public_keys, and this server has several tenants; "
                "install it with `modelyard plugin install --unsigned`, or send 'unsigned=true', if it is to be trusted"
            )
        return None

    def _verified(self, package: Package, *, must_be_signed: bool) -> Verification | None:
        """Whose signature it is; None for none that is trusted, where it need not be signed."""
        if not must_be_signed and not (is_signed(package.data) and self._public_keys):
            return None
        try:
            return verify(package.data, self._public_keys)
        except PackageError:
            if must_be_signed:
                raise
            return None

    def _is_shared(self) -> bool:
        return any(name != DEFAULT_TENANT for name, _ in self._directory.tenants())
