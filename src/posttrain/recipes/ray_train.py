"""`--launcher ray`: a training verb in the workers of a Ray cluster, by Ray Train's TorchTrainer.

Ray places the processes, makes their group, and starts them anew when one dies; the verb's recipe runs in each, and
its own checkpoints in the run folder are what it goes on from. The cluster is the one of the environment variable
RAY_ADDRESS, else the one that runs on this machine.
"""

import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from posttrain.errors import ConfigError
from posttrain.recipes.config import command
from posttrain.recipes.ray_cluster import Workers, cluster, quiet_ray
from posttrain.recipes.ray_config import PLACE
from posttrain.recipes.ray_train_desk import Desk
from posttrain.recipes.ray_train_told import Told, cause
from posttrain.recipes.ray_train_worker import Job, versions, work
from posttrain.train.checkpoint import PREFIX
from posttrain.train.interrupt import Interrupt
from posttrain.train.runlog import RunFolder


def launch(config: Any) -> int:
    """Run a training verb on a cluster; the exit code. Raises ConfigError where the cluster or its room is missing,
    TrainError where the run failed or its workers died more often than max_restarts."""
    keys, alone = "num_processes or worker_cpus", "set RAY_ADDRESS=local"
    workers = Workers(config.num_processes, config.worker_cpus, keys=keys, alone=alone)
    RunFolder(config.output_dir, resume=config.resume_from_checkpoint, overwrite=config.overwrite_output_dir)
    try:
        with cluster(_address(), workers, _say), _marked(Path(config.output_dir)) as mark, TemporaryDirectory() as kept:
            return _run(config, Job(config, Path.cwd(), mark, versions()), kept)
    except KeyboardInterrupt:
        _say(f"stopped at once; go on with:\n  {command(_again(config))}")
        return 130


def _address() -> str:
    found = os.environ.get("RAY_ADDRESS", "auto")
    if found not in ("auto", "local") and not PLACE.fullmatch(found):
        raise ConfigError(
            f"RAY_ADDRESS is {found!r}, expected HOST:PORT of a cluster's head (port 6379 mostly), auto, or local: "
            "start the command on a machine of the cluster, or give it to the cluster with `ray job submit`"
        )
    return found


@contextmanager
def _marked(folder: Path) -> Iterator[Path]:
    """A file beside the run folder, by which workers see that its storage is shared."""
    mark = folder.absolute().parent / f".{folder.name}-{secrets.token_hex(8)}"
    try:
        mark.touch()
    except OSError as error:
        raise ConfigError(f"{mark.parent} cannot be written to: {error.strerror}.") from error
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def _run(config: Any, job: Job, kept: str) -> int:
    ray = quiet_ray()
    here = ray.get_runtime_context().get_node_id()
    beside = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
    desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=beside).remote()
    trainer, told, failed = _trainer(config, job, desk, kept), Told(config, _say), None
    with Interrupt() as interrupt, told.listening(desk, interrupt), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own parts among each other
        try:
            trainer.fit()
        except Exception as error:
            failed = error
    if told.code is not None:
        return told.code
    if interrupt.requested and not told.failed:
        _say(f"stopped; go on with:\n  {command(_again(config))}")
        return 130
    raise told.error(failed)


def _trainer(config: Any, job: Job, desk: Any, kept: str) -> Any:
    """Ray's own, told to be quiet and to wait for room as long as processes wait for each other."""
    os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = os.environ["RAY_TRAIN_METRICS_ENABLED"] = "0"
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(config.ddp_timeout)
    try:
        train, torch = import_module("ray.train"), import_module("ray.train.torch")
    except ImportError as error:
        raise ConfigError(f"Ray Train lacks {error.name}; install it with pip install 'posttrain[ray]'") from None

    class Watch(train.UserCallback):  # type: ignore[misc, name-defined]
        """In Ray's controller: why workers fail."""

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
            desk.tell.remote("died", cause(worker_exceptions))

    gpus = int(quiet_ray().cluster_resources().get("GPU", 0))
    if 0 < gpus < config.num_processes:
        raise ConfigError(f"the cluster has {gpus} GPUs for {config.num_processes} processes: lower num_processes")

    class Trainer(torch.TorchTrainer):  # type: ignore[misc, name-defined]
        """In this process."""

        def _register_sigint_handler(self, controller: Any) -> None: ...  # a Ctrl-C is ours

    threads = {"OMP_NUM_THREADS": str(max(1, int(config.worker_cpus)))}
    return Trainer(
        work,
        train_loop_config={"job": job, "desk": desk},
        torch_config=torch.TorchConfig("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout_s=config.ddp_timeout),
        scaling_config=train.ScalingConfig(
            num_workers=config.num_processes, use_gpu=gpus > 0, resources_per_worker={"CPU": config.worker_cpus}
        ),
        run_config=train.RunConfig(
            name=config.verb,
            storage_path=kept,  # of Ray's own notes; checkpoints are ours, in the run folder
            failure_config=train.FailureConfig(
                max_failures=config.max_restarts, controller_failure_limit=config.max_restarts
            ),
            callbacks=[Watch()],
            worker_runtime_env={"env_vars": threads},
        ),
    )


def _again(config: Any) -> Any:
    has_any = any(Path(config.output_dir).glob(f"{PREFIX}*[0-9]"))
    return config.model_copy(update={"resume_from_checkpoint": has_any, "overwrite_output_dir": not has_any})


def _say(text: str) -> None:
    print(text, flush=True)
