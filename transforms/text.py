"""Text from outside, made fit to be shown: short, and without characters that a terminal or a page would obey."""


def clipped(text: str, length: int) -> str:
    """At most so many characters of a text; a cut text ends in an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def printable(text: str) -> str:
    """A text with control characters, invisible ones and bytes that are not UTF-8 escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def csv_cell(text: str) -> str:
    """A text that a spreadsheet does not take for a formula: an apostrophe precedes it where it begins like one."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
