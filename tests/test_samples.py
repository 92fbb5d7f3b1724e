"""The README's module and the sample modules do what they say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from spacetimedb import Identity, ReducerError, TestHost

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "scripts" / "samples"
ANN, BOB = Identity.from_int(1), Identity.from_int(2)


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"sample_{name}", SAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_shows_the_sample_as_it_is() -> None:
    first = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert first is not None
    source = (SAMPLES / "notes.py").read_text()
    assert first[1] == source.partition('"""\n\n')[2]
    assert len([line for line in first[1].splitlines() if line.strip()]) <= 12


def test_notes() -> None:
    notes = load("notes")
    host = TestHost(notes.m)
    host.connect(ANN)
    host.call(ANN, notes.write, "Hello")
    assert [(note.id, note.author, note.text) for note in host.db[notes.Note].iter()] == [(1, ANN, "Hello")]


def test_bank_moves_money_or_says_why_not() -> None:
    bank = load("bank")
    host = TestHost(bank.m)
    host.connect(ANN)
    host.call(ANN, bank.seed, 3, 100)
    host.call(ANN, bank.transfer, 0, 1, 30)
    balances = {account.id: account.balance for account in host.db[bank.Accounts].iter()}
    assert balances == {0: 70, 1: 130, 2: 100}
    for payer, payee, amount, text in (
        (5, 5, -1, "same_account"),
        (0, 7, 0, "non_positive_amount"),
        (0, 7, 1000, "account_missing"),
        (7, 0, 1000, "account_missing"),
        (0, 1, 71, "insufficient_funds"),
    ):
        with pytest.raises(ReducerError, match=f"^{text}$"):
            host.call(ANN, bank.transfer, payer, payee, amount)
    assert {account.id: account.balance for account in host.db[bank.Accounts].iter()} == balances
    host.call(ANN, bank.seed, 2, 5)
    assert sorted(account.balance for account in host.db[bank.Accounts].iter()) == [5, 5]


def test_ticker_moves_the_first_entities() -> None:
    ticker = load("ticker")
    host = TestHost(ticker.m)
    host.connect(ANN)
    host.call(ANN, ticker.populate, 5)
    delta = host.call(ANN, ticker.tick, 2)
    moved = sorted(delta[ticker.Entities].inserts, key=lambda row: row.id)
    assert [(row.id, row.x, row.y) for row in moved] == [(0, 1.0, 0.5), (1, 1.0, 0.5)]
    assert moved[0].at == moved[1].at > 0


def test_a_game_of_agar() -> None:
    agar = load("agar")
    host = TestHost(agar.m)
    host.connect(ANN)
    host.connect(BOB)
    for bad in ("", "x" * 25):
        with pytest.raises(ReducerError, match="1 to 24"):
            host.call(ANN, agar.enter_game, bad)
    host.call(ANN, agar.enter_game, "Ann")
    host.call(ANN, agar.enter_game, "Ann again")
    host.call(BOB, agar.enter_game, "Bob")
    assert host.db[agar.Circle].count() == 2
    host.advance(seconds=1)
    assert host.db[agar.Food].count() > agar.TARGET_FOOD - 50
    ann = host.db[agar.Player].identity.get(ANN)
    assert ann.name == "Ann again"
    circle = host.db[agar.Circle].player_id.filter(ann.player_id)
    (mine,) = list(circle)
    before = host.db[agar.Entity].entity_id.get(mine.entity_id)
    host.call(ANN, agar.steer, 1.0 if before.x < 500 else -1.0, 0.0)
    host.advance(seconds=1)
    after = host.db[agar.Entity].entity_id.find(mine.entity_id)
    assert after is None or abs(after.x - before.x) > 20


def test_a_player_who_leaves_comes_back_with_the_same_number() -> None:
    agar = load("agar")
    host = TestHost(agar.m)
    host.connect(ANN)
    host.call(ANN, agar.enter_game, "Ann")
    number = host.db[agar.Player].identity.get(ANN).player_id
    host.disconnect(ANN)
    assert host.db[agar.Circle].count() == host.db[agar.Player].count() == 0
    host.connect(ANN)
    assert host.db[agar.Player].identity.get(ANN).player_id == number


def test_chat_is_an_event() -> None:
    agar = load("agar")
    host = TestHost(agar.m)
    host.connect(ANN)
    delta = host.call(ANN, agar.say, "hello")
    assert [row.text for row in delta[agar.Chat].inserts] == ["hello"]
    assert host.db[agar.Chat].count() == 0
