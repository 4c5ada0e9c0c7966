#!/usr/bin/env python3
"""Reads a binary plan with Python's standard library alone, the way docs/plan-format.md describes it.

Nothing here knows a record: sections, fields, sizes and codes are taken from the tables of the two
documents, so that a reader of the documents can do what this does, and a document that is wrong
fails. traffic() then derives what a GPU sends over each level from the schedule. As a program:
plan_reader.py DOCS PLAN prints that as JSON.
"""
import json
import os
import re
import struct
import sys
import zlib

BASE_TYPES = {"a name": "name", "'yes' or 'no'": "bool", "a whole number": "whole", "a number": "number",
              "a layer": "index", "a level's name": "index", "a group": "index", "a size per level": "sizes",
              "u32": "whole"}


class Format:
    """The tables of plan-format.md and ir.md."""

    def __init__(self, docs):
        with open(os.path.join(docs, "plan-format.md"), encoding="utf-8") as file:
            text = file.read()
        with open(os.path.join(docs, "ir.md"), encoding="utf-8") as file:
            ops = re.findall(r"^\| `(\w+)` \| (\d+) \| (\w+) \| (\w+) \| ([^|]*) \|", file.read(), re.M)
        self.version = int(re.search(r"`\.hepb`, version (\d+)", text)[1])
        self.magic = bytes.fromhex(re.search(r"magic: `([0-9A-F ]+)`", text)[1])
        self.codes = {}
        for kind, codes in re.findall(r"^\| ([a-z][\w ]+) \| (\d+ `[^|]*) \|$", text, re.M):
            self.codes[kind] = {int(code): name for code, name in re.findall(r"(\d+) `(\w+)`", codes)}
        self.codes["an op"] = {int(code): name for name, code, *_ in ops}
        self.ops = {name: {"stream": stream, "shape": shape, "operands": re.findall(r"(\w+) `(\w+)`", operands)}
                    for name, _, stream, shape, operands in ops}
        self.sections = []  # (name, bytes of a record, [(field, offset, bytes, type)])
        for number, name, size, body in re.findall(
                r"^### (\d+) `?(\w+)`?, (\d+) bytes?\n(.*?)(?=^##)", text, re.M | re.S):
            assert int(number) == len(self.sections), "sections of the document are not in order"
            fields = [(field, int(offset), int(length), kind) for offset, length, field, kind in
                      re.findall(r"^\| (\d+) \| (\d+) \| `?([\w ]+)`? \| ([^|]+) \|$", body, re.M)]
            assert all(before[1] + before[2] == after[1] for before, after in zip(fields, fields[1:])), name
            assert not fields or fields[-1][1] + fields[-1][2] == int(size), name
            self.sections.append((name, int(size), fields))


class Damaged(Exception):
    pass


def need(condition, what):
    if not condition:
        raise Damaged(what)


def read(form, data):
    """A dictionary of lists of records, by section; a step's operands and edges are part of it."""
    need(len(data) >= 32 and data[:8] == form.magic, "not a plan")
    version, sections, length, crc, zero = struct.unpack_from("<IIQII", data, 8)
    need(version == form.version, "version %d" % version)
    need(sections == len(form.sections) and length == len(data) and zero == 0, "header")
    need(zlib.crc32(data[:24] + bytes(4) + data[28:]) == crc, "checksum")
    end, found = 32 + 24 * sections, []
    for number, (name, size, _) in enumerate(form.sections):
        own, record, count, offset = struct.unpack_from("<IIQQ", data, 32 + 24 * number)
        first = (end + 7) // 8 * 8
        need(own == number and record == size and offset == first, "table entry of " + name)
        need(count <= (len(data) - offset) // size and not any(data[end:first]), "extent of " + name)
        end = offset + count * size
        found.append((offset, count))
    need((end + 7) // 8 * 8 == len(data) and not any(data[end:]), "end of the file")
    numbers = {name: number for number, (name, _, _) in enumerate(form.sections)}
    strings = data[found[numbers["strings"]][0]:][:found[numbers["strings"]][1]]
    plan = {}
    for (name, size, fields), (offset, count) in zip(form.sections, found):
        if fields:
            plan[name] = [read_record(form, strings, data, offset + i * size, fields) for i in range(count)]
    take_lists(form, plan, data, found, numbers)
    return plan


def read_record(form, strings, data, base, fields):
    record = {}
    for field, offset, length, kind in fields:
        at, base_type = base + offset, BASE_TYPES.get(kind, "code")
        if base_type == "sizes":
            value = list(struct.unpack_from("<8I", data, at))
        elif base_type == "number":
            value = struct.unpack_from("<d", data, at)[0]
        elif base_type == "index":
            value = struct.unpack_from("<i", data, at)[0]
        else:
            value = struct.unpack_from("<I" if length == 4 else "<Q", data, at)[0]
        if base_type == "name":
            value = strings[value:strings.index(b"\0", value)].decode()
        elif base_type == "bool":
            need(value <= 1, "field " + field)
            value = value == 1
        elif base_type == "code":
            need(value in form.codes[kind], "%s: %s %d" % (field, kind, value))
            value = form.codes[kind][value]
        record[field] = value
    return record


def repeats(plan, number, other):
    """Do both steps run in every micro-batch of one segment? Then a step may wait for one that comes after it."""
    steps = plan["step"]
    between = steps[number:other + 1]
    return (plan["plan"][0]["micro_batches"] > 1 and other < len(steps) and
            steps[number]["when"] == steps[other]["when"] == "every" and
            all(step["layer"] == steps[number]["layer"] for step in between))


def take_lists(form, plan, data, found, numbers):
    (operand_at, operand_count), (edge_at, edge_count) = (found[numbers[name]] for name in ("operands", "edges"))
    operands = struct.unpack_from("<%di" % operand_count, data, operand_at)
    edges = struct.unpack_from("<%dI" % edge_count, data, edge_at)
    operand = edge = 0
    for number, step in enumerate(plan["step"]):
        own = form.ops[step["op"]]["operands"]
        need(step["operand count"] == len(own), "operands of step %d" % number)
        step["operands"] = {name: operands[operand + i] for i, (_, name) in enumerate(own)}
        operand += step["operand count"]
        step["after"] = edges[edge:edge + step["edge count"]]
        need(all(before < number or repeats(plan, number, before) for before in step["after"]),
             "edges of step %d" % number)
        edge += step["edge count"]
    need(operand == operand_count and edge == edge_count, "operands and edges")


def group_members(plan, group):
    """How many ranks are in a group; docs/ir.md, "Groups"."""
    counts = [level["count"] for level in plan["level"]]
    if group["kind"] == "world":
        product = 1
        for count in counts:
            product *= count
        return product
    count = counts[group["level"]]
    return {"gather": group["domain"], "exchange": count // group["domain"], "level": count}[group["kind"]]


def traffic(form, plan):
    """Bytes a GPU sends over each level in an iteration, by shape of op: from the steps alone."""
    sent = [{"level": level["name"], "exchange": 0, "gather": 0, "reduce": 0} for level in plan["level"]]
    kinds = {"exchange": "exchange", "gather": "gather", "scatter": "reduce", "reduce": "reduce"}
    for step in plan["step"]:
        shape = form.ops[step["op"]]["shape"]
        if shape != "local":
            times = plan["plan"][0]["micro_batches"] if step["when"] == "every" else 1
            sent[max(step["level"], 0)][kinds[shape]] += times * step["bytes"]
    return sent


def expected(form, plan):
    """The same from the choices, the groups and the model's volumes, where these decide it: gathers of
    uncompressed experts, and exchanges of naive dispatch. Absent keys are not decided; nothing is where
    volumes were given, for they may differ between layers."""
    model, settings = plan["model"][0], plan["plan"][0]
    sent = [{"level": level["name"]} for level in plan["level"]]
    if model["abstract"] and len(plan["choice"]) > 1:
        return sent
    choices = {choice["layer"]: choice["domain"] for choice in plan["choice"]}
    for level, (record, row) in enumerate(zip(plan["level"], sent)):
        steps = [(step, form.ops[step["op"]]["shape"], choices.get(step["layer"])) for step in plan["step"]
                 if step["level"] == level and step["group"] >= 0]
        if settings["codec"] == "dense":
            row["gather"] = 0
            for choice in plan["choice"]:
                shards, others = 1, choice["domain"][level] - 1
                for outer in range(settings["replica_levels"], level):
                    shards *= choice["domain"][outer]
                if level >= settings["replica_levels"]:
                    row["gather"] += (2 if choice["regather"] else 1) * model["expert_bytes"] * shards * others
        if settings["dispatch"] == "naive":
            row["exchange"] = 0
            for step, shape, domain in steps:
                if shape == "exchange":
                    count, size = record["count"], domain[level]
                    need(group_members(plan, plan["group"][step["group"]]) == count // size, "group of an exchange")
                    row["exchange"] += model["data_bytes"] * (count - size) / count
    return sent


def main():
    form = Format(sys.argv[1])
    with open(sys.argv[2], "rb") as file:
        plan = read(form, file.read())
    print(json.dumps({"cluster": plan["cluster"][0]["name"], "steps": len(plan["step"]),
                      "pass": plan["plan"][0]["pass"], "traffic": traffic(form, plan),
                      "expected": expected(form, plan)}, indent=1))


if __name__ == "__main__":
    main()
