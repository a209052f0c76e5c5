"""Trace services that take OpenTelemetry's protocol: their addresses and headers. No I/O.

Sources: the services' documentation of OTLP over HTTP (Langfuse, LangSmith, Arize
Phoenix, Comet Opik).
"""

from base64 import b64encode
from collections.abc import Callable, Mapping

import msgspec

from modelyard.base.errors import InvokeBadRequestError

Credentials = Mapping[str, str]


class TraceService(msgspec.Struct, frozen=True, kw_only=True):
    """How spans are sent to one service."""

    path: str
    """Appended to the service's address, unless that ends with it."""
    default_url: str = ""
    """The address of the vendor's own installation; empty if there is no single one."""
    credentials: tuple[str, ...] = ()
    """Names of the credentials that the service needs."""
    optional: tuple[str, ...] = ()
    headers_of: Callable[[Credentials, str], dict[str, str]]
    """(credentials, project) → request headers."""

    @property
    def takes_headers(self) -> bool:
        """Whether every credential is a request header, whatever its name."""
        return not (self.credentials or self.optional)


def _langfuse(credentials: Credentials, project: str) -> dict[str, str]:
    """The keys belong to one project."""
    del project
    pair = f"{credentials['public_key']}:{credentials['secret_key']}"
    return {"authorization": f"Basic {b64encode(pair.encode()).decode()}"}


def _langsmith(credentials: Credentials, project: str) -> dict[str, str]:
    """Return the headers of LangSmith."""
    headers = {"x-api-key": credentials["api_key"]}
    return {**headers, "langsmith-project": project} if project else headers


def _phoenix(credentials: Credentials, project: str) -> dict[str, str]:
    """The project is an attribute of the spans' resource. A server of one's own needs no
    key."""
    del project
    key = credentials.get("api_key", "")
    return {"authorization": f"Bearer {key}"} if key else {}


def _opik(credentials: Credentials, project: str) -> dict[str, str]:
    """Return the headers of Opik."""
    names = {"api_key": "authorization", "workspace": "comet-workspace"}
    headers = {
        header: credentials[name]
        for name, header in names.items()
        if credentials.get(name)
    }
    return {**headers, "projectname": project} if project else headers


def _any(credentials: Credentials, project: str) -> dict[str, str]:
    """Every credential is a header."""
    del project
    return dict(credentials)


TRACE_SERVICES: Mapping[str, TraceService] = {
    "langfuse": TraceService(
        path="/api/public/otel/v1/traces",
        default_url="https://cloud.langfuse.com",
        credentials=("public_key", "secret_key"),
        headers_of=_langfuse,
    ),
    "langsmith": TraceService(
        path="/otel/v1/traces",
        default_url="https://api.smith.langchain.com",
        credentials=("api_key",),
        headers_of=_langsmith,
    ),
    "phoenix": TraceService(
        path="/v1/traces", optional=("api_key",), headers_of=_phoenix
    ),
    "opik": TraceService(
        path="/v1/private/otel/v1/traces",
        default_url="https://www.comet.com/opik/api",
        optional=("api_key", "workspace"),
        headers_of=_opik,
    ),
    "otlp": TraceService(path="/v1/traces", headers_of=_any),
}


def service_of(name: str) -> TraceService:
    """Return a service by its name. Raises InvokeBadRequestError."""
    service = TRACE_SERVICES.get(name)
    if service is None:
        expected = ", ".join(TRACE_SERVICES)
        problem = f"Unknown trace service {name[:40]!r}; expected one of {expected}"
        raise InvokeBadRequestError(problem, param="service")
    return service


def traces_url(service: TraceService, base_url: str) -> str:
    """Return the URL to which spans are sent. Raises InvokeBadRequestError for a service
    without an address."""
    url = (base_url or service.default_url).rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise InvokeBadRequestError(
            f"'base_url' must be an http(s) URL, not {url[:80]!r}", param="base_url"
        )
    # People copy either the service's address or the full URL.
    return url if url.endswith(service.path) else url + service.path


def headers_for(
    service: TraceService, credentials: Credentials, project: str
) -> dict[str, str]:
    """Return the headers with which spans are sent. Raises InvokeBadRequestError for
    missing, unknown or unprintable credentials, without their values."""
    # An empty text counts as missing: forms send it for a field left out.
    missing = [name for name in service.credentials if not credentials.get(name)]
    accepted = {*service.credentials, *service.optional}
    unknown = [
        name
        for name in credentials
        if name not in accepted and not service.takes_headers
    ]
    if missing or unknown:
        raise InvokeBadRequestError(
            f"'credentials' must have {', '.join(sorted(accepted))}; missing:"
            f" {', '.join(missing) or 'none'}, unknown: {', '.join(unknown) or 'none'}",
            param="credentials",
        )
    headers = service.headers_of(credentials, project)
    # A line break would start another header.
    for name, value in headers.items():
        if not (name.isascii() and value.isascii() and f"{name}{value}".isprintable()):
            raise InvokeBadRequestError(
                f"Header {name!r} has characters that HTTP does not allow",
                param="credentials",
            )
    return headers
