"""What the `status` of a row says: to the graph that sets it, and to the client that reads it."""

# Why a row is refused: its status is the message's place. The first that applies counts.
MESSAGES = {
    "": "",
    "empty": "empty: give at least one token of text",
    "encoding": "not UTF-8",
    "character": "has U+2581, which the tokeniser uses for a space",
    "long": "too long: more than {limit} tokens; send it in parts, through read or score_from",
    "ids": "has an id outside the vocabulary, or a length that does not fit",
    "new_tokens": "max_new_tokens outside [1, {limit}]",
    "temperature": "temperature must be a finite number of at least 0",
    "top_k": "top_k must not be negative; 0 for no limit",
    "top_p": "top_p must be above 0 and at most 1",
    "seed": "seed outside [0, 2**32)",
    "state": "state is damaged: not finite, or position out of range",
    "overflow": "computed numbers are not finite: begin with a fresh state",
}
STATUS = {name: number for number, name in enumerate(MESSAGES)}

# From this status on a row was answered, and there is something to say about it.
FIRST_WARNING = 100
WARNINGS = {
    "diverged": (
        "answered, but the fast weights diverged: they predict worse than the trained weights, by "
        "more than a nat per token; begin with a fresh state"
    ),
}


def is_refusal(status):
    """Return whether a status, a number or an array of them, says that a row was refused."""
    return (status != 0) & (status < FIRST_WARNING)
