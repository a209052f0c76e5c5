"""Authentication of the knowledge API's callers, and parsing of the request body."""

import uuid
from dataclasses import dataclass

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.gateway.auth import OriginError, UnauthorizedError
from modelyard.gateway.forms import parse_form
from modelyard.gateway.http import Request
from modelyard.gateway.knowledge.calls import DatasetParts, DatasetRequest
from modelyard.gateway.service.authentication import named_reader
from modelyard.gateway.service.calls import (
    ServiceError,
    read_object,
)
from modelyard.gateway.table import Answered, NoSuchPathError, Row
from modelyard.tenancy.caller import Caller, ForbiddenError, Role


@dataclass(frozen=True, slots=True)
class DatasetAuthenticator:
    """Authenticates callers by a dataset API key of a tenant, or by any key that may
    call models."""

    parts: DatasetParts

    async def authenticate(self, request: Request) -> Caller:
        """Return the caller.

        Raises ServiceError.
        """
        scheme, _, key = (request.header(b"authorization") or "").partition(" ")
        # Dataset keys have a prefix, so they are not looked up among the other keys.
        if scheme.lower() == "bearer" and key.strip().startswith("dataset-"):
            caller = self.parts.caller_of_key(key.strip())
            if caller is None:
                raise ServiceError(401, "unauthorized", "Access token is invalid")
            return named_reader(caller, request)
        # The knowledge API has its own error format.
        try:
            caller = await self.parts.gatekeeper.caller_of(request.scope)
        except InvokeBadRequestError as error:
            raise ServiceError(400, "invalid_param", str(error)) from error
        except (OriginError, ForbiddenError) as error:
            raise ServiceError(403, "forbidden", str(error)) from error
        except (UnauthorizedError, NotFoundError) as error:
            raise ServiceError(401, "unauthorized", str(error)) from error
        if not caller.role.covers(Role.DEVELOPER):
            raise ServiceError(
                403,
                "forbidden",
                f"Role 'developer' required; this key has role {caller.role.value!r}",
            )
        return caller


@dataclass(frozen=True, slots=True)
class DatasetGateway:
    """Prepares requests between the router and the handlers."""

    parts: DatasetParts
    callers: DatasetAuthenticator

    async def enter(self, request: Request, row: Row) -> Answered:
        """Authenticate the caller, parse the body and call the handler.

        Raises ServiceError if no valid key is presented, NoSuchPathError for a
        malformed id.
        """
        request.identify(await self.callers.authenticate(request))
        # The handlers rely on ids being UUIDs.
        for name in ("dataset", "document", "segment"):
            if name in request.names and not _is_uuid(request.names[name]):
                raise NoSuchPathError(request.path, None)
        dataset_request = DatasetRequest(
            request, request.tenant, self.parts, dict(request.names), {}
        )
        await _read_body(dataset_request)
        return await row.handler(dataset_request)


def _is_uuid(text: str) -> bool:
    """Return whether a text is a UUID."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


async def _read_body(dataset_request: DatasetRequest) -> None:
    """Parse the body as a form or as JSON, and store it in the request. A GET request
    has none."""
    request = dataset_request.http_request
    if request.method == "GET":
        return
    content_type = request.header(b"content-type") or ""
    data = await request.body()
    if content_type.startswith("multipart/"):
        dataset_request.form = parse_form(
            content_type,
            data,
            error_message="Send the file as multipart/form-data, in the field 'file'",
        )
    elif data.strip():
        dataset_request.body = read_object(data)
