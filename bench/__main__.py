"""`make bench`: prints tables, then one line of JSON."""

import json
from typing import Any

from bench import formats, gateway, local, starts


def run() -> dict[str, Any]:
    return {
        "gateway": gateway.measure(),
        "formats": formats.measure(),
        "starts": starts.measure(),
        "core": starts.core_size(),
        "models": local.measure(),
    }


def main() -> None:
    figures = run()
    print("\nGateway: its own CPU, beside a bare relay on the same server and client")
    for one in figures["gateway"]:
        print(
            f"  {one['system']:<8} {one['connections']:>3} connections  {one['cpu_us_per_request']:>7.1f} µs a request"
            f"  {one['cpu_us_per_chunk']:>6.2f} µs a chunk"
        )
    print("\nFormats: reading and writing, beside msgspec's bare parse of the same bytes")
    for one in figures["formats"]:
        print(
            f"  {one['format']:<20} {one['way']:<6} {one['what']:<8} {one['us']:>7.2f} µs  {one['ratio']:>5.1f} times"
            f"  ({one['bytes']:,} bytes)"
        )
    print("\nStarts, median of five")
    for one in figures["starts"]:
        print(f"  {one['what']:<32} {one['seconds']:.3f} s")
    print(f"\nThe core: {figures['core']['packages']} packages, {figures['core']['megabytes']} MB installed")
    print("\nLocal models")
    for one in figures["models"]:
        print(f"  {one['type']:<16} {one['speed']:>8} {one['unit']:<24} loads in {one['load_seconds']:.1f} s")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
