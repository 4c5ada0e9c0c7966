"""Configurations of the shapes that families of models publish, with invented sizes, and what they must be read as:
layers, layers with experts, parameters in total and active, counted here from the layouts of these families and not by
the program's formulas; and what must be warned of or refused.

    import_families.py HEPC WORK_FOLDER
"""
import json
import os
import subprocess
import sys

HEPC, WORK = sys.argv[1:3]
CLUSTER = """cluster c {
  level node { count = 2  bandwidth = 400 Gbit/s  latency = 10 us }
  level gpu  { count = 2  bandwidth = 3.6 Tbit/s  latency = 3 us }
  device     { compute = 600 TFLOP/s  memory = 10 TB  memory_bandwidth = 4.8 TB/s }
}
"""
H, V = 64, 500  # hidden size and vocabulary of all of them
PLAIN = {"hidden_size": H, "vocab_size": V, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 16, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
         "intermediate_size": 96, "hidden_act": "silu", "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
         "rope_theta": 10000.0, "max_position_embeddings": 4096, "torch_dtype": "bfloat16", "eos_token_id": 2}
EXPERT = 3 * H * 32
DENSE = 3 * H * 96
ROUTER = 8 * H
EMBED = V * H + H  # tied, with the last norm
HEADS = H * 16 * 4 * 2 + H * 16 * 2 * 2  # queries and output, keys and values


def compile_model(name, config, keys="", plan="pass = forward", options=(), index=None):
    folder = os.path.join(WORK, name)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file)
    if index:
        with open(os.path.join(folder, "model.safetensors.index.json"), "w") as file:
            json.dump(index, file)
    with open(os.path.join(folder, "model.hep"), "w") as file:
        file.write(CLUSTER + 'model m from "config.json" { sequence = 64 %s }\nplan { %s }\n' % (keys, plan))
    run = subprocess.run([HEPC, "--dump=json", *options, os.path.join(folder, "model.hep")], capture_output=True,
                         text=True)
    return run.returncode, json.loads(run.stdout) if run.returncode == 0 else None, run.stderr


FAILED = []


def fail(name, what):
    FAILED.append(name)
    print("FAIL: %s: %s" % (name, what))


def expect(name, changes, layers, moe_layers, everywhere, active_experts=2, experts=8, expert=EXPERT, keys="",
           warns=None, **more):
    """`everywhere`: parameters that every token passes, besides experts. A change to None takes the field out."""
    config = {key: value for key, value in {**PLAIN, **changes}.items() if value is not None}
    code, plan, err = compile_model(name, more.get("config", config), keys, index=more.get("index"))
    if code:
        fail(name, "exit code %d\n%s" % (code, err))
        return None
    model = plan["model"]
    expected = {"layers": layers, "moe_layers": moe_layers,
                "total_parameters": everywhere + moe_layers * experts * expert,
                "active_parameters": everywhere + moe_layers * active_experts * expert}
    for key, value in expected.items():
        if abs(model[key] - value) > 1e-9 * value:
            fail(name, "%s is %r, by hand %r" % (key, model[key], value))
    if warns is None and "warning" in err:
        fail(name, "warns of what is known:\n" + err)
    for word in [] if warns is None else [warns] if isinstance(warns, str) else warns:
        if word not in err:
            fail(name, "does not warn of %s:\n%s" % (word, err))
    return plan


def refuse(name, changes, word, keys=""):
    config = {key: value for key, value in {**PLAIN, **changes}.items() if value is not None}
    code, _, err = compile_model(name, config, keys)
    if code != 3 or word not in err:
        fail(name, "exit code %d, expected a refusal with '%s':\n%s" % (code, word, err))


def norms(layers, parts=2):
    return layers * parts * H


def moe(layers, shared=0):
    return layers * (ROUTER + shared)


BASE = EMBED + norms(6) + 6 * HEADS
# ---- which layers have experts
expect("plain", {}, 6, 6, BASE + moe(6))
expect("untied", {"tie_word_embeddings": False}, 6, 6, BASE + V * H + moe(6))
expect("first_dense", {"first_k_dense_replace": 2}, 6, 4, BASE + moe(4) + 2 * DENSE)
expect("dense_layers", {"num_dense_layers": 2}, 6, 4, BASE + moe(4) + 2 * DENSE)
expect("start_and_end", {"moe_layer_start_index": 1, "moe_layer_end_index": 4, "moe_layer_interval": 1}, 6, 4,
       BASE + moe(4) + 2 * DENSE)
expect("end_is_last", {"moe_layer_start_index": 3, "moe_layer_end_index": -1}, 6, 3, BASE + moe(3) + 3 * DENSE)
expect("intervals", {"moe_layer_start_index": 1, "moe_layer_end_index": 5, "moe_layer_interval": 2}, 6, 3,
       BASE + moe(3) + 3 * DENSE)
expect("period_and_offset", {"expert_layer_period": 3, "expert_layer_offset": 1}, 6, 2, BASE + moe(2) + 4 * DENSE)
expect("step", {"decoder_sparse_step": 2, "mlp_only_layers": []}, 6, 3, BASE + moe(3) + 3 * DENSE)
expect("listed_dense", {"decoder_sparse_step": 1, "mlp_only_layers": [0, 3]}, 6, 4, BASE + moe(4) + 2 * DENSE)
expect("listed_as_text", {"moe_layers_enum": "1,2, 4"}, 6, 3, BASE + moe(3) + 3 * DENSE)
expect("frequency_list", {"moe_layer_freq": [0, 1, 1, 0, 1, 1]}, 6, 4, BASE + moe(4) + 2 * DENSE)
expect("truths", {"is_moe_layer": [False, True, True, True, False, True]}, 6, 4, BASE + moe(4) + 2 * DENSE)
expect("words", {"mlp_layer_types": ["dense"] + ["sparse"] * 5}, 6, 5, BASE + moe(5) + DENSE)
# ---- what stands beside the experts
expect("shared_one", {"num_shared_expert": 1}, 6, 6, BASE + moe(6, EXPERT))
expect("shared_list", {"num_shared_expert": [2] * 6}, 6, 6, BASE + moe(6, 2 * EXPERT))
expect("shared_off", {"num_shared_expert": 1, "use_mixed_mlp_moe": False}, 6, 6, BASE + moe(6))
expect("shared_size", {"shared_expert_intermediate_size": 40}, 6, 6, BASE + moe(6, 3 * H * 40))
expect("shared_dim", {"share_expert_dim": 64}, 6, 6, BASE + moe(6, 2 * EXPERT))
expect("residual", {"parallel_attn_mlp_res": True, "use_residual": True}, 6, 6, BASE + moe(6, 3 * H * H))
expect("dense_branch", {"residual_moe": True}, 6, 6, BASE + moe(6, DENSE))
expect("zero_experts", {"zero_expert_num": 4, "zero_expert_type": "identity", "num_experts_per_tok": 3}, 6, 6,
       BASE + 6 * 12 * H, active_experts=3 * 8 / 12)
expect("two_of_each", {"model_type": "longcat_flash", "num_hidden_layers": None, "num_layers": 6, "kv_lora_rank": 24,
                       "q_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
                       "head_dim": None, "attention_method": "MLA"}, 6, 6,
       EMBED + norms(6) + moe(6, 2 * DENSE) +
       6 * 2 * (H * 32 + 32 * 4 * 24 + H * (24 + 8) + 24 * 4 * 32 + 4 * 16 * H))
# ---- lists that are all equal, nested objects, what Python writes
expect("equal_lists", {"moe_intermediate_size": [32] * 6, "num_experts_per_tok": None, "moe_topk": [2] * 6}, 6, 6,
       BASE + moe(6))
expect("nested", {}, 6, 6, BASE + moe(6), config={
    "architectures": ["X"], "tie_word_embeddings": True, "audio_config": {"num_hidden_layers": 9, "hidden_size": 48},
    "thinker": {"text_config": {k: v for k, v in PLAIN.items() if k != "tie_word_embeddings"}}})
expect("parts", {}, 6, 6, EMBED + norms(6) + 6 * (4 * H * H - 2 * H * H // 2) + 6 * (8 * H + 0), config={
    "d_model": H, "n_layers": 6, "n_heads": 4, "vocab_size": V, "tie_word_embeddings": True,
    "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 5e5},
    "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 8, "moe_top_k": 2, "ffn_act_fn": {"name": "silu"}}})
# Of two that say whether input and output share their embedding, the model around the text model decides.
expect("tied_outside", {}, 6, 6, BASE + V * H + moe(6), config={
    "tie_word_embeddings": False, "text_config": {**PLAIN, "tie_word_embeddings": True}})
expect("tied_inside", {}, 6, 6, BASE + moe(6), config={"text_config": PLAIN, "vision_config": {"hidden_size": 8}})
expect("no_head_size", {"head_dim": 0, "shared_expert_intermediate_size": 0}, 6, 6, BASE + moe(6))
# ---- activations
expect("squared_relu", {"hidden_act": None, "mlp_hidden_act": "relu2"}, 6, 6, BASE + moe(6), expert=2 * H * 32)
# ---- attention
expect("gate", {"attn_output_gate": True}, 6, 6, BASE + moe(6) + 6 * H * 64)
expect("query_rank", {"share_q_dim": 20, "num_key_value_heads": None, "num_attention_groups": 1}, 6, 6,
       EMBED + norms(6) + 6 * (H * 20 + 20 * 64 + 2 * H * 16 + 64 * H) + moe(6))
expect("value_size", {"v_head_dim": 8}, 6, 6, EMBED + norms(6) + 6 * (H * 64 + 2 * H * 24 + 32 * H) + moe(6))
expect("windows_with_heads", {"sliding_window": 8, "hybrid_layer_pattern": [0, 1, 1, 0, 1, 1],
                              "swa_num_attention_heads": 8, "swa_num_key_value_heads": 4}, 6, 6,
       EMBED + norms(6) + 2 * HEADS + 4 * (2 * H * 128 + 2 * H * 64) + moe(6))
expect("shared_keys", {"use_cla": True, "cla_share_factor": 2}, 6, 6, BASE - 3 * 2 * H * 32 + moe(6))
expect("index", {"kv_lora_rank": 24, "q_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
                 "v_head_dim": 16, "head_dim": None, "index_n_heads": 2, "index_head_dim": 10, "index_topk": 16}, 6, 6,
       EMBED + norms(6) + moe(6) + 6 * (H * 32 + 32 * 4 * 24 + H * (24 + 8) + 24 * 4 * 32 + 4 * 16 * H +
                                        32 * 20 + H * (10 + 2)))
LATENT = {"kv_lora_rank": 24, "q_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
          "head_dim": None, "qk_head_dim": 24}
LATENTS = H * 32 + 32 * 4 * 24 + H * (24 + 8) + 24 * 4 * 32 + 4 * 16 * H
expect("latent", LATENT, 6, 6, EMBED + norms(6) + moe(6) + 6 * LATENTS)
expect("latent_gate", {**LATENT, "attn_output_gate": True}, 6, 6, EMBED + norms(6) + moe(6) + 6 * (LATENTS + H * 64))
expect("latent_sizes", {**LATENT, "qk_head_dim": 32}, 6, 6, EMBED + norms(6) + moe(6) + 6 * LATENTS,
       warns="'qk_head_dim' is 32, its parts are 24 together")
expect("index_shared", {**LATENT, "index_n_heads": 2, "index_head_dim": 11, "index_topk": 16,
                        "indexer_types": ["full", "shared", "shared"] * 2}, 6, 6,
       EMBED + norms(6) + moe(6) + 6 * LATENTS + 2 * (32 * 22 + H * (11 + 2)))
expect("output_rank", {"o_lora_rank": 12, "o_groups": 2}, 6, 6,
       BASE + moe(6) + 6 * (2 * 12 * (64 // 2) + 2 * 12 * H - 64 * H))
expect("window_words", {"layer_types": ["hybrid_sliding", "full_attention"] * 3, "sliding_window": 8}, 6, 6, BASE + moe(6))
# ---- recurrent layers
MAMBA2 = H * (96 + (96 + 2 * 2 * 10) + 6) + (96 + 40) * 5 + 3 * 6 + 96 + 96 * H
expect("mamba2", {"layer_types": ["mamba", "mamba", "attention", "mamba", "mamba", "attention"], "mamba_n_heads": 6,
                  "mamba_d_head": 16, "mamba_d_state": 10, "mamba_n_groups": 2, "mamba_d_conv": 4, "mamba_expand": 2},
       6, 6, EMBED + norms(6) + 4 * MAMBA2 + 2 * HEADS + moe(6))
MAMBA1 = H * 2 * 128 + 128 * 5 + 128 * (6 + 2 * 16) + 6 * 128 + 128 * 18 + 128 * H
expect("mamba1", {"attn_layer_period": 3, "attn_layer_offset": 1, "mamba_d_state": 16, "mamba_d_conv": 4,
                  "mamba_dt_rank": 6, "mamba_expand": 2, "use_mamba_kernels": True}, 6, 6,
       EMBED + norms(6) + 4 * MAMBA1 + 2 * HEADS + moe(6))
expect("letters", {"hybrid_override_pattern": "MEM*E-", "mamba_num_heads": 6, "mamba_head_dim": 16, "n_groups": 2,
                   "ssm_state_size": 10, "conv_kernel": 4, "expand": 2, "mlp_hidden_act": "relu2"}, 6, 2,
       EMBED + norms(6, 1) + 2 * MAMBA2 + HEADS + moe(2) + 2 * H * 96, expert=2 * H * 32)
expect("kinds_count_layers", {"num_hidden_layers": None, "mlp_hidden_act": "relu2", "mamba_num_heads": 6,
                              "layers_block_type": ["mamba", "moe", "mamba", "attention", "moe", "mlp"],
                              "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 10, "conv_kernel": 4}, 6, 2,
       EMBED + norms(6, 1) + 2 * MAMBA2 + HEADS + moe(2) + 2 * H * 96, expert=2 * H * 32)
expect("letters_count_layers", {"num_hidden_layers": None, "hybrid_override_pattern": "*E*E"}, 4, 2,
       EMBED + norms(4, 1) + 2 * HEADS + moe(2))
DELTA = H * (2 * 20 + 2 * 40 + 2 * 4) + (2 * 20 + 40) * 4 + 40 * H
expect("delta", {"full_attention_interval": 3, "linear_num_key_heads": 2, "linear_key_head_dim": 10,
                 "linear_num_value_heads": 4, "linear_value_head_dim": 10, "linear_conv_kernel_dim": 4}, 6, 6,
       EMBED + norms(6) + 4 * DELTA + 2 * HEADS + moe(6))
expect("counted_from_one", {"linear_attn_config": {"full_attn_layers": [3, 6], "kda_layers": [1, 2, 4, 5],
                                                   "num_heads": 4, "head_dim": 10, "short_conv_kernel_size": 4}}, 6, 6,
       EMBED + norms(6) + 4 * (4 * H * 40 + 2 * (H * 10 + 10 * 40) + H * 4 + 3 * 40 * 4) + 2 * HEADS + moe(6))
KDA = 4 * H * 40 + H * 4 + 3 * 40 * 4  # queries, keys, values, output; one number per head; convolutions
FLAT = {"layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2, "linear_num_heads": 4,
        "linear_head_dim": 10, "linear_conv_kernel_dim": 4}
expect("decay_of_low_rank", FLAT, 6, 6, EMBED + norms(6) + 4 * (KDA + 2 * (H * 10 + 10 * 40)) + 2 * HEADS + moe(6))
expect("decay_of_full_rank", {**FLAT, "model_type": "bailing_hybrid", "kda_safe_gate": True, "kda_lower_bound": -5.0}, 6, 6,
       EMBED + norms(6) + 4 * (KDA + 2 * H * 40) + 2 * HEADS + moe(6))
expect("lightning", {"attn_type_list": [0, 0, 1, 0, 0, 1]}, 6, 6, EMBED + norms(6) + 4 * 5 * H * 64 + 2 * HEADS + moe(6))
expect("convolutions", {"layer_types": ["conv", "conv", "full_attention"] * 2, "conv_L_cache": 3}, 6, 6,
       EMBED + norms(6) + 4 * (4 * H * H + 3 * H) + 2 * HEADS + moe(6))
# ---- overrides come first
expect("fewer_layers", {"attn_type_list": [0, 0, 1, 0, 0, 1], "mlp_only_layers": [0, 5]}, 3, 2,
       EMBED + norms(3) + 2 * 5 * H * 64 + HEADS + moe(2) + DENSE, keys="layers = 3")
expect("said_dense", {"mlp_only_layers": [0, 3]}, 6, 3, BASE + moe(3) + 3 * 3 * H * 50, keys="first_dense = 3 inner = 50")
expect("said_layers", {"intermediate_size": None}, 6, 2, BASE + moe(2) + 4 * 3 * H * 20,
       keys="inner = 20 moe { layers = [1, 4] }")
expect("said_differing", {"num_experts_per_tok": [1, 2, 2, 2, 2, 2]}, 6, 6, BASE + moe(6), keys="moe { top_k = 2 }")
expect("said_shared", {"n_shared_experts": 4}, 6, 6, BASE + moe(6, 3 * H * 10), keys="moe { shared_inner = 10 }")
# ---- what is named
expect("unknown", {"num_recurrent_widgets": 3, "altup_branches": 2, "harmless_flag_x": True}, 6, 6, BASE + moe(6),
       warns=["'num_recurrent_widgets' (3)", "'altup_branches' (2)"])
expect("unknown_rank", {"gated_norm_rank": 16}, 6, 6, BASE + moe(6), warns="'gated_norm_rank' (16)")
expect("unknown_streams", {"hc_mult": 4}, 6, 6, BASE + moe(6), warns="'hc_mult' (4)")
expect("unknown_list", {"odd": [1, 1, 2, 2, 3, 3]}, 6, 6, BASE + moe(6), warns="'odd' ([1,1,2,2,3,3])")
expect("unknown_inside", {"attn_config": {"widget_heads": 3}}, 6, 6, BASE + moe(6), warns="'attn_config.widget_heads'")
expect("unknown_kind", {"layer_types": ["full_attention"] * 5 + ["quantum"]}, 6, 6, BASE + moe(6), warns="quantum")
expect("two_names", {"num_local_experts": 16}, 6, 6, BASE + moe(6), warns="'num_experts' is 8, 'num_local_experts' is 16")
expect("absent_features", {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 2,
                           "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0, "cross_attention": False,
                           "rope_scaling": {"factor": 4, "num_things": 3}}, 6, 6, BASE + moe(6))
# ---- what is refused
refuse("encoder", {"is_encoder_decoder": True, "num_decoder_layers": 6}, "an encoder and a decoder ('is_encoder_decoder')")
refuse("encoder_layers", {"encoder_layers": 6, "decoder_layers": 6}, "an encoder and a decoder ('encoder_layers')")
refuse("latent_experts", {"moe_latent_size": 16}, "'moe_latent_size'")
refuse("latent_rows", {"moe_hidden_size": 32}, "'moe_hidden_size'")
expect("rows_are_hidden", {"moe_hidden_size": H}, 6, 6, BASE + moe(6))
refuse("differing", {"moe_intermediate_size": [32, 16]}, "'moe_intermediate_size' lists values that differ")
refuse("dense", {"num_experts": 0}, "it describes a dense model")
refuse("no_experts_left", {"mlp_only_layers": [0, 1, 2, 3, 4, 5]}, "no layer has experts")
refuse("short_list", {"layer_types": ["full_attention"] * 3}, "'layer_types' has 3 entries for 6 layers")
refuse("long_list", {"num_hidden_layers": None, "layer_types": ["full_attention"] * 10001}, "'layer_types' has 10001 layers")
refuse("outside", {"mlp_only_layers": [0, 6]}, "'mlp_only_layers' lists a layer that is none of the 6")
refuse("no_letters", {"hybrid_override_pattern": "MEMQ--"}, "'hybrid_override_pattern' has a layer 'Q'")
refuse("dense_without_size", {"mlp_only_layers": [0], "intermediate_size": None}, "no feed-forward size for its dense layers")

# ---- groups and elements: bytes per GPU of 4 that hold 2 experts each
plan = expect("groups", {"n_group": 4, "topk_group": 2}, 6, 6, BASE + moe(6))
if plan and (plan["model"].get("groups"), plan["model"].get("group_top_k")) != (4, 2):
    fail("groups", "are not in the plan: %r" % plan["model"])
for name, quantization, bits in [
        ("fp8", {"quant_method": "fp8", "weight_block_size": [128, 128]}, 8 + 32 / 16384),
        ("mxfp4", {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}, 4.25),
        ("int4", {"quant_method": "compressed-tensors", "ignore": ["lm_head"], "config_groups": {
            "group_0": {"weights": {"num_bits": 4, "group_size": 32, "type": "int"}}}}, 4.5),
        ("gptq", {"quant_method": "gptq", "bits": 4, "group_size": 128}, 4.125)]:
    plan = expect(name, {"quantization_config": quantization}, 6, 6, BASE + moe(6))
    one = -(-EXPERT * bits // 8)
    if plan and plan["model"]["expert_bytes"] != 2 * one:
        fail(name, "experts of a GPU take %r bytes, by hand %r" % (plan["model"]["expert_bytes"], 2 * one))
code, plan, err = compile_model("fp8_training", {**PLAIN, "quantization_config": {"quant_method": "fp8"}},
                                plan="pass = training")
if code or plan["model"]["expert_bytes"] != 2 * EXPERT * 2:
    fail("fp8_training", "learns in 16 bits: %s" % err)

# ---- the list of tensors
def tensors(layers, experts, size, dense=(), fused=False):
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    for k in range(layers):
        names.append("model.layers.%d.self_attn.q_proj.weight" % k)
        if k in dense:
            names.append("model.layers.%d.mlp.up_proj.weight" % k)
        elif fused:
            names.append("model.layers.%d.mlp.experts.gate_up_proj" % k)
        else:
            names += ["model.layers.%d.mlp.experts.%d.up_proj.weight" % (k, e) for e in range(experts)]
    return {"metadata": {"total_size": size}, "weight_map": {name: "model-1.safetensors" for name in names}}


BYTES = 2 * (BASE + moe(6) + 6 * 8 * EXPERT)
expect("index_agrees", {}, 6, 6, BASE + moe(6), index=tensors(6, 8, BYTES))
expect("index_fused", {}, 6, 6, BASE + moe(6), index=tensors(6, 8, BYTES, fused=True))
expect("index_layers", {}, 6, 6, BASE + moe(6), index=tensors(8, 8, BYTES), warns="tensors of 8 layers")
expect("index_heads", {"num_nextn_predict_layers": 1}, 6, 6, BASE + moe(6), index=tensors(7, 8, int(BYTES * 1.15)))
expect("index_dense", {}, 6, 6, BASE + moe(6), index=tensors(6, 8, BYTES, dense=(0, 2)),
       warns="differ in which layers have experts: 2 of them (0, 2)")
expect("index_experts", {}, 6, 6, BASE + moe(6), index=tensors(6, 12, BYTES), warns="tensors of 12 experts in layer 0")
expect("index_size", {}, 6, 6, BASE + moe(6), index=tensors(6, 8, int(BYTES * 1.2)), warns="of tensors, and the configuration")
expect("index_small", {}, 6, 6, BASE + moe(6), index=tensors(6, 8, int(BYTES * 0.8)), warns="of tensors, and the configuration")
expect("index_changed", {}, 3, 3, EMBED + norms(3) + 3 * HEADS + moe(3), keys="layers = 3", index=tensors(6, 8, BYTES))

sys.exit(1 if FAILED else 0)
