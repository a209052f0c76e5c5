"""PP-OCRv4, English and Chinese: the text in a picture, line by line."""

import os
from collections.abc import Callable, Iterator
from typing import Any

_MAX_PIXELS = 40_000_000
# Read when the library loads: a small file may claim to be a picture of gigabytes.
os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(_MAX_PIXELS)

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from rapidocr_onnxruntime import RapidOCR  # noqa: E402

from modelyard.base.errors import InvokeBadRequestError  # noqa: E402


class Engine:
    parallel = 1

    def __init__(self, files: dict[str, str], options: dict[str, Any]) -> None:
        del files  # the package carries its own
        threads = int(options["threads"])
        self._reader: Any = RapidOCR(intra_op_num_threads=threads, inter_op_num_threads=1)

    def answer(self, method: str, payload: Any, is_cancelled: Callable[[], bool]) -> Iterator[Any]:
        del method, is_cancelled
        try:
            picture = cv2.imdecode(np.frombuffer(payload["image"], np.uint8), cv2.IMREAD_COLOR)
        except cv2.error as error:
            raise InvokeBadRequestError(f"the picture has more than {_MAX_PIXELS:,} pixels, or none") from error
        if picture is None:
            raise InvokeBadRequestError("the picture cannot be read; send png, jpeg or webp")
        lines, _ = self._reader(picture)
        yield [str(line[1]) for line in lines or ()]
