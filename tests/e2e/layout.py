"""Checks what hepc --emit=layout wrote: against its schema, and against the placement worked out here, from domain sizes
alone, as docs/ir.md describes it.

layout.py SCHEMA LAYOUT PLAN_JSON
"""
import itertools
import json
import sys

TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}


def is_a(value, kind):
    return isinstance(value, TYPES[kind]) and not (kind == "integer" and isinstance(value, bool))


def validate(value, schema, root, where="layout"):
    """As much of JSON Schema as the schema uses; a keyword beyond that is a failure."""
    known = {"$schema", "title", "description", "type", "required", "properties", "items", "enum", "const", "minimum",
             "minItems", "maxItems", "$ref", "$defs"}
    assert set(schema) <= known, (where, set(schema) - known)
    if "$ref" in schema:
        assert schema["$ref"].startswith("#/$defs/"), schema["$ref"]
        validate(value, root["$defs"][schema["$ref"][8:]], root, where)
    kinds = schema.get("type", [])
    assert not kinds or any(is_a(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)), (where, value)
    assert "const" not in schema or value == schema["const"], (where, value)
    assert "enum" not in schema or value in schema["enum"], (where, value)
    assert "minimum" not in schema or value >= schema["minimum"], (where, value)
    if isinstance(value, dict):
        for name in schema.get("required", []):
            assert name in value, "%s has no '%s'" % (where, name)
        for name, member in value.items():
            assert name in schema["properties"], "%s.%s is not documented" % (where, name)
            validate(member, schema["properties"][name], root, where + "." + name)
    if isinstance(value, list):
        assert schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)), (where, len(value))
        for i, item in enumerate(value):
            validate(item, schema.get("items", {}), root, "%s[%d]" % (where, i))


def members(counts, order, level, same):
    """Sets of ranks that are equal in all coordinates but `level`, of which same(x) is equal."""
    sets = {}
    for place, x in enumerate(itertools.product(*map(range, counts))):
        key = x[:level] + x[level + 1:] + (same(x[level]),)
        sets.setdefault(key, []).append(order[place])
    return sorted(sets.values(), key=lambda ranks: order.index(ranks[0]))


def check_groups(layout, counts, order):
    names = [level["name"] for level in layout["cluster"]["levels"]]
    for group in layout["groups"]:
        size = group["domain"]
        if group["kind"] == "world":
            assert group["sets"] == [order] and group["level"] is None, group
            continue
        level = names.index(group["level"])
        same = {"gather": lambda y, s=size: y // s, "exchange": lambda y, s=size: y % s, "level": lambda y: 0}
        assert group["sets"] == members(counts, order, level, same[group["kind"]]), group


def check_placement(placement, layout, counts, order):
    domain, experts, kept = placement["domain"], layout["model"]["experts"], layout["replica_levels"]
    blocks = {}
    for place, x in enumerate(itertools.product(*map(range, counts))):
        block = slot = 0
        for coordinate, count, size in zip(x, counts, domain):
            block = block * (count // size) + coordinate // size
        for coordinate, size in reversed(list(zip(x, domain))[kept:]):
            slot = slot * size + coordinate % size
        blocks.setdefault(block, []).append((slot, order[place]))
    assert len(blocks) == len(placement["blocks"]), (len(blocks), placement)
    each = experts // len(blocks)
    for number, block in enumerate(placement["blocks"]):
        holders = sorted(blocks[number], key=lambda at: (at[0], order.index(at[1])))
        assert (block["first"], block["count"]) == (number * each, each), block
        assert block["holders"] == [rank for _, rank in holders], (block, holders)
        shares = 1 + max(slot for slot, _ in holders)
        for e in range(each):
            # Share s of the block is [s, s + 1) of `shares` equal parts; expert e is [e, e + 1) of `each`.
            owners = [rank for slot, rank in holders if slot * each < (e + 1) * shares and e * shares < (slot + 1) * each]
            if layout["model"]["whole_experts"]:
                assert block["owners"][e] == owners, (block, e, owners)
            else: # shares are rounded up: the last may own less, or nothing
                assert set(block["owners"][e]) <= set(holders_of(holders)) and block["owners"][e], block
        assert ("shares" in block) == (not layout["model"]["whole_experts"]), block
        if "shares" in block:
            at = block["shares"][0][0]
            for first, count in block["shares"]:
                assert first == at or count == 0, block["shares"]
                at += count


def holders_of(holders):
    return [rank for _, rank in holders]


def main():
    schema, layout, plan = (json.load(open(path, encoding="utf-8")) for path in sys.argv[1:4])
    validate(layout, schema, schema)
    try:
        import jsonschema
    except ImportError:
        pass
    else:
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(schema).validate(layout)
    counts = [level["count"] for level in layout["cluster"]["levels"]]
    order = layout["cluster"]["rank_order"]
    assert sorted(order) == list(range(layout["ranks"])), order
    check_groups(layout, counts, order)
    for placement in layout["placements"]:
        check_placement(placement, layout, counts, order)
    solved = plan["solution"]["layers"]
    assert len(solved) == len(layout["layers"]), len(solved)
    names = [level["name"] for level in layout["cluster"]["levels"]]
    for layer, other in zip(layout["layers"], solved):
        domain = layout["placements"][layer["placement"]]["domain"]
        assert (layer["layer"], domain, layer["regather"]) == (other["layer"], other["domain"], other["regather"]), layer
        kept = layout["replica_levels"]
        for use, crossed in (("exchange", [(n, s) for n, c, s in zip(names, counts, domain) if s < c]),
                             ("gather", [(n, s) for n, s in list(zip(names, domain))[kept:] if s > 1])):
            groups = [layout["groups"][g] for g in layer[use]]
            assert [(g["level"], g["domain"]) for g in groups] == crossed, (layer, use, crossed)
            assert all(g["kind"] == use and use in g["uses"] for g in groups), (layer, use)
        back = layer["gather"][::-1] if layout["pass"] == "training" else []
        assert layer["return"] == back and all("return" in layout["groups"][g]["uses"] for g in back), layer


if __name__ == "__main__":
    main()
