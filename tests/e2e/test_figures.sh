# The figures of HybridEP (arXiv 2510.19470) as a user gets them: hepc --dump=json.
# builds: fast
. "$(dirname "$0")/lib.sh"
cd "$HEP_SOURCE/samples" || exit 1
cat >"$work/check.py" <<'PYTHON'
import json, os, subprocess, sys

def dump(*arguments):
    return json.loads(subprocess.run([os.environ["HEPC"], "--dump=json", *arguments], check=True, capture_output=True).stdout)

def expect(what, got, wanted):
    def same(a, b):
        if isinstance(a, list):
            return len(a) == len(b) and all(map(same, a, b))
        return a == b or isinstance(a, float) and abs(a - b) <= 1e-12 * abs(b)
    if not same(got, wanted):
        print("FAIL: %s is %r, not %r" % (what, got, wanted))
        global bad
        bad = 1

bad = 0
# Table IV
for name, domain, share in (("mix1", 2, 0.75), ("mix2", 4, 0.5), ("ag_only1", 8, 0.0), ("ag_only2", 8, 0.0)):
    plan = dump("paper/%s.hep" % name)
    layer = plan["solution"]["layers"][0]
    expect(name + " domain", layer["domain"], [domain])
    expect(name + " p as printed", layer["a2a_fraction_paper"], [share])
    expect(name + " p", layer["a2a_fraction"], [(8 - domain) / 7])
    expect(name + " status", plan["solution"]["status"], "optimal")
    # The paper's one-layer formula and the simulated schedule are one.
    expect(name + " simulated", round(plan["solution"]["simulated_s"] / plan["solution"]["iteration_s"], 9), 1.0)
expect("mix1 iteration", dump("paper/mix1.hep")["solution"]["iteration_s"], 0.00124)
# Table VII
for gpus, table in ((8, {1: (56, 0), 2: (24, 8), 4: (8, 24), 8: (0, 56)}),
                    (16, {1: (240, 0), 2: (112, 16), 4: (48, 48), 8: (16, 112), 16: (0, 240)})):
    source = open("paper/mix1.hep").read().replace("count = 8", "count = %d" % gpus)
    path = os.path.join(sys.argv[1], "table7.hep")
    open(path, "w").write(source)
    for domain, (exchange, gather) in table.items():
        plan = dump("--domain", "gpu=%d" % domain, path)
        expect("messages G=%d S=%d" % (gpus, domain), plan["messages"], {"exchange": exchange, "gather": gather})
        expect("status", plan["solution"]["status"], "forced")
# Table II: parameters of one expert, from the bytes per GPU (f16, compressed 50-fold)
for model, parameters, layers in (("llama_tiny", 2.1e6, 12), ("mistral_small", 4.7e6, 12), ("gpt_medium", 8.4e6, 12), ("gpt_large", 8.4e6, 16)):
    for cluster, gpus in (("s", 8), ("m", 16), ("l", 32)):
        plan = dump("paper/%s_%s.hep" % (cluster, model))
        # 40 of every 4096 parameters travel, in 4 bytes each
        per_expert = plan["model"]["expert_bytes"] / 4 / 40 * 4096 / (32 / gpus)
        if abs(per_expert - parameters) > 0.05e6:
            print("FAIL: %s has %g parameters per expert" % (model, per_expert)); bad = 1
        expect(model + " layers", plan["model"]["layers"], layers)
        expect(cluster + " GPUs", plan["cluster"]["gpus"], gpus)
# The keys of --dump=json
plan = dump("two_dc.hep")
for key in ("format", "version", "cluster", "model", "solution", "baselines", "traffic", "messages", "memory_bytes", "steps", "plan_bytes"):
    if key not in plan:
        print("FAIL: no key", key); bad = 1
for key in ("solver", "status", "gap", "decision", "best_baseline", "over_best_baseline", "solve_s", "iteration_s", "simulated_s", "layers"):
    if key not in plan["solution"]:
        print("FAIL: no key solution." + key); bad = 1
expect("baselines", sorted(plan["baselines"]), ["ep", "ep_dedup", "ep_inside", "gather", "uniform"])
expect("baselines of a forward plan", sorted(dump("laptop.hep")["baselines"]), ["ep", "ep_dedup", "gather", "uniform"])
# Tokens per second of all 16 GPUs and model FLOP utilisation: parameters counted from the dimensions of the file.
text = open("two_dc.hep").read()
layer = (2 * 1024 + 4 * 1024 * 1024) + (2 * 1024 + 1024 * 32) + 2 * (2 * 1024 * 4096)
active = 256 * 1024 + 2 * 1024 + 12 * layer # positions are only added
for pass_, factor, peak in (("training", 3, 60), ("training", 3, 100), ("forward", 1, 100)):
    changed = text.replace("pass = training", "pass = " + pass_)
    with open(os.path.join(sys.argv[1], "peak.hep"), "w") as file: # 60 is what it computes, and no peak is given
        file.write(changed if peak == 60 else changed.replace("60 TFLOP/s", "60 TFLOP/s  peak = %d TFLOP/s" % peak))
    got = dump(os.path.join(sys.argv[1], "peak.hep"))
    for one in [got["solution"], *got["baselines"].values()]:
        rate = 8 * 256 * 16 / one["iteration_s"]
        share = rate / 16 / (peak * 1e12) * factor * (2 * active + 12 * 2 * 256 * 1024)
        expect("tokens per second", [one["tokens_per_s"], one["flop_utilisation"]], [rate, share])
# EP inside is the best of what can be asked for with its domain, and its tokens stay inside.
inside = plan["baselines"]["ep_inside"]
asked = []
for dense in ("all", "none"):
    with open(os.path.join(sys.argv[1], "inside.hep"), "w") as file:
        file.write(text.replace("pass = training", "pass = training  once_dense = " + dense))
    for again in ("", ",regather"):
        forced = dump("--domain", "0-%d: dc=2,gpu=1%s" % (plan["model"]["layers"] - 1, again), os.path.join(sys.argv[1], "inside.hep"))
        asked.append(forced["solution"]["iteration_s"])
expect("EP inside", inside["domain"], [2, 1])
if abs(inside["iteration_s"] / min(asked) - 1) > 1e-9:
    print("FAIL: EP inside takes %g, asked for %s" % (inside["iteration_s"], asked)); bad = 1
expect("tokens of EP inside", inside["traffic"][0]["exchange_bytes"] + inside["traffic"][0]["routing_bytes"], 0)
for baseline in plan["baselines"].values():
    if baseline["fits"] and baseline["iteration_s"] < plan["solution"]["bound_s"] * (1 - 1e-9) and baseline["dispatch"] == "dedup":
        print("FAIL: a baseline beats the optimum"); bad = 1
sys.exit(bad)
PYTHON
python3 "$work/check.py" "$work" || fail "published figures"
finish
