"""What pages of ours may load, and who may show them in a frame."""

NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""For a page of words."""


def page_policy(*, ancestors: str = "'none'") -> str:
    """Scripts, styles and everything else from this server alone; nothing inline. `ancestors` may frame it."""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
        "font-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors {ancestors}"
    )
