"""Prepare the types that JSON is decoded into, before threads decode into them."""

from collections.abc import Iterator
from contextlib import suppress
from threading import Lock
from weakref import WeakSet

import msgspec

_lock = Lock()
_prepared: "WeakSet[type[msgspec.Struct]]" = WeakSet()


def prepare_struct_types(root: type[msgspec.Struct] = msgspec.Struct) -> None:
    """Make msgspec compile each struct type that exists, unless it has been compiled.

    msgspec 0.22 compiles a type at its first use and publishes it before its fields are
    complete. A second thread that uses the type at this moment reads a null pointer,
    which ends the process with SIGSEGV. To be called again after an import at run
    time; callers in other threads wait until the types are complete.
    """
    with _lock:
        for struct_type in set(_descendants(root)) - set(_prepared):
            _prepared.add(struct_type)
            # A type with fields that cannot be decoded is never decoded into.
            with suppress(TypeError, NameError):
                msgspec.json.Decoder(struct_type)


def _descendants(root: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    """Yield a type's subclasses and theirs; the type itself unless it is Struct."""
    if root is not msgspec.Struct:
        yield root
    for subclass in root.__subclasses__():
        yield from _descendants(subclass)
