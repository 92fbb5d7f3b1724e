"""Errors of the type room."""


class DecodeError(ValueError):
    """Bytes or JSON that are no value of the type asked for. The text is part of the protocol: clients see it."""


class RecursiveType(ValueError):
    """A type that contains itself where only finite types are allowed (table and view columns)."""
