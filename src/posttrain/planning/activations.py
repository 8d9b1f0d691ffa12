"""What the backward pass needs kept, by layer and position: read off the code that is run, and held against autograd's
own list of saved tensors by a test.

Legend: D width, F inner width, H width of all queries, c bytes of the compute dtype, a bytes in attention, r rank.
"""

from posttrain.planning.job import ROW_MULTIPLE, SHORT_SPAN, Job, Micro
from posttrain.planning.shapes import FUSED, Map, Shape

FIGURE = 4  # bytes of a statistic: means, deviations, log-sum-exp


def layer_bytes(job: Job, micro: Micro, *, on_cpu: bool) -> float:
    """Bytes a position that one layer keeps for its backward."""
    shape, c = job.shape, job.width
    a = attention_width(job, micro, on_cpu=on_cpu)
    found = _norms(job) + _attention(job, micro, a, on_cpu=on_cpu) + _mlp(shape, c) + _inputs(job)
    if job.lora is not None:
        found += sum(job.lora.rank * c for _ in job.lora.maps(shape))
    return found


def stream_width(job: Job) -> int:
    """Bytes of the residual stream: embeddings are fp32, and what is added to them is cast up; FSDP hands embeddings
    out in the dtype of products."""
    return job.width if job.fsdp else 4


def attention_width(job: Job, micro: Micro, *, on_cpu: bool) -> int:
    """Bytes of a number in attention: on CPU short spans are attended in fp32."""
    return 4 if on_cpu and micro.span < SHORT_SPAN else job.width


def _norms(job: Job) -> float:
    shape, is_full, D = job.shape, job.lora is None, job.shape.width
    stream = stream_width(job)
    if shape.family == "gpt_neox":  # both norms read the same input
        return D * stream + 4 * FIGURE
    if shape.family == "gpt2":
        return 2 * (D * stream + 2 * FIGURE)
    count = 4 if shape.family in ("gemma2", "gemma3_text") else 2
    found = float(count * (D * stream + FIGURE))
    if shape.family not in FUSED and is_full:
        found += count * D * 4  # the normalised input, for the gradient of the norm's weight
    return found


def _attention(job: Job, micro: Micro, a: int, *, on_cpu: bool) -> float:
    """Queries, keys and values as attention reads them, what it gives, and what of it goes to the next map."""
    shape, c, H = job.shape, job.width, job.shape.attended
    keys = H if on_cpu else shape.kv_heads * shape.head  # on CPU repeated for every query
    found = float((H + 2 * keys) * a + H * a + shape.heads * FIGURE)
    if shape.family in ("gpt2", "gpt_neox") and a == c:  # the values are a view that holds on to queries and keys
        found += (2 if shape.family == "gpt_neox" else 0) * H * c
    if shape.qk_norm:
        both = shape.heads + shape.kv_heads
        found += both * shape.head * c + both * FIGURE
        if shape.family not in FUSED:
            found += both * shape.head * (4 if job.lora is None else 0)
    if shape.softcap:
        found += shape.heads * 2 * 4 * micro.pairs / max(micro.positions, 1) * 2 - (H * a + shape.heads * FIGURE)
    if on_cpu and shape.window is not None and micro.span > shape.window:
        found += 4 * micro.span * shape.num_windowed / shape.layers  # SDPA's own mask
    return found


def _mlp(shape: Shape, c: int) -> float:
    """What its non-linear part keeps; the input of its last map is among `_inputs`."""
    F = shape.inner
    if shape.family == "gpt2":  # tanh by hand: four more, which autocast leaves in fp32 in part
        return F * (8 if c == 2 else 16)
    if shape.family == "gpt_neox":
        return F * c
    return F * c * (2 if shape.family in FUSED else 3)


def _inputs(job: Job) -> float:
    """Inputs of the linear maps. One tensor serves all maps that read it, but where each casts it for itself."""
    shape, c = job.shape, job.width
    trained = shape.maps if job.lora is None else job.lora.maps(shape)
    norms_cast = shape.family not in FUSED and shape.family not in ("gpt2", "gpt_neox")
    if c == 2 and (job.lora is not None or norms_cast):
        return sum(each.size_in for each in trained) * c
    return c * sum({_source(each): each.size_in for each in trained}.values())


def _source(each: Map) -> str:
    """Which tensor a map reads."""
    shared = {"q_proj": "attention", "k_proj": "attention", "v_proj": "attention", "gate_proj": "mlp", "up_proj": "mlp"}
    return shared.get(each.name, f"{each.name} {each.size_in}")


def padded(positions: float, *, on_cpu: bool) -> float:
    """Positions with the filler of a CPU's rows."""
    return -(-positions // ROW_MULTIPLE) * ROW_MULTIPLE if on_cpu else positions


def reduced_copies(job: Job) -> float:
    """Bytes of the bf16 copies of weights that autocast makes and the backward keeps, of all layers."""
    if not job.bf16 or job.fsdp or (job.lora is not None and job.lora.bits is not None):
        return 0.0
    return 2.0 * job.shape.layer_matrix * job.shape.layers


def kept(job: Job, micro: Micro, *, on_cpu: bool) -> float:
    """Bytes of activations at the end of a forward pass: all layers', or the inputs of layers and one layer's."""
    positions, shape = padded(micro.positions, on_cpu=on_cpu), job.shape
    last = positions * (shape.width * stream_width(job) + FIGURE)  # the last norm's
    if job.checkpointing:
        return last + positions * shape.layers * shape.width * stream_width(job)
    return last + positions * shape.layers * layer_bytes(job, micro, on_cpu=on_cpu)


def working(job: Job, micro: Micro, *, on_cpu: bool) -> float:
    """Bytes that the backward of one layer takes beside: gradients of what it kept, and with checkpointing that."""
    positions, shape, c = padded(micro.positions, on_cpu=on_cpu), job.shape, job.width
    gradients = positions * (4 * shape.inner * c + 3 * shape.width * stream_width(job))
    return gradients + (positions * layer_bytes(job, micro, on_cpu=on_cpu) if job.checkpointing else 0.0)


def fleeting(job: Job, micro: Micro, *, on_cpu: bool) -> float:
    """Bytes that a forward asks for and gives back between tensors that stay: wide copies in norms, rotations and
    attention, outputs before they are added up. With checkpointing one layer's, for then nothing stays between."""
    shape, c, a = job.shape, job.width, attention_width(job, micro, on_cpu=on_cpu)
    D, H, K = shape.width, shape.attended, shape.kv_heads * shape.head
    wide = 8 if c == 2 else 0
    a_layer = 2 * D * c + 2 * D * wide / 2 + (H + K) * (c + wide) + H * a
    if a != c:
        a_layer += (H + 2 * K) * c + H * c
    if shape.kv_heads < shape.heads and on_cpu:
        a_layer += 2 * (K + (H if a != c else 0)) * c
    layers = 1 if job.checkpointing else shape.layers
    return padded(micro.positions, on_cpu=on_cpu) * layers * a_layer
