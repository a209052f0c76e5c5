"""Run TensorZero's gateway from its Python package, for the gateway benchmark.

Runs in an environment with only tensorzero installed, whose package has no command for
the gateway: python tensorzero_peer.py CONFIG_FILE PORT_FILE
"""

import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit


def main() -> None:
    """Start the gateway without a database, write its port into a file and wait."""
    # Imported here, because tensorzero exists only in the peer's own environment.
    import tensorzero

    gateway = tensorzero._start_http_gateway(
        config_file=sys.argv[1],
        clickhouse_url=None,
        postgres_url=None,
        valkey_url=None,
        async_setup=False,
    )
    Path(sys.argv[2]).write_text(str(urlsplit(gateway.base_url).port))
    threading.Event().wait()


if __name__ == "__main__":
    main()
