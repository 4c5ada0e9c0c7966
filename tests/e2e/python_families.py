"""Families of transformers under one plan (python_torch.py runs this): each is computed as by the unchanged model in one
process, logits and gradients, or refused for the reason that is written here. All have the same sizes.

Shared experts, routers with biases, with sigmoids, with groups, with or without normalised weights, attention of other
kinds, Mamba: nothing of these is known to hep, which tries models out instead.
"""
import sys
import warnings

import torch
from transformers import AutoConfig, AutoModelForCausalLM

HIDDEN, EXPERTS, INNER, LAYERS, VOCABULARY, RANKS, SEQUENCES, TOKENS = 32, 8, 40, 2, 96, 4, 1, 8
TOLERANCE = 1e-5  # of the largest value: sums of f32 in another order

# Every name that a family may have for the same thing.
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, "use_cache": False,
    "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "num_experts": EXPERTS, "num_local_experts": EXPERTS,
    "n_routed_experts": EXPERTS, "moe_num_experts": EXPERTS, "num_experts_per_tok": 2, "num_experts_per_token": 2,
    "moe_topk": 2, "moe_k": 2, "intermediate_size": INNER, "moe_intermediate_size": INNER, "n_shared_experts": 1,
    "num_shared_experts": 1, "moe_num_shared_experts": 1, "shared_expert_intermediate_size": 24, "norm_topk_prob": True,
    "n_group": 2, "topk_group": 1, "first_k_dense_replace": 0, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "num_dense_layers": 0, "moe_layer_start_index": 0, "attn_layer_period": 2, "attn_layer_offset": 1,
    "expert_layer_period": 1, "expert_layer_offset": 0, "use_mamba_kernels": False}
HEADS = {"head_dim": 8}  # of all but attention with latent keys
PLAIN = {"layer_types": ["full_attention"] * LAYERS}

# What sets each apart, and what is refused.
RUN = {"olmoe": {}, "qwen2_moe": PLAIN, "deepseek_v3": {"head_dim": None}, "phimoe": {}, "granitemoeshared": {}}
RUN_AT_LENGTH = {
    "deepseek_v2": {"head_dim": None}, "granitemoe": {}, "jamba": {}, "glm4_moe": {}, "glm4_moe_lite": {"head_dim": None, "mlp_layer_types": ["sparse"] * LAYERS},
    "ernie4_5_moe": {}, "dots1": PLAIN, "hunyuan_v1_moe": {}, "lfm2_moe": PLAIN, "minimax_m2": {}, "flex_olmo": {},
    "afmoe": PLAIN, "qwen3_next": PLAIN, "exaone_moe": PLAIN, "cohere2_moe": PLAIN, "solar_open": {}}
REFUSED = {"gpt_oss": "'model.layers.0.mlp.experts': experts have biases, which plans do not know",
           "llama4_text": "'model.layers.0.feed_forward.experts' (Llama4TextExperts) does not take its computation from",
           "llama": "LlamaForCausalLM has no experts"}


def build(kind):
    sizes = {**SIZES, **HEADS, **{**RUN, **RUN_AT_LENGTH}.get(kind, {})}
    config = AutoConfig.for_model(kind, **{name: size for name, size in sizes.items() if size is not None})
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():  # routers' biases and whatever else begins with 0 or 1: they are to matter
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        for name, buffer in model.named_buffers():
            if "bias" in name:
                buffer += 0.1 * torch.randn(buffer.shape, generator=generator)
    return model


def batch():
    """[rank, sequence, token]"""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(3, VOCABULARY, (RANKS, SEQUENCES, TOKENS), generator=generator)


class Reference:
    """Logits and gradients of the unchanged model."""

    def __init__(self, kind):
        self.kind = kind
        model = build(kind)
        tokens = batch().reshape(-1, TOKENS)
        out = model(input_ids=tokens, labels=tokens)
        out.loss.backward()
        self.logits = out.logits.detach().view(RANKS, SEQUENCES, TOKENS, -1)
        self.gradients = {name: parameter.grad for name, parameter in model.named_parameters()
                          if parameter.grad is not None}


def prepare(at_length):
    """In the parent of all ranks."""
    warnings.filterwarnings("ignore")
    return [Reference(kind) for kind in [*RUN, *(RUN_AT_LENGTH if at_length else ())]]


def is_experts(module):
    return type(module).__name__.endswith("Experts")


def near(what, found, expected):
    off = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    assert found.shape == expected.shape and off <= TOLERANCE, "%s: differs by %g of the largest value" % (what, off)


def check(parallelize, plan, reference, rank):
    model = build(reference.kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parallel = parallelize(model, plan, timeout_s=60)
    tokens = batch()[rank]
    out = model(input_ids=tokens, labels=tokens)
    out.loss.backward()
    near(reference.kind + ": logits", out.logits.detach(), reference.logits[rank])
    parallel.average_dense_gradients()
    found = {name: parameter.grad for name, parameter in model.named_parameters()
             if parameter.grad is not None and name not in parallel.expert_names()}
    found.update(parallel.gradients())
    assert set(found) == set(reference.gradients), set(found) ^ set(reference.gradients)
    for name, expected in reference.gradients.items():
        near("%s: %s" % (reference.kind, name), found[name], expected)
    state = parallel.state_dict()
    assert set(state) == set(before) and all(torch.equal(state[name], value) for name, value in before.items())
    parallel.close()


# ---- what hep would compute wrongly: models of a family that is known, each with one thing that is another ------------


def count_tokens(block):
    block.register_buffer("load", torch.zeros(()))
    forward = block.forward

    def counted(rows):
        block.load.add_(rows.sum())
        return forward(rows)

    block.forward = counted


def couple(block):
    forward = block.forward
    block.forward = lambda rows: forward(rows - rows.mean(0, keepdim=True))


def call_twice(block):
    forward = block.forward
    block.forward = lambda rows: forward(rows) + forward(2 * rows)


def look_inside(block):
    forward = block.forward
    block.forward = lambda rows: forward(rows) + block.experts.gate_up_proj.sum()


def scale_outside(block):
    """Its results depend on how many experts there are here."""
    apply_gate = block.experts._apply_gate
    block.experts._apply_gate = lambda gate_up: apply_gate(gate_up) * torch.arange(len(gate_up)).unsqueeze(1)


def leave_out(block):
    block.gate.register_forward_hook(lambda module, given, out: (*out[:-1], torch.full_like(out[-1], EXPERTS)))
    block.experts._is_expert_parallel = True  # transformers then takes that number for nobody


def repeat(block):
    block.gate.register_forward_hook(lambda module, given, out: (*out[:-1], out[-1][:, :1].repeat(1, 2)))


ODD = {"'model.layers.1.mlp.load' changes with the tokens": count_tokens,
       "what becomes of a sequence depends on the others of its batch": couple,
       "'model.layers.1.mlp.experts' is called 2 times": call_twice,
       "the model uses its experts in another way": look_inside,
       "'model.layers.1.mlp.experts' computes its experts in another way than hep would": scale_outside,
       "'model.layers.1.mlp.experts': tokens name experts that it does not have": leave_out,
       "'model.layers.1.mlp.experts': a token names an expert twice": repeat}


def share_weights(model):
    model.model.layers[1].mlp.experts.down_proj = model.model.layers[0].mlp.experts.down_proj


def refused(part, parts):
    """Models that are refused, and words of the reason: every so many of them."""
    cases = [(kind, None, words) for kind, words in REFUSED.items()]
    cases += [("olmoe", lambda model, change=change: change(model.model.layers[1].mlp), words)
              for words, change in ODD.items()]
    cases.append(("olmoe", share_weights, "shares weights with 'model.layers.1.mlp.experts.down_proj'"))
    for kind, change, words in cases[part::parts]:
        model = build(kind)
        if change:
            change(model)
        yield model, words


def other_balance(parallelize, plan, rank):
    """A load-balancing loss that is not that of the Switch Transformer is refused when it is asked for."""
    model = build("olmoe")
    module = sys.modules[type(model).__module__]
    kept = module.load_balancing_loss_func
    module.load_balancing_loss_func = lambda *arguments: 2 * getattr(kept, "_hep_local", kept)(*arguments)
    parallel = parallelize(model, plan, timeout_s=60)
    try:
        model(input_ids=batch()[rank], labels=batch()[rank], output_router_logits=True)
    except Exception as error:
        assert "computes its load-balancing loss in another way" in str(error), error
    else:
        raise AssertionError("another load-balancing loss was taken")
    finally:
        module.load_balancing_loss_func = kept
        parallel.close()
