"""`posttrain report RUN_DIR`: the page of a run folder, written again from the numbers it holds."""

from posttrain.recipes.report_config import ReportConfig
from posttrain.train.report import write_report


def run(config: ReportConfig) -> None:
    """Write report.html and say where it is."""
    print(f"wrote {write_report(config.run_dir)}")
