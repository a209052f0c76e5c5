"""Types are compiled before threads decode into them."""

import subprocess
import sys

# Threads use new types for the first time at the same moment. Without the preparation
# this process ends with SIGSEGV after a few types.
_PROGRAM = """
import sys, threading, msgspec
from modelyard.base.struct_types import prepare_struct_types

sys.setswitchinterval(1e-6)
COUNT = range(8)

def make(number):
    inner = [msgspec.defstruct(f"I{number}_{n}", [("f", int, 0)]) for n in COUNT]
    return msgspec.defstruct(f"S{number}", [(f"f{n}", inner[n], None) for n in COUNT])

def convert(struct_type, barrier):
    barrier.wait()
    msgspec.convert({f"f{n}": {"f": 1} for n in COUNT}, struct_type)

for number in range(60):
    struct_type, barrier = make(number), threading.Barrier(4)
    prepare_struct_types()
    threads = [threading.Thread(target=convert, args=(struct_type, barrier)) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""


def test_threads_can_use_a_type_for_the_first_time_at_the_same_moment():
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


# The types of the whole product that are decoded into, whatever is imported first.
_IMPORTS = """
import tempfile
import msgspec
from modelyard.app import Modelyard
from modelyard.base import struct_types
from modelyard.base.settings import Settings
from modelyard.workflow.nodes import node_class, node_types

with tempfile.TemporaryDirectory() as home:
    Modelyard(Settings(home=home), environ={})
for name in node_types():
    node_class(name)
print(set(struct_types._descendants(msgspec.Struct)) - set(struct_types._prepared))
"""


def test_the_types_of_the_product_are_prepared():
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS], capture_output=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == (b"set()\n", b"")
