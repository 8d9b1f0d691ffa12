"""`posttrain annotate`: a web page on which a team compares answers; the votes go to the preference store."""

import logging
import secrets
import socket
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import uvicorn

from posttrain.errors import ConfigError
from posttrain.feedback.imports import is_new
from posttrain.feedback.queue import Queue
from posttrain.feedback.server import create_app
from posttrain.feedback.store import Store
from posttrain.recipes.annotate_config import AnnotateConfig
from posttrain.recipes.annotate_items import add_files, check_files, make_items

WAIT_S = 8.0  # for a lock; the page asks again by itself
NOBODY = "annotators is empty and the store knows nobody: give --annotators NAME,NAME."
GRACE_S = 5  # for requests under way when Ctrl-C is pressed


def run(config: AnnotateConfig) -> int:
    """Fill the store, print a link for everybody, and serve until Ctrl-C."""
    say: Callable[[str], None] = lambda text: print(text, flush=True)  # noqa: E731
    guidelines = _guidelines(config)
    if is_new(config.store):
        check_files(config.input)
        if not config.annotators:
            raise ConfigError(NOBODY)
    with closing(_listen(config)) as listener, Store.open(config.store, wait_s=WAIT_S) as store:
        if config.input:
            say(f"{add_files(store, config.input):,} prompts of {', '.join(config.input)}")
        fewest, most = config.num_answers
        num_new, num_few = make_items(store, fewest=fewest, most=most, overlap=config.overlap, seed=config.seed)
        if num_few:
            say(f"{num_few:,} prompts have fewer than {fewest} different answers and are left out")
        say(f"{len(store.items()):,} items to compare in {store.place}, {num_new:,} of them new")
        if guidelines is not None:
            say(f"guidelines: version {store.set_guidelines(guidelines)}")
        if config.reward_model:
            say(f"{_score(store, config.reward_model):,} answers scored by {', '.join(config.reward_model)}")
        place = _place(config.host, listener)
        for name, token in _tokens(store, config).items():
            say(f"{name}: {place}/#{token}" if token else f"{name}: the link given before (--new-tokens makes another)")
        owner = secrets.token_urlsafe(24)
        say(f"figures, for you alone, until this server ends: {place}/stats#{owner}")
        queue = Queue(store, random_share=config.random_share, seed=config.seed, lease_s=60 * config.lease_minutes)
        _serve(create_app(store, queue, owner), listener)
    return 0


def _guidelines(config: AnnotateConfig) -> str | None:
    if config.guidelines is None:
        return None
    try:
        return Path(config.guidelines).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"guidelines: {config.guidelines} cannot be read as UTF-8 text ({error}).") from None


def _listen(config: AnnotateConfig) -> socket.socket:
    """The socket, before anything else: a port that is taken should be known at once."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {config.host}, port {config.port}: {error.strerror or error}. "
            "Give another --port (0 takes a free one), or another --host."
        ) from None
    return listener


def _place(host: str, listener: socket.socket) -> str:
    """The start of every link: where all addresses are listened on, the name of this machine."""
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"


def _tokens(store: Store, config: AnnotateConfig) -> dict[str, str]:
    """Everybody's new token, empty for those who keep theirs."""
    known = [one.name for one in store.annotators() if one.source == "person"]
    if not known and not config.annotators:
        raise ConfigError(NOBODY)
    tokens = dict.fromkeys(known, "")
    for name in config.annotators or (known if config.new_tokens else ()):
        if name not in known:
            tokens[name] = store.add_annotator(name)
        elif config.new_tokens:
            tokens[name] = store.new_token(name)
    return tokens


def _score(store: Store, models: list[str]) -> int:
    """Have every answer of an item scored by an ensemble of reward models; the number of answers."""
    from posttrain.recipes.scoring import score_answers

    answers: dict[int, list[int]] = defaultdict(list)
    for item in store.items():
        answers[item.prompt_id] += [id for id in item.response_ids if id not in answers[item.prompt_id]]
    asked = [
        (store.prompt(prompt).messages, [store.response(id).messages for id in ids]) for prompt, ids in answers.items()
    ]
    members = [score_answers(model, asked) for model in models]
    ids = [id for group in answers.values() for id in group]
    with store.batch():
        for id, *scores in zip(
            ids, *([float(x) for group in member for x in group] for member in members), strict=True
        ):
            store.set_scores(int(id), scores)
    return len(ids)


def _serve(app: object, listener: socket.socket) -> None:
    """Until Ctrl-C. There is no log of requests, and errors of the program are shown with their trace."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    settings = uvicorn.Config(
        app,  # type: ignore[arg-type]
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    uvicorn.Server(settings).run(sockets=[listener])
