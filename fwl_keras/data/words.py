"""The unit of WikiText's perplexities."""


def word_count(text: str) -> int:
    r"""Counts words and line ends, the tokens that WikiText's perplexities are quoted per.

    A word is what stands between white space; every line end counts as one more token (`<eos>` in
    the literature). The count does not depend on any tokeniser.

    Args:
        text: Any text.

    Returns:
        The number of words plus the number of line ends.

    Example:
        >>> word_count("Fast weights .\n")
        4
    """
    return len(text.split()) + text.count("\n")
