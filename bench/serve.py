"""`modelyard serve` on a free port, which it writes into a file: for measurements.

python -m bench.serve PORT_FILE
"""

import sys
from pathlib import Path

from tools.show.proof import free_port

from modelyard.cli import main

if __name__ == "__main__":
    port = free_port()
    Path(sys.argv[1]).write_text(str(port))
    main(["serve", "--port", str(port)])
