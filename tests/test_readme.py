"""The README's example runs as it stands."""

import re
from pathlib import Path

import numpy as np


def test_the_example_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert (tmp_path / "lm.keras").exists()
    assert np.isfinite(names["lm"].evaluate(names["tokens"], verbose=0)).all()
