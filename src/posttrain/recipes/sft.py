"""`posttrain sft`: supervised fine-tuning of any Hugging Face causal LM, full or LoRA."""

import shlex
from typing import Any

import torch
from rich.console import Console

from posttrain.data.template import stop_token_ids
from posttrain.errors import PosttrainError
from posttrain.models.load import Policy
from posttrain.models.precision import has_fast_bf16
from posttrain.recipes.config import command
from posttrain.recipes.mixing import open_stream
from posttrain.recipes.policy import fit_length, load_policy
from posttrain.recipes.preview import answer, write_samples
from posttrain.recipes.sft_config import SftConfig
from posttrain.recipes.training_data import TrainingData, load_data
from posttrain.train.checkpoint import Checkpoints
from posttrain.train.evaluation import Evaluation
from posttrain.train.interrupt import Interrupt
from posttrain.train.loop import Run, train
from posttrain.train.objectives import SFT
from posttrain.train.optim import adamw, schedule
from posttrain.train.progress import ProgressBar
from posttrain.train.report import write_report
from posttrain.train.runlog import RunFolder, fingerprint
from posttrain.train.trackers import start_trackers


def run(config: SftConfig) -> int:
    """Load, read, train, save; the run folder holds everything a reader needs."""
    console = Console(highlight=False, soft_wrap=True)
    folder = RunFolder(config.output_dir, resume=config.resume_from_checkpoint, overwrite=config.overwrite_output_dir)
    torch.manual_seed(config.seed)

    policy, has_template = load_policy(config)
    config = fit_length(config, policy, console.print)
    data = load_data(config, policy.tokenizer, console.print)
    before = answer(policy, data.preview, with_template=has_template)

    checkpoints = _checkpoints(config, data, folder)
    try:
        done = _train(config, policy, data, folder, checkpoints, console)
        if done.status != "interrupted":
            checkpoints.export(policy, stop_token_ids(policy.tokenizer))
    except PosttrainError as error:
        folder.end("failed", {"error": str(error)})
        raise
    if done.status == "interrupted":
        again = config.model_copy(update={"resume_from_checkpoint": True, "overwrite_output_dir": False})
        console.print(f"saved at step {done.state.step} of {done.total_steps}; go on with:\n  {command(again)}")
        folder.end(done.status, _result(done))
        return 130

    write_samples(folder, data.preview, before, answer(policy, data.preview, with_template=True))
    folder.end(done.status, _result(done))
    page = write_report(folder.path)
    console.print(f"{done.status} after {done.state.step} steps: model in {folder.path}, report in {page}")
    console.print(f"talk with it: posttrain chat {shlex.quote(str(folder.path))}")
    return 0


def _checkpoints(config: SftConfig, data: TrainingData, folder: RunFolder) -> Checkpoints:
    """Checkpoints that only the same recipe on the same data may resume."""
    free = {"resume_from_checkpoint", "overwrite_output_dir", "report_to", "output_dir", "num_preview_samples"}
    free |= {"dataset_num_proc", "data_checks"}
    mark = fingerprint(config.model_dump(exclude=free), data.inputs)
    return Checkpoints(folder.path, keep=config.save_total_limit, fingerprint=mark)


def _train(
    config: SftConfig,
    policy: Policy,
    data: TrainingData,
    folder: RunFolder,
    checkpoints: Checkpoints,
    console: Console,
) -> Run:
    stream = open_stream(config, data.train, data.parts, console.print)
    steps = config.max_steps if config.max_steps > 0 else stream.num_steps(config.num_train_epochs)
    peak = config.learning_rate or (2e-4 if config.use_peft else 2e-5)
    optimizer = adamw(
        policy.model,
        learning_rate=peak,
        weight_decay=config.weight_decay,
        betas=(config.adam_beta1, config.adam_beta2),
        epsilon=config.adam_epsilon,
    )
    evaluation = Evaluation(
        data.held_out,
        config.eval_steps,
        config.early_stopping_patience,
        config.load_best_model_at_end,
    )
    folder.begin(_record(config, policy, data))
    with ProgressBar("fine-tuning", steps, console=console) as bar, Interrupt() as interrupt:
        folder.watchers += [bar, *start_trackers(config.report_to, folder.path, config.model_dump())]
        done = train(
            policy,
            stream,
            SFT,
            optimizer=optimizer,
            rate=schedule(
                config.lr_scheduler_type,
                peak=peak,
                total_steps=steps,
                warmup_steps=config.warmup_steps or round(config.warmup_ratio * steps),
                min_ratio=config.min_lr_ratio,
            ),
            total_steps=steps,
            checkpoints=checkpoints,
            log=folder,
            evaluation=evaluation if data.held_out else None,
            max_grad_norm=config.max_grad_norm,
            bf16=has_fast_bf16(policy.device) if config.bf16 is None else config.bf16,
            logging_steps=config.logging_steps,
            save_steps=config.save_steps,
            resume=config.resume_from_checkpoint,
            should_stop=interrupt,
        )
    if config.load_best_model_at_end and done.status != "interrupted":
        checkpoints.restore_best(policy, done.state)
    return done


def _record(config: SftConfig, policy: Policy, data: TrainingData) -> dict[str, Any]:
    anew = config.model_copy(update={"resume_from_checkpoint": False})
    return {
        "verb": config.verb,
        "command": command(anew),
        "config": config.model_dump(),
        "seeds": {"seed": config.seed},
        "inputs": data.inputs,
        "parent": config.model,
        "model": {"parameters": policy.num_parameters, "trainable": policy.num_trainable},
    }


def _result(done: Run) -> dict[str, Any]:
    return {"steps": done.state.step, "tokens": done.state.num_tokens, "trained_tokens": done.state.num_trained}
