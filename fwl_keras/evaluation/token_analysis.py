"""Where a gain comes from: positions, rare tokens, repeated tokens, words, documents."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fwl_keras._arguments import require_count, require_positive
from fwl_keras.evaluation.bootstrap import bootstrap_interval


@dataclass(frozen=True)
class TokenTable:
    """What is known of every token of some documents, arrays [tokens], document after document.

    Attributes:
        ids: the tokens' ids.
        documents: index of each token's document.
        positions: place in its document, from 1.
        frequencies: how often the id occurs in the training text.
        occurrences: how often the id has occurred in the document before.
    """

    ids: np.ndarray
    documents: np.ndarray
    positions: np.ndarray
    frequencies: np.ndarray
    occurrences: np.ndarray

    @classmethod
    def make(
        cls, documents_ids: Sequence[np.ndarray], training_stream: np.ndarray, vocab_size: int
    ) -> "TokenTable":
        """Describe every token of some documents.

        Args:
            documents_ids: token ids of each document.
            training_stream: token ids of the training text.
            vocab_size: number of ids.

        Returns:
            The table.

        Raises:
            ValueError: if there is no token in the documents.

        Example:
            >>> table = TokenTable.make([np.array([3, 4, 3])], np.array([3, 3, 5]), vocab_size=6)
            >>> table.frequencies.tolist(), table.occurrences.tolist()
            ([2, 0, 2], [0, 0, 1])
        """
        if not sum(len(ids) for ids in documents_ids):
            raise ValueError(
                "`documents_ids` holds no tokens; give at least one document with text."
            )
        require_count("vocab_size", vocab_size)
        counts = np.bincount(training_stream, minlength=vocab_size)
        ids = np.concatenate(documents_ids).astype(int)
        return cls(
            ids=ids,
            documents=np.repeat(np.arange(len(documents_ids)), [len(one) for one in documents_ids]),
            positions=np.concatenate([np.arange(1, len(one) + 1) for one in documents_ids]),
            frequencies=counts[ids],
            occurrences=np.concatenate([_earlier(np.asarray(one)) for one in documents_ids]),
        )


def _earlier(ids: np.ndarray) -> np.ndarray:
    """Count how often each element has occurred before."""
    order = np.argsort(ids, kind="stable")
    sorted_ids = ids[order]
    first = np.searchsorted(sorted_ids, sorted_ids)
    result = np.empty(len(ids), int)
    result[order] = np.arange(len(ids)) - first
    return result


def doubling_edges(highest: int, *, per_doubling: float = 1.0, zero: bool = False) -> np.ndarray:
    """Return edges of bins that grow like the numbers in them.

    Args:
        highest: the largest number that is to have a bin.
        per_doubling: bins between a number and twice that number.
        zero: whether 0 has a bin of its own, before the others; else numbers begin with 1.

    Returns:
        Float array; bin i holds numbers from edge i up to edge i + 1, without it.

    Example:
        >>> doubling_edges(5, zero=True).tolist()
        [0.0, 1.0, 2.0, 4.0, 8.0]
    """
    require_positive("per_doubling", per_doubling)
    count = int(np.floor(np.log2(max(highest, 1)) * per_doubling + 1e-9)) + 1
    edges = 2.0 ** (np.arange(count + 1) / per_doubling)
    return np.concatenate([[0.0], edges]) if zero else edges


def gain_by(
    gain: np.ndarray,
    values: np.ndarray,
    documents: np.ndarray,
    edges: np.ndarray,
    *,
    min_documents: int = 5,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Average a gain over bins of some value of each token.

    The error is a bootstrap over documents: tokens of one document are no independent samples.

    Args:
        gain: float [tokens], a gain per token; NaN where there is none.
        values: [tokens], what the bins are of.
        documents: int [tokens], the document of each token.
        edges: increasing; bin i holds values from edge i up to edge i + 1, without it. What is
            outside of all bins is left out.
        min_documents: a bin with fewer documents is left out.
        resamples: samples of the bootstrap.
        seed: its seed.

    Returns:
        `from` and `below` (the bin's edges), `value` (mean of the values in it), `mean`, `low` and
        `high` (95 % interval of the mean gain) and `tokens`, each of shape [bins].

    Raises:
        ValueError: if no bin has enough documents.
    """
    require_count("min_documents", min_documents)
    require_count("resamples", resamples)
    count_bins, count_documents = len(edges) - 1, int(documents.max(initial=0)) + 1
    bins = np.searchsorted(edges, values, side="right") - 1
    there = np.isfinite(gain) & (bins >= 0) & (bins < count_bins)
    # One cell for each document and bin, to be resampled by documents.
    cells = (documents * count_bins + bins)[there]

    def per_cell(weights=None):
        size = count_documents * count_bins
        return np.bincount(cells, weights, size).reshape(count_documents, count_bins)

    tokens = per_cell()
    kept = (tokens > 0).sum(axis=0) >= min_documents
    if not kept.any():
        raise ValueError(
            f"`documents` has too few documents for `min_documents`={min_documents} in any bin; "
            "give more documents or a smaller `min_documents`."
        )
    tokens, sums = tokens[:, kept], per_cell(gain[there])[:, kept]
    value_sums = per_cell(values[there])[:, kept]
    low, high = bootstrap_interval(sums, tokens, resamples=resamples, seed=seed)
    return {
        "from": edges[:-1][kept],
        "below": edges[1:][kept],
        "value": value_sums.sum(axis=0) / tokens.sum(axis=0),
        "mean": sums.sum(axis=0) / tokens.sum(axis=0),
        "low": low,
        "high": high,
        "tokens": tokens.sum(axis=0).astype(int),
    }


def gain_by_position(
    gain: np.ndarray,
    positions: np.ndarray,
    documents: np.ndarray,
    *,
    bins_per_doubling: float = 1,
    min_documents: int = 5,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Average a gain over bins of positions that grow like their position does.

    Args:
        gain: float [N, T], a gain per token of windows; NaN where there is no token.
        positions: int [N, T], place of each token in its document, from 1.
        documents: int [N], the document of each window.
        bins_per_doubling: bins between a position and twice that position.
        min_documents: a bin with fewer documents is left out.
        resamples: samples of the bootstrap.
        seed: its seed.

    Returns:
        `position` (the bin's geometric middle), and `mean`, `low`, `high` and `tokens` as `gain_by`
        gives them.

    Raises:
        ValueError: if no bin has enough documents.
    """
    there = np.isfinite(gain)
    highest = positions[there].max(initial=1)
    found = gain_by(
        gain[there],
        positions[there],
        np.broadcast_to(documents[:, np.newaxis], gain.shape)[there],
        doubling_edges(highest, per_doubling=bins_per_doubling),
        min_documents=min_documents,
        resamples=resamples,
        seed=seed,
    )
    position = np.sqrt(found["from"] * found["below"])
    return {"position": position, **{k: found[k] for k in ("mean", "low", "high", "tokens")}}


def gain_by_document(gain: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum a gain over documents.

    Args:
        gain: float [tokens].
        documents: int [tokens], the document of each.

    Returns:
        Total gains and numbers of tokens, [documents] each.
    """
    return np.bincount(documents, gain), np.bincount(documents)


def gain_by_word(
    gain: np.ndarray, documents_ids: Sequence[np.ndarray], token_bytes: Sequence[bytes]
) -> dict[str, tuple[float, int]]:
    """Sum a gain over words: what stands between white space, written in one token or several.

    Args:
        gain: float [tokens], document after document.
        documents_ids: token ids of each document.
        token_bytes: the bytes that each id stands for.

    Returns:
        By word, its total gain and how often it occurs. A token that holds white space and more
        counts for the word that it ends with.
    """
    totals: dict[bytes, list] = {}
    place = 0
    for ids in documents_ids:
        word, sum_ = b"", 0.0
        for id_ in ids:
            piece, value = token_bytes[id_], float(gain[place])
            place += 1
            begins = len(piece.split()) != 1 or piece[:1].isspace()
            if begins:
                _add(totals, word, sum_)
                word, sum_ = b"", 0.0
            word, sum_ = word + piece, sum_ + value
            if piece[-1:].isspace():
                _add(totals, word, sum_)
                word, sum_ = b"", 0.0
        _add(totals, word, sum_)
    return {
        word.decode("utf-8", "replace"): (total, count) for word, (total, count) in totals.items()
    }


def _add(totals, word, value):
    parts = word.split()
    if parts:
        entry = totals.setdefault(parts[-1], [0.0, 0])
        entry[0] += value
        entry[1] += 1
