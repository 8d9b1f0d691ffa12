"""`feedback forget`, and votes of a server as the data of a trainer."""

from pathlib import Path

import pytest

from posttrain.errors import DataError, StoreError
from posttrain.feedback.ballots import Ballot
from posttrain.feedback.served import ServedStore
from posttrain.feedback.store import Store
from posttrain.recipes.dataset_config import DatasetEntry
from posttrain.recipes.dataset_reading import made_here
from posttrain.recipes.feedback_forget import run
from posttrain.recipes.feedback_forget_config import FeedbackForgetConfig
from posttrain.serve.doors import Exchange, Keeper, Outcome, UnknownExchange, Vote
from posttrain.serve.keys import hashed_user
from posttrain.types import Message, Preference, Ranking, Rating


@pytest.fixture
def place(tmp_path: Path) -> str:
    """A store with votes of two users of a server, and one of an annotator."""
    place = str(tmp_path / "f.db")
    with Store.open(place) as store:
        keeper: Keeper = ServedStore(store, outcome=Outcome, unknown=UnknownExchange)
        for name in ("ann", "bob"):
            user = hashed_user("local", name)
            answers = (Message("assistant", "yes"), Message("assistant", "no"))
            keeper.keep(Exchange(name, user, (Message("user", f"{name}?"),), answers, "m", "A", may_keep=True))
            assert keeper.vote(Vote(f"{name}-up", user, "up", name)) == [
                Outcome(user, "A", 1.0, "up", "", keeper.outcomes()[-1].created)
            ]
            keeper.vote(Vote(f"{name}-better", user, "better", name, 0, ((name, 1),)))
            keeper.vote(Vote(f"{name}-edit", user, "edit", name, 1, text="perhaps"))
            with pytest.raises(UnknownExchange):
                keeper.vote(Vote("x", user, "up", "never"))
        prompt = store.prompts()[0].id
        store.vote(Ballot("rating", prompt, (store.responses(prompt)[0].id,), "judy", value=3))
    return place


def test_a_user_of_the_page_is_forgotten(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(FeedbackForgetConfig(store=place, user="bob"))
    assert "deleted: 1 exchanges, 3 votes, 3 ballots" in capsys.readouterr().out
    with Store.open(place) as store:
        assert [prompt.messages[0].content for prompt in store.prompts()] == ["ann?"]
        assert len(store.ballots()) == 4
    run(FeedbackForgetConfig(store=place, user=hashed_user("local", "ann")))  # as the store has it
    with Store.open(place) as store:
        assert (store.prompts(), store.ballots()) == ([], [])


def test_nobody_is_forgotten_by_mistake(place: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nothing of a user 'eve'.*--key-name"):
        run(FeedbackForgetConfig(store=place, user="eve"))
    with pytest.raises(StoreError, match="nothing of a user 'bob' of the API key 'team'"):
        run(FeedbackForgetConfig(store=place, user="bob", key_name="team"))
    with pytest.raises(StoreError, match="no such store"):
        run(FeedbackForgetConfig(store=str(tmp_path / "none.db"), user="bob"))
    with Store.open(place) as store:
        assert len(store.ballots()) == 7


def test_a_recipe_chooses_whose_word_counts(place: str) -> None:
    def kinds(path: str) -> list[str]:
        return sorted(type(one).__name__ for one in made_here(DatasetEntry(path=path), False))

    served = 2 * [Preference.__name__] + 2 * [Ranking.__name__] + 2 * [Rating.__name__]
    assert kinds(f"store:{place}?source=serving") == sorted(served)
    assert kinds(f"store:{place}?source=person") == ["Rating"]
    assert (
        kinds(f"store:{place}?source=person&source=serving") == kinds(f"store:{place}") == sorted([*served, "Rating"])
    )
    with pytest.raises(DataError, match="source is 'users', expected one of person"):
        kinds(f"store:{place}?source=users")
    with pytest.raises(DataError, match="nothing to train on"):
        kinds(f"store:{place}?source=verifier")
