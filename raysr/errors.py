"""The words of an exception."""


def text_of(error: BaseException) -> str:
    """What `error` says, for a message about it: with its class where the text alone says nothing.

    Many exceptions have no text (`NotImplementedError()`, a failed assert), and a KeyError has the key alone.
    """
    text, name = str(error).strip(), type(error).__name__
    return f"{name}: {text}" if text and isinstance(error, KeyError) else text or name


def brief(error: BaseException) -> str:
    """The first two and the last three lines of what `error` says: Ray puts a traceback between them."""
    lines = [line for line in text_of(error).splitlines() if line.strip()]
    return "\n".join([*lines[:2], *lines[2:][-3:]])
