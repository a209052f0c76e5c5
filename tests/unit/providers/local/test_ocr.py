"""Tests for OCR: it uses the weights of the manifest and never the network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelyard.providers.local.provider import OCR
from modelyard.providers.local.weights import WeightStore, manifest

_PROGRAM = """
import json, socket, sys

def refuse(*arguments, **named):
    raise SystemExit("something was to be fetched")

socket.getaddrinfo = socket.create_connection = refuse
socket.socket.connect = refuse

import cv2
import numpy
from modelyard.providers.local.engines.ocr import Engine

picture = numpy.full((120, 760, 3), 255, numpy.uint8)
cv2.putText(picture, "Total 1234.56", (30, 80), cv2.FONT_HERSHEY_SIMPLEX, 2, (0, 0, 0), 3)
engine = Engine(json.loads(sys.argv[1]), {"threads": 1})
image = cv2.imencode(".png", picture)[1].tobytes()
print(json.dumps(list(engine.answer("read", {"image": image}, lambda: False))))
"""


def test_the_ocr_weights_match_the_manifest(tmp_path: Path):
    store = WeightStore(tmp_path)
    files = manifest().files_of(OCR)
    assert len(files) == 3
    assert [file.name for file in files if not store.is_whole(file)] == []


@pytest.mark.local
def test_an_image_is_read_without_network_access(tmp_path: Path):
    paths = json.dumps(WeightStore(tmp_path).paths(OCR))
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM, paths],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr
    (lines,) = json.loads(ended.stdout)
    assert "".join(lines).replace(" ", "") == "Total1234.56"
