#!/usr/bin/env python3
"""What the CUDA engine's kernels move and multiply, against the least that their ops must, and what an H200 would take
for it: the tables of docs/cuda.md.

    scripts/gpu/roofline.py             the tables; --check FILE: does FILE hold them?
    scripts/gpu/roofline.py --flops T=8,H=16,...    JSON: FLOPs of cuBLAS's products by op

Bytes are those of device memory: what a kernel reads a second time while caches hold it is counted once. FLOPs count
a multiplication and an addition as two.
"""
import json
import math
import re
import sys
from typing import NamedTuple

COPY, BF16, F32 = 4.3e12, 790e12, 60e12  # bytes and FLOPs a second; the last by its data sheet, less a tenth
CUBLAS = True


class Kernel(NamedTuple):
    what: str
    bytes: str
    flops: str = "0"
    cublas: bool = False
    f32: bool = False


class Op(NamedTuple):
    name: str
    least: str  # bytes: operands once, results once, nothing between
    kernels: list


NORM = Kernel("norm", "2*T*H*s")
NORM_BACK = Kernel("norm, backward: rows, then parameters", "2*T*H*(s+4) + 2*T*H*s")
QKV = Kernel("queries, keys, values", "2*T*H*s + H*(A+2*K)*s + T*(A+2*K)*s", "2*T*H*(A+2*K)", CUBLAS)
LOGITS = Kernel("logits, by blocks of B tokens", "T*H*s + V*H*s*T/B + 4*T*V", "2*T*H*V", CUBLAS)
SORT = Kernel("sort by expert", "40*R")

OPS = [
    Op("embed", "2*T*H*s + S*H*s", [Kernel("look up and add", "2*T*H*s + S*H*s")]),
    Op("pre_expert", "2*T*H*s + 2*H*(A+K)*s", [
        NORM, QKV,
        Kernel("attention", "2*T*(A+K)*s", "2*T*S*A"),
        Kernel("copy of the residual", "2*T*H*s"),
        Kernel("output, added to the copy", "T*A*s + A*H*s + 2*T*H*s", "2*T*A*H", CUBLAS)]),
    Op("ffn", "2*T*H*s + 3*H*F*s", [
        NORM,
        Kernel("up and gate", "2*T*H*s + 2*H*F*s + 2*T*F*s", "4*T*H*F", CUBLAS),
        Kernel("activation", "3*T*F*s"),
        Kernel("copy of the residual", "2*T*H*s"),
        Kernel("down, added to the copy", "T*F*s + H*F*s + 2*T*H*s", "2*T*H*F", CUBLAS)]),
    Op("gate", "2*T*H*s + H*E*s + 8*T*k", [
        Kernel("norm, logits, choice", "(2 + (E > 16))*T*H*s + H*E*s + 8*T*k", "2*T*H*E", f32=True)]),
    Op("route", "T*H*s + R*H*s + 8*T*k", [
        Kernel("rank and place", "24*T*k + 16*R"), Kernel("copy", "T*H*s + R*H*s")]),
    Op("expert", "2*R*H*s + 3*E*H*I*s", [
        SORT,
        Kernel("up, gate, activation", "R*H*s + 2*E*H*I*s + R*I*s", "4*R*H*I"),
        Kernel("down", "R*I*s + E*H*I*s + R*H*s", "2*R*H*I"),
        Kernel("sum over a row's experts", "2*R*H*s")]),
    Op("unroute", "R*H*s + T*H*s", [Kernel("list copies", "8*R"), Kernel("sum", "R*H*s + T*H*s")]),
    Op("encode_rows", "T*H*s + T*H*65/64", [Kernel("pack in 8 bits", "T*H*s + T*H*65/64")]),
    Op("decode_rows", "R*H*65/64 + R*H*s", [Kernel("unpack 8 bits", "R*H*65/64 + R*H*s")]),
    Op("residual", "3*T*H*s", [Kernel("add", "3*T*H*s")]),
    Op("loss", "T*H*s + V*H*s", [NORM, LOGITS, Kernel("softmax, in one pass", "4*T*V")]),
    Op("loss_backward", "2*T*H*s + 2*V*H*s", [
        NORM, LOGITS,
        Kernel("softmax and its gradient", "8*T*V + T*V*s"),
        Kernel("gradient of the rows", "T*V*s + V*H*s*T/B + 4*T*H", "2*T*H*V", CUBLAS),
        Kernel("gradient of the words, summed in f32", "T*V*s + T*H*s + 8*V*H*T/B", "2*T*H*V", CUBLAS),
        Kernel("round", "V*H*(4+s)"), NORM_BACK]),
    Op("expert_backward", "3*R*H*s + 6*E*H*I*s", [
        SORT,
        Kernel("up and gate, again", "2*R*H*s + 2*E*H*I*s + 2*R*I*s", "4*R*H*I"),
        Kernel("gradient of the inner rows", "R*H*s + E*H*I*s + R*I*s", "2*R*H*I"),
        Kernel("activation, backward", "6*R*I*s"),
        Kernel("gradient of the rows", "2*R*I*s + 2*E*H*I*s + R*H*s", "4*R*H*I"),
        Kernel("sum over a row's experts", "2*R*H*s"),
        Kernel("gradients of weights", "3*R*I*s + 3*R*H*s + 3*E*H*I*s", "6*R*H*I")]),
    Op("unroute_backward", "T*H*s + R*H*s", [Kernel("copy", "T*H*s + R*H*s")]),
    Op("route_backward", "R*H*s + T*H*s", [Kernel("list copies", "8*R"), Kernel("sum", "R*H*s + T*H*s")]),
    Op("gate_backward", "4*T*H*s + 2*H*E*s + 12*T*k", [
        Kernel("router to f32", "H*E*(s+4)"),
        Kernel("norm, rounded and exact", "T*H*(2*s+4)"),
        Kernel("logits, for the load-balancing loss", "4*T*H + 4*H*E + 4*T*E", "2*T*H*E", CUBLAS, True),
        Kernel("gradients of logits", "8*T*E + 12*T*k"),
        Kernel("gradients to f32", "T*H*(s+4)"),
        Kernel("gradient of the rows", "4*T*E + 8*T*H", "2*T*H*E", CUBLAS, True),
        Kernel("gradient of the router", "4*T*H + 4*T*E + 4*H*E", "2*T*H*E", CUBLAS, True),
        Kernel("round", "H*E*(4+s)"), NORM_BACK]),
    Op("ffn_backward", "3*T*H*s + 6*H*F*s", [
        NORM,
        Kernel("up and gate, again", "2*T*H*s + 2*H*F*s + 2*T*F*s", "4*T*H*F", CUBLAS),
        Kernel("gradient of the inner rows", "T*H*s + H*F*s + T*F*s", "2*T*H*F", CUBLAS),
        Kernel("activation, backward", "6*T*F*s"),
        Kernel("gradients of weights", "3*T*F*s + 3*T*H*s + 3*H*F*s", "6*T*H*F", CUBLAS),
        Kernel("gradient of the rows, in f32", "2*T*F*s + 2*H*F*s + 12*T*H", "4*T*H*F", CUBLAS), NORM_BACK]),
    Op("pre_expert_backward", "3*T*H*s + 4*H*(A+K)*s", [
        NORM, QKV,
        Kernel("gradient of the context", "T*H*s + A*H*s + T*A*s", "2*T*H*A", CUBLAS),
        Kernel("attention, again", "2*T*(A+K)*s", "2*T*S*A"),
        Kernel("attention, backward", "4*T*(A+K)*s", "5*T*S*A"),
        Kernel("gradient of the output's weights", "T*A*s + T*H*s + A*H*s", "2*T*H*A", CUBLAS),
        Kernel("gradients of the others", "2*T*H*s + T*(A+2*K)*s + H*(A+2*K)*s", "2*T*H*(A+2*K)", CUBLAS),
        Kernel("gradient of the rows, in f32", "T*(A+2*K)*s + H*(A+2*K)*s + 20*T*H", "2*T*H*(A+2*K)", CUBLAS),
        NORM_BACK]),
    Op("embed_backward", "T*H*s + 2*(D+S)*H*s", [
        Kernel("sort by word, six bits a pass", "32*T*P"),
        Kernel("sum by word", "T*H*s + 2*D*H*s"),
        Kernel("words of several chunks, at most", "2*4*H*T/32"),
        Kernel("sum by position", "T*H*s + 2*S*H*s")]),
    Op("accumulate", "W*(s+8)", [Kernel("add to the sum in f32", "W*(s+8)")]),
    Op("round", "W*(4+s)", [Kernel("round", "W*(4+s)")]),
    Op("squares", "W*s", [Kernel("sum squares", "W*s")]),
    Op("optimizer", "W*(3*s+24)", [Kernel("AdamW", "W*(3*s+24)")]),
]

# One layer of Mixtral's size, 32 Ki tokens, all experts on the GPU, bf16; W: the elements of its experts.
MIXTRAL = {"T": 32768, "S": 4096, "H": 4096, "A": 4096, "K": 1024, "F": 14336, "E": 8, "k": 2, "I": 14336, "V": 32000,
           "s": 2}


def complete(dims):
    given = dict(dims)
    block = 2 ** 25 // given["V"] // 256 * 256
    given.setdefault("R", given["T"] * given["k"])
    given.setdefault("D", min(given["V"], given["T"]))
    given.setdefault("B", min(given["T"], max(block, 256)))
    given.setdefault("P", math.ceil(math.log2(max(given["V"], 2)) / 6))
    given.setdefault("W", 3 * given["E"] * given["H"] * given["I"])
    return given


def value(formula, dims):
    return eval(formula, {"__builtins__": {}}, dims)  # of the table above


def time_s(kernel, dims):
    rate = F32 if kernel.f32 else BF16
    return max(value(kernel.bytes, dims) / COPY, value(kernel.flops, dims) / rate)


def product_flops(dims):
    return {op.name: sum(value(kernel.flops, dims) for kernel in op.kernels if kernel.cublas) for op in OPS}


def shown(formula):
    return "" if formula == "0" else re.sub(r"\*", " ", formula)


def size(amount, unit):
    scale, prefix = next((pair for pair in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if amount >= pair[0]), (1e3, "k"))
    return f"{amount / scale:.3g} {prefix}{unit}"


def print_tables(dims, out):
    print("| op | bytes | least | times | FLOPs | at the roofline | of it, bytes beyond the least |", file=out)
    print("|---|---|---|---|---|---|---|", file=out)
    for op in OPS:
        moved, least = sum(value(kernel.bytes, dims) for kernel in op.kernels), value(op.least, dims)
        flops = sum(value(kernel.flops, dims) for kernel in op.kernels)
        bound = sum(time_s(kernel, dims) for kernel in op.kernels)
        ideal = max(least / COPY, sum(value(k.flops, dims) / (F32 if k.f32 else BF16) for k in op.kernels))
        print(f"| `{op.name}` | {size(moved, 'B')} | {size(least, 'B')} | {moved / least:.2f} | "
              f"{size(flops, '') if flops else '-'} | {1e3 * bound:.3f} ms | {1e3 * (bound - ideal):.3f} ms |",
              file=out)
    print("\n| op | kernel | bytes | FLOPs | at the roofline |\n|---|---|---|---|---|", file=out)
    for op in OPS:
        for kernel in op.kernels:
            library = " (cuBLAS)" if kernel.cublas else ""
            print(f"| `{op.name}` | {kernel.what}{library} | {shown(kernel.bytes)} | {shown(kernel.flops)} | "
                  f"{1e3 * time_s(kernel, dims):.3f} ms |", file=out)


def tables():
    import io
    text = io.StringIO()
    print_tables(complete(MIXTRAL), text)
    return text.getvalue()


def main(arguments):
    if arguments[:1] == ["--flops"]:
        dims = {name: int(count) for name, count in (pair.split("=") for pair in arguments[1].split(","))}
        print(json.dumps(product_flops(complete(dims))))
        return 0
    if arguments[:1] == ["--check"]:
        with open(arguments[1], encoding="utf-8") as file:
            written = file.read()
        missing = [line for line in tables().splitlines() if line not in written.splitlines()]
        for line in missing:
            print(f"not in {arguments[1]}: {line}")
        return int(bool(missing))
    print(tables(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
