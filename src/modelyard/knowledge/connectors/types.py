"""The types of sources that can be stored: their settings, their credentials, and how
each is opened."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from modelyard.base.errors import ConfigError, InvokeBadRequestError
from modelyard.knowledge.connectors.base import AccessRules, Source
from modelyard.knowledge.connectors.confluence import ConfluenceSource
from modelyard.knowledge.connectors.folder import FolderSource
from modelyard.knowledge.connectors.google_drive import GoogleDriveSource
from modelyard.knowledge.connectors.s3 import S3Credentials, S3Source
from modelyard.knowledge.connectors.web import WebAccess, WebSource
from modelyard.transport.egress import EgressClient

SettingsT = TypeVar("SettingsT", bound=msgspec.Struct)
CredentialsT = TypeVar("CredentialsT", bound=msgspec.Struct)


class ConnectorSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Base of what is stored about a source, settings and credentials alike. A field
    that does not exist is an error: it may be a misspelt one."""


class NoCredentials(ConnectorSettings, frozen=True, kw_only=True):
    """For sources without credentials."""


class FolderSettings(ConnectorSettings, frozen=True, kw_only=True):
    """A folder of the server's machine."""

    path: str
    modes: bool = False
    """Whether the permissions of the files say who may read them."""


class S3Settings(ConnectorSettings, frozen=True, kw_only=True):
    """A bucket."""

    bucket: str
    prefix: str = ""
    region: str = "us-east-1"
    endpoint: str = ""
    """URL of the server; empty for AWS."""


class S3Keys(ConnectorSettings, frozen=True, kw_only=True):
    """Keys of a bucket that may list and read."""

    access_key: str
    secret_key: str
    session_token: str = ""


class ConfluenceSettings(ConnectorSettings, frozen=True, kw_only=True):
    """A space of Confluence."""

    url: str
    space: str


class ConfluenceAccount(ConnectorSettings, frozen=True, kw_only=True):
    """An account that sees all pages of the space."""

    user: str
    token: str


class GoogleDriveSettings(ConnectorSettings, frozen=True, kw_only=True):
    """A shared drive of Google Drive, or all files of an account."""

    drive: str = ""
    """Id of a shared drive; empty for all files that the account can read."""
    subject: str = ""
    """Email address of the user for whom a service account with domain-wide delegation
    reads; empty for the account itself."""


class GoogleDriveKey(ConnectorSettings, frozen=True, kw_only=True):
    """The key of a service account that may read the files."""

    service_account_key: str
    """The file as JSON, or in base64."""


class WebSettings(ConnectorSettings, frozen=True, kw_only=True):
    """The pages of a site on the web."""

    urls: list[str] = []
    """Start URLs, from which links are followed within their sites. The first one
    identifies the source."""
    sitemap: str = ""
    """URL of a sitemap. Without start URLs only its pages are read."""
    max_pages: int = 1000
    """Maximum number of pages that are visited in a pass, up to 20,000."""
    prefixes: list[str] = []
    """Beginnings of the paths of documents, such as /docs/; empty for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What sources are opened with, besides their own settings."""

    egress: EgressClient
    web: WebAccess
    get_time: Callable[[], float]
    """Seconds since 1970."""
    rules: AccessRules
    is_operators: bool
    """Whether the operator has chosen the address, which may be private then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorType(Generic[SettingsT, CredentialsT]):
    """A type of sources."""

    settings: type[SettingsT]
    credentials: type[CredentialsT]
    open: Callable[[Opening, SettingsT, CredentialsT], Source]
    is_operators_alone: bool = False
    """Whether only the server's command line may add such a source."""

    def open_source(
        self,
        opening: Opening,
        settings: Mapping[str, Any],
        credentials: Mapping[str, Any],
    ) -> Source:
        """Return the source of stored settings. Raises InvokeBadRequestError that names
        the field."""
        try:
            return self.open(
                opening,
                _converted(settings, self.settings, "settings"),
                _converted(credentials, self.credentials, "credentials"),
            )
        except ConfigError as error:
            # A value of the right type may still be none, such as a broken key.
            raise InvokeBadRequestError(str(error)) from error


def _converted(
    values: Mapping[str, Any], values_type: type[SettingsT], param: str
) -> SettingsT:
    try:
        return msgspec.convert(values, values_type)
    except msgspec.ValidationError as error:
        names = ", ".join(field.name for field in msgspec.structs.fields(values_type))
        raise InvokeBadRequestError(
            f"Invalid {param}: {error}; the fields are {names or 'none'}", param=param
        ) from error


def _open_folder(
    opening: Opening, settings: FolderSettings, credentials: NoCredentials
) -> Source:
    # The servers that synchronise it have other working directories.
    if not Path(settings.path).is_absolute():
        raise ConfigError(f"'path' must be absolute, not {settings.path[:200]!r}")
    return FolderSource(Path(settings.path), opening.rules, keeps_modes=settings.modes)


def _open_bucket(opening: Opening, settings: S3Settings, credentials: S3Keys) -> Source:
    return S3Source(
        opening.egress,
        settings.bucket,
        settings.prefix,
        credentials=S3Credentials(
            access_key=credentials.access_key,
            secret_key=credentials.secret_key,
            session_token=credentials.session_token,
            region=settings.region,
        ),
        get_time=opening.get_time,
        endpoint=settings.endpoint,
        # AWS itself is public; only a server of the operator's may be private.
        is_operators=opening.is_operators and bool(settings.endpoint),
        rules=opening.rules,
    )


def _open_space(
    opening: Opening, settings: ConfluenceSettings, credentials: ConfluenceAccount
) -> Source:
    return ConfluenceSource(
        opening.egress,
        settings.url,
        settings.space,
        user=credentials.user,
        token=credentials.token,
        rules=opening.rules,
        is_operators=opening.is_operators,
    )


def _open_drive(
    opening: Opening, settings: GoogleDriveSettings, credentials: GoogleDriveKey
) -> Source:
    # The key names a token endpoint, which is not used: a tenant may have written it.
    return GoogleDriveSource(
        opening.egress,
        service_account_key=credentials.service_account_key,
        get_time=opening.get_time,
        drive=settings.drive,
        subject=settings.subject,
    )


def _open_site(
    opening: Opening, settings: WebSettings, credentials: NoCredentials
) -> Source:
    # Private addresses are for the settings to allow: links lead anywhere.
    return WebSource(
        opening.web,
        settings.urls,
        sitemap=settings.sitemap,
        prefixes=settings.prefixes,
        max_pages=settings.max_pages,
        rules=opening.rules,
    )


CONNECTORS: Mapping[str, ConnectorType[Any, Any]] = {
    "folder": ConnectorType(
        settings=FolderSettings,
        credentials=NoCredentials,
        open=_open_folder,
        # Any file of the machine could be read through a folder.
        is_operators_alone=True,
    ),
    "s3": ConnectorType(settings=S3Settings, credentials=S3Keys, open=_open_bucket),
    "confluence": ConnectorType(
        settings=ConfluenceSettings, credentials=ConfluenceAccount, open=_open_space
    ),
    "google_drive": ConnectorType(
        settings=GoogleDriveSettings, credentials=GoogleDriveKey, open=_open_drive
    ),
    "web": ConnectorType(
        settings=WebSettings, credentials=NoCredentials, open=_open_site
    ),
}
"""The types of sources, by their names."""


def connector_type(name: str) -> ConnectorType[Any, Any]:
    """Return a type of sources. Raises InvokeBadRequestError."""
    connector = CONNECTORS.get(name)
    if connector is None:
        raise InvokeBadRequestError(
            f"Unknown connector {name[:80]!r}; expected one of {', '.join(CONNECTORS)}",
            param="connector",
        )
    return connector
