"""Content-Security-Policy values of the server's own pages."""

DENY_ALL = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""For static pages of text: nothing may be loaded, embedded or framed."""


def page_policy(*, ancestors: str = "'none'") -> str:
    """Return the policy for pages with scripts: only this server's scripts, styles and
    calls, nothing inline.

    `ancestors` lists who may frame the page. Images and sounds must be `data:` or
    `blob:`, so text from a model or another user cannot make the browser request any
    address, including this server's.
    """
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src data: blob:; font-src 'self'; media-src blob:; base-uri 'none';"
        f" form-action 'none'; frame-ancestors {ancestors}"
    )
