"""What requests to the supervisor raise."""

from __future__ import annotations


class ControlError(Exception):
    """A refusal that the client may read."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
