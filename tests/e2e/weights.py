"""Weights of a checkpoint, put together by the rules of docs/ir.md alone: which elements of which bundle a rank owns."""
import json
import os
import struct


def numbers(data, dtype):
    if dtype == "f32":
        return struct.unpack("<%df" % (len(data) // 4), data)
    assert dtype == "bf16", dtype
    return struct.unpack("<%df" % (len(data) // 2), b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2)))


def coordinates(rank, levels):
    out = []
    for count in reversed(levels):
        out.append(rank % count)
        rank //= count
    return out[::-1]


def slot_of(place, sizes):
    slot, stride = 0, 1
    for x, size in zip(place, sizes):
        slot += x % size * stride
        stride *= size
    return slot


def read(directory):
    """{buffer: [weights]}, padding left out."""
    with open(os.path.join(directory, "manifest.json")) as file:
        manifest = json.load(file)["checkpoint"]
    model, levels = manifest["model"], manifest["levels"]
    domain = {choice["layer"]: choice["domain"] for choice in manifest["choices"]}
    expert = {"gelu": 2, "swiglu": 3}[model["activation"]] * model["hidden"] * model["inner"]
    parts = {}
    for rank in range(manifest["ranks"]):
        with open(os.path.join(directory, "rank-%05d" % rank), "rb") as file:
            data = file.read()
        at, place = 0, coordinates(rank, levels)
        for buffer in manifest["buffers"]:
            size = 4 if buffer["dtype"] == "f32" else 2
            values = numbers(data[at:at + buffer["rows"] * buffer["cols"] * size], buffer["dtype"])
            at += len(values) * size
            if buffer["name"].endswith(".state"):
                continue
            if buffer["of"] == "share":
                first = slot_of(place, levels) * len(values)
            else:
                sizes = domain[buffer["layer"]]
                places = 1
                number = 0
                for x, count, size_here in zip(place, levels, sizes):
                    number = number * (count // size_here) + x // size_here
                    places *= count // size_here
                block = model["experts"] // places * expert
                first = number * block + slot_of(place, sizes) * len(values)
                values = values[:max(0, min(len(values), (number + 1) * block - first))]
            parts.setdefault(buffer["name"], []).append((first, values))
        assert at == len(data)
    weights = {}
    for name, owned in parts.items():
        owned.sort(key=lambda part: part[0])
        whole = []
        for first, values in owned:
            assert first == len(whole) or not values, (name, first, len(whole)) # one owner each
            whole += values
        if name.endswith("experts"):
            assert len(whole) == model["experts"] * expert, (name, len(whole))
        weights[name] = whole
    return weights


def distance(a, b):
    """Root mean square of the difference, by buffer; padding at the end of the longer one is 0."""
    out = {}
    for name in a:
        x, y = a[name], b[name]
        short = min(len(x), len(y))
        assert not any(x[short:]) and not any(y[short:]), name
        out[name] = (sum((p - q) ** 2 for p, q in zip(x, y)) / short) ** 0.5
    return out
