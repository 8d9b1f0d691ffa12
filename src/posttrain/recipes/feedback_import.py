"""`posttrain feedback import FILE`: ballots of other tools, pairs and rankings into a preference store."""

from collections.abc import Mapping

from posttrain.feedback.imports import check_file, is_new, load_file
from posttrain.feedback.store import Store
from posttrain.recipes.feedback_import_config import FeedbackImportConfig

MOST_LINES = 20


def run(config: FeedbackImportConfig) -> None:
    """Read the file and say what became of every row. A file that cannot be read makes no store."""
    if is_new(config.store):
        check_file(
            config.file,
            prompt_field=config.prompt_field,
            answer_fields=config.answer_fields,
            on_bad_rows=config.on_bad_rows,
        )
    with Store.open(config.store) as store:
        loaded = load_file(
            store,
            config.file,
            annotator=config.annotator,
            source=config.source,
            prompt_field=config.prompt_field,
            answer_fields=config.answer_fields,
            on_bad_rows=config.on_bad_rows,
        )
        counts = store.counts()
    print(f"{config.file}: {_told(loaded.formats)}")
    print(f"new in the store: {_told(loaded.new) or 'nothing'}")
    if loaded.known:
        print(f"there already: {_told(loaded.known)}")
    for reason, number in loaded.left_out.most_common():
        print(f"no ballot: {number:,} × {reason}")
    for _, reason in loaded.skipped[:MOST_LINES]:
        print(f"not read: {reason}")
    if len(loaded.skipped) > MOST_LINES:
        print(f"not read: {len(loaded.skipped) - MOST_LINES:,} more rows")
    print(f"{config.store} holds {_told(counts)}")


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items())
