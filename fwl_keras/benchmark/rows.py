"""The rows of a benchmark's table: models, and how they read."""

from dataclasses import dataclass

MAIN, MORE, THIRD, SIZES = "main", "more", "third", "sizes"


@dataclass(frozen=True)
class Row:
    """One row: a model and a method.

    Attributes:
        title: What stands in the table.
        model: Name of the model.
        method: Name of the method.
        group: `"main"`: all seeds; `"more"`: the first seed; `"third"`: what two thirds of the
            training documents leave out; `"sizes"`: other sizes of the body.
        settings_of: Name of the model that the method's settings were searched with.
    """

    title: str
    model: str
    method: str
    group: str = MORE
    settings_of: str | None = None

    @property
    def name(self) -> str:
        """Name in files."""
        return f"{self.model}.{self.method}"

    @property
    def search(self) -> str:
        """Name of the search of its settings."""
        return f"{self.settings_of or self.model}.{self.method}"


_ALL = (
    Row("baseline", "baseline", "plain", MAIN),
    Row("+ dynamic evaluation, SGD", "baseline", "sgd"),
    Row("+ dynamic evaluation, RMS", "baseline", "rms", MAIN),
    Row("+ dynamic evaluation of the block only, RMS", "baseline", "block"),
    Row("baseline, a tenth more steps", "more_baseline", "plain"),
    Row("baseline, a tenth more steps, + RMS", "more_baseline", "rms", settings_of="baseline"),
    Row("+ hidden-state optimisation", "baseline", "hidden_states"),
    Row("+ fast weights at test time only", "baseline", "test_time_windows"),
    Row("+ fast weights at test time only, carried", "baseline", "test_time"),
    Row("baseline fine-tuned: the block, with fast weights", "tuned_block", "windows"),
    Row("baseline fine-tuned: the block, carried", "tuned_block", "carried"),
    Row("baseline fine-tuned: everything, with fast weights", "tuned_all", "windows"),
    Row("baseline fine-tuned: everything, carried", "tuned_all", "carried"),
    Row("fast weights as published (one segment)", "one_segment", "windows"),
    Row("fast weights as published (one segment), carried", "one_segment", "carried"),
    Row("fast weights, fixed step sizes", "fixed_steps", "windows", MAIN),
    Row("fast weights, fixed step sizes, carried", "fixed_steps", "carried", MAIN),
    Row("fixed at first, tuned on documents, carried", "fixed_documents", "carried", MAIN),
    Row("fast weights", "fast_weights", "windows", MAIN),
    Row("fast weights, carried", "fast_weights", "carried", MAIN),
    Row("fast weights, carried, scaled on validation text", "fast_weights", "carried_scaled", MAIN),
    Row("fast weights tuned on documents", "documents", "windows"),
    Row("fast weights tuned on documents, carried", "documents", "carried", MAIN),
    Row("fast weights trained carried", "carried", "windows"),
    Row("fast weights trained carried, carried", "carried", "carried"),
    Row("fast weights, carried, + dynamic evaluation, RMS", "fast_weights", "carried_rms"),
    Row("two thirds: baseline", "two_thirds_baseline", "plain", THIRD),
    Row("two thirds: + dynamic evaluation, RMS", "two_thirds_baseline", "rms", THIRD, "baseline"),
    Row("two thirds: fast weights, carried", "two_thirds_fast_weights", "carried", THIRD),
    Row("smaller body: baseline", "smaller_baseline", "plain", SIZES),
    Row("smaller body: fast weights", "smaller_fast_weights", "windows", SIZES),
    Row("smaller body: fast weights, carried", "smaller_fast_weights", "carried", SIZES),
    Row("larger body: baseline", "larger_baseline", "plain", SIZES),
    Row("larger body: + dynamic evaluation, RMS", "larger_baseline", "rms", SIZES, "baseline"),
    Row("larger body: fast weights", "larger_fast_weights", "windows", SIZES),
    Row("larger body: fast weights, carried", "larger_fast_weights", "carried", SIZES),
    Row("larger body: tuned on documents, carried", "larger_documents", "carried", SIZES),
)

# By name: every row, in the table's order.
ROWS: dict[str, Row] = {row.name: row for row in _ALL}
