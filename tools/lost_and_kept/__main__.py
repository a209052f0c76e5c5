"""Write the published table from what really happens.

python -m tools.lost_and_kept
"""

import json

from tools.lost_and_kept.page import PUBLISHED, measured_table, page
from tools.lost_and_kept.runner import world
from tools.reference import REFERENCE

if __name__ == "__main__":
    with world() as running:
        table = measured_table(running)
    PUBLISHED.write_text(
        json.dumps(table, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
    (REFERENCE / "lost-and-kept.md").write_text(page(table).rstrip() + "\n", "utf-8")
