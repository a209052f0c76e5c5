"""/admin/v1/apps/ID/code-network: whether the code nodes of an app may use the network."""

from dataclasses import dataclass

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.gateway.admin.app_shapes import CodeNetworkView
from modelyard.gateway.admin.inputs import CodeNetworkInput
from modelyard.gateway.admin.requests import app_of
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.workflow.apps import AppRecord, Apps
from modelyard.workflow.code_network import CodeNetwork


@dataclass(frozen=True, slots=True)
class AppNetwork:
    """Routes for the network access of an app's code nodes."""

    apps: Apps
    network: CodeNetwork

    async def show(self, request: Request) -> Reply:
        """Return whether code nodes have network access, and why not.

        Raises NotFoundError.
        """
        return json_reply(self._view(app_of(request, self.apps)))

    async def change(self, request: Request) -> Reply:
        """Turn network access on or off for an app. It applies from the next code node.

        Raises NotFoundError, InvokeBadRequestError.
        """
        app_record = app_of(request, self.apps)
        try:
            change = msgspec.convert(await request.json(), CodeNetworkInput)
        except msgspec.ValidationError as error:
            raise InvokeBadRequestError(str(error)) from error
        stored_app = msgspec.structs.replace(
            app_record.stored, code_network=change.enabled
        )
        return json_reply(self._view(await self.apps.save(app_record, stored_app)))

    def _view(self, app_record: AppRecord) -> CodeNetworkView:
        """Return the app's own value and what follows from it."""
        reason = self.network.refusal(app_record.tenant, app_record.id)
        return CodeNetworkView(
            enabled=app_record.stored.code_network, is_on=not reason, reason=reason
        )
