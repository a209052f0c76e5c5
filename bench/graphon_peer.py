"""Measure graphon's runs of the app files in the arguments and print one line of JSON.

Runs in an environment with only graphon installed: python graphon_peer.py FILE...
"""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    """Load and run each app several times and print the median milliseconds by file
    name."""
    # Imported here, because graphon exists only in the peer's own environment.
    from graphon.dsl import importer

    figures = {}
    for name in sys.argv[1:]:
        text = Path(name).read_text("utf-8")
        loads, cpu, wall = [], [], []
        status = ""
        # The diamond graph takes graphon very long, so it runs only once.
        for _ in range(1 if "diamonds" in name else 7):
            started_at = time.perf_counter()
            # Loading and running are timed separately: an app is loaded once and run
            # often.
            engine = importer.loads(text, start_inputs={"q": "hi"})
            loads.append(time.perf_counter() - started_at)
            started_at, spent = time.perf_counter(), time.process_time()
            events = list(engine.run())
            cpu.append(time.process_time() - spent)
            wall.append(time.perf_counter() - started_at)
            status = type(events[-1]).__name__
        figures[Path(name).stem] = {
            "load_ms": sorted(loads)[len(loads) // 2] * 1000,
            "cpu_ms": sorted(cpu)[len(cpu) // 2] * 1000,
            "wall_ms": sorted(wall)[len(wall) // 2] * 1000,
            "ended": status,
        }
    print(json.dumps(figures))


main()
