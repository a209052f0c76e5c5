"""`modelyard serve` on a free port, which it writes into a file: for measurements.

python -m bench.serve PORT_FILE
"""

import socket
import sys
from pathlib import Path

from modelyard.cli import main

if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    Path(sys.argv[1]).write_text(str(port))
    main(["serve", "--port", str(port)])
