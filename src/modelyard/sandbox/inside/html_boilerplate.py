"""Remove what surrounds the content of web pages: cookie banners, navigation and lists of
languages. Runs only inside the sandbox.

The rules look at names and at the share of links, never at one site's layout. What holds
most of the page's text is kept, whatever it is called.
"""
# This program imports nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import re
from typing import Any

_NAME_PART = re.compile(r"[a-z]{1,60}|[^a-z]{1,60}")
_HINT = re.compile(
    "cookie|consent|gdpr|ccpa|onetrust|nav|menu|sidebar|toc|breadcrumb|pag|lang|locale|soc|share"
)
_CONSENT = frozenset(
    ["cookie", "cookies", "consent", "gdpr", "ccpa", "onetrust", "cookiebot"]
)
_NAVIGATION = frozenset(
    [
        *("nav", "navbar", "navigation", "navbox", "menu", "submenu", "sidebar", "toc"),
        *(
            "breadcrumb",
            "breadcrumbs",
            "pagination",
            "pager",
            "interlanguage",
            "social",
        ),
        *("language", "languages", "lang", "langs", "locale", "locales", "share"),
    ]
)
_HIDDEN_ROLES = frozenset(["navigation", "search", "menu", "menubar"])
_KEPT = frozenset(["html", "body", "main", "article"])
_MAX_BANNER = 5000
_MIN_LANGUAGES = 5
# Of the text of a page: what holds more is its content.
_CONTENT_SHARE = 0.5


def remove(body: Any) -> Any:
    """Remove the surroundings from a page's body, and keep forms around its content."""
    total = _length(body)
    for form in list(body.iter("form")):
        # Some servers write the complete page into one form.
        if _length(form) > _CONTENT_SHARE * total:
            form.tag = "div"
    for element in _surroundings(body, total):
        # An ancestor may have been removed already.
        if element.getparent() is not None:
            element.drop_tree()


def _surroundings(body: Any, total: Any) -> Any:
    """Return the elements to remove."""
    found = []
    for element in body.iterdescendants():
        # Most elements have no attributes.
        if element.tag not in ("ul", "ol") and not element.attrib:
            continue
        if not isinstance(element.tag, str) or element.tag in _KEPT:
            continue
        if _is_surrounding(element) and _length(element) <= _CONTENT_SHARE * total:
            found.append(element)
    return found


def _is_surrounding(element: Any) -> Any:
    """Return whether names, roles or links show that an element is no content."""
    if element.get("role") in _HIDDEN_ROLES or _is_hidden(element):
        return True
    if element.tag in ("ul", "ol"):
        return _is_language_list(element)
    names = _names(element)
    if names & _CONSENT:
        return _length(element) <= _MAX_BANNER
    # A chapter about navigation may be called so too, but does not consist of links.
    return bool(names & _NAVIGATION) and _consists_of_links(element)


def _is_hidden(element: Any) -> Any:
    """Return whether a browser shows an element at no time."""
    return element.get("hidden", "until-found") != "until-found"


def _names(element: Any) -> Any:
    """Return the words of an element's id, classes and label."""
    names = (element.get("id"), element.get("class"), element.get("aria-label"))
    return {
        part
        for name in names
        if name
        for part in _NAME_PART.findall(name[:500].lower())
    }


def _consists_of_links(element: Any) -> Any:
    """Return whether most of an element's text is in links."""
    links = sum(_length(link) for link in element.iter("a"))
    return links > 0.6 * _length(element) and links > 0


def _is_language_list(element: Any) -> Any:
    """Return whether a list has links to the page in other languages alone."""
    links = list(element.iter("a"))
    if not links:
        return False
    named = sum("hreflang" in link.attrib or "lang" in link.attrib for link in links)
    is_named = bool(_names(element) & _NAVIGATION) and _consists_of_links(element)
    return is_named or (named >= _MIN_LANGUAGES and named >= 0.8 * len(links))


def _length(element: Any) -> Any:
    """Return the number of characters of an element's text, without white space."""
    return len("".join(element.text_content().split()))
