"""Runs within an environment that holds graphon alone: what its runs cost, as a line of JSON. `FILE…` are apps."""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    from graphon.dsl import importer

    seen = {}
    for name in sys.argv[1:]:
        text = Path(name).read_text("utf-8")
        loads, cpu, wall = [], [], []
        status = ""
        for _ in range(1 if "diamonds" in name else 7):
            began = time.perf_counter()
            engine = importer.loads(text, start_inputs={"q": "hi"})
            loads.append(time.perf_counter() - began)
            began, spent = time.perf_counter(), time.process_time()
            events = list(engine.run())
            cpu.append(time.process_time() - spent)
            wall.append(time.perf_counter() - began)
            status = type(events[-1]).__name__
        seen[Path(name).stem] = {
            "load_ms": sorted(loads)[len(loads) // 2] * 1000, "cpu_ms": sorted(cpu)[len(cpu) // 2] * 1000,
            "wall_ms": sorted(wall)[len(wall) // 2] * 1000, "ended": status,
        }  # fmt: skip
    print(json.dumps(seen))


main()
