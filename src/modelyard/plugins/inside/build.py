"""Runs the Python of a build of source packages, confined.

    python -I -S build.py ORDER_FILE INTERPRETER ARGUMENTS…

Installers run a package's own build code, which may be anything. They get this program
as their interpreter, so that only their own code runs with the rights of the server.
The order is a JSON file: `{"python", "read", "write", "tmp", "limits"}`, with absolute
paths. `INTERPRETER` is the path under which the interpreter finds its environment.
"""

import json
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

if TYPE_CHECKING:
    from modelyard.plugins.inside import confine
else:
    import confine  # next to this file


def main() -> NoReturn:
    """Confine this process, then become the interpreter. Raises OSError if the kernel
    cannot confine it."""
    order_file, interpreter, *arguments = sys.argv[1:]
    with open(order_file, "rb") as file:
        order: dict[str, Any] = json.load(file)
    folder = os.getcwd()
    _enter(order)
    # The root has been replaced; builds are started in the folder of their sources.
    os.chdir(folder)
    os.execv(order["python"], [interpreter, *arguments])


def _enter(order: dict[str, Any]) -> None:
    """Leave everything behind that a build does not need: other files, the network,
    rights, and most of what it could ask of the kernel."""
    abi = confine.landlock_abi()
    if not abi:
        raise OSError("This kernel does not support Landlock")
    read = [*confine.system_folders(), *order["read"]]
    write: list[str] = order["write"]
    is_apart = _unshare(read, write, order["tmp"])
    if is_apart:
        write = [*write, *confine.extra_writable_folders(read + write)]
        read = [*read, *confine.SYNTHETIC_FILES]
    confine.drop_rights(None)
    confine.limit(order["limits"])
    # The installer works in the same folders, with the rights of the server.
    confine.enter_landlock(read, write, confine.DEVICES, None, may_link=False)
    # A build has no business on the network, not even on its own machine.
    confine.enter_seccomp(is_apart=is_apart, has_network=False, has_scopes=abi >= 6)


def _unshare(read: list[str], write: list[str], tmp: str) -> bool:
    """Return whether the process has a private root and network now; some kernels have
    none for ordinary users, and Landlock holds alone."""
    try:
        confine.unshare_namespaces()
    except OSError:
        return False
    confine.build_root_filesystem(read, write, confine.DEVICES, tmp)
    return True


if __name__ == "__main__":
    main()
