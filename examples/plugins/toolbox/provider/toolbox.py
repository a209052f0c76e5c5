from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from dify_plugin import ToolProvider
from dify_plugin.entities.oauth import ToolOAuthCredentials
from dify_plugin.errors.tool import ToolProviderCredentialValidationError
from werkzeug import Request


class ToolboxProvider(ToolProvider):
    def _validate_credentials(self, credentials: dict[str, Any]) -> None:
        if credentials.get("token") == "wrong":
            raise ToolProviderCredentialValidationError(
                "this token is refused; any other word is accepted"
            )

    def _oauth_get_authorization_url(
        self, redirect_uri: str, system_credentials: Mapping[str, Any]
    ) -> str:
        asked = {
            "client_id": system_credentials["client_id"],
            "redirect_uri": redirect_uri,
        }
        return f"https://auth.example/authorize?{urlencode(asked)}"

    def _oauth_get_credentials(
        self, redirect_uri: str, system_credentials: Mapping[str, Any], request: Request
    ) -> ToolOAuthCredentials:
        return ToolOAuthCredentials(
            credentials={"token": f"for-{request.args['code']}"},
            expires_at=2_000_000_000,
        )

    def _oauth_refresh_credentials(
        self,
        redirect_uri: str,
        system_credentials: Mapping[str, Any],
        credentials: Mapping[str, Any],
    ) -> ToolOAuthCredentials:
        return ToolOAuthCredentials(
            credentials={"token": f"{credentials['token']}-again"}, expires_at=-1
        )
