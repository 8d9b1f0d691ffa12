"""From the keys of `posttrain instruct` to models, a method, and a pool."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from posttrain.errors import ConfigError
from posttrain.models.load import load_tokenizer
from posttrain.recipes.instruct_config import InstructConfig
from posttrain.recipes.instruct_seeds import read_seeds
from posttrain.recipes.instruct_texts import read_eval_texts, read_texts
from posttrain.recipes.policy import resolve_model
from posttrain.recipes.text_model import text_model
from posttrain.rollouts.asking import Manner, TextModel
from posttrain.rollouts.text_models import CachedText
from posttrain.synthesis import filters
from posttrain.synthesis.backtranslation import Backtranslation
from posttrain.synthesis.decontamination import Contamination
from posttrain.synthesis.evol import Evol
from posttrain.synthesis.growing import Method
from posttrain.synthesis.magpie import Magpie, UserTurns, pre_query
from posttrain.synthesis.pool import Pool, Seed
from posttrain.synthesis.self_instruct import SelfInstruct

Say = Callable[[str], None]


class Models:
    """The models of a run, each loaded once; what they say is kept in `cache`, or else in the output folder. `asked`:
    more keywords of `text_model`."""

    def __init__(self, config: InstructConfig, say: Say, **asked: Any) -> None:
        self.config, self.say, self.asked = config, say, asked
        self.cache = Path(config.cache or Path(config.output_dir) / "asked.jsonl")
        self._made: dict[tuple[str, str | None], TextModel] = {}
        self.turns: list[TextModel] = []  # a writer of user turns, beside the model whose answers it asks for
        self.writer = self.named(config.model, config.url, config.api_key_env)
        self.answering = (
            self.named(config.answer_model, config.answer_url, config.answer_api_key_env)
            if config.answer_model
            else self.writer
        )

    @property
    def all(self) -> list[TextModel]:
        """Each model once."""
        return [*self._made.values(), *self.turns]

    def named(self, name: str, url: str | None, api_key_env: str | None) -> TextModel:
        """The model of that name, as `text_model` makes it."""
        if (name, url) not in self._made:
            keys = self.config.model_keys | {"name": name, "url": url, "api_key_env": api_key_env, "cache": self.cache}
            self._made[name, url] = text_model(**keys, say=self.say, **self.asked)
        return self._made[name, url]

    @property
    def by_completion(self) -> bool:
        """Whether the writer goes on with text, rather than being asked in a chat."""
        if self.config.prompting != "auto":
            return self.config.prompting == "completion"
        inner = getattr(self.writer, "inner", self.writer)
        return hasattr(inner, "ids") and bool(inner.ids.is_plain)


def method_of(config: InstructConfig, models: Models) -> tuple[Method, Sequence[Seed]]:
    """The method, and the seeds that its instructions are compared with. Reads the data."""
    manner = Manner(1, config.max_new_tokens, config.temperature, config.top_p, seed=config.seed)
    shared: dict[str, Any] = {"by_completion": models.by_completion, "num_requests": config.batch_size}
    if config.method == "magpie":
        return _magpie(config, models, manner), ()
    if config.method == "backtranslation":
        texts = read_texts(config.dataset, config.max_samples, models.say)
        return Backtranslation(models.writer, texts, manner, **shared), ()
    seeds = read_seeds(config.dataset, config.max_samples, models.say)
    shared["seed"] = config.seed
    if config.method == "evol":
        evol = Evol(
            models.writer, seeds, manner, num_generations=config.num_generations, operations=config.operations, **shared
        )
        return evol, seeds
    shared |= {"num_human": config.num_human_shots, "num_machine": config.num_machine_shots, "num_new": config.num_new}
    return SelfInstruct(models.writer, seeds, manner, **shared), seeds


def _magpie(config: InstructConfig, models: Models, manner: Manner) -> Magpie:
    inner: Any = getattr(models.writer, "inner", models.writer)
    if hasattr(inner, "sampler"):  # a model of our own, here or in Ray workers
        query = pre_query(inner.policy.tokenizer, config.system_prompt or "")
        turns = UserTurns(inner.sampler, query, name=f"{inner.name} (user turns)", identity=inner.identity)
        models.turns = [model := cast(TextModel, CachedText(turns, models.cache))]
        return Magpie(model, query.text, manner, num_requests=config.batch_size)
    if config.tokenizer is None:
        raise ConfigError(
            "tokenizer is missing: magpie feeds a server the chat template as text, so name a folder or a Hub name "
            "whose tokenizer has the template of that model."
        )
    tokenizer = load_tokenizer(resolve_model(config.tokenizer))
    query = pre_query(tokenizer, config.system_prompt or "")
    ends = [tokenizer.decode([token], skip_special_tokens=False) for token in query.stop_ids]
    stop = [text for text in (*ends, query.stop) if text.strip()]
    return Magpie(models.writer, query.text, manner, stop=stop, num_requests=config.batch_size)


def pool_of(config: InstructConfig, seeds: Sequence[Seed], say: Say) -> Pool:
    """The pool with the filters of the recipe."""
    chosen = [
        filters.length(config.min_words, config.max_words),
        filters.keywords([word for word in config.refuse_words if word]),
        filters.starts([start for start in config.refuse_starts if start]),
        filters.punctuation(),
    ]
    contamination = None
    if config.decontaminate:
        texts = read_eval_texts(config.decontaminate, config.decontaminate_words, say)
        contamination = Contamination(texts, num_words=config.decontaminate_words)
        if contamination.num_common:
            say(f"{contamination.num_common:,} runs of words are in so many of them that they are wording, not content")
    return Pool(seeds, chosen, config.max_rouge, contamination)
