"""What one model still has to answer, in parts, and the answers into the output, in the order of the prompts."""

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.progress import Progress

from posttrain.models.load import Policy
from posttrain.recipes.policy import resolve_model
from posttrain.recipes.sample_answers import Job, fitting, parameters_of
from posttrain.recipes.sample_config import SampleConfig
from posttrain.recipes.sample_file import Answer, FileOutput
from posttrain.recipes.sample_store import StoreOutput
from posttrain.types import Prompt

BATCHES_AT_ONCE = 8  # answers of like length share a batch, among so many batches


class Filling:
    """`missing`: prompts with the numbers of the answers that the output lacks of the model, told aloud."""

    def __init__(
        self,
        config: SampleConfig,
        name: str,
        prompts: Sequence[Prompt],
        output: FileOutput | StoreOutput,
        console: Console,
    ) -> None:
        self.config, self.name, self.output, self.console = config, name, output, console
        self.folder = resolve_model(name)
        self.parameters = parameters_of(config, self.folder)
        missing = [
            (prompt, [number for number in range(config.num_samples) if number not in there])
            for prompt in prompts
            for there in [output.done(prompt, name, self.parameters)]
        ]
        self.missing = [(prompt, numbers) for prompt, numbers in missing if numbers]
        self.num_passed = len(prompts) - len(self.missing)
        if self.num_passed:
            said = f"{name}: {self.num_passed:,} prompts have their answers already and are passed over"
            console.print(said, markup=False)

    def parts(self, policy: Policy) -> list[list[Job]]:
        """What fits the model's context, so many prompts at a time."""
        jobs = fitting(self.config, policy, self.missing, self.console, num_done=self.num_passed)
        size = max(1, BATCHES_AT_ONCE * self.config.batch_size // self.config.num_samples)
        return [jobs[start : start + size] for start in range(0, len(jobs), size)]

    def fill(self, answered: Iterable[tuple[Sequence[Job], Sequence[Sequence[Answer]]]]) -> None:
        """Write down every part's answers as they are given."""
        counts: Counter[str] = Counter()
        num_prompts = 0
        with Progress(console=self.console, transient=True) as progress:
            task = progress.add_task(self.name, total=len(self.missing))
            for part, found in answered:
                for (prompt, _, numbers), answers in zip(part, found, strict=True):
                    again = self.output.add(prompt, self.name, self.parameters, answers)
                    counts["answers"] += len(numbers)
                    counts["said before"] += len(numbers) - len(answers) + again
                    counts["cut at max_new_tokens"] += sum(not answer.finished for answer in answers)
                    counts["empty"] += sum(not answer.content for answer in answers)
                num_prompts += len(part)
                progress.advance(task, len(part))
        left = "".join(f", {counts[what]:,} {what}" for what in list(counts)[1:] if counts[what])
        said = f"{self.name}: {counts['answers']:,} answers to {num_prompts:,} prompts{left}"
        self.console.print(said, markup=False)
