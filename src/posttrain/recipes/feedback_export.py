"""`posttrain feedback export FILE`: a preference store for training, for other tools, or whole."""

from posttrain.errors import StoreError
from posttrain.feedback.exports import write_file
from posttrain.feedback.imports import is_new
from posttrain.feedback.store import Store
from posttrain.recipes.feedback_export_config import FeedbackExportConfig


def run(config: FeedbackExportConfig) -> None:
    """Write the file and say what has no place in it."""
    if is_new(config.store):
        raise StoreError(f"{config.store}: there is no such store. Correct the path, or fill one by feedback import.")
    with Store.open(config.store) as store:
        written = write_file(store, config.output, config.format, aggregate=config.aggregate)
    print(f"{config.output}: {written.rows:,} rows ({config.format})")
    for kind, number in written.left_out.most_common():
        print(f"left out: {number:,} {kind}")
