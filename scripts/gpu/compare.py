#!/usr/bin/env python3
"""Do two runs of one plan tell the same? Losses within what rounding explains, bytes alike.

    scripts/gpu/compare.py FIRST.json SECOND.json [--unlike OTHER.json ...]

Both are written by `hep-run --json` or `--profile`. Losses may differ by the sum of their tolerances (key
loss_tolerance, derived in runtime/check/tolerance.c). Where a run has none (packets of a codec: which of nearly equal
elements travel is a choice) the losses must be nearer to FIRST's than to those of any --unlike run: the same training
with another codec. Where profiles show that tokens chose other experts, these may be no more than rounding turns round
(key choices_tolerance), and losses may differ by what comes of it (key loss_tolerance_turned).

Exit code 0 and a line with the largest difference over its tolerance, or 1 and a reason.
"""
import argparse
import json
import math
import sys

UNLIKE = 1


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def distance(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a["loss"], b["loss"], strict=True)))


def count_choices(first, second):
    """Choices of experts that differ, at least; 0 where not both are profiles."""
    total = 0.0
    if "layers" in first and "layers" in second:
        for a, b in zip(first["layers"], second["layers"], strict=True):
            total += sum(abs(x - y) for x, y in zip(a["histogram"], b["histogram"], strict=True)) / 2
    return total


def compare_losses(first, second, others, key):
    """None, or why they are not the same; and what to say of them."""
    worst, bounded = 0.0, True
    if not first["loss"]:
        return "no loss", ""
    pairs = zip(first["loss"], second["loss"], first[key], second[key], strict=True)
    for number, (a, b, own, other) in enumerate(pairs):
        if own is None or other is None:
            bounded = False
            continue
        if not abs(a - b) <= own + other:
            return f"loss of iteration {number}: {a!r} and {b!r} differ by {abs(a - b):.3g}, not {own + other:.3g}", ""
        worst = max(worst, abs(a - b) / (own + other))
    said = f"losses within {worst:.2g} of the tolerance"
    if bounded:
        return None, said
    own = distance(first, second)
    nearest = min((distance(other, second) for other in others), default=0)
    if not own < nearest:
        return f"losses are off by {own:.3g}, and by {nearest:.3g} from another codec's", ""
    return None, f"{said}; off by {own:.2g}, another codec's by {nearest:.2g}"


def compare_bytes(first, second, same_choices):
    for a, b in zip(first["traffic"], second["traffic"], strict=True):
        keys = ("gather_bytes", "reduce_bytes") + (("exchange_bytes", "routing_bytes") if same_choices else ())
        for key in keys:
            if a[key] != b[key]:
                return f"{key} of level {a['level']}: {a[key]} and {b[key]}"
    return None


def compare(first, second, others=()):
    """(exit code, what to say)."""
    differing = count_choices(first, second)
    if differing > min(run.get("choices_tolerance", 0) for run in (first, second)):
        return UNLIKE, f"{differing:g} choices of experts differ, more than rounding turns round"
    reason = compare_bytes(first, second, not differing)
    said = f"; {differing:g} choices of near equal experts differ" if differing else ""
    if not reason:
        key = "loss_tolerance_turned" if differing else "loss_tolerance"
        reason, losses = compare_losses(first, second, others, key)
    return (UNLIKE, reason) if reason else (0, losses + said)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--unlike", nargs="+", default=[])
    options = parser.parse_args()
    code, said = compare(load(options.first), load(options.second), [load(path) for path in options.unlike])
    print(said, file=sys.stdout if code == 0 else sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
