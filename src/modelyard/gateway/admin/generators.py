"""/admin/v1/generate: prompts, programs and schemas that a model writes."""

from dataclasses import dataclass

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import optional_field, required_field, short_repr
from modelyard.gateway.admin.requests import tenant_of
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.models.types import JSON
from modelyard.tenancy.caller import Caller
from modelyard.workflow.generators import LANGUAGES, Generators


@dataclass(frozen=True, slots=True)
class GeneratorRoutes:
    """Routes that generate and store nothing."""

    generators: Generators

    async def prompt(self, request: Request) -> Reply:
        """Return a prompt.

        Raises InvokeBadRequestError, NotFoundError, GenerationError and the provider's
        error.
        """
        instruction, model, current = _fields(await request.json())
        return json_reply(
            await self.generators.prompt(
                _caller(request), instruction, model=model, current=current
            )
        )

    async def code(self, request: Request) -> Reply:
        """Return a program. Raises like `prompt`, and SandboxUnavailableError."""
        body = await request.json()
        instruction, model, current = _fields(body)
        language = body.get("language", "python3")
        if language not in LANGUAGES:
            raise InvokeBadRequestError(
                f"'language' must be {' or '.join(LANGUAGES)}, not"
                f" {short_repr(language)}",
                param="language",
            )
        return json_reply(
            await self.generators.code(
                _caller(request), instruction, language, model=model, current=current
            )
        )

    async def schema(self, request: Request) -> Reply:
        """Return a JSON schema. Raises like `prompt`."""
        instruction, model, current = _fields(await request.json())
        return json_reply(
            await self.generators.schema(
                _caller(request), instruction, model=model, current=current
            )
        )


def _fields(body: JSON) -> tuple[str, str, str]:
    """Return (instruction, model, current) of a request. Raises
    InvokeBadRequestError."""
    return (
        required_field(body, "instruction", str),
        optional_field(body, "model", str) or "",
        optional_field(body, "current", str) or "",
    )


def _caller(request: Request) -> Caller:
    """Return the caller, within the tenant that the request is about.

    Raises NotFoundError for a tenant that the caller may not access.
    """
    tenant = tenant_of(request)
    # An operator who works for another tenant uses that tenant's models.
    if tenant == request.tenant:
        return request.caller
    return msgspec.structs.replace(request.caller, tenant=tenant)
