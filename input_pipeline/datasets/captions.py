"""Captions as single lines."""


def clean(text: object) -> str:
    """A caption with runs of spaces and line breaks as one space; "" where nothing is said.

    Raises:
      ValueError: it cannot be a caption; the message says why and continues "its caption".
    """
    if not isinstance(text, str):
        raise ValueError(f"is of type {type(text).__name__}, not text")
    if "\0" in text:
        raise ValueError("holds a NUL byte")
    try:
        text.encode()
    except UnicodeEncodeError:
        # Bytes that are no UTF-8 are read as lone surrogates, and JSON can spell such, too.
        raise ValueError("is not UTF-8") from None
    return " ".join(text.split())
