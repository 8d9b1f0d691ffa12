"""`posttrain sft`: supervised fine-tuning of any Hugging Face causal LM, full or LoRA."""

import torch
from rich.console import Console

from posttrain.recipes.mixing import open_stream
from posttrain.recipes.policy import fit_length, load_policy
from posttrain.recipes.preview import answer, write_samples
from posttrain.recipes.processes import in_processes
from posttrain.recipes.sft_config import SftConfig
from posttrain.recipes.training import finish, fit
from posttrain.recipes.training_data import held_batches, load_data
from posttrain.train.objectives import SFT
from posttrain.train.runlog import RunFolder


@in_processes
def run(config: SftConfig, console: Console) -> int:
    """Load, read, train, save; the run folder holds everything a reader needs."""
    folder = RunFolder(config.output_dir, resume=config.resume_from_checkpoint, overwrite=config.overwrite_output_dir)
    torch.manual_seed(config.seed)

    policy, has_template = load_policy(config)
    config = fit_length(config, policy, console.print)
    data = load_data(config, policy.tokenizer, console.print)
    before = answer(policy, data.preview, with_template=has_template)

    stream = open_stream(config, data.train, data.parts, console.print)
    held_out = held_batches(data.held_out, data.held_out.length_S, config.max_length)
    done = fit(config, policy, SFT, stream, held_out, data.inputs, folder, console)
    if done.status == "interrupted":
        return 130
    write_samples(folder, data.preview, before, answer(policy, data.preview, with_template=True))
    finish(done, folder, console)
    return 0
