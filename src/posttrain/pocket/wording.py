"""The record that holds how one relation is said and asked."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wording:
    """One relation. The plain statement, `completion` and then the answer, is also the answer sentence of a chat."""

    table: str
    """File name of the table, without ending."""
    column: str
    """Column of the table that holds the answers."""
    completion: str
    """Start of a sentence that the answer ends; the plain statement is this, a blank, the answer and a full stop."""
    others: tuple[str, ...]
    """Further statements, subject first and answer first."""
    questions: tuple[str, ...]
    """Questions of the quiz sheets in pre-training, of fine-tuning and of the exam."""
    chat_questions: tuple[str, ...]
    """Questions of fine-tuning that pre-training never shows."""
    eval_questions: tuple[str, ...]
    """Questions of the evaluation loss alone."""

    @property
    def statements(self) -> tuple[str, ...]:
        """All statements, the plain one first."""
        return (f"{self.completion} {{a}}.", *self.others)
