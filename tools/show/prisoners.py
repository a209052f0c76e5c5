"""Programs for the sandbox checks: attacks in Python, JavaScript and templates, how
each must end, and legitimate programs.

An attack reports what it obtained. In a correct sandbox it obtains nothing.
"""

from collections.abc import Mapping, Sequence

PYTHON: Mapping[str, str] = {
    "read a file of the machine": "open('/etc/passwd').read()",
    "read the database": "open(secret, 'rb').read()",
    "list a folder": "__import__('os').listdir(folder)",
    "find secrets in the environment": "[v for v in __import__('os').environ.values() if 'canary' in v][0]",
    "read the server's environment": "open('/proc/%d/environ' % victim, 'rb').read()",
    "read the parent's environment": "open('/proc/%d/environ' % __import__('os').getppid(), 'rb').read()",
    "read its own memory map of secrets": "open('/proc/self/environ', 'rb').read() or 1/0",
    "connect over TCP": "__import__('socket').create_connection(('127.0.0.1', port), 1)",
    # Past the socket class that programs see, which is only a convenience.
    "connect by the module beneath": "import _socket\n_socket.socket(2, 1).connect(('127.0.0.1', port))",
    "connect to a socket by the module beneath": "import _socket\n_socket.socket(1, 1).connect(abstract)",
    "make a socket by the C library": "import ctypes\nc = ctypes.CDLL(None)\nassert [n for f, t in ((2, 1), (2, 2), (10, 1), (1, 1), (17, 3)) if (n := c.socket(f, t, 0)) >= 0]",
    "connect a stream that exists": "import _socket\none, _ = _socket.socketpair()\none.connect(log)",
    "connect to an abstract socket": "s = __import__('socket').socket(__import__('socket').AF_UNIX); s.connect(abstract)",
    "send a datagram": "__import__('socket').socket(2, 2).sendto(b'x', ('127.0.0.1', port))",
    "send a datagram to a socket in a folder": "import socket\none, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\none.sendto(b'x', log)",
    "send one by a message": "import socket\none, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\none.sendmsg([b'x'], [], 0, log)",
    "send one beside a pair of streams": "import socket\none, _ = socket.socketpair()\none.sendto(b'x', log)",
    "resolve a name": "__import__('socket').gethostbyname('localhost')",
    "fork": "pid = __import__('os').fork(); pid or __import__('os')._exit(0)",
    "fork without end": "import os\nwhile True: os.fork()",
    "run a shell": "__import__('subprocess').run(['/bin/sh', '-c', 'id'], check=True)",
    "become another program": "__import__('os').execv('/bin/true', ['true'])",
    "kill the server": "__import__('os').kill(victim, 9)",
    # The kernel can send a signal for I/O readiness on a descriptor; F_SETOWN and
    # F_SETSIG choose the receiver and the signal.
    "kill it by a signal on a descriptor": "import os, fcntl\nr, w = os.pipe()\nfcntl.fcntl(r, 8, victim)\nfcntl.fcntl(r, 10, 9)\nfcntl.fcntl(r, 4, fcntl.fcntl(r, 3) | os.O_ASYNC)\nos.write(w, b'x')",
    "trace the server": "import ctypes\nassert ctypes.CDLL(None).ptrace(16, victim, 0, 0) == 0",
    "write its memory": "open('/proc/%d/mem' % victim, 'r+b')",
    "write a file": "open(folder + '/made', 'w')",
    "write to a temporary file": "__import__('tempfile').NamedTemporaryFile(delete=False)",
    "change a file's mode": "__import__('os').chmod(secret, 0o777)",
    "unlink a file": "__import__('os').unlink(secret)",
    "make a link": "__import__('os').symlink('/etc/passwd', folder + '/link')",
    "take all memory": "x = []\nwhile True: x.append(bytearray(50_000_000))",
    "take all memory in one piece": "bytearray(8_000_000_000)",
    "loop without end": "while True: pass",
    "sleep without end": "__import__('time').sleep(3600)",
    "compute for ever in one instruction": "9 ** 9 ** 9",
    "match for ever": "__import__('re').match(r'(a+)+$', 'a' * 60 + 'b')",
    "flood the answer": "found = 'x' * 50_000_000",
    "flood the standard output": "for _ in range(200): print('x' * 1_000_000)\nraise SystemExit",
    "start a thousand threads": "import threading, time\nfor _ in range(5000): threading.Thread(target=time.sleep, args=(60,)).start()",
    # Small stacks, so that the thread limit and not the memory limit stops it.
    "start a thousand small threads": "import threading, time\nthreading.stack_size(32768)\nfor _ in range(1000): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "overrun the stack": "import ctypes, sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
    "crash the interpreter": "__import__('ctypes').string_at(0)",
    "use an inherited descriptor": "import os\nfor n in range(6, 256):\n    try:\n        os.fstat(n)\n        found = n\n        break\n    except OSError: pass\nelse: raise OSError('none')",
    "reach the loader through classes": "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'Popen'][0](['/bin/id'])",
    # Numbers of system calls that ordinary programs do not need; none of them may
    # succeed.
    "ask the kernel for what nobody needs": "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\nnames = [272, 425, 321, 250, 298, 41, 165, 166, 155, 161, 175, 313, 246, 169, 103, 248, 304, 303, 101, 310, 311, 435, 308, 105, 56]\nworked = [n for n in names if c.syscall(n, 0, 0, 0, 0, 0) >= 0]\nassert worked\nfound = worked",
    "enter another namespace": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "take back its rights": "import ctypes\nassert ctypes.CDLL(None).setuid(0) == 0 and open('/etc/shadow').read()",
}
"""Attack name to Python statements that finish without an error if the attack succeeds.

They see the variables secret, folder, victim, port, abstract and log.
"""

PYTHON_ENDS: Mapping[str, Sequence[str]] = {
    "find secrets in the environment": ["IndexError"],
    "read its own memory map of secrets": ["OSError", "ZeroDivisionError"],
    "trace the server": ["AssertionError"],
    "make a socket by the C library": ["AssertionError"],
    "take all memory": ["MemoryError"],
    "take all memory in one piece": ["MemoryError"],
    "loop without end": ["time"],
    "sleep without end": ["time"],
    "compute for ever in one instruction": ["time"],
    "match for ever": ["time"],
    # On a loaded machine the time limit may end it while it still makes its text.
    "flood the answer": ["output", "time"],
    "flood the standard output": ["SystemExit"],
    "start a thousand threads": ["RuntimeError", "MemoryError"],
    "start a thousand small threads": ["RuntimeError"],
    "overrun the stack": [
        "RecursionError",
        "MemoryError",
        "SystemError",
        "crash",
        "time",
    ],
    "crash the interpreter": ["crash"],
    "ask the kernel for what nobody needs": ["AssertionError"],
    "enter another namespace": ["AssertionError"],
    "take back its rights": ["AssertionError"],
}
"""How an attack must end to count as blocked: an error raised by its own line, or the
sandbox's verdict on the program.

Attacks that are not listed must end with OSError, which is how the kernel refuses a
call.
"""

SANDBOX_ONLY: Sequence[str] = (
    "fork without end",
    "take all memory",
    "take all memory in one piece",
    "loop without end",
    "sleep without end",
    "compute for ever in one instruction",
    "match for ever",
    "flood the answer",
    "flood the standard output",
    "start a thousand threads",
    "start a thousand small threads",
    "overrun the stack",
    "crash the interpreter",
    "ask the kernel for what nobody needs",
    "send one beside a pair of streams",
    "connect a stream that exists",
)
"""Attacks that are not run outside the sandbox, where all others must succeed. The last
two can never succeed."""
WITH_NETWORK: Sequence[str] = (
    "read a file of the machine",
    "read the server's environment",
    "connect over TCP",
    "connect by the module beneath",
    "connect to a socket by the module beneath",
    "make a socket by the C library",
    "connect a stream that exists",
    "connect to an abstract socket",
    "send a datagram",
    "send a datagram to a socket in a folder",
    "send one by a message",
    "send one beside a pair of streams",
    "resolve a name",
    "fork",
    "run a shell",
    "kill the server",
    "write a file",
    "ask the kernel for what nobody needs",
    "enter another namespace",
)
"""Python attacks that must be refused in the same way where a program may use the
network."""
NEEDS_PRIVILEGE: Sequence[str] = (
    "trace the server",
    "write its memory",
    "enter another namespace",
    "take back its rights",
    "resolve a name",
)
"""Attacks that need a privilege which some users do not have outside the sandbox
either."""

JAVASCRIPT: Mapping[str, str] = {
    "import the standard module": "return import('std').then(m => m.loadFile('/etc/passwd'))",
    "import the system module": "return import('os').then(m => m.readdir('/'))",
    "import a module of Node's": "return import('node:fs').then(m => m.readFileSync('/etc/passwd'))",
    "require": "return require('fs').readFileSync('/etc/passwd')",
    "require of a process": "return require('node:child_process').execSync('id')",
    "a module's constructor": "return require('crypto').createHash('md5').constructor.constructor('return process.env')()",
    "what requests are made of": "return fetch && __start('{}') + __body(1, 'text')",
    "what hashes are made of": "return __digest('md5', '61', null) + __random(4)",
    "find the process": "return process.env.PATH + process.pid",
    "find it through a constructor": "return console.log.constructor('return process')().pid",
    "find it through a function": "return Function('return this')().process.pid",
    "load a script": "return std.loadScript('/etc/passwd')",
    "fetch": "return fetch('http://127.0.0.1:' + port)",
    "open a socket": "return new WebSocket('ws://127.0.0.1:' + port).url",
    "compile assembly": "return new WebAssembly.Module(new Uint8Array([0,97,115,109,1,0,0,0]))",
    # Exhausting memory and time, instead of escaping.
    "take all memory with strings": "let s = 'x'; while (true) s += s; return s",
    "take all memory with arrays": "const a = []; while (true) a.push(new Array(100000).fill(1)); return a",
    "take all memory with buffers": "const a = []; while (true) a.push(new ArrayBuffer(50000000)); return a",
    "loop without end": "while (true) {}",
    "match for ever": "return /^(a+)+$/.test('a'.repeat(60) + 'b')",
    "recurse without end": "const f = () => f() + 1; return f()",
    "promise for ever": "return new Promise(() => {})",
    "wait for ever": "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0); return 1",
    "flood the answer": "return 'x'.repeat(50000000)",
    "compute for ever in one instruction": "return (9n ** (9n ** 9n)).toString()",
}
"""Attack name to the body of a JavaScript function that returns something if the attack
succeeds."""

JAVASCRIPT_ENDS: Mapping[str, Sequence[str]] = {
    "take all memory with strings": ["InternalError", "Out of memory", "time"],
    "take all memory with arrays": ["InternalError", "Out of memory", "time"],
    "take all memory with buffers": [
        "InternalError",
        "RangeError",
        "Out of memory",
        "time",
    ],
    "loop without end": ["time"],
    "match for ever": ["time"],
    "recurse without end": ["InternalError", "RangeError"],
    "promise for ever": ["a promise that never resolves"],
    "wait for ever": ["TypeError", "ReferenceError", "time"],
    # On a loaded machine the time limit may end it while it still makes its text.
    "flood the answer": ["output", "time"],
    "compute for ever in one instruction": [
        "RangeError",
        "InternalError",
        "time",
        "Out of memory",
    ],
}
"""How a JavaScript attack must end to count as blocked. The others must end with an
error of `JAVASCRIPT_REFUSALS`."""
JAVASCRIPT_REFUSALS: Sequence[str] = ("ReferenceError", "TypeError")
"""Errors for a name, function or module that does not exist in the sandbox."""

TEMPLATES: Mapping[str, str] = {
    "a string of a gigabyte": "{{ 'a' * 1000000000 }}",
    "a string of a gigabyte by a filter": "{{ 'a'|center(1000000000) }}",
    "loops in loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}",
    "many copies": "{{ (range(99999)|list|string) * 5000 }}",
    "numbers without end": "{{ 9 ** (9 ** (9 ** 9)) }}",
    "a way out through classes": "{{ ''.__class__.__mro__[1].__subclasses__()[100]('/etc/passwd').read() }}",
    "a way out through globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "a file included": "{% include '/etc/passwd' %}",
}
"""Attack name to a Jinja template."""

TEMPLATE_ENDS: Mapping[str, Sequence[str]] = {
    "a string of a gigabyte": [
        "MemoryError",
        "Output length exceeds",
        "OverflowError",
        "time",
    ],
    "a string of a gigabyte by a filter": [
        "MemoryError",
        "Output length exceeds",
        "OverflowError",
        "time",
    ],
    "loops in loops": ["Output length exceeds", "time"],
    "many copies": ["MemoryError", "Output length exceeds", "time"],
    "numbers without end": ["time", "MemoryError", "OverflowError"],
    "a way out through classes": ["SecurityError", "UndefinedError"],
    "a way out through globals": ["SecurityError", "UndefinedError"],
    "a file included": ["TypeError: no loader", "TemplateNotFound"],
}
"""Texts of which one must appear in the error of a template for it to count as blocked.
"""

BENIGN: Sequence[str] = (
    "import asyncio\nasync def f(): await asyncio.sleep(0.01); return 1\nfound = asyncio.run(f())",
    "import threading\nfound = []\nt = threading.Thread(target=found.append, args=(1,)); t.start(); t.join()",
    "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as p: found = list(p.map(abs, [-1, 2]))",
    "import zoneinfo, datetime\nfound = datetime.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo('Asia/Shanghai')).isoformat()",
    "import sqlite3\nfound = sqlite3.connect(':memory:').execute('select 6 * 7').fetchone()[0]",
    "import decimal\nfound = str(decimal.Decimal('1') / 3)",
    "import csv, io\nfound = list(csv.reader(io.StringIO('a,b')))",
    "import xml.etree.ElementTree as e\nfound = e.fromstring('<a><b>1</b></a>').find('b').text",
    "import json\nfound = json.loads(json.dumps({'a': [1, None]}))",
    "import re\nfound = re.sub(r'\\d+', '#', 'a1b22')",
    "import math, statistics\nfound = [math.pi, statistics.mean([1, 2])]",
    "import random\nfound = random.random() < 1",
    "import hashlib, hmac\nfound = hmac.new(b'k', b'm', hashlib.sha256).hexdigest()",
    "import base64\nfound = base64.b64encode(b'x').decode()",
    "import urllib.parse\nfound = urllib.parse.quote('a b/ü')",
    "import itertools, functools, collections\nfound = functools.reduce(lambda a, b: a + b, itertools.chain([1], [2]))",
    "import datetime, time\nfound = [datetime.datetime.now().year > 2000, time.time() > 0]",
    "import uuid, secrets\nfound = len(str(uuid.uuid4())) + len(secrets.token_hex(4))",
    "import zlib, gzip, lzma, bz2\nfound = zlib.decompress(zlib.compress(b'x')).decode()",
    "import dataclasses, enum, typing\n@dataclasses.dataclass\nclass A: x: int = 1\nfound = A().x",
    "import textwrap, string, difflib\nfound = textwrap.shorten('a b c', 3, placeholder='')",
    "import html, html.parser\nfound = html.unescape('&lt;')",
    "import heapq, bisect\nfound = heapq.nsmallest(1, [3, 1])",
    "import inspect\nfound = inspect.getdoc(str)[:3]",
    "import logging\nlogging.warning('hello'); found = 1",
    "import sys, platform\nfound = sys.version_info[0]",
    "import struct, array\nfound = struct.unpack('<I', b'\\1\\0\\0\\0')[0]",
    "import unicodedata\nfound = unicodedata.name('é')",
    "import ast, tokenize\nfound = ast.literal_eval('[1]')",
    "import email.message, mimetypes\nm = email.message.EmailMessage(); m['To'] = 'a'; found = m['To']",
    "import os\nfound = [os.path.exists('/nowhere'), os.getcwd(), list(os.walk('/nowhere'))]",
    "import signal, time\nsignal.alarm(5); signal.alarm(0); found = 1",
)
"""Legitimate programs that have to run unchanged in the sandbox."""
WITH_PACKAGES: Sequence[str] = (
    "import numpy\nfound = int(numpy.arange(4).sum())",
    "import pandas\nfound = pandas.DataFrame({'a': [1, 2]})['a'].sum()",
    "import sympy\nfound = str(sympy.diff('x**2', 'x'))",
)
"""Legitimate programs that need third-party packages."""
