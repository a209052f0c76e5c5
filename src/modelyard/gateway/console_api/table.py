"""Route table of the console: its page, sign-in and accounts."""

from modelyard.gateway.auth import Authenticator
from modelyard.gateway.console_api import shapes
from modelyard.gateway.console_api.accounts import (
    AccountsRoutes,
    OwnAccount,
    SignInRoutes,
)
from modelyard.gateway.console_api.oidc import OidcSteps, RecordGroups
from modelyard.gateway.console_api.static import ConsoleFiles
from modelyard.gateway.errors import OPENAI
from modelyard.gateway.table import (
    ADMIN,
    SAME_SITE,
    SESSION,
    Api,
    Content,
    Listed,
    Query,
    Row,
)
from modelyard.people.accounts import Accounts
from modelyard.people.oidc import Oidc

_API = "/console/api"
_AUDIT = (
    Query("before", "Only entries before this time, in Unix seconds.", "number"),
    Query("who", "Only changes by this account or key."),
    Query("what", "Text in the description of the change."),
)


def api(
    accounts: Accounts,
    keeper: Authenticator,
    oidc: Oidc | None,
    record_groups: RecordGroups,
) -> Api:
    """Return the console's API. `oidc` is the identity provider, or None if there is
    none."""
    entrance = SignInRoutes(
        accounts,
        keeper,
        oidc.label if oidc is not None else None,
    )
    rows = [
        *_file_rows(),
        *_sign_in_rows(entrance),
        *_own_account_rows(OwnAccount(accounts, keeper)),
        *_account_rows(AccountsRoutes(accounts)),
    ]
    if oidc is not None:
        rows += _oidc_rows(OidcSteps(oidc, accounts, keeper, record_groups))
    return Api(
        name="console",
        title="Console",
        about="Sign-in, accounts, the audit log, and the console page.",
        prefixes=("/console",),
        errors=OPENAI,
        rows=tuple(rows),
    )


def _file_rows() -> list[Row]:
    """Return the rows of the console's files."""
    files, page = ConsoleFiles(), Content("text/html")
    return [
        Row(
            method="GET",
            path="/console",
            auth=SAME_SITE,
            handler=files,
            answer=page,
            errors=(503,),
            summary="Get the console's page.",
        ),
        Row(
            method="GET",
            path="/console/{file:path}",
            auth=SAME_SITE,
            handler=files,
            answer=Content("*/*"),
            summary="Get a file of the console, or its page for a path within it.",
            errors=(404, 503),
        ),
    ]


def _sign_in_rows(entrance: SignInRoutes) -> list[Row]:
    """Return the rows for sign-in, setup and invitations."""
    return [
        Row(
            method="GET",
            path=f"{_API}/session",
            auth=SESSION,
            handler=entrance.current_account,
            answer=shapes.SignInState,
            summary="Get the signed-in account and whether sign-in is required.",
        ),
        Row(
            method="POST",
            path=f"{_API}/session",
            auth=SESSION,
            handler=entrance.sign_in,
            takes=shapes.SignInInput,
            answer=shapes.SignedIn,
            summary="Sign in.",
            errors=(401, 429),
        ),
        Row(
            method="POST",
            path=f"{_API}/setup",
            auth=SESSION,
            handler=entrance.create_first_owner,
            takes=shapes.SetUpInput,
            answer=shapes.SignedIn,
            status=201,
            summary="Set up the first owner.",
            errors=(403, 409),
        ),
        Row(
            method="POST",
            path=f"{_API}/invitations/accept",
            auth=SESSION,
            handler=entrance.accept_invitation,
            takes=shapes.AcceptInput,
            answer=shapes.SignedIn,
            status=201,
            summary="Accept an invitation.",
            errors=(401, 429),
        ),
    ]


def _own_account_rows(account_routes: OwnAccount) -> list[Row]:
    """Return the rows for the user's own account."""
    return [
        Row(
            method="DELETE",
            path=f"{_API}/session",
            auth=SESSION,
            handler=account_routes.sign_out,
            answer=shapes.SignedOut,
            summary="Sign out.",
        ),
        Row(
            method="GET",
            path=f"{_API}/sessions",
            auth=SESSION,
            handler=account_routes.sessions,
            answer=Listed(shapes.SessionView),
            summary="List the sessions of the own account.",
        ),
        Row(
            method="DELETE",
            path=f"{_API}/sessions/{{session}}",
            auth=SESSION,
            handler=account_routes.revoke,
            answer=shapes.Removed,
            summary="End a session of the own account.",
            errors=(404,),
        ),
        Row(
            method="PATCH",
            path=f"{_API}/account",
            auth=SESSION,
            handler=account_routes.change,
            takes=shapes.OwnAccountInput,
            answer=shapes.AccountView,
            summary="Change the own name or password.",
            errors=(401,),
        ),
    ]


def _account_rows(people: AccountsRoutes) -> list[Row]:
    """Return the rows for the management of accounts."""
    return [
        Row(
            method="GET",
            path=f"{_API}/accounts",
            auth=ADMIN,
            handler=people.list_accounts,
            answer=Listed(shapes.AccountView),
            summary="List accounts.",
        ),
        Row(
            method="PATCH",
            path=f"{_API}/accounts/{{account}}",
            auth=ADMIN,
            handler=people.change,
            takes=shapes.AccountInput,
            answer=shapes.AccountView,
            errors=(403, 404),
            summary="Change an account's role, or enable or disable it.",
        ),
        Row(
            method="POST",
            path=f"{_API}/invitations",
            auth=ADMIN,
            handler=people.invite,
            takes=shapes.InvitationInput,
            answer=shapes.InvitationToken,
            status=201,
            summary="Create an invitation.",
            errors=(403,),
        ),
        Row(
            method="GET",
            path=f"{_API}/audit",
            auth=ADMIN,
            handler=people.audit,
            query=_AUDIT,
            answer=Listed(shapes.AuditEntryView, {"has_more": {"type": "boolean"}}),
            summary="List the audit log, newest first.",
        ),
    ]


def _oidc_rows(steps: OidcSteps) -> list[Row]:
    """Return the rows for sign-in with an identity provider."""
    return [
        Row(
            method="GET",
            path=f"{_API}/oidc/begin",
            auth=SESSION,
            handler=steps.begin,
            status=303,
            summary="Redirect to the identity provider.",
            errors=(401,),
        ),
        Row(
            method="GET",
            path=f"{_API}/oidc/callback",
            auth=SESSION,
            handler=steps.end,
            status=303,
            summary="Finish the sign-in with the identity provider.",
            errors=(401,),
        ),
    ]
