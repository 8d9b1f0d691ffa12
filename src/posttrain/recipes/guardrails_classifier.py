"""A Hugging Face sequence classifier, or a reward model, as what guardrails ask for a score."""

import threading
from collections.abc import Sequence

import torch

from posttrain.data.judged import Choice, render_choices
from posttrain.errors import DataError
from posttrain.models.attention import install_attention
from posttrain.models.load import Policy, context_length, load_tokenizer, load_weights
from posttrain.models.reward import load_reward
from posttrain.recipes.policy import resolve_model
from posttrain.recipes.scoring import score_samples
from posttrain.serve.guard_models import Classify
from posttrain.types import Message


class Classifier:
    """A folder or a Hugging Face name. One label: a reward model, whose scores are of its own scale. Several: scores
    are probabilities, by the softmax or, where each label is for itself, the sigmoid. Raises ModelError."""

    def __init__(self, name: str) -> None:
        from transformers import AutoConfig, AutoModelForSequenceClassification

        place = resolve_model(name)
        self.name, self._lock = name, threading.Lock()
        try:
            self.is_reward = AutoConfig.from_pretrained(place).num_labels == 1
        except (OSError, ValueError, KeyError):  # an adapter; or nothing, and loading says so
            self.is_reward = True
        if self.is_reward:
            self.policy = load_reward(place)
            install_attention(self.policy.model)
        else:
            model = load_weights(place, torch.float32, AutoModelForSequenceClassification)
            self.policy = Policy(model.to("cuda" if torch.cuda.is_available() else "cpu"), load_tokenizer(place), name)
        self.policy.model.eval()

    def scorer(self, labels: Sequence[str]) -> Classify:
        """What scores a passage. ValueError where the classifier has no such label."""
        if self.is_reward:
            if labels:
                raise ValueError(f"{self.name} is a reward model and has no labels; leave them out.")
            return self._reward
        known = {str(name): int(index) for name, index in self.policy.model.config.label2id.items()}
        unknown = next((label for label in labels if label not in known), None)
        if unknown is not None:
            raise ValueError(f"{self.name} has no label {unknown!r}; it has {', '.join(known)}.")
        if not labels and len(known) != 2:
            raise ValueError(f"labels is missing: say which of {', '.join(known)} the score is of.")
        wanted = [known[label] for label in labels] or [1]
        return lambda passage, _: self._probability(passage, wanted)

    @torch.no_grad()
    def _probability(self, passage: str, wanted: Sequence[int]) -> float:
        """The largest over the pieces of a passage that is longer than the context."""
        tokenizer, model = self.policy.tokenizer, self.policy.model
        pieces = tokenizer(
            passage,
            truncation=True,
            max_length=min(context_length(self.policy), tokenizer.model_max_length),
            return_overflowing_tokens=True,
            split_special_tokens=True,
            verbose=False,
        )["input_ids"]
        is_apart = model.config.problem_type == "multi_label_classification"
        best = 0.0
        for piece in filter(None, pieces):
            with self._lock:
                logits = model(torch.tensor([piece], device=self.policy.device)).logits[0].float()
            chances = logits.sigmoid() if is_apart else logits.softmax(-1)
            found = chances[list(wanted)]
            best = max(best, float(found.max() if is_apart else found.sum()))
        return best

    def _reward(self, passage: str, conversation: Sequence[Message]) -> float:
        choice = Choice(tuple(conversation), ((Message("assistant", passage),),), (), (0.0,), "the answer")
        length = context_length(self.policy)
        found = next(iter(render_choices([choice], self.policy.tokenizer, max_length=length, truncation="keep_start")))
        if isinstance(found, DataError):
            raise found
        if found is None:
            raise ValueError("the prompt leaves no room for the answer")
        with self._lock:
            return float(score_samples(self.policy, [found[0]], row_length=length)[0][0])
