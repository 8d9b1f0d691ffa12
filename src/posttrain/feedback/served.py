"""What a server answered and what its users said of it, in the preference store.

`ServedStore(store)` is a keeper of `posttrain serve`: `keep(exchange)` and `vote(vote)` in, both committed when they
return; `outcomes()` out, for A/B tests. Where the user agreed, prompt and answers become prompts and responses of the
store, personal data blotted out before anything is written, and votes become ballots with source "serving", which
training reads like all others. Where the user did not agree, who was answered by which model at what time is all that
is kept, and a vote counts for the A/B test alone. `forget(user)` takes everything of a user away.

What counts for an A/B test: `up` is 1, `down` 0, `edit` and `regenerated` 0 (the answer would not do as it stood);
`better` is 1 for the arm whose answer was preferred over each other arm shown. `kind` is kept, so that a reader may
weigh them otherwise.
"""

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, select

from posttrain import __version__
from posttrain.errors import StoreError
from posttrain.feedback import tables
from posttrain.feedback.ballots import Ballot, check_name, check_text
from posttrain.feedback.group_commit import GroupCommit
from posttrain.feedback.rows import insert_once
from posttrain.feedback.served_forgetting import Forgotten, forget
from posttrain.feedback.served_outcomes import ServedOutcome, outcomes_of
from posttrain.feedback.served_records import Exchange, Vote, check_vote
from posttrain.feedback.served_texts import Texts, clean_text, texts_of
from posttrain.feedback.store import Store
from posttrain.feedback.tables import digest

SOURCE = "serving"


class NoSuchExchange(StoreError):
    """A vote is about an answer that was not given to this user."""


class ServedStore:
    """A keeper on a preference store. Threads may share it.

    `redact`: blot personal data out of everything that is kept. `secret`: users are kept under a name made of it
    (HMAC-SHA-256) instead of the one that the server knows them by, so that the store alone does not lead back to them.
    `outcome` makes what `vote` and `outcomes` return, `unknown` the exception for a vote about an answer that this user
    was not given: the server's own records. `version`: kept beside every vote.
    """

    def __init__(
        self,
        store: Store,
        *,
        redact: bool = True,
        secret: str | bytes = b"",
        outcome: Callable[..., Any] = ServedOutcome,
        unknown: Callable[[str], Exception] = NoSuchExchange,
        version: str = f"posttrain {__version__}",
    ) -> None:
        self._store = store
        self._redacting = redact
        self._secret = secret.encode() if isinstance(secret, str) else secret
        self._outcome = outcome
        self._unknown = unknown
        self._version = version
        self._commits = GroupCommit(store)

    def name_of(self, user: str) -> str:
        """The name under which a user is kept."""
        if not self._secret:
            return user
        return hmac.new(self._secret, user.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]

    # Exchanges

    def keep(self, exchange: Exchange) -> None:
        """Remember an exchange, its texts only where they may be kept. The same id again changes nothing."""
        for name in ("id", "user", "model"):
            check_name(getattr(exchange, name), name)
        for name in ("arm", "replaces"):
            check_text(getattr(exchange, name), name)
        row = {
            "exchange": exchange.id,
            "annotator": self.name_of(exchange.user),
            "model": exchange.model,
            "arm": exchange.arm,
            "arms": _arms(exchange),
            "may_keep": bool(exchange.may_keep),
            "prompt_id": None,
            "response_ids": None,
            "pii": {},
            "replaces": exchange.replaces,
            "served_from": [str(folder) for folder in exchange.parameters.get("served_from", ())],
            "created": exchange.created or datetime.now(UTC),
        }
        texts = None
        if exchange.may_keep and exchange.messages and exchange.answers:
            texts = texts_of(
                exchange.messages,
                exchange.answers,
                tools=exchange.tools,
                parameters=exchange.parameters,
                token_ids=exchange.token_ids,
                redacting=self._redacting,
            )
        models, name = _models(exchange), self.name_of(exchange.user)

        def work(connection: Connection) -> None:
            # What a client says that it replaces is kept where it is an exchange of theirs: it may say any words.
            if exchange.replaces and connection.execute(_mine(exchange.replaces, name)).first() is None:
                row["replaces"] = ""
            there, made = insert_once(connection, tables.served, row, "exchange")
            if made and texts is not None:
                prompt, responses = _write_texts(connection, texts, models)
                cells = {"prompt_id": prompt, "response_ids": responses, "pii": texts.all_pii()}
                connection.execute(tables.served.update().where(tables.served.c.id == there).values(**cells))

        self._commits.run(work)

    # Votes

    def vote(self, vote: Vote) -> list[Any]:
        """Keep a vote, and the outcomes that it adds. One whose key is there already adds nothing; one about the same
        answers takes the place of the one before, and adds outcomes where it says something else.

        ValueError where it makes no sense, the `unknown` exception where it is about an answer that is not this
        user's, StoreError where its key is another vote's.
        """
        check_vote(vote)
        name, pii = self.name_of(vote.user), Counter[str]()
        text = clean_text(vote.text, pii, redacting=self._redacting)
        comment = clean_text(vote.comment, pii, redacting=self._redacting)
        chosen = [(vote.exchange, vote.answer), *((str(one), int(place)) for one, place in vote.over)]
        group = "label" if vote.kind in ("up", "down") else vote.kind
        row: dict[str, Any] = {
            "key": digest(name, vote.key),
            "annotator": name,
            "kind": vote.kind,
            "slot": digest(name, group, sorted(chosen)),
            "chosen": [list(one) for one in chosen],
        }

        def work(connection: Connection) -> list[Any]:
            served = self._shown(connection, name, chosen)
            known = connection.execute(_by("key", row["key"])).first()
            if known is not None:
                self._check_same(connection, known, row, text, comment)
                return []
            before = connection.execute(_by("slot", row["slot"])).all()
            made = datetime.now(UTC)
            outcomes = outcomes_of(vote.kind, [served[one].arms[place] for one, place in chosen])
            details = self._provenance(served[vote.exchange], vote, dict(pii))
            ballot = _ballot(
                vote.kind, chosen, served, text=text, comment=comment, annotator=name, details=details, created=made
            )
            return self._write_vote(connection, {**row, "created": made, "outcomes": outcomes}, before, ballot)

        return self._commits.run(work)

    def outcomes(self, *, taken_back: bool = False) -> list[Any]:
        """Of all votes that stand, in the order of their casting. `taken_back`: also of those that another took the
        place of, each with the time at which it was (`replaced`)."""
        votes = tables.served_votes.c
        query = select(tables.served_votes).order_by(votes.id)
        if not taken_back:
            query = query.where(votes.replaced_by.is_(None))
        with self._store.snapshot() as connection:
            rows = connection.execute(query).all()
        if not taken_back:
            return [outcome for row in rows for outcome in self._made(row._asdict())]
        found, after = [], dict[str, datetime]()
        for row in reversed(rows):
            found.append(self._made(row._asdict(), replaced=after.get(row.slot)))
            after[row.slot] = row.created
        return [outcome for made in reversed(found) for outcome in made]

    def forget(self, *users: str) -> Forgotten:
        """Delete what is kept of a user, known by the server's names for them or by the one in the store: exchanges,
        votes, the texts that nobody else was served too, and what others made of those texts."""
        for user in users:
            check_name(user, "user")
        return forget(self._store, {*users, *map(self.name_of, users)}, SOURCE)

    def _shown(self, connection: Connection, name: str, chosen: Sequence[tuple[str, int]]) -> dict[str, Row[Any]]:
        """The exchanges of these answers, held until the commit, so that two votes on one answer come one by one."""
        found = {}
        for one in sorted({exchange for exchange, _ in chosen}):
            query = select(tables.served).where(tables.served.c.exchange == one).with_for_update()
            row = connection.execute(query).first()
            # Whether somebody else was given such an answer is nobody's business.
            if row is None or not hmac.compare_digest(row.annotator.encode(), name.encode()):
                raise self._unknown(f"There is no answer {one!r} to you. Votes are about answers that you were given.")
            found[one] = row
        for one, place in chosen:
            if not 0 <= place < len(found[one].arms):
                raise self._unknown(f"{one!r} has {len(found[one].arms)} answers, and none has the number {place}.")
        prompts = {row.prompt_id for row in found.values() if row.prompt_id is not None}
        if len(prompts) > 1:
            raise ValueError("the answers are to different prompts, so that none of them can be the better one")
        return found

    def _made(self, row: Mapping[str, Any], **more: Any) -> list[Any]:
        who = {"user": row["annotator"], "kind": row["kind"], "created": row["created"], **more}
        return [self._outcome(**who, **one) for one in row["outcomes"]]

    def _check_same(
        self, connection: Connection, known: Row[Any], row: Mapping[str, Any], text: str, comment: str
    ) -> None:
        same = all(getattr(known, name) == row[name] for name in ("kind", "chosen"))
        if same and known.ballot_id is not None:  # what it says is kept where it may be
            said = tables.ballots.c
            query = select(said.value, said.comment).where(said.id == known.ballot_id)
            value, before = connection.execute(query).one()
            same = before == comment and (known.kind != "edit" or value == text)
        if not same:
            raise StoreError(
                f"{self._store.place}: the key belongs to another vote. Give every vote a key of its own; nothing was "
                "written."
            )

    def _provenance(self, served: Row[Any], vote: Vote, pii: dict[str, int]) -> dict[str, Any]:
        return {
            "exchange": served.exchange,
            "model": served.model,
            "arm": served.arms[vote.answer],
            "served_from": sorted(set(served.served_from)),
            "consent": served.may_keep,
            "pii": dict(Counter(served.pii) + Counter(pii)),
            "version": self._version,
        }

    def _write_vote(
        self, connection: Connection, row: dict[str, Any], before: Sequence[Row[Any]], ballot: Ballot | None
    ) -> list[Any]:
        if ballot is not None:
            earlier = [one.ballot_id for one in before if one.ballot_id is not None]
            row["ballot_id"] = self._store.vote(ballot, replaces=earlier)
        there, _ = insert_once(connection, tables.served_votes, row, "key")
        if before:
            mine = tables.served_votes.c.id.in_([one.id for one in before])
            connection.execute(tables.served_votes.update().where(mine).values(replaced_by=there))
        return [] if any(one.outcomes == row["outcomes"] for one in before) else self._made(row)


def _ballot(
    kind: str,
    chosen: Sequence[tuple[str, int]],
    served: Mapping[str, Row[Any]],
    *,
    text: str,
    comment: str,
    annotator: str,
    details: Mapping[str, Any],
    created: datetime,
) -> Ballot | None:
    """What a vote says to those who train; None where it says nothing to them, or nobody agreed to be learned from."""
    if kind == "regenerated" or any(row.response_ids is None for row in served.values()):
        return None
    # As they stood on the screen, from left to right; two samples may have the same words.
    place = {one: (served[one[0]].id, one[1]) for one in chosen}
    ids = list(dict.fromkeys(served[one].response_ids[number] for one, number in sorted(chosen, key=place.__getitem__)))
    best = served[chosen[0][0]].response_ids[chosen[0][1]]
    said: dict[str, Any]
    if kind == "better":
        if len(ids) < 2:
            return None
        said = {"kind": "choice", "value": best}
    elif kind == "edit":
        said = {"kind": "edit", "value": text}
    else:
        said = {"kind": "label", "value": "good" if kind == "up" else "bad"}
    prompt = served[chosen[0][0]].prompt_id
    return Ballot(
        prompt_id=prompt,
        response_ids=tuple(ids),
        annotator=annotator,
        source=SOURCE,
        comment=comment,
        details=details,
        created=created,
        **said,
    )


def _write_texts(connection: Connection, texts: Texts, models: Sequence[str]) -> tuple[int, list[int]]:
    """(prompt id, id of each answer). What other data brought already is found and left as it is."""
    row: dict[str, Any] = {
        "digest": digest(texts.prompt, texts.tools),
        "messages": texts.prompt,
        "tools": texts.tools,
        "source": SOURCE,
        "fields": {"pii": texts.pii},
    }
    prompt, _ = insert_once(connection, tables.prompts, row, "digest")
    ids = []
    for answer, model in zip(texts.answers, models, strict=True):
        row = {
            "prompt_id": prompt,
            "digest": digest(prompt, answer.rows, model),
            "messages": answer.rows,
            "model": model,
            "parameters": {**texts.parameters, "source": SOURCE, "pii": answer.pii},
            "token_ids": answer.token_ids,
        }
        ids.append(insert_once(connection, tables.responses, row, "digest")[0])
    return prompt, ids


def _arms(exchange: Exchange) -> list[str]:
    """The arm of every answer: of a comparison each has its own."""
    told = exchange.parameters.get("arms")
    num = max(len(exchange.answers), 1)
    if isinstance(told, list | tuple) and len(told) == num and all(isinstance(arm, str) for arm in told):
        return list(told)
    return [exchange.arm] * num


def _models(exchange: Exchange) -> list[str]:
    """What wrote each answer: of a comparison between arms, the arm; else the model."""
    arms = _arms(exchange)
    return [arm if arm and arm != exchange.arm else exchange.model for arm in arms]


def _mine(exchange: str, annotator: str) -> Any:
    served = tables.served.c
    return select(served.id).where(served.exchange == exchange, served.annotator == annotator)


def _by(column: str, value: str) -> Any:
    votes = tables.served_votes
    query = select(votes).where(votes.c[column] == value)
    return query if column == "key" else query.where(votes.c.replaced_by.is_(None))
