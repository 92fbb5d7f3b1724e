"""Options of `spacetime start` that are refused, before anything runs."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from spacetimedb.cli.main import main


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--outbound-http-to", "home"), "must be a network like 10.1.2.0/24"),
        (("--outbound-http-to", "10.1.2.3/24"), "has host bits set"),
        (("--no-outbound-http", "--outbound-http-to", "10.1.2.3"), "contradict each other"),
        (("--publishers", "me"), "must be local, anyone, or identities"),
        (("--memory-mb", "10"), "must be 0 or at least"),
        (("--listen-addr", "3000"), "must be HOST:PORT"),
    ],
)
def test_refused(options: tuple[str, ...], text: str) -> None:
    result = CliRunner().invoke(main, ["start", "--in-memory", *options])
    assert result.exit_code == 2, result.output
    assert text in result.output
