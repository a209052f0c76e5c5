"""What a feature of a request or an answer is: where it stands in each format."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.lost_and_kept.formats import JSON

MARKER = "QUARRY"
"""The text by which one sees whether something has arrived."""

Place = str | tuple[str, Any]
"""A pattern of a path, or a pattern with what is wanted there instead of the marker."""
Places = Mapping[str, tuple[Place, ...]]
"""Format → where a feature may stand in it."""


@dataclass(frozen=True)
class Feature:
    """A feature of requests."""

    name: str
    requests: Mapping[str, JSON]
    """Caller's format → the fields of a request that uses it."""
    own: Places
    """Target → the places that it has for the feature."""
    adapted: Places = field(default_factory=dict)
    """Target → the places in which the feature has another form."""
    wanted: Any = MARKER
    """What has to be found in a place."""
    stands_in: tuple[str, ...] = ()
    """Callers' formats whose route has the feature itself, whatever the target is."""


def base64_of(text: str) -> str:
    """Return a text in base64."""
    return base64.b64encode(text.encode()).decode()


TEXT_FILE = base64_of(f"A text with {MARKER}.")
PDF = base64_of(f"%PDF-1.4 {MARKER}")
AUDIO = base64_of(f"RIFFxxxxWAVE {MARKER}")
VIDEO = base64_of(f"ftypisom {MARKER}")
# A picture of one point, with the marker after its end.
IMAGE = base64.b64encode(
    base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
        "awAAAABJRU5ErkJggg=="
    )
    + MARKER.encode()
).decode()
