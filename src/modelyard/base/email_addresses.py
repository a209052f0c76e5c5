"""Email addresses as people and files write them."""

from modelyard.base.errors import InvokeBadRequestError

_MAX_LENGTH = 254
"""The longest address that mail servers accept (RFC 5321)."""


def checked_email(email: str) -> str:
    """Return the address in lower case. Raises InvokeBadRequestError if it is not
    valid: a list, a name with an address, or anything that could end a header."""
    address = email.strip().lower()
    name, at_sign, host = address.rpartition("@")
    is_plain = all(
        char > " " and char.isprintable() and char not in '<>"(),;:\\'
        for char in address
    )
    if not (name and at_sign and host and is_plain) or len(address) > _MAX_LENGTH:
        raise InvokeBadRequestError(
            f"Invalid email address {email[:60]!r}", param="email"
        )
    return address
