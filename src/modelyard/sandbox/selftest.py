"""The sandbox's self-test: seven attacks that must be blocked, and two harmless
programs that must work."""

from collections.abc import Mapping

_PROBE_TEMPLATE = """
try:
    {attempt}
    result = "it worked"
except {refused}:
    result = "blocked"
"""


def _attack(attempt: str, refused: str = "OSError") -> str:
    """Return a program that tries what the sandbox must refuse."""
    return _PROBE_TEMPLATE.format(attempt=attempt, refused=refused)


# Description of the attack → program. The description completes the sentence "a program
# could …".
HOSTILE: Mapping[str, str] = {
    "read a file of this machine": _attack(
        "open('/etc/hostname').read(); open('/etc/passwd').read()"
    ),
    "write a file": _attack("open('/tmp/modelyard-sandbox-probe', 'w')"),
    "connect to a socket": _attack(
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM)"
    ),
    "send to this machine's log": _attack(
        "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)"
    ),
    "start a process": _attack("import os; pid = os.fork(); pid or os._exit(0)"),
    "run a program": _attack(
        "import os; os.execv('/bin/sh', ['/bin/sh', '-c', 'true'])"
    ),
    "read another process's environment": _attack(
        "import os; open('/proc/%d/environ' % os.getppid(), 'rb').read()"
    ),
}

# (code, expected result). The second one checks that threads still work.
BENIGN: tuple[tuple[str, object], ...] = (
    (
        (
            "import json, math\ndef main():\n    return {'n': math.factorial(20), 'j':"
            " json.loads('[1]')}"
        ),
        {"n": 2432902008176640000, "j": [1]},
    ),
    (
        (
            "import threading\ndef main():\n    results = []\n    thread ="
            " threading.Thread(target=lambda: results.append(1))\n    thread.start()\n"
            "    thread.join()\n    return {'results': results}"
        ),
        {"results": [1]},
    ),
)
