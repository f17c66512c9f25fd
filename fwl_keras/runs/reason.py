"""An error's message as a part of another sentence."""


def reason(error: BaseException) -> str:
    """Return what an error says, in one line and without a period; its name if it says nothing.

    Args:
        error: any error.

    Example:
        >>> reason(ValueError("The file is empty."))
        'The file is empty'
    """
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
