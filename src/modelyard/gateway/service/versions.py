"""Selection of a published app version for a call."""

from dataclasses import dataclass, replace

from modelyard.gateway.service.calls import Call, ServiceError
from modelyard.workflow.apps import Apps
from modelyard.workflow.chats import workflow_id


@dataclass(frozen=True, slots=True)
class Versions:
    """Finds published versions of an app by their workflow id."""

    apps: Apps

    async def at_version(self, call: Call, name: str) -> Call:
        """Return the call for the version with this id. Raises ServiceError for a draft
        or an unknown id."""
        current_version = call.found
        # The common case: the requested version is the current one.
        if name == workflow_id(current_version):
            return call
        # Drafts are checked separately only to give a helpful error.
        if current_version.stored.draft and name == workflow_id(
            self.apps.get_version(current_version, current_version.stored.draft)
        ):
            raise ServiceError(
                403,
                "workflow_version_execution_not_allowed",
                "A draft cannot be run: publish it first.",
            )
        # Workflow ids are derived from a version's digest, so every version is computed
        # and compared.
        for published in current_version.stored.versions:
            version = self.apps.get_version(current_version, published.digest)
            if name == workflow_id(version):
                return replace(
                    call, found=version, app=await self.apps.published_app(version)
                )
        raise ServiceError(404, "not_found", f"Workflow not found with id: {name[:80]}")
