"""Every picture is drawn, also of few points."""

import numpy as np

from benchmarks.rivals.pictures import plot_effort, plot_gains, plot_sizes
from fwl_keras.evaluation.token_analysis import doubling_edges, gain_by


def test_pictures(tmp_path):
    rng = np.random.default_rng(0)
    documents = np.repeat(np.arange(20), 50)
    values = rng.integers(0, 100, size=1000)
    one = gain_by(rng.normal(size=1000), values, documents, doubling_edges(99, zero=True))
    two = gain_by(rng.normal(size=1000), values + 1, documents, doubling_edges(100))
    gains = {"times in the training text": {"a": one, "b": one}, "position": {"a": two}}
    plot_gains(gains, tmp_path / "gains.png")
    plot_sizes({"a": [(1000, 20.0), (10_000, 15.0)], "b": [(500, -1.0)]}, tmp_path / "sizes.png")
    plot_effort({"a": [(1e6, 200.0)], "b": [(5e6, 100.0), (2e6, 150.0)]}, tmp_path / "effort.png")
    for name in ("gains", "sizes", "effort"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
