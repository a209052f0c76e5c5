"""Where a call's processor time goes in Modelyard, by layer of its source.

python -m bench.stages [SCENARIO]

SCENARIO is one of the gateway benchmark's; without it, chat32. The server's main thread
is interrupted after each millisecond of processor time, and the innermost layer of its
stack is counted. Time in compiled extensions counts for the layer that called them. The
interruptions cost time themselves, so the shares are right and the sum is not.
"""

import json
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from bench.gateway import Load, bound_cores, scenarios, upstream
from bench.native import compiled
from bench.peers import Setting, modelyard

_INTERVAL_SECONDS = 0.001
_LOAD_SECONDS = 5.0
_WARM_UP_SECONDS = 1.0
_SAMPLES_BETWEEN_WRITES = 100
_COMMAND, _EVENT_LOOP = "modelyard.cli", "event loop and HTTP server"


def layer(frames: list[str]) -> str:
    """Return the layer of a stack, given the module names from the innermost frame on:
    a package of Modelyard as `modelyard.gateway`, or the event loop."""
    packages = (name.split(".") for name in frames)
    layers = (".".join(path[:2]) for path in packages if path[0] == "modelyard")
    innermost = next(layers, _COMMAND)
    # The command line only starts the server, whose loop runs below it.
    return _EVENT_LOOP if innermost == _COMMAND else innermost


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Return the percentage of each layer, the largest first."""
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return {name: round(100 * count / total, 1) for name, count in ordered}


def _sample_into(file: Path) -> None:
    """Count the layers of this process from now on, and write the counts to a file."""
    counts = Counter[str]()

    def count(_: int, frame: FrameType | None) -> None:
        frames = list[str]()
        while frame is not None:
            frames.append(frame.f_globals.get("__name__", ""))
            frame = frame.f_back
        counts[layer(frames)] += 1
        # Now and then, because a server may end without Python's clean-up.
        if counts.total() % _SAMPLES_BETWEEN_WRITES == 0:
            file.write_text(json.dumps(counts))

    signal.signal(signal.SIGPROF, count)
    signal.setitimer(signal.ITIMER_PROF, _INTERVAL_SECONDS, _INTERVAL_SECONDS)


def _counts(file: Path) -> Counter[str]:
    """Return the counts that the server has written last."""
    return Counter(json.loads(file.read_text()))


def profile(
    name: str = "chat32", *, seconds: float = _LOAD_SECONDS
) -> dict[str, float]:
    """Load a server in a scenario and return the percentage of each layer."""
    scenario = scenarios()[name]
    with tempfile.TemporaryDirectory(prefix="modelyard-stages-") as folder:
        file = Path(folder) / "counts.json"
        command = ("-m", "bench.stages", "--server", str(file))
        with (
            bound_cores() as cores,
            upstream() as port,
            modelyard(
                Setting(port, ["mock", scenario.model], cores), command=command
            ) as server,
        ):
            load = Load(compiled("load"), Path(folder))
            load.run(server, scenario, seconds=_WARM_UP_SECONDS)
            # What the start and the warm-up took is not the cost of a call.
            before = _counts(file)
            load.run(server, scenario, seconds=seconds)
        return shares(_counts(file) - before)


def main() -> None:
    """Print the share of each layer; with `--server FILE ARGUMENTS`, be the server."""
    if sys.argv[1:2] == ["--server"]:
        from modelyard.cli import main as run_modelyard

        _sample_into(Path(sys.argv[2]))
        run_modelyard(sys.argv[3:])
        return
    for name, percent in profile(*sys.argv[1:2]).items():
        print(f"  {percent:>5.1f} %  {name}")


if __name__ == "__main__":
    main()
