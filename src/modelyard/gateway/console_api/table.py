"""The console: its page, and the API by which people come in and are looked after."""

from modelyard.gateway.auth import Gatekeeper
from modelyard.gateway.console_api import shapes
from modelyard.gateway.console_api.accounts import Entrance, OwnAccount, People
from modelyard.gateway.console_api.oidc import OidcSteps
from modelyard.gateway.console_api.static import ConsoleFiles
from modelyard.gateway.errors import OPENAI
from modelyard.gateway.table import ADMIN, SAME_SITE, SESSION, Api, Content, Listed, Query, Row
from modelyard.people.accounts import Accounts
from modelyard.people.oidc import Oidc

_API = "/console/api"
_AUDIT = (
    Query("before", "Older than this; seconds since 1970.", "number"),
    Query("who", "By whom."),
    Query("what", "Words of what was done."),
)


def api(accounts: Accounts, keeper: Gatekeeper, oidc: Oidc | None) -> Api:
    """`oidc`: where people sign in elsewhere; None where nowhere."""
    entrance = Entrance(accounts, keeper, oidc.label if oidc is not None else None)
    rows = [*_files(), *_entering(entrance), *_own(OwnAccount(accounts, keeper)), *_people(People(accounts))]
    if oidc is not None:
        rows += _elsewhere(OidcSteps(oidc, accounts, keeper))
    return Api(
        name="console", title="The console", about="Signing in, accounts, the log of changes, and the page itself.",
        prefixes=("/console",), errors=OPENAI, rows=tuple(rows),
    )  # fmt: skip


def _files() -> list[Row]:
    files, page = ConsoleFiles(), Content("text/html")
    return [
        Row(method="GET", path="/console", auth=SAME_SITE, handler=files, answer=page, errors=(503,),
            summary="Get the console's page."),
        Row(method="GET", path="/console/{file:path}", auth=SAME_SITE, handler=files, answer=Content("*/*"),
            summary="Get a file of the console, or its page for an address within it.", errors=(404, 503)),
    ]  # fmt: skip


def _entering(entrance: Entrance) -> list[Row]:
    return [
        Row(method="GET", path=f"{_API}/session", auth=SESSION, handler=entrance.who, answer=shapes.WhoIsSignedIn,
            summary="Say who is signed in, and whether anybody has to be."),
        Row(method="POST", path=f"{_API}/session", auth=SESSION, handler=entrance.sign_in, takes=shapes.SignInInput,
            answer=shapes.SignedIn, summary="Sign in.", errors=(401, 429)),
        Row(method="POST", path=f"{_API}/setup", auth=SESSION, handler=entrance.set_up, takes=shapes.SetUpInput,
            answer=shapes.SignedIn, status=201, summary="Set up the first owner.", errors=(403, 409)),
        Row(method="POST", path=f"{_API}/invitations/accept", auth=SESSION, handler=entrance.accept,
            takes=shapes.AcceptInput, answer=shapes.SignedIn, status=201, summary="Accept an invitation.",
            errors=(401, 429)),
    ]  # fmt: skip


def _own(own: OwnAccount) -> list[Row]:
    return [
        Row(method="DELETE", path=f"{_API}/session", auth=SESSION, handler=own.sign_out, answer=shapes.SignedOut,
            summary="Sign out."),
        Row(method="GET", path=f"{_API}/sessions", auth=SESSION, handler=own.sessions,
            answer=Listed(shapes.SessionShown), summary="List where one is signed in."),
        Row(method="DELETE", path=f"{_API}/sessions/{{session}}", auth=SESSION, handler=own.revoke,
            answer=shapes.Removed, summary="End a session of one's own.", errors=(404,)),
        Row(method="PATCH", path=f"{_API}/account", auth=SESSION, handler=own.change, takes=shapes.OwnAccountInput,
            answer=shapes.AccountShown, summary="Change one's own name or password.", errors=(401,)),
    ]  # fmt: skip


def _people(people: People) -> list[Row]:
    return [
        Row(method="GET", path=f"{_API}/accounts", auth=ADMIN, handler=people.all,
            answer=Listed(shapes.AccountShown), summary="List accounts."),
        Row(method="PATCH", path=f"{_API}/accounts/{{account}}", auth=ADMIN, handler=people.change,
            takes=shapes.AccountInput, answer=shapes.AccountShown, errors=(403, 404),
            summary="Change an account's role, or switch it on or off."),
        Row(method="POST", path=f"{_API}/invitations", auth=ADMIN, handler=people.invite,
            takes=shapes.InvitationInput, answer=shapes.Invited, status=201, summary="Invite somebody.",
            errors=(403,)),
        Row(method="GET", path=f"{_API}/audit", auth=ADMIN, handler=people.audit, query=_AUDIT,
            answer=Listed(shapes.ChangeShown, {"has_more": {"type": "boolean"}}),
            summary="List who changed what, newest first."),
    ]  # fmt: skip


def _elsewhere(steps: OidcSteps) -> list[Row]:
    return [
        Row(method="GET", path=f"{_API}/oidc/begin", auth=SESSION, handler=steps.begin, status=303,
            summary="Go to the identity provider.", errors=(401,)),
        Row(method="GET", path=f"{_API}/oidc/callback", auth=SESSION, handler=steps.end, status=303,
            summary="Come back from the identity provider, signed in.", errors=(401,)),
    ]  # fmt: skip
