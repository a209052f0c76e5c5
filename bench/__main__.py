"""`make bench`: print the tables of all benchmarks, then one line of JSON."""

import json
from typing import Any

from bench import formats, gateway, local, starts


def run() -> dict[str, Any]:
    """Run all benchmarks and return their figures by topic."""
    return {"gateway": gateway.measure_selected(), **run_basics()}


def run_basics() -> dict[str, Any]:
    """Run the benchmarks that need no other server, and return their figures by topic."""
    return {
        "formats": formats.measure(),
        "starts": starts.measure(),
        "core": starts.core_size(),
        "models": local.measure(),
    }


def main() -> None:
    """Run all benchmarks, print one table per topic, then all figures as one line of
    JSON."""
    figures = run()
    print("\nGateway: processor time, in one run with nginx and other gateways")
    for label, text, _ in gateway.table(figures["gateway"]):
        print(f"  {label:<76}{text}")
    print(
        "\nFormats: reading and writing, beside msgspec's bare parse of the same bytes"
    )
    for figure in figures["formats"]:
        print(
            f"  {figure['format']:<20} {figure['way']:<6} {figure['what']:<8} {figure['us']:>7.2f} µs  {figure['ratio']:>5.1f} times"
            f"  ({figure['bytes']:,} bytes)"
        )
    print("\nStarts, median of five")
    for figure in figures["starts"]:
        print(f"  {figure['what']:<32} {figure['seconds']:.3f} s")
    print(
        f"\nThe core: {figures['core']['packages']} packages, {figures['core']['megabytes']} MB installed"
    )
    print("\nLocal models")
    for figure in figures["models"]:
        print(
            f"  {figure['type']:<16} {figure['speed']:>8} {figure['unit']:<24} loads in {figure['load_seconds']:.1f} s"
        )
    # The last line of the output is machine-readable, so that other tools can parse it.
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
