"""What a person sees while training runs: a bar with loss, speed, memory and time left; plain lines in a log file."""

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar:
    """Follows the metrics of a run; use as a context."""

    def __init__(self, title: str, total_steps: int, *, start: int = 0, console: Console | None = None) -> None:
        self.console = console or Console()
        self.total = total_steps
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task(title, total=total_steps, completed=start, figures="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def write(self, line: dict[str, Any]) -> None:
        """Show one line of metrics."""
        if "eval_loss" in line:
            text = f"step {line['step']}: held-out loss {line['eval_loss']:.4f}"
            self.progress.console.print(text, style="cyan", highlight=False)
        if "loss" not in line:
            return
        figures = f"loss {line['loss']:.3f} · {line['tokens_per_s']:,.0f} tok/s · {line['memory_mb']:,.0f} MB"
        self.progress.update(self.task, completed=line["step"], figures=figures)
        if not self.console.is_terminal:
            print(f"step {line['step']}/{self.total} {figures}", flush=True)
