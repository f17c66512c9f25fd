"""The samplers that generation knows, by KerasHub's names; needs no framework."""

# Those whose tokens are drawn here, with keys for every row, and their classes.
DRAWING = {
    "greedy": "GreedySampler",
    "random": "RandomSampler",
    "top_k": "TopKSampler",
    "top_p": "TopPSampler",
}
# The one that searches instead of drawing.
SEARCHING = {"beam": "BeamSampler"}
