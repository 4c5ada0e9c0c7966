# A reader that knows plans from docs/plan-format.md and docs/ir.md alone reads what hepc writes, finds the
# traffic that hepc states, and refuses damage. So a format change that the documents miss fails here.
# builds: dev  seconds: 6
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
docs=$HEP_SOURCE/docs
export PYTHONPATH=$HEP_SOURCE/tests/e2e PYTHONDONTWRITEBYTECODE=1

# agree ARGUMENTS...: compiles, reads, and compares.
agree() {
  expect 0 '' "$HEPC" "$@" -o plan.hepb || return
  "$HEPC" --dump=json plan.hepb >plan.json || fail "$*: no JSON"
  python3 "$HEP_SOURCE/tests/e2e/plan_reader.py" "$docs" plan.hepb >read.json || { fail "$*: cannot be read"; return; }
  python3 - <<'PYTHON' || fail "$*"
import json
plan, read = json.load(open("plan.json")), json.load(open("read.json"))
assert read["cluster"] == plan["cluster"]["name"] and read["steps"] == plan["steps"]
assert len(plan["traffic"]) == len(read["traffic"])
near = lambda a, b: abs(a - b) <= 1e-9 * max(abs(a), abs(b))
for stated, own, derived in zip(plan["traffic"], read["traffic"], read["expected"]):
    assert stated["level"] == own["level"] == derived["level"]
    assert near(stated["exchange_bytes"] + stated["routing_bytes"], own["exchange"]), (stated, own)
    assert near(stated["gather_bytes"] + stated["dense_gather_bytes"], own["gather"]), (stated, own)
    assert near(stated["reduce_bytes"] + stated["dense_reduce_bytes"], own["reduce"]), (stated, own)
    if "gather" in derived:
        assert near(derived["gather"], stated["gather_bytes"]), (derived, stated)
    if "exchange" in derived and read["pass"] == "forward":
        assert near(derived["exchange"], stated["exchange_bytes"]), (derived, stated)
PYTHON
}

for sample in "$HEP_SOURCE"/samples/*.hep "$HEP_SOURCE"/samples/paper/{mix,ag,s_}*.hep; do
  agree "$sample"
done
laptop=$HEP_SOURCE/samples/laptop.hep
for sizes in dc=1,gpu=1 dc=2,gpu=1 dc=1,gpu=4 dc=2,gpu=8; do
  agree --domain $sizes --dispatch naive "$laptop"
done

# Bytes of steps of every micro-batch count as often; waits for the micro-batch before point forwards.
sed '/^plan {/,/^}/c plan { pass = training  micro_batches = count  recompute = how }' "$laptop" >loop.hep
sed -i '1i let how = none\nlet count = 3' loop.hep
for how in none full; do
  for sizes in dc=1,gpu=1 dc=2,gpu=4; do
    agree --domain $sizes -D how=$how loop.hep
  done
done
agree -D count=1 loop.hep

expect 0 '' "$HEPC" "$laptop" -o plan.hepb
python3 - "$docs" <<'PYTHON' || fail "damage"
import sys, zlib, struct
import plan_reader
form, good = plan_reader.Format(sys.argv[1]), open("plan.hepb", "rb").read()
plan = plan_reader.read(form, good)
assert len(plan["level"]) == 2 and plan["level"][1]["name"] == "gpu" and plan["plan"][0]["pass"] == "forward"

def refused(data, what):
    try:
        plan_reader.read(form, bytes(data))
    except (plan_reader.Damaged, struct.error):
        return
    raise AssertionError(what + " was read")

for at in range(0, len(good), max(1, len(good) // 200)):
    refused(good[:at] + bytes([good[at] ^ 4]) + good[at + 1:], "byte %d changed" % at)
    refused(good[:at], "cut at %d" % at)
newer = bytearray(good)
newer[8] += 1
newer[24:28] = bytes(4)
newer[24:28] = struct.pack("<I", zlib.crc32(newer))
refused(newer, "a newer version")
open("newer.hepb", "wb").write(newer)
PYTHON
expect 3 'newer|version' "$HEPC" --check newer.hepb
expect 3 'newer|version' "$HEP_RUN" newer.hepb
finish
