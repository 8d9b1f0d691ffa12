"""Ray Data: a source that gives a desk's jobs as they come, and the map over a pool of workers."""

import logging
import threading
from collections.abc import Iterator
from typing import Any

from posttrain.recipes.ray_cluster import Workers


def source(desk: Any, worker: type, given: tuple[Any, ...], workers: Workers, here: str) -> Any:
    """The dataset of what `worker(*given)` makes of the jobs at the desk, in the order in which they are done. The
    reader and its blocks stand on machine `here`, the driver's, so that no other one's death takes jobs along."""
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # which its import has set otherwise
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    # A block for each job, handed on at once: Ray would wait until a block is full.
    context.target_max_block_size = context.target_min_block_size = 1
    before = ray.data.DataContext.get_current()
    ray.data.DataContext._set_current(context)
    try:
        rows = ray.data.read_datasource(
            _jobs(desk), override_num_blocks=1, num_cpus=0, label_selector={"ray.io/node-id": here}
        )
        return rows.map_batches(
            worker,
            fn_constructor_args=given,
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=workers.num, max_tasks_in_flight_per_actor=2),
            num_cpus=workers.cpus,
            num_gpus=workers.gpus or None,
        )
    finally:
        ray.data.DataContext._set_current(before)


def batches(dataset: Any) -> Iterator[Any]:
    """What comes out of it, as it comes."""
    return iter(dataset.iter_batches(batch_size=None, prefetch_batches=0))


def stop(dataset: Any) -> None:
    """End what may never end by itself, such as a job whose worker waits for a node that is gone. Ray Data's own thread
    would go on, and connect this process to Ray again after it has let go."""
    name = f"StreamingExecutor-{dataset.get_dataset_id()}"
    for thread in threading.enumerate():
        if thread.name == name:
            thread.shutdown(force=True)  # type: ignore[attr-defined]


def _jobs(desk: Any) -> Any:
    import pyarrow as pa
    import ray
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    def read() -> Iterator[Any]:
        place = 0
        while (found := ray.get(desk.next.remote(place))) is not None:
            number, job = found
            yield pa.table({"number": [number], "job": pa.array([job], pa.large_binary())})
            place += 1

    class Jobs(Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:  # noqa: ARG002
            about = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(read, about)]

    return Jobs()
