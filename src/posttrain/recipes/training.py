"""What every training verb does between its data and its report: optimise, checkpoint, log, and end well."""

import shlex
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from posttrain.data.template import stop_token_ids
from posttrain.errors import PosttrainError
from posttrain.models.load import Policy
from posttrain.models.precision import has_fast_bf16
from posttrain.models.reference import Reference
from posttrain.recipes.processes import spoken
from posttrain.recipes.protect import protect
from posttrain.recipes.sharing import settings_of, share_models
from posttrain.recipes.training_rate import rate_of
from posttrain.recipes.training_record import record_of, result_of
from posttrain.train import distributed
from posttrain.train.checkpoint import Checkpoints
from posttrain.train.evaluation import Evaluation
from posttrain.train.interrupt import Interrupt
from posttrain.train.loop import Companion, Run, train
from posttrain.train.objectives import Objective
from posttrain.train.optim import adamw
from posttrain.train.progress import ProgressBar
from posttrain.train.report import write_report
from posttrain.train.runlog import RunFolder, fingerprint
from posttrain.train.sharding import offload_activations, settle
from posttrain.train.trackers import start_trackers
from posttrain.types import Batch


def uses_bf16(config: Any, policy: Policy) -> bool:
    """Whether to compute in bfloat16: as the recipe says, else where the hardware has it."""
    return has_fast_bf16(policy.device) if config.bf16 is None else config.bf16


def fit(
    config: Any,
    policy: Policy,
    objective: Objective,
    stream: Any,
    held_out: list[Batch],
    inputs: list[dict[str, Any]],
    folder: RunFolder,
    console: Console,
    *,
    companion: Companion | None = None,
    measure: Any | None = None,
    parts: Mapping[str, Any] | None = None,
    reference: Reference | None = None,
) -> Run:
    """Train and save the model into the run folder; an interrupted run says how to go on. Checkpoints are resumed by
    the same recipe on the same data only. `companion`: see train/loop.py. `measure`: what is evaluated in place of the
    held-out loss. `parts`: models that are trained beside the policy, by name. `reference`: the policy as it stands at
    this call, where there is one already."""
    shape: dict[str, Any] = {"bf16": uses_bf16(config, policy), "reference": reference}
    held = protect(config, policy, objective, stream, folder, console.print, **shape)
    inputs = [*inputs, *held.inputs]
    read = {str(each.get("path", number)): fingerprint(each) for number, each in enumerate(inputs)}
    distributed.agree(read, "data", "Give all of them the same files.")
    settings = settings_of(config)
    mark = fingerprint(settings, inputs)
    checkpoints = Checkpoints(
        folder.path, keep=config.save_total_limit, fingerprint=mark, settings=settings, parts=parts
    )
    if measure is None and held_out:
        keep_best = config.load_best_model_at_end
        measure = Evaluation(held_out, config.eval_steps, config.early_stopping_patience, keep_best)
    distributed.together(lambda: folder.begin(record_of(config, policy, inputs)))
    if config.resume_from_checkpoint and config.strategy == "fsdp":
        checkpoints.restore_before_sharding(policy)
    share_models(config, policy, parts, [reference or held.reference], bf16=shape["bf16"])
    if config.activation_offloading:
        offload_activations(policy.model, policy.device)
    held.keep(folder)
    try:
        done = _optimise(config, policy, held.objective, held.stream, measure, checkpoints, folder, console, companion)
        if done.status != "interrupted":
            checkpoints.export(policy, stop_token_ids(policy.tokenizer))
    except PosttrainError as error:
        folder.end("failed", {"error": str(error)})
        raise
    if done.status == "interrupted":
        again = config.model_copy(update={"resume_from_checkpoint": True, "overwrite_output_dir": False})
        console.print(f"saved at step {done.state.step} of {done.total_steps}; go on with:\n  {spoken(again)}")
        folder.end(done.status, result_of(done))
    return done


def finish(done: Run, folder: RunFolder, console: Console, *, say: str = "talk with it: posttrain chat {}") -> None:
    """Complete run.json and the page; `say`: what to do with the model next."""
    folder.end(done.status, result_of(done))
    if not distributed.is_main():
        return
    page = write_report(folder.path)
    console.print(f"{done.status} after {done.state.step} steps: model in {folder.path}, report in {page}")
    console.print(say.format(shlex.quote(str(folder.path))))


def _optimise(
    config: Any,
    policy: Policy,
    objective: Objective,
    stream: Any,
    measure: Any | None,
    checkpoints: Checkpoints,
    folder: RunFolder,
    console: Console,
    companion: Companion | None,
) -> Run:
    steps = config.max_steps if config.max_steps > 0 else stream.num_steps(config.num_train_epochs)
    settle(policy.model)  # the optimiser is given shares, not weights that a forward has made whole
    optimizer = adamw(
        policy.model,
        kind=config.optim,
        learning_rate=config.peak_rate,
        weight_decay=config.weight_decay,
        betas=(config.adam_beta1, config.adam_beta2),
        epsilon=config.adam_epsilon,
        parts={name: (part, config.part_rates[name]) for name, part in checkpoints.parts.items()},
    )
    with ProgressBar(config.progress, steps, console=console) as bar, Interrupt() as interrupt:
        if distributed.is_main():
            folder.watchers += [bar, *start_trackers(config.report_to, folder.path, config.model_dump())]
        done = train(
            policy,
            stream,
            objective,
            optimizer=optimizer,
            rate=rate_of(config, steps),
            total_steps=steps,
            checkpoints=checkpoints,
            log=folder,
            evaluation=measure,
            max_grad_norm=config.max_grad_norm,
            bf16=uses_bf16(config, policy),
            logging_steps=config.logging_steps,
            save_steps=config.save_steps,
            resume=config.resume_from_checkpoint,
            should_stop=interrupt,
            companion=companion,
        )
    if config.load_best_model_at_end and done.status != "interrupted":
        checkpoints.restore_best(policy, done.state)
    return done
