"""What starting and updating a database raises."""

from __future__ import annotations


class DatabaseFailed(Exception):
    """The database could not be started or updated; the text is for clients, too. `status`: of the answer over HTTP, if
    it is another than that of a refusal."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status
