"""`posttrain feedback forget --user NAME`: what a user takes back is deleted."""

from posttrain.errors import StoreError
from posttrain.feedback.imports import is_new
from posttrain.feedback.served import ServedStore
from posttrain.feedback.store import Store
from posttrain.recipes.feedback_forget_config import FeedbackForgetConfig
from posttrain.serve.keys import hashed_user


def run(config: FeedbackForgetConfig) -> None:
    """Delete, and say how much there was."""
    if is_new(config.store):
        raise StoreError(f"{config.store}: there is no such store. Correct the path.")
    with Store.open(config.store) as store:
        gone = ServedStore(store).forget(config.user, hashed_user(config.key_name, config.user))
    if not (gone.exchanges or gone.votes or gone.ballots):
        raise StoreError(
            f"{config.store}: it holds nothing of a user {config.user!r} of the API key {config.key_name!r}. Nothing "
            "was deleted; see how the name is written, and give the key's name by --key-name."
        )
    print(f"deleted: {gone.exchanges:,} exchanges, {gone.votes:,} votes, {gone.ballots:,} ballots")
    print(f"deleted with them: {gone.prompts:,} prompts, {gone.responses:,} answers, {gone.items:,} items to compare")
    print(
        "Not reached by this: files that were exported, models that were trained, backups, the log of guardrails, and "
        "the list of who has which arm of an A/B test (a hashed name without any text)."
    )
