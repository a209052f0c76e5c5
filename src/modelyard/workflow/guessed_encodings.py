"""Warnings about texts whose encoding nobody has stated. No I/O."""


def encoding_warning(name: str, codec: str, *, is_certain: bool) -> str:
    """Return the warning for a text that was read in a guessed encoding.

    `name` is the text in words, `codec` Python's name of the encoding.
    """
    certainty = "" if is_certain else ", and the guess is uncertain"
    return f"The encoding of {name} is not stated; it was read as {codec}{certainty}"
