"""The keys of training in more than one process, which every training verb has."""

from typing import Literal, Self

from pydantic import Field, model_validator

from posttrain.recipes.config import Config

UNSHARDED = {"l2_sp", "ewc", "freeze"}  # means that need every weight in one piece


class DistributedKeys(Config):
    """Who starts the processes, and what they share. Under `torchrun` itself none of these keys is needed."""

    launcher: Literal["none", "torchrun", "ray"] = Field(
        "none", description="Who starts more processes: torchrun on this machine, or the workers of a Ray cluster."
    )
    num_processes: int = Field(1, ge=1, description="Processes to train in, with launcher torchrun or ray.")
    max_restarts: int = Field(
        0, ge=0, description="With a launcher: how often to go on from the last checkpoint when a process dies."
    )
    worker_cpus: float = Field(1.0, gt=0, description="With launcher ray: processor cores of each process.")
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp", description="In every process the whole model (ddp), or a share of all its weights (fsdp: FSDP2)."
    )
    reshard_after_forward: bool = Field(
        True, description="With fsdp: drop a layer's whole weights until its backward; off takes memory, saves time."
    )
    cpu_offload: bool = Field(False, description="With fsdp: keep weights, gradients and moments in the CPU's memory.")
    activation_offloading: bool = Field(
        False, description="Keep activations in the CPU's memory until the backward needs them."
    )
    ddp_timeout: int = Field(1800, ge=1, description="Seconds that a process waits for the others before it gives up.")

    @model_validator(mode="after")
    def _need_processes(self) -> Self:
        if self.launcher == "none":
            for key in ("num_processes", "max_restarts"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(
                        f"{key} needs a launcher: set launcher to torchrun or ray, or say it to torchrun itself"
                    )
        if self.launcher != "ray" and self.worker_cpus != type(self).model_fields["worker_cpus"].default:
            raise ValueError("worker_cpus needs launcher ray: other launchers leave the cores to the system")
        if self.strategy != "fsdp":
            for key, default in (("reshard_after_forward", True), ("cpu_offload", False)):
                if getattr(self, key) != default:
                    raise ValueError(f"{key} needs strategy fsdp: ddp keeps the whole model in every process")
        if self.strategy == "fsdp" and getattr(self, "load_in_4bit", False):
            raise ValueError("strategy fsdp cannot share out weights of four bits: leave load_in_4bit, or use ddp")
        if self.strategy == "fsdp" and getattr(self, "optim", "adamw_torch_fused") != "adamw_torch_fused":
            raise ValueError("optim has to be adamw_torch_fused with strategy fsdp: no other can be shared out")
        return self

    @model_validator(mode="after")
    def _shares_out_what_it_protects(self) -> Self:
        found = UNSHARDED & set(getattr(self, "protection", ()))
        if self.strategy == "fsdp" and found:
            raise ValueError(f"protect {sorted(found)[0]} needs every weight in one piece: set strategy to ddp")
        return self
