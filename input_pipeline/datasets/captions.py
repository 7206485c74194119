"""Normalises captions."""


def clean(text: object) -> str:
    """A caption with each run of white space as one space; may be empty.

    Raises:
      ValueError: it cannot be a caption; the message continues "its caption".
    """
    if not isinstance(text, str):
        raise ValueError(f"is of type {type(text).__name__}, not text")
    if "\0" in text:
        raise ValueError("holds a NUL byte")
    try:
        text.encode()
    except UnicodeEncodeError:
        # `surrogateescape` reads invalid bytes as lone surrogates; JSON can contain these too.
        raise ValueError("is not UTF-8") from None
    return " ".join(text.split())
