"""PP-OCRv4, English and Chinese: the text in a picture, line by line."""

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from rapidocr_onnxruntime import RapidOCR

from modelyard.base.errors import InvokeBadRequestError

_MAX_PIXELS = 40_000_000


class Engine:
    parallel = 1

    def __init__(self, files: dict[str, str], options: dict[str, Any]) -> None:
        del files  # the package carries its own
        threads = int(options["threads"])
        self._reader: Any = RapidOCR(intra_op_num_threads=threads, inter_op_num_threads=1)

    def answer(self, method: str, payload: Any, is_cancelled: Callable[[], bool]) -> Iterator[Any]:
        del method, is_cancelled
        picture = cv2.imdecode(np.frombuffer(payload["image"], np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise InvokeBadRequestError("the picture cannot be read; send png, jpeg or webp")
        if picture.shape[0] * picture.shape[1] > _MAX_PIXELS:
            raise InvokeBadRequestError(f"the picture has more than {_MAX_PIXELS:,} pixels; make it smaller")
        lines, _ = self._reader(picture)
        yield [str(line[1]) for line in lines or ()]
