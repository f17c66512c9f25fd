"""The golden files: inputs, parameters, outputs and gradients of the published implementation."""

from pathlib import Path

import numpy as np

import fwl_keras

GOLDEN = Path(__file__).parent / "golden"

# Name of a tensor in a golden file: (name in step sizes and states, sublayer, attribute).
TENSORS = {
    "hidden/kernel": ("expand_kernel", "expand", "kernel"),
    "hidden/bias": ("expand_bias", "expand", "bias"),
    "output/kernel": ("project_kernel", "project", "kernel"),
    "output/bias": ("project_bias", "project", "bias"),
    "norm/scale": ("gamma", "normalization", "gamma"),
    "norm/offset": ("beta", "normalization", "beta"),
}

PARITY = {
    "loss_reduction": "mean_with_sample_weight",
    "epsilon": 0.0,
    "segment_length": None,
}


def golden_files():
    """Paths of the golden files."""
    paths = sorted(GOLDEN.glob("*.npz"))
    assert paths, f"There are no golden files in {GOLDEN}."
    return paths


def load_arrays(path):
    """The arrays of a golden file by name."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def load_block(path):
    """The block of a golden file in parity mode, every parameter set, and the file's arrays."""
    arrays = load_arrays(path)
    _, _, width, size, vocab_size, chunks = (int(n) for n in arrays["meta"])
    block = fwl_keras.FWLBlock(
        size,
        vocab_size,
        attn_chunks=chunks,
        use_bias="param/unembed/bias" in arrays,
        **PARITY,
    )
    block(np.zeros((1, 1, width), np.float32))
    for golden, (_, layer, attribute) in TENSORS.items():
        getattr(getattr(block, layer), attribute).assign(arrays[f"param/{golden}"])
    block.unembedding.kernel.assign(arrays["param/unembed/kernel"])
    if "param/unembed/bias" in arrays:
        block.unembedding.bias.assign(arrays["param/unembed/bias"])
    block.set_step_sizes(
        {name: float(arrays[f"param/{g}_step_size"]) for g, (name, _, _) in TENSORS.items()}
    )
    return block, arrays


def golden_gradients(arrays):
    """Gradients of mean(logits * cotangent) by the names `gradients_of` uses."""
    named = {"x": arrays["grad/x"], "unembedding_kernel": arrays["grad/unembed/kernel"]}
    if "grad/unembed/bias" in arrays:
        named["unembedding_bias"] = arrays["grad/unembed/bias"]
    for golden, (name, _, _) in TENSORS.items():
        named[name] = arrays[f"grad/{golden}"]
        named[f"step_size/{name}"] = arrays[f"grad/{golden}_step_size"]
    return named
