"""The keys of `posttrain instruct`."""

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from posttrain.recipes.dataset_config import DatasetEntry, as_entries
from posttrain.recipes.ray_config import RayKeys
from posttrain.recipes.text_model_config import JudgeKeys, TextModelKeys
from posttrain.synthesis.filters import KEYWORDS, STARTS

OPEN_ENDED = ("self-instruct", "magpie")
ONLY_OF = {
    "num_human_shots": "self-instruct",
    "num_machine_shots": "self-instruct",
    "num_new": "self-instruct",
    "num_generations": "evol",
    "operations": "evol",
    "system_prompt": "magpie",
    "tokenizer": "magpie",
}
Operation = Literal["constraints", "deepen", "concretise", "reasoning", "breadth"]


class InstructKeys(TextModelKeys, JudgeKeys):
    """How instructions are made, answered, and left out."""

    judge: str = Field("", description="Model that rates instruction and answer; left out, nobody does.")
    judge_how: Literal["auto", "options", "words"] = Field(
        "auto", description="By the probabilities of the ratings, or by the one it says; auto: said on a server."
    )

    method: Literal["self-instruct", "evol", "magpie", "backtranslation"] = Field(
        "self-instruct", description="How instructions are made."
    )
    dataset: list[DatasetEntry] = Field(
        default_factory=list,
        description="Seeds (any prompts), or for backtranslation the texts; repeatable. Magpie needs none.",
    )
    max_samples: int | None = Field(None, ge=1, description="Use at most this many seeds or texts.")
    num_instructions: int | None = Field(
        None, ge=1, description="How many are wanted; left out, 100, or what evol and backtranslation come to."
    )
    prompting: Literal["auto", "chat", "completion"] = Field(
        "auto", description="Ask in a chat, or let a base model go on with text; auto: by the chat template."
    )
    num_human_shots: int = Field(6, ge=0, description="Self-instruct: seeds in every request.")
    num_machine_shots: int = Field(2, ge=0, description="Self-instruct: tasks of its own in every request.")
    num_new: int = Field(8, ge=1, description="Self-instruct: new tasks that a request asks for.")
    num_generations: int = Field(4, ge=1, description="Evol: how often each instruction is evolved.")
    operations: list[Operation] = Field(
        default=["constraints", "deepen", "concretise", "reasoning", "breadth"],
        description="Evol: the ways to evolve, drawn from at random; repeatable.",
    )
    system_prompt: str | None = Field(None, min_length=1, description="Magpie: text of a system turn before the user.")
    tokenizer: str | None = Field(
        None, description="Magpie on a server: folder or name of its tokenizer, which has the chat template."
    )

    temperature: float = Field(0.7, ge=0, description="Randomness of instructions; 0 takes the likeliest token.")
    top_p: float = Field(1.0, gt=0, le=1, description="Sample only from the likeliest tokens that make up this share.")
    max_new_tokens: int = Field(512, ge=1, description="Longest reply to one request for instructions, in tokens.")
    batch_size: int = Field(16, ge=1, description="Requests of a round; the next round sees what it gave.")
    seed: int = Field(0, ge=0, description="Seed of all sampling and of which seeds are shown.")
    max_fruitless: int = Field(100, ge=1, description="Stop after so many requests in a row that gave nothing.")

    answer_model: str | None = Field(
        None, min_length=1, description="Model that answers; left out, the one that writes instructions."
    )
    answer_url: str | None = Field(None, min_length=1, description="Address of a server that has answer_model.")
    answer_api_key_env: str | None = Field(
        None, description="Name of the environment variable that holds that server's API key; never the key."
    )
    num_answers: int = Field(1, ge=0, le=1024, description="Answers of which the best is kept; 0 writes prompts alone.")
    answer_temperature: float | None = Field(
        None, ge=0, description="Randomness of answers; left out, 0 for one answer and 1 for several."
    )
    answer_max_new_tokens: int = Field(1024, ge=1, description="Longest answer, in tokens.")
    answer_stop: list[str] = Field(
        default_factory=list, description="Text that ends an answer, as a base model needs it; repeatable."
    )
    keep_refusals: bool = Field(False, description="Keep short answers that say sorry.")
    reward: list[str] = Field(
        default_factory=list, description="What grades answers, as in `posttrain grpo`; repeatable, or else a judge."
    )
    min_quality: float | None = Field(None, description="Least reward or rating of an answer.")

    min_words: int = Field(4, ge=1, description="Fewest words of an instruction.")
    max_words: int = Field(150, ge=1, description="Most words of an instruction.")
    refuse_words: list[str] = Field(
        default=list(KEYWORDS), description="Words that no instruction may hold; repeatable, '' for none."
    )
    refuse_starts: list[str] = Field(
        default=list(STARTS), description="What no instruction may begin with; repeatable, '' for nothing."
    )
    max_rouge: float = Field(0.7, ge=0, le=1, description="Most ROUGE-L to any seed or kept instruction.")
    decontaminate: list[DatasetEntry] = Field(
        default_factory=list, description="Evaluation data of which nothing may come back; repeatable."
    )
    decontaminate_words: int = Field(8, ge=1, description="Words in a row that make a text one of evaluation.")

    output_dir: str = Field(
        "runs/instruct", min_length=1, description="Folder for instructions.jsonl, left_out.jsonl and instruct.json."
    )
    overwrite_output_dir: bool = Field(
        False, description="Replace what other settings made there; answers that models gave are used again."
    )

    @property
    def wanted(self) -> int:
        """How many instructions to stop at."""
        return self.num_instructions or (100 if self.method in OPEN_ENDED else 10**9)

    @property
    def answered_at(self) -> float:
        """The temperature of answers, as given or by their number."""
        return self.answer_temperature if self.answer_temperature is not None else float(self.num_answers > 1)

    @field_validator("dataset", "decontaminate", mode="before")
    @classmethod
    def _entries(cls, value: object) -> object:
        return as_entries(value)

    @field_validator("reward", "refuse_words", "refuse_starts", "operations", "answer_stop", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("refuse_words", "refuse_starts")
    @classmethod
    def _none(cls, value: list[str]) -> list[str]:
        return value or [""]  # so that a command line can say it

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not self.dataset and self.method != "magpie":
            what = "texts" if self.method == "backtranslation" else "seeds"
            raise ValueError(f"dataset is empty and {self.method} needs {what}: name a file, a folder or `pocket`")
        if self.dataset and self.method == "magpie":
            raise ValueError("dataset is given and magpie has no use for it: leave it out, or take another method")
        for key, method in ONLY_OF.items():
            if self.method != method and getattr(self, key) != type(self).model_fields[key].get_default(
                call_default_factory=True
            ):
                raise ValueError(f"{key} is for {method}, and method is {self.method}: leave it out")
        if not self.operations:
            raise ValueError("operations is empty: name at least one way to evolve")
        if self.min_words > self.max_words:
            raise ValueError(f"min_words is {self.min_words}, above max_words {self.max_words}: nothing is left")
        self._agree_on_answers()
        return self

    def _agree_on_answers(self) -> None:
        if self.answer_url is not None and self.answer_model is None:
            raise ValueError("answer_url is given and answer_model is not: say what the server calls its model")
        if self.answer_api_key_env is not None and self.answer_url is None:
            raise ValueError("answer_api_key_env is given and answer_url is not: say which server the key is for")
        if self.method == "backtranslation" and self.answer_model is not None:
            raise ValueError("answer_model is given, and the answers of backtranslation are the texts: leave it out")
        if self.reward and self.judge:
            raise ValueError("reward is given beside judge: keep one, both say how good an answer is")
        if self.min_quality is not None and not (self.reward or self.judge):
            raise ValueError("min_quality is given and nothing measures quality: give reward or judge")
        if self.num_answers > 1 and not (self.reward or self.judge):
            raise ValueError("num_answers is above 1 and nothing says which is best: give reward or judge")
        if self.num_answers == 0 and (self.reward or self.judge or self.answer_model):
            raise ValueError("num_answers is 0, so there is nothing for reward, judge or answer_model: leave them out")
        if self.num_answers > 1 and self.answer_temperature == 0:
            raise ValueError("answer_temperature is 0, which gives the same answer every time: raise it")


class InstructConfig(RayKeys, InstructKeys):
    """Instructions and answers that a model makes: self-instruct, Evol-Instruct, Magpie, or backtranslation."""

    verb: ClassVar[str] = "instruct"
    headings: ClassVar[dict[str, str]] = {
        "concurrency": "servers and memory",
        "judge": "a judge of quality",
        "model": "the model that writes instructions",
        "method": "method",
        "temperature": "writing instructions",
        "answer_model": "answers",
        "min_words": "what is left out",
        "output_dir": "output",
        "ray": "more than one process or machine",
    }
