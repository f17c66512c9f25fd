"""A web page that shows where in a text one model is better than another."""

import codecs
import itertools
import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources

import numpy as np

from fwl_keras.evaluation.scored_document import ScoredDocument, ScoreTotals

# Nats from which on a token has the colour of level 1, 2, ...
LEVELS = (0.1, 0.5, 1.0, 2.0, 4.0)

# Bars of a document's curve, at most.
_BARS = 120

# exp() of less is 0 in double precision, and 0 has no logarithm.
_LEAST = -700.0

# Characters that a browser would drop or change: a carriage return becomes a reference, the
# others the pictures that Unicode has for them.
_KEPT = {
    **{code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n\r"},
    ord("\r"): "&#13;",
    0x7F: "\u2421",
}


def token_page(
    documents: Sequence[ScoredDocument],
    *,
    model: str,
    against: str,
    labels: tuple[str, str] = ("model", "compared with"),
    note: str = "",
) -> str:
    """Make a page with every token coloured by what a model gained or lost on it.

    The page needs nothing but itself: no network, no fonts, a short script for what a token shows
    under the pointer (both probabilities).

    Args:
        documents: what was scored, at least one document, each with a `reference`.
        model: what the model is, as a sentence's object: `"the model in runs/book"`.
        against: what it is compared with, likewise.
        labels: a word or two for each, for tables.
        note: a sentence about how the texts were read.

    Returns:
        HTML.

    Raises:
        ValueError: if there is no document, or one without a reference.

    Example:
        >>> page = token_page(scored, model="the model in runs/book", against="the baseline")
        >>> pathlib.Path("book.html").write_text(page, "utf-8")
    """
    if not documents:
        raise ValueError("`documents` is empty; give at least one.")
    for document in documents:
        if document.reference is None:
            raise ValueError(
                f"`documents` has {document.name!r}, which has no `reference` to compare with."
            )
    totals = [document.totals() for document in documents]
    title = "Gain and loss, token by token"
    lead = f"Each token is coloured by what {model} gained or lost on it against {against}."
    sections = (
        _section(number, document, total)
        for number, (document, total) in enumerate(zip(documents, totals, strict=True))
    )
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{escape(_shown(title))}: {escape(_shown(documents[0].name))}</title>\n",
            f"<style>\n{_part('token_page.css')}</style>\n</head>\n",
            f'<body data-labels="{escape(json.dumps(labels))}">\n',
            f"<h1>{title}</h1>\n<p>{escape(_shown(lead))}</p>\n",
            f'<p class="soft">{escape(_shown(note))} Point at a token for both probabilities. A '
            "gain of 1 nat means 2.7 times as probable.</p>\n",
            _summary(documents, totals, labels),
            _legend(any(np.isnan(document.gain).any() for document in documents)),
            *sections,
            '<div id="tip" role="tooltip" hidden></div>\n',
            f"<script>\n{_part('token_page.js')}</script>\n",
            "</body>\n</html>\n",
        ]
    )


def _part(name: str) -> str:
    """Return a part that is the same on every page: a file beside this one."""
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _summary(
    documents: Sequence[ScoredDocument], totals: Sequence[ScoreTotals], labels: tuple[str, str]
) -> str:
    first, second = (escape(_shown(label)) for label in labels)
    rows = [
        f'<tr><td><a href="#d{number}">{escape(_shown(document.name))}</a></td>{_cells(total)}</tr>'
        for number, (document, total) in enumerate(zip(documents, totals, strict=True))
    ]
    foot = ""
    if len(documents) > 1:
        foot = f"<tfoot><tr><td>all</td>{_cells(ScoreTotals.sum(totals))}</tr></tfoot>"
    return (
        '<div class="scroll"><table><thead><tr><th>document</th><th>tokens</th>'
        f"<th>perplexity,<br>{first}</th><th>perplexity,<br>{second}</th>"
        "<th>gain, nats<br>per token</th><th>bits<br>per byte</th></tr></thead>\n"
        f"<tbody>{''.join(rows)}</tbody>{foot}</table></div>\n"
    )


def _cells(total: ScoreTotals) -> str:
    values = (
        f"{total.tokens:,}",
        f"{total.perplexity:,.2f}",
        f"{total.reference_perplexity:,.2f}",
        f"{total.gain:+.3f}",
        f"{total.bits_per_byte:.3f}",
    )
    return "".join(f"<td>{value}</td>" for value in values)


def _legend(unscored: bool) -> str:
    edges = [f"{edge:g}" for edge in LEVELS]
    ranges = [f"{low} to {high}" for low, high in itertools.pairwise(edges)]
    ranges.append(f"over {edges[-1]}")
    losses = [f'<li class="l{i}">{name}</li>' for i, name in enumerate(ranges, start=1)]
    gains = [f'<li class="g{i}">{name}</li>' for i, name in enumerate(ranges, start=1)]
    grey = '<span class="scale"><span class="u">&nbsp;grey&nbsp;</span> not predicted</span>'
    middle = f"<li>less than {edges[0]}</li>"
    return (
        '<div class="legend"><div class="scale"><span>loss</span>'
        f"<ol>{''.join([*reversed(losses), middle, *gains])}</ol><span>gain, in nats</span></div>"
        f"{grey if unscored else ''}</div>\n"
    )


def _section(number: int, document: ScoredDocument, total: ScoreTotals) -> str:
    gain = document.gain
    there = gain[np.isfinite(gain)]
    sentence = f"{total.tokens:,} tokens"
    if there.size:
        better, worse = (100 * float(np.mean(x)) for x in (there > LEVELS[0], there < -LEVELS[0]))
        sentence += (
            f": perplexity {total.perplexity:,.2f} against {total.reference_perplexity:,.2f}, a "
            f"{'gain' if total.gain >= 0 else 'loss'} of {abs(total.gain):.3f} nats per token. "
            f"{better:.0f} % of the tokens gained more than {LEVELS[0]:g} nats, {worse:.0f} % lost "
            "more than that"
        )
    return (
        f'<h2 id="d{number}">{escape(_shown(document.name))}</h2>\n<p>{sentence}.</p>\n'
        f'{_curve(gain)}<div class="text">{"".join(_tokens(document))}</div>\n'
    )


def _curve(gain: np.ndarray) -> str:
    """Draw the mean gain over stretches of the text, as bars above and below a line."""
    width = max(1, -(-len(gain) // _BARS))
    stretches = [gain[start : start + width] for start in range(0, len(gain), width)]
    there = [x[np.isfinite(x)] for x in stretches]
    means = [float(np.mean(x)) if x.size else 0.0 for x in there]
    if not any(means):
        return ""
    top, bottom = max(0.0, *means), min(0.0, *means)
    unit = 100 / (top - bottom)
    zero = top * unit
    bars = []
    for i, (mean, stretch) in enumerate(zip(means, stretches, strict=True)):
        side, y = ("up", zero - mean * unit) if mean >= 0 else ("down", zero)
        where = f"tokens {i * width + 1:,} to {i * width + len(stretch):,}: {mean:+.2f}"
        bars.append(
            f'<rect class="{side}" x="{i + 0.1:g}" y="{y:.2f}" width=".8" '
            f'height="{abs(mean) * unit:.2f}"><title>{where}</title></rect>'
        )
    each = "each token" if width == 1 else f"{width:,} tokens each"
    return (
        f'<figure><svg viewBox="0 0 {len(means)} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="Mean gain along the text">{"".join(bars)}<line class="zero" x1="0" '
        f'x2="{len(means)}" y1="{zero:.2f}" y2="{zero:.2f}"/></svg><figcaption>Mean gain along '
        f"the text ({each}): from {min(means):+.2f} to {max(means):+.2f} nats per "
        "token.</figcaption></figure>\n"
    )


def _tokens(document: ScoredDocument) -> Iterator[str]:
    gain = document.gain
    for text, start, stop in _characters(document.token_bytes):
        ids = "+".join(str(int(one)) for one in document.token_ids[start:stop])
        # Of the tokens of one character, the probability of all of them.
        mine, other, gained = (
            float(np.sum(values[start:stop], dtype=np.float64))
            for values in (document.log_probabilities, document.reference, gain)
        )
        if np.isfinite(gained):
            p, q = (f"{np.exp(max(value, _LEAST)):.3g}" for value in (mine, other))
            data, classes = f"{ids} {p} {q}", _level(gained)
        else:
            data, classes = ids, "u"
        if text.isspace() and "\n" in text:
            classes = f"{classes} n".strip()
        name = f'class="{classes}" ' if classes else ""
        yield f'<b {name}data-t="{data}">{escape(text, quote=False).translate(_KEPT)}</b>'


def _characters(token_bytes: Sequence[bytes]) -> Iterator[tuple[str, int, int]]:
    """Yield whole characters' texts, and the first token and the one behind the last of each."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    start, text = 0, ""
    for stop, data in enumerate(token_bytes, start=1):
        last = stop == len(token_bytes)
        text += decoder.decode(data, final=last)
        if last or not decoder.getstate()[0]:
            yield text, start, stop
            start, text = stop, ""


def _level(gain: float) -> str:
    """Return the class of a token's colour."""
    level = int(np.searchsorted(LEVELS, abs(gain), side="right"))
    return f"{'g' if gain > 0 else 'l'}{level}" if level else ""


def _shown(text: str) -> str:
    """Return a name with pictures for what would not be shown."""
    return text.translate({code: mark for code, mark in _KEPT.items() if code != ord("\r")})
