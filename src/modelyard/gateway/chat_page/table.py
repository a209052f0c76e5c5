"""`/chat/TOKEN`: the page on which people use a published app, and what that page asks for.

The address names the app, as a key would. Who the visitor is, the page says itself, by a number that its browser made:
whoever has that number sees that visitor's conversations, and nobody else's. It travels in a header that another site's
page cannot send.
"""

from collections.abc import Iterable
from dataclasses import replace

from modelyard.gateway.auth import Gatekeeper
from modelyard.gateway.chat_page.page import ChatPages
from modelyard.gateway.chat_page.visitors import Visitors
from modelyard.gateway.service.calls import PROBLEM
from modelyard.gateway.service.entrance import Entrance
from modelyard.gateway.table import NOBODY_IN_PARTICULAR, OWN_SECRET, VISITOR, Api, Content, OneOf, Row
from modelyard.workflow.apps import Apps

_PAGE = "/chat/{token}"


def api(apps: Apps, keeper: Gatekeeper, entrance: Entrance, for_visitors: Iterable[Row]) -> Api:
    """`for_visitors`: the service API's rows that a page may ask for; below its address they are the visitor's."""
    pages = ChatPages(apps)
    own = [
        Row(method="GET", path=_PAGE, auth=OWN_SECRET, handler=pages.page, answer=Content("text/html"),
            other_statuses=(404, 503), summary="Get the page of an app."),
        Row(method="GET", path="/chat/-/{asset:path}", auth=NOBODY_IN_PARTICULAR, handler=pages.asset, errors=(404,),
            answer=OneOf((Content("text/javascript"), Content("text/css"))),
            summary="Get a script or a style that all pages use."),
    ]  # fmt: skip
    asked = [replace(row, path=f"{_PAGE}{row.path}", auth=VISITOR) for row in for_visitors]
    return Api(
        name="chat_page", title="The page of an app", about="What visitors of an app's page see and ask.",
        prefixes=("/chat",), errors=PROBLEM, rows=(*own, *asked), enter=Visitors(apps, keeper, entrance).enter,
    )  # fmt: skip
