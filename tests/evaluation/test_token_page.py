"""The page against the numbers and the text that it was made of."""

from html.parser import HTMLParser

import numpy as np
import pytest

from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.evaluation.scored_document import ScoredDocument, ScoreTotals
from fwl_keras.evaluation.token_page import LEVELS, token_page

TEXT = "def f(x):\r\n\n    return \"<b class='g1'>&amp;</b>\"\n# \N{SNOWMAN} \N{PILE OF POO}!\n"


class Page(HTMLParser):
    """Every token of a page: its document, classes, numbers and text."""

    def __init__(self, page):
        super().__init__()
        self.tokens, self.titles, self.tags, self.addresses = [], [], set(), []
        self._inside = None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]
        self._inside = tag
        if tag == "h2":
            self.titles.append("")
        if tag == "b":
            classes = attributes.get("class", "").split()
            ids, *numbers = attributes["data-t"].split()
            ids = [int(one) for one in ids.split("+")]
            self.tokens.append([len(self.titles), classes, ids, [float(x) for x in numbers], ""])

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "b":
            self.tokens[-1][-1] += data
        elif self._inside == "h2":
            self.titles[-1] += data

    def text(self, document=1):
        return "".join(token[-1] for token in self.tokens if token[0] == document)


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train([TEXT.replace("\N{SNOWMAN} \N{PILE OF POO}", "")], 300)


def scored(tokenizer, text=TEXT, name="a.py", gain=None, seed=0):
    ids = np.array(tokenizer.encode(text), np.int32)
    random = np.random.default_rng(seed)
    mine = -random.exponential(3.0, len(ids)).astype("float32")
    gain = random.normal(0.5, 2.0, len(ids)) if gain is None else np.full(len(ids), gain)
    return ScoredDocument(name, ids, tuple(tokenizer.token_bytes(ids)), mine, mine - gain)


def page_of(*documents, **options):
    options = {"model": "the model in run", "against": "its own trained weights", **options}
    return token_page(documents, **options)


def test_the_text_comes_back_exactly(tokenizer):
    page = Page(page_of(scored(tokenizer), scored(tokenizer, "x\n", "b.py")))
    assert page.text(1) == TEXT
    assert page.text(2) == "x\n"
    assert page.titles == ["a.py", "b.py"]


def test_tokens_have_their_numbers_and_colours(tokenizer):
    document = scored(tokenizer)
    at = 0
    seen = set()
    for _, classes, ids, (p, q), _ in Page(page_of(document)).tokens:
        part = slice(at, at + len(ids))
        assert ids == document.token_ids[part].tolist()
        mine, other = document.log_probabilities[part].sum(), document.reference[part].sum()
        assert [p, q] == pytest.approx([np.exp(mine), np.exp(other)], rel=6e-3)
        gain = mine - other
        level = sum(abs(gain) >= edge for edge in LEVELS)
        colour = [f"{'g' if gain > 0 else 'l'}{level}"] if level else []
        assert [c for c in classes if c != "n"] == colour
        seen.update(colour)
        at += len(ids)
    assert at == len(document.token_ids)
    assert {"g1", "l1", "g4"} <= seen


def test_the_bytes_of_a_character_are_one_token(tokenizer):
    tokens = {text: ids for *_, ids, _, text in Page(page_of(scored(tokenizer))).tokens}
    assert len(tokens["\N{SNOWMAN}"]) == 3
    assert len(tokens["\N{PILE OF POO}"]) == 4


def test_half_a_character_at_the_end(tokenizer):
    document = scored(tokenizer, "x\N{SNOWMAN}")
    cut = ScoredDocument("cut", *(getattr(document, n)[:-1] for n in list(vars(document))[1:]))
    assert Page(page_of(cut)).text() == "x\ufffd"


def test_line_ends_can_be_seen(tokenizer):
    tokens = [(classes, text) for _, classes, _, _, text in Page(page_of(scored(tokenizer))).tokens]
    blank = [classes for classes, text in tokens if text.isspace() and "\n" in text]
    assert blank
    assert all("n" in classes for classes in blank)
    assert not any("n" in classes for classes, text in tokens if not text.isspace())


def test_a_token_that_was_not_predicted_is_grey(tokenizer):
    document = scored(tokenizer)
    document.log_probabilities[0] = np.nan
    page = page_of(document)
    _, classes, _, numbers, _ = Page(page).tokens[0]
    assert (classes, numbers) == (["u"], [])
    assert "not predicted</span>" in page
    assert "not predicted</span>" not in page_of(scored(tokenizer))


def test_what_was_compared_is_said_and_escaped(tokenizer):
    page = page_of(
        scored(tokenizer, name="<script>alert(1)</script>"),
        model="the model in <i>run</i>",
        against='the model in "other"',
        labels=('a"<', "b"),
        note="Read & scored.",
    )
    assert "the model in &lt;i&gt;run&lt;/i&gt;" in page
    assert "against the model in &quot;other&quot;" in page
    assert "Read &amp; scored." in page
    assert page.count("<script>") == 1
    assert Page(page).titles == ["<script>alert(1)</script>"]


def test_nothing_is_loaded_from_anywhere(tokenizer):
    text = page_of(scored(tokenizer))
    page = Page(text)
    assert all(address.startswith("#") for address in page.addresses)
    assert not {"link", "img", "iframe"} & page.tags
    assert "url(" not in text
    assert "@import" not in text


def test_control_characters_are_shown():
    text = b"a\x00b\x1b\x7f\tc"
    document = ScoredDocument("c", np.array([5]), (text,), np.array([-1.0]), np.array([-1.0]))
    assert Page(page_of(document)).text() == "a\u2400b\u241b\u2421\tc"


def test_numbers_of_documents_and_of_all(tokenizer):
    one, other = scored(tokenizer, gain=0.25), scored(tokenizer, "x = 1\n", gain=-0.5, seed=1)
    page = page_of(one, other)
    total = ScoreTotals.sum([one.totals(), other.totals()])
    assert total.tokens == len(one.token_ids) + len(other.token_ids)
    for totals in (one.totals(), other.totals(), total):
        assert f"<td>{totals.perplexity:,.2f}</td>" in page
        assert f"<td>{totals.gain:+.3f}</td>" in page
    assert one.totals().gain == pytest.approx(0.25)
    assert "a loss of 0.500 nats per token" in page
    mean = -np.sum(one.log_probabilities, dtype="float64")
    assert one.totals().bits_per_byte == pytest.approx(mean / np.log(2) / len(TEXT.encode()))


def test_the_curve(tokenizer):
    up, down = page_of(scored(tokenizer, gain=1.0)), page_of(scored(tokenizer, gain=-1.0))
    assert 'class="up"' in up
    assert 'class="down"' not in up
    assert 'class="down"' in down
    assert "<svg" not in page_of(scored(tokenizer, gain=0.0))


def test_probabilities_next_to_nothing(tokenizer):
    document = scored(tokenizer)
    document.log_probabilities[:] = -5000.0
    for *_, (p, _), _ in Page(page_of(document)).tokens:
        assert p > 0


def test_errors(tokenizer):
    with pytest.raises(ValueError, match="`documents` is empty"):
        page_of()
    document = scored(tokenizer)
    alone = ScoredDocument("a.py", *(getattr(document, n) for n in list(vars(document))[1:-1]))
    with pytest.raises(ValueError, match=r"a\.py.*no `reference`"):
        page_of(alone)
    with pytest.raises(ValueError, match="`log_probabilities` has 3 entries"):
        ScoredDocument("a.py", document.token_ids, document.token_bytes, np.zeros(3))


def test_no_tokens():
    empty = ScoredDocument("e", np.zeros(0, int), (), np.zeros(0), np.zeros(0))
    assert np.isnan(empty.totals().perplexity)
    assert Page(page_of(empty)).tokens == []
