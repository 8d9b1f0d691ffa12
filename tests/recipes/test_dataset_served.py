"""`store:FILE?source=serving&model=FOLDER`: only what users said of the answers of one version is learned from."""

from pathlib import Path

import pytest

from posttrain.errors import DataError
from posttrain.feedback.served import ServedStore
from posttrain.feedback.store import Store
from posttrain.recipes.dataset_config import DatasetEntry
from posttrain.recipes.dataset_reading import made_here
from posttrain.serve.doors import Exchange, Outcome, Vote
from posttrain.types import Message, Ranking


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three compared pairs: of version 1, of version 2, and of both."""
    monkeypatch.chdir(tmp_path)
    with Store.open("served.db") as opened:
        keeper = ServedStore(opened, outcome=Outcome)
        for number, folders in enumerate((["live/0001"] * 2, ["live/0002"] * 2, ["live/0001", "live/0002"])):
            asked = (Message("user", f"question {number}"),)
            answers = tuple(Message("assistant", f"answer {number} {place}") for place in "ab")
            parameters = {"served_from": folders}
            keeper.keep(Exchange(f"e{number}", "u", asked, answers, "live", may_keep=True, parameters=parameters))
            keeper.vote(Vote(f"key-{number}", "u", "better", f"e{number}", 1, over=((f"e{number}", 0),)))
    return tmp_path / "served.db"


def questions(path: str) -> list[str]:
    records = made_here(DatasetEntry(path=path), held_out=False, kind="preferences", say=lambda _: None)
    assert all(isinstance(one, Ranking) for one in records)
    return [one.prompt[0].content for one in records]  # type: ignore[union-attr]


def test_the_version_chooses(store: Path) -> None:
    assert questions(f"store:{store}") == ["question 0", "question 1", "question 2"]
    assert questions("store:served.db?source=serving&model=live/0001") == ["question 0"]
    assert questions(f"store:{store}?model={store.parent}/live/0002") == ["question 1"]  # however the path is written
    both = f"store:{store}?model=live/0001&model=live/0002"
    assert questions(both) == ["question 0", "question 1", "question 2"]


def test_a_version_without_votes_is_an_error(store: Path) -> None:
    with pytest.raises(DataError, match="nothing to train on"):
        questions(f"store:{store}?model=live/0003")
