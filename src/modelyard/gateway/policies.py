"""What pages of ours may load, and who may show them in a frame."""

NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""For a page of words."""


def page_policy(*, ancestors: str = "'none'") -> str:
    """Scripts, styles and calls to this server alone; nothing inline. `ancestors` may frame it.

    Pictures and sounds are those that the page's own script fetched and holds: no text that a model or a stranger wrote
    makes a browser ask any address for one, this server's own least of all.
    """
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data: blob:; "
        "font-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors {ancestors}"
    )
