"""Exports that are ended in the middle."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from served_models import Served

COUNT = 12


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked on this system")
def test_a_killed_export_leaves_nothing_that_a_server_would_load(tmp_path):
    program = Path(__file__).parent / "export_and_wait.py"
    result = subprocess.run(
        [sys.executable, program, tmp_path, str(COUNT)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["codes"] == [0, 0]
    assert found["killed"] > COUNT / 2
    versions = sorted(int(one.name) for one in tmp_path.iterdir() if one.name.isdecimal())
    # The first and the last nobody killed; some others may have been faster than their end.
    assert {1, COUNT + 2} <= set(versions)
    assert len(versions) <= COUNT + 2 - found["killed"] / 2
    others = [one.name for one in tmp_path.iterdir() if not one.name.isdecimal()]
    assert others and all(re.fullmatch(r"\.\d+\.[0-9a-f]{8}", name) for name in others)
    answers = [
        Served(tf.saved_model.load(str(tmp_path / str(version))))("score", text=["def first"])
        for version in versions
    ]
    for answer in answers:
        np.testing.assert_array_equal(answer["log_probabilities"], answers[0]["log_probabilities"])
    for version in versions:
        names = {one.name for one in (tmp_path / str(version)).iterdir()}
        assert {"saved_model.pb", "variables", "signatures.json", "fwl_keras.json"} <= names
