"""Whether a sampler serves the weights that are trained: a few tokens scored both ways."""

import torch
from torch import Tensor

from posttrain.errors import ModelError
from posttrain.models.attention import FLEX, SEGMENTS, install_attention
from posttrain.models.decoding import Decoder
from posttrain.models.decoding_pages import Pages, Prefill, Step
from posttrain.models.load import Policy
from posttrain.models.logprobs import causal_lm, token_logps
from posttrain.types import Batch, Span

NUM_PROMPT, NUM_SAID = 17, 15
# Mean difference of a log-probability. Rounding alone gives 1e-6 in fp32 and up to 0.02 in bf16 (tiny random models).
# It grows with the logits: a trained model finds the probe's tokens far less likely, and differs by 0.055 in bf16.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.02}

USUAL = 4.0  # nats: the mean of the probe's tokens under the models that the bounds were measured on


def check(decoder: Decoder, policy: Policy, dtype: torch.dtype) -> None:
    """Raises ModelError where the decoder's log-probabilities are not those of the policy."""
    ids = probe_ids(policy)
    found, wanted = decoded_logps(decoder, ids), trained_logps(policy, ids)
    if not bool(wanted.isfinite().all()):
        raise ModelError(
            "the policy's log-probabilities of a few probe tokens are not numbers: its weights hold NaN or infinity; "
            "go back to an earlier checkpoint, or lower the learning rate."
        )
    apart = float((found - wanted).abs().mean())
    bound = TOLERANCE[dtype] * max(1.0, float(wanted.abs().mean()) / USUAL)
    if not apart <= bound:
        raise ModelError(
            f"the sampler does not serve the weights that are trained: on {NUM_SAID} probe tokens its "
            f"log-probabilities are {apart:.3g} apart from the model's (at most {bound:.2g} in "
            f"{str(dtype)[6:]}). The copy is stale, or the model computes what sampling does not know; sample with "
            "dtype float32 to tell the two apart."
        )


def probe_ids(policy: Policy) -> Tensor:
    """Tokens spread over the vocabulary, the same at every call."""
    size = causal_lm(policy.model).get_input_embeddings().weight.shape[0]
    spread = torch.arange(NUM_PROMPT + NUM_SAID, dtype=torch.int64) * 7919 + 3
    return (spread % size).to(policy.device)


def decoded_logps(decoder: Decoder, ids_T: Tensor) -> Tensor:
    """Log-probability of each of the last NUM_SAID tokens: the first ones prefilled, then one step a token."""
    device, prompt = ids_T.device, ids_T[:NUM_PROMPT].tolist()
    shared, own = Pages(1, 1, device), Pages(1, 1, device)
    attend = Prefill(shared, [prompt], len(prompt))
    hidden = decoder.hidden(ids_T[:NUM_PROMPT], torch.arange(NUM_PROMPT, device=device), attend)[-1:]
    shared.rows[attend.of_prompt[0], 0] = 0
    page = own.take(NUM_PROMPT)
    own.rows[page, 0] = 0
    found = []
    for number in range(NUM_SAID):
        logp_V = torch.log_softmax(decoder.logits(hidden)[0].float(), 0)
        found.append(logp_V[ids_T[NUM_PROMPT + number]])
        place = torch.tensor([NUM_PROMPT + number])
        step = Step(shared, own, torch.tensor([page]), torch.tensor([number]), place)
        hidden = decoder.hidden(ids_T[place.to(device)], place.to(device), step)
    return torch.stack(found)


def trained_logps(policy: Policy, ids_T: Tensor, *, num_prompt: int = NUM_PROMPT, temperature: float = 1.0) -> Tensor:
    """The same by the path that training takes, of all tokens behind `num_prompt`."""
    source = torch.arange(num_prompt - 1, len(ids_T) - 1, device=ids_T.device)
    weight = torch.ones(len(source), device=ids_T.device)
    place, spans = torch.arange(len(ids_T), device=ids_T.device), (Span(0, len(ids_T)),)
    batch = Batch(ids_T, place, spans, ids_T[num_prompt:], source, weight, torch.zeros_like(source), ())
    lm, was_training = causal_lm(policy.model), policy.model.training
    before = lm.config._attn_implementation
    policy.model.eval()
    if before not in (SEGMENTS, FLEX):
        install_attention(lm)
    try:
        return token_logps(policy.model, batch, temperature=temperature)
    finally:
        policy.model.train(was_training)
        if before not in (SEGMENTS, FLEX):
            lm.set_attn_implementation(before)
