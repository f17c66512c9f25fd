"""Token ids into arrays of fixed length."""

from collections.abc import Sequence

import numpy as np

from fwl_keras._arguments import require_count, require_int


def token_stream(documents_ids: Sequence[Sequence[int]], *, eos_id: int | None) -> np.ndarray:
    """Join documents into one stream of tokens.

    Args:
        documents_ids: the token ids of each document.
        eos_id: id that follows every document, or None for nothing.

    Returns:
        The stream, int32, shape [tokens].

    Raises:
        ValueError: if there is not one token.

    Example:
        >>> token_stream([[5, 6], [7]], eos_id=3)
        array([5, 6, 3, 7, 3], dtype=int32)
    """
    if eos_id is not None:
        require_int("eos_id", eos_id, 0)
    end = np.array([] if eos_id is None else [eos_id], dtype=np.int32)
    parts = [part for ids in documents_ids for part in (ids_array(ids), end)]
    stream = np.concatenate(parts) if parts else end[:0]
    if not stream.size:
        raise ValueError("`documents_ids` holds no tokens; give at least one document with text.")
    return stream


def pack_stream(
    documents_ids: Sequence[Sequence[int]], length: int, *, eos_id: int | None
) -> np.ndarray:
    """Join documents and cut the stream into windows; the remainder is dropped.

    Args:
        documents_ids: the token ids of each document.
        length: tokens in a window.
        eos_id: id that follows every document, or None for nothing.

    Returns:
        The windows, int32, shape [N, length].

    Raises:
        ValueError: if the stream is shorter than one window.

    Example:
        >>> pack_stream([[5, 6], [7]], 2, eos_id=3)
        array([[5, 6],
               [3, 7]], dtype=int32)
    """
    require_count("length", length)
    stream = token_stream(documents_ids, eos_id=eos_id)
    windows = stream.size // length
    if not windows:
        raise ValueError(
            f"`documents_ids` has {stream.size} tokens, too few for one window of "
            f"`length`={length}; give more text or a smaller `length`."
        )
    return stream[: windows * length].reshape(windows, length)


def pack_documents(
    documents_ids: Sequence[Sequence[int]], length: int, *, pad_id: int, min_length: int = 2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut every document into windows of its own; the last one is padded.

    Args:
        documents_ids: the token ids of each document.
        length: tokens in a window.
        pad_id: id that fills a document's last window.
        min_length: windows with fewer tokens are dropped: with one token there is nothing to
            predict.

    Returns:
        `(token_ids, padding_mask, document_index)`: int32 of shape [N, length], bool of shape
        [N, length], True at tokens, and int32 of shape [N], the window's place in `documents_ids`.

    Raises:
        ValueError: if no document is long enough for one window.

    Example:
        >>> token_ids, padding_mask, document_index = pack_documents(
        ...     [[5, 6, 7, 8, 9], [4]], 3, pad_id=0)
        >>> token_ids
        array([[5, 6, 7],
               [8, 9, 0]], dtype=int32)
        >>> document_index
        array([0, 0], dtype=int32)
    """
    require_count("length", length)
    require_int("pad_id", pad_id, 0)
    require_count("min_length", min_length)
    documents_ids = [ids_array(ids) for ids in documents_ids]
    if min_length > length:
        raise ValueError(
            f"`min_length` must be between 1 and `length`={length}; received {min_length}."
        )
    pieces = [
        (index, ids[start : start + length])
        for index, ids in enumerate(documents_ids)
        for start in range(0, len(ids), length)
        if len(ids) - start >= min_length
    ]
    if not pieces:
        longest = max(map(len, documents_ids), default=0)
        raise ValueError(
            f"`documents_ids` has no document of `min_length`={min_length} tokens, the longest of "
            f"its {len(documents_ids)} has {longest}; give longer documents."
        )
    token_ids = np.full((len(pieces), length), pad_id, dtype=np.int32)
    padding_mask = np.zeros((len(pieces), length), dtype=bool)
    for row, (_, piece) in enumerate(pieces):
        token_ids[row, : len(piece)] = piece
        padding_mask[row, : len(piece)] = True
    return token_ids, padding_mask, np.array([index for index, _ in pieces], dtype=np.int32)


def evaluation_windows(stream: np.ndarray, length: int, *, pad_id: int | None = None) -> np.ndarray:
    """Cut a stream into windows that overlap by one token, to predict every token once.

    Window i holds the tokens from `i * length` to `(i + 1) * length` inclusive: its first `length`
    are inputs and its last `length` are labels. Only the stream's first token is never a label.

    Args:
        stream: token ids, shape [tokens].
        length: predictions in a window.
        pad_id: fills the last window, so that the stream's last tokens are predicted too; an id
            that does not occur in the stream, for then `windows != pad_id` tells tokens from
            padding. With None the tokens that do not fill a window are dropped.

    Returns:
        The windows, int32, shape [N, length + 1].

    Raises:
        ValueError: if the stream has no label, fills no window, or contains `pad_id`.

    Example:
        >>> evaluation_windows(np.array([4, 5, 6, 7]), 2, pad_id=0)
        array([[4, 5, 6],
               [6, 7, 0]], dtype=int32)
    """
    require_count("length", length)
    stream = check_stream(stream)
    if pad_id is not None:
        require_int("pad_id", pad_id, 0)
    labels = stream.size - 1
    if pad_id is None:
        windows = labels // length
    else:
        if (stream == pad_id).any():
            raise ValueError(f"`pad_id`={pad_id} occurs in `stream`; give an id that does not.")
        windows = -(-labels // length)
        padding = np.full(windows * length - labels, pad_id, dtype=np.int32)
        stream = np.concatenate([stream, padding])
    if windows < 1:
        raise ValueError(
            f"`stream` has {labels + 1} tokens, too few for one window of `length`={length}; give "
            "more text, a smaller `length`, or a `pad_id`."
        )
    return np.lib.stride_tricks.sliding_window_view(stream, length + 1)[
        : windows * length : length
    ].copy()


def ids_array(ids: Sequence[int]) -> np.ndarray:
    """Return a document's ids as int32, or raise a ValueError unless they are token ids."""
    array = np.asarray(ids)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            "`documents_ids` must hold a vector of integers for each document; received one of "
            f"shape {array.shape}, dtype {array.dtype}."
        )
    return _as_int32("documents_ids", array)


def _as_int32(name, array):
    if array.size and (array.min() < 0 or array.max() > np.iinfo(np.int32).max):
        wrong = array.min() if array.min() < 0 else array.max()
        raise ValueError(f"`{name}` has {wrong}, which is not in [0, 2**31), as token ids are.")
    return array.astype(np.int32, copy=False)


def check_stream(stream: np.ndarray) -> np.ndarray:
    """Return the stream as int32, or raise a ValueError unless it is a vector of integers."""
    stream = np.asarray(stream)
    if stream.ndim != 1 or not np.issubdtype(stream.dtype, np.integer):
        raise ValueError(
            f"`stream` must be a vector of integers; received shape {stream.shape}, dtype "
            f"{stream.dtype}. `token_stream` makes one."
        )
    return _as_int32("stream", stream)
