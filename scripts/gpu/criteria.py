"""What must hold on a GPU, judged by what was measured in the same run: a row per demand, with its limit.

Everything is a ratio or a time that the programs wrote: bench_cuda_kernels and bench_cuda_enqueue judge their own
figures (at_least, at_most); the rest comes from reports of hep-run on one layer of Mixtral's size (docs/report.md).
"""
HOLDS, BROKEN, UNKNOWN = "holds", "does not hold", "not measured"


def row(name, value, limit, at_most, unit=""):
    if value is None:
        verdict = UNKNOWN
    else:
        verdict = HOLDS if (value <= limit if at_most else value >= limit) else BROKEN
    return {"criterion": name, "measured": value, "limit": limit, "at_most": at_most, "unit": unit, "verdict": verdict}


def measures_of(measured, program):
    return (measured.get(program) or {}).get("measures", [])


def is_limited(measure):
    return "at_least" in measure or "at_most" in measure


def from_benchmark(measure):
    at_most = "at_most" in measure
    value = measure.get("ratio", measure.get("time_s"))
    limit = measure["at_most"] if at_most else measure["at_least"]
    against = f" over {measure['to']}" if measure.get("to") else ""
    return row(measure["name"] + against, value, limit, at_most, "" if "ratio" in measure else "s")


def step_share(report, op):
    if not report or not report["iteration_s"]["median"]:
        return None
    times = [step["median_s"] for step in report["steps"] if step["op"] == op]
    return sum(times) / report["iteration_s"]["median"] if times else None


def over_products(report, products):
    if not report or not products or not products["total_s"]:
        return None
    return report["iteration_s"]["median"] / products["total_s"]


def idle(report, key):
    return report["idle"][key] if report and report.get("idle") else None


# What the benchmarks are asked for: how many figures with a limit each must have given, by what they are held against.
BENCHMARKS = [
    ("permute, unpermute and combine over a copy", "kernels", "copy", 0.8, False),
    ("expert products over one dense product", "kernels", "product", 0.75, False),
]


def judge(measured):
    rows = []
    for name, program, against, limit, at_most in BENCHMARKS:
        found = [m for m in measures_of(measured, program) if is_limited(m) and m.get("to") == against]
        rows += [from_benchmark(m) for m in found] or [row(name, None, limit, at_most)]
    others = [m for m in measures_of(measured, "kernels") if is_limited(m) and m.get("to") not in ("copy", "product")]
    rows += [from_benchmark(m) for m in others]
    layer, stepwise = measured.get("layer"), measured.get("layer_traced")
    rows.append(row("gate and top-k over the layer's iteration", step_share(layer, "gate"), 0.03, True))
    rows.append(row("the layer's forward pass over its matrix products", over_products(layer, measured.get("products")),
                    1.15, True))
    enqueue = [m for m in measures_of(measured, "enqueue") if is_limited(m)]
    rows += [from_benchmark(m) for m in enqueue] or [row("host enqueues a step", None, 5e-6, True, "s")]
    replayed = measured.get("layer_replayed_traced")
    rows.append(row("what a replayed graph adds per step (mean gap)",
                    idle(replayed, "mean_s") if replayed and replayed.get("replays") else None, 2e-6, True, "s"))
    rows.append(row("longest idle gap between dependent steps", idle(stepwise, "max_s"), 5e-6, True, "s"))
    return rows


def print_rows(rows):
    print(f"\n{'criterion':54} {'measured':>12} {'limit':>12}")
    for found in rows:
        value, scale = found["measured"], 1e6 if found["unit"] == "s" else 1
        unit = " us" if found["unit"] == "s" else ""
        shown = "-" if value is None else f"{value * scale:.3g}{unit}"
        bound = f"{'<=' if found['at_most'] else '>='} {found['limit'] * scale:.3g}{unit}"
        print(f"{found['criterion'][:54]:54} {shown:>12} {bound:>12}  {found['verdict']}")
