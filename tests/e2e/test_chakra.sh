# Chakra traces, decoded here from the wire format alone: acyclic dependencies, every send received, collectives
# issued by all of their group in one order, and the plan's traffic.
# builds: dev
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
"$HEPC" --emit=chakra -o probe "$HEP_SOURCE/samples/paper/mix1.hep" 2>err
grep -q 'built without protobuf-c' err && { echo "SKIP: built without protobuf-c"; exit 77; }

cat >check.py <<'PYTHON'
import collections, json, struct, sys

def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at

def fields(data):
    at, found = 0, collections.defaultdict(list)
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        else:
            assert key & 7 == 2, key
            length, at = varint(data, at)
            value, at = data[at:at + length], at + length
            assert len(value) == length
        found[key >> 3].append(value)
    return found

def packed(chunks):
    values = []
    for chunk in chunks:
        at = 0
        while at < len(chunk):
            value, at = varint(chunk, at)
            values.append(value)
    return values

def attributes(node):
    found = {}
    for chunk in node[10]:
        own = fields(chunk)
        (kind, value), = [(key, value[0]) for key, value in own.items() if key != 1]
        found[own[1][0].decode()] = (kind, value.decode() if kind == 29 else value)
    return found

def read(path):
    data, at, messages = open(path, "rb").read(), 0, []
    while at < len(data):
        length, at = varint(data, at)
        messages.append(fields(data[at:at + length]))
        at += length
    assert at == len(data) and messages[0][1] == [b"0.0.4"]
    return messages[1:]

plan = json.load(open("plan.json"))
ranks, levels = plan["cluster"]["gpus"], plan["cluster"]["levels"]
groups = {name: members for name, members in json.load(open("out.groups.json")).items()}
def level_of(a, b):  # the outermost level whose coordinate differs
    below = ranks
    for number, level in enumerate(levels):
        below //= level["count"]
        if a // below != b // below:
            return number
sent, received, collectives = collections.Counter(), collections.Counter(), {}
traffic = [collections.Counter() for _ in levels]
for rank in range(ranks):
    seen, ancestors = set(), {}  # a bit per node
    last = collections.Counter()
    exchanges = collections.defaultdict(int)  # step: its nodes
    order = collectives[rank] = collections.defaultdict(list)
    for node in read("out.%d.et" % rank):
        number = node[1][0] if node[1] else 0
        deps = packed(node[5])
        assert number not in seen and all(dep in seen for dep in deps), (rank, number, deps)
        seen.add(number)
        ancestors[number] = 0
        for dep in deps:
            ancestors[number] |= ancestors[dep] | 1 << dep
        own, kind = attributes(node), node[3][0]
        # In these plans, local steps are all on one stream, gathers on another: each after the one before it.
        if kind == 4 or kind == 7 and own["comm_type"][1] == 2:
            assert ancestors[number] & last[kind] == last[kind], (rank, number, "before an earlier step of its stream")
            last[kind] = 1 << number
        assert own["is_cpu_op"] == (27, 0) and node[2][0]
        get = lambda name, wire: own[name][1] if own[name][0] == wire else sys.exit("wire type of " + name)
        if kind == 4:
            assert get("num_ops", 13) >= 0
        elif kind in (5, 6):
            source, target = get("comm_src", 11), get("comm_dst", 11)
            assert rank == (source if kind == 5 else target) and source != target
            size, tag = get("comm_size", 13), get("comm_tag", 11)
            before = exchanges.get(max((other for other in exchanges if other < tag), default=None), 0)
            assert not any(1 << dep & nodes for nodes in exchanges.values() for dep in deps), (rank, number, "edges")
            assert before & ~ancestors[number] == 0, (rank, number, "before the exchange of an earlier step")
            exchanges[tag] |= 1 << number
            (sent if kind == 5 else received)[source, target, get("comm_tag", 11), size] += 1
            if kind == 5 and rank == 0:
                traffic[level_of(source, target)]["exchange"] += size
        else:
            assert kind == 7, kind
            members, size, what = groups[get("pg_name", 29)], get("comm_size", 13), get("comm_type", 13)
            assert rank in members
            order[get("pg_name", 29)].append((what, size))
            others = len(members) - 1
            # Of what a rank sends: its shard to the others; others' shards; twice all parts but one.
            bytes_ = {2: size * others, 7: size * others / (others + 1), 0: 2 * size * others / (others + 1)}[what]
            spans = {level_of(a, b) for a in members for b in members if a != b}
            if rank == 0:
                traffic[min(spans)]["gather" if what == 2 else "reduce"] += bytes_
assert sent == received and all(count == 1 for count in sent.values())
for name, members in groups.items():
    for rank in members:
        assert collectives[rank][name] == collectives[members[0]][name], (name, rank)
slack = 2 * plan["steps"] * ranks  # whole bytes
for number, level in enumerate(plan["traffic"]):
    near = lambda key, value: abs(traffic[number][key] - value) <= slack
    assert near("exchange", level["exchange_bytes"] + level["routing_bytes"]), (level, traffic[number])
    assert near("gather", level["gather_bytes"] + level["dense_gather_bytes"]), (level, traffic[number])
    assert near("reduce", level["reduce_bytes"] + level["dense_reduce_bytes"]), (level, traffic[number])
PYTHON

for arguments in "laptop" "--domain ep laptop" "two_dc" "three_level" "paper/mix1"; do
  rm -f out.*.et
  # shellcheck disable=SC2086
  set -- $arguments
  sample=$HEP_SOURCE/samples/${!#}.hep
  set -- "${@:1:$#-1}"
  expect 0 '' "$HEPC" "$@" "$sample" -o plan.hepb || continue
  "$HEPC" --dump=json plan.hepb >plan.json
  expect 0 '' "$HEPC" --emit=chakra -o out plan.hepb || continue
  python3 check.py || fail "$arguments"
done
expect 2 'give -o PREFIX' "$HEPC" --emit=chakra plan.hepb
expect 6 'missing/x.groups.json: No such file' "$HEPC" --emit=chakra -o missing/x plan.hepb
finish
