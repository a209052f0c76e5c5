"""Run `modelyard serve` on a free port and write the port into a file, for
measurements.

python -m bench.serve PORT_FILE
"""

import sys
from pathlib import Path

from tools.show.proof import free_port

from modelyard.cli import main

if __name__ == "__main__":
    port = free_port()
    # Written before the server listens; the reader waits a moment after the file
    # appears.
    Path(sys.argv[1]).write_text(str(port))
    main(["serve", "--port", str(port)])
