"""Which of an app's versions a call is about."""

from dataclasses import dataclass, replace

from modelyard.gateway.service.calls import Call, ServiceError
from modelyard.workflow.apps import Apps
from modelyard.workflow.chats import workflow_id


@dataclass(frozen=True, slots=True)
class Versions:
    """Those that were published once."""

    apps: Apps

    async def at(self, call: Call, name: str) -> Call:
        """The same call, about the version of this id. Raises ServiceError for a draft's, and for what is none."""
        found = call.found
        if name == workflow_id(found):
            return call
        if found.stored.draft and name == workflow_id(self.apps.at(found, found.stored.draft)):
            raise ServiceError(
                403, "workflow_version_execution_not_allowed", "A draft cannot be run: publish it first."
            )
        for published in found.stored.versions:
            version = self.apps.at(found, published.digest)
            if name == workflow_id(version):
                return replace(call, found=version, app=await self.apps.app(version))
        raise ServiceError(404, "not_found", f"Workflow not found with id: {name[:80]}")
