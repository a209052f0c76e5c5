"""Route table of the chat pages: `/chat/TOKEN` and the calls that the page makes.

The token in the path names the app, like a key. The visitor is identified by a random
id that the browser created; only its holder sees that visitor's conversations. The id
travels in a header that another site's page cannot send.
"""

from collections.abc import Iterable
from dataclasses import replace

from modelyard.gateway.auth import Authenticator
from modelyard.gateway.chat_page.page import ChatPages
from modelyard.gateway.chat_page.visitors import Visitors
from modelyard.gateway.service.authentication import AppAuthenticator
from modelyard.gateway.service.calls import ERROR_SHAPE
from modelyard.gateway.table import (
    NO_AUTH,
    OWN_SECRET,
    VISITOR,
    Api,
    Content,
    OneOf,
    Row,
)
from modelyard.workflow.apps import Apps

_PAGE = "/chat/{token}"


def api(
    apps: Apps,
    keeper: Authenticator,
    entrance: AppAuthenticator,
    for_visitors: Iterable[Row],
) -> Api:
    """Return the API of the chat pages.

    `for_visitors` are the rows of the service API that a page may use; below its path
    they act for the visitor.
    """
    pages = ChatPages(apps)
    page_rows = [
        Row(
            method="GET",
            path=_PAGE,
            auth=OWN_SECRET,
            handler=pages.page,
            answer=Content("text/html"),
            other_statuses=(404, 503),
            summary="Get the page of an app.",
        ),
        Row(
            method="GET",
            path="/chat/-/{asset:path}",
            auth=NO_AUTH,
            handler=pages.asset,
            errors=(404,),
            answer=OneOf((Content("text/javascript"), Content("text/css"))),
            summary="Get a script or style sheet of the pages.",
        ),
    ]
    # The rows keep their handlers; only the path and the authentication differ.
    visitor_rows = [
        replace(row, path=f"{_PAGE}{row.path}", auth=VISITOR) for row in for_visitors
    ]
    return Api(
        name="chat_page",
        title="Chat page of an app",
        about="The public page of an app and the calls that it makes.",
        prefixes=("/chat",),
        errors=ERROR_SHAPE,
        rows=(*page_rows, *visitor_rows),
        enter=Visitors(apps, keeper, entrance).enter,
    )
