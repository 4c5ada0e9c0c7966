# A resumed training continues bit by bit, also by processes and with codecs; under another strategy or number of ranks
# experts are redistributed by their index. Another model or other data are refused by the name of what differs.
# builds: fast  seconds: 12
. "$(dirname "$0")/checkpoint_lib.sh"
compile outer --domain dc=2,gpu=1
compile inner --domain dc=1,gpu=2
compile ep --domain ep
compile gather --domain gather
compile wide --domain ep -D dcs=4
compile two --domain dc=1,gpu=2 -D dcs=1

# The same losses as a run that was not interrupted; the last two are kept; evaluating changes nothing.
train whole -n 20 outer.hepb
train begin -n 10 --checkpoint kept --every 3 --validate 4 outer.hepb
train end -n 10 --resume kept outer.hepb
[ "$(losses whole)" = "$(losses begin end)" ] || fail "resumed losses are others"
[ "$(echo kept/*)" = "kept/step-000009 kept/step-000010" ] || fail "kept: $(echo kept/*)"
python3 - <<'PYTHON' || fail "the report of checkpoints"
import json
begin, end = json.load(open("begin.json")), json.load(open("end.json"))
assert [v["iteration"] for v in begin["validation"]] == [4, 8, 10], begin["validation"]
assert begin["checkpoints"]["count"] == 4 and begin["checkpoints"]["iteration"] == 10
assert begin["checkpoints"]["bytes"] > 0 and begin["checkpoints"]["sum_s"] >= begin["checkpoints"]["max_s"] > 0
assert end["first_iteration"] == 11 and end["resumed"] == "kept/step-000010"
PYTHON

# One command starts, resumes after a run that ended early, and has nothing to do at the end.
requeue() { expect 0 "$1" "$HEP_RUN" --learning-rate 0.01 --json="$2.json" --until 20 --resume queue --checkpoint queue outer.hepb; }
rm -rf queue
train first -n 7 --checkpoint queue outer.hepb
requeue '' rest
[ "$(losses whole)" = "$(losses first rest)" ] || fail "--until: resumed losses are others"
requeue 'iteration 20 is reached' none
[ ! -e none.json ] || fail "--until ran on"
rm -rf queue
requeue '' anew
[ "$(losses whole)" = "$(losses anew)" ] || fail "--until: a run from the start has other losses"
expect 2 'give one' "$HEP_RUN" --until 20 -n 3 outer.hepb
expect 2 'no --warmup' "$HEP_RUN" --until 20 --warmup 3 outer.hepb
mkdir elsewhere
expect 3 'there is no checkpoint' "$HEP_RUN" --until 20 --resume elsewhere --checkpoint queue outer.hepb

# 16-bit weights have a master copy; warm-up iterations train, too; the seed is the checkpoint's.
sed 's/dtype = f32/dtype = bf16/' model.hep >half.hep
expect 0 '' "$HEPC" --domain dc=2,gpu=1 -o half.hepb half.hep
train half_whole -n 8 --seed 7 half.hepb
train half_begin -n 2 --warmup 2 --seed 7 --checkpoint half half.hepb
train half_end -n 4 --resume half/step-000004 half.hepb
[ "$(losses half_whole | tail -n 4)" = "$(losses half_end)" ] || fail "bf16: resumed losses are others"

# Several micro-batches: a checkpoint lies between iterations, and data go on where they were.
for how in none full; do
  sed "s/pass = training/&  micro_batches = 4  recompute = $how/" model.hep >loop.hep
  expect 0 '' "$HEPC" --domain dc=2,gpu=1 -o loop.hepb loop.hep
  rm -rf loop
  train loop_whole -n 6 loop.hepb
  train loop_begin -n 3 --checkpoint loop --validate 2 loop.hepb
  train loop_end -n 3 --resume loop loop.hepb
  [ "$(losses loop_whole)" = "$(losses loop_begin loop_end)" ] || fail "micro-batches, $how: resumed losses are others"
  [ $how = none ] || [ "$(losses loop_whole)" = "$first_losses" ] || fail "what is computed again differs"
  first_losses=$(losses loop_whole)
done

# Fewer experts than ranks: each has a part of one.
sed 's/experts = 8/experts = 2/' model.hep >few.hep
expect 0 '' "$HEPC" --domain ep -o few.hepb few.hep
train few_whole -n 6 few.hepb
train few_begin -n 3 --checkpoint few --skip-nonfinite few.hepb
train few_end -n 3 --resume few --validate 2 few.hepb
[ "$(losses few_whole)" = "$(losses few_begin few_end)" ] || fail "parts of experts: resumed losses are others"

# Experts keep weights and state wherever they go. A learning rate of 0 changes no weight.
cat >experts.py <<'PYTHON'
import json, math, sys
SIZES = {"f32": 4, "bf16": 2, "f16": 2}

def share_of(head, domain, rank):
    """The first element and the end of what a rank owns of a layer's experts, as docs/ir.md says."""
    levels, model = head["levels"], head["model"]
    elements = (2 if model["activation"] == "gelu" else 3) * model["hidden"] * model["inner"]
    share = math.ceil(model["experts"] * elements / math.prod(levels))
    if model["experts"] % math.prod(levels):
        share = (share + 7) // 8 * 8
    at = [rank // math.prod(levels[l + 1:]) % n for l, n in enumerate(levels)]
    place = slot = 0
    for l, size in enumerate(domain):
        place = place * (levels[l] // size) + at[l] // size
        slot += at[l] % size * math.prod(domain[:l])
    block = model["experts"] * elements // math.prod(n // size for n, size in zip(levels, domain))
    begin, end = place * block + slot * share, place * block + min((slot + 1) * share, block)
    return begin, max(begin, end)

def share_slot(levels, rank):
    """Which share of a bundle of all ranks is the rank's: the outermost coordinate is the fastest."""
    at = [rank // math.prod(levels[l + 1:]) % n for l, n in enumerate(levels)]
    return sum(at[l] * math.prod(levels[:l]) for l in range(len(levels)))

def contents(path):
    """Of every buffer all values, put together from the files: {(name, part of the state): bytes}."""
    head = json.load(open(path + "/manifest.json"))["checkpoint"]
    domains = {choice["layer"]: choice["domain"] for choice in head["choices"]}
    widths = {buffer["name"]: buffer["cols"] for buffer in head["buffers"]}
    found, shares = {}, {}
    for f, of in enumerate(head["files"]):
        data, at = open(path + "/" + of["name"], "rb").read(), 0
        for buffer in head["buffers"]:
            if (buffer["of"] == "equal") != (f == 0):
                continue
            name, size = buffer["name"], SIZES[buffer["dtype"]]
            values = data[at:at + buffer["rows"] * buffer["cols"] * size]
            at += len(values)
            if f == 0:
                found[name, 0] = values
                continue
            if buffer["of"] == "share": # of a bundle that all ranks own together
                count = buffer["cols"] // widths[name.removesuffix(".state")]
                slot = share_slot(head["levels"], f - 1)
                for part in range(count):
                    each = len(values) // count
                    shares.setdefault((name, part), {})[slot] = values[part * each:(part + 1) * each]
                continue
            width = widths[name.removesuffix(".state")]
            begin, end = share_of(head, domains[buffer["layer"]], f - 1)
            for part in range(buffer["cols"] // width):
                whole = found.setdefault((name, part), {})
                rows = [values[(r * buffer["cols"] + part * width) * size:][:width * size] for r in range(buffer["rows"])]
                own = b"".join(rows)
                assert own[(end - begin) * size:].count(0) == len(own) - (end - begin) * size, ("padding", name, f)
                for i in range(end - begin):
                    assert begin + i not in whole, ("two owners", name, begin + i)
                    whole[begin + i] = own[i * size:(i + 1) * size]
        assert at == len(data)
    for key, of in shares.items(): # padding at the end is 0
        found[key] = b"".join(of[slot] for slot in range(len(of))).rstrip(b"\0")
    for key, whole in found.items():
        if isinstance(whole, dict):
            assert sorted(whole) == list(range(len(whole))), ("elements without an owner", key)
            found[key] = b"".join(whole[i] for i in range(len(whole)))
    return {key: part for key, part in found.items() if key[0].endswith("state") == (sys.argv[1] == "state")}
first, second = contents(sys.argv[2]), contents(sys.argv[3])
assert first == second and first, "contents differ"
PYTHON
expect 0 '' "$HEPC" -D dcs=1 --domain ep -o few_two.hepb few.hep
train moved -n 1 --learning-rate 0 --weight-decay 0 --resume few --checkpoint few_two few_two.hepb &&
  { python3 experts.py weights few/step-000003 few_two/step-000004 || fail "parts of experts moved"; }
# Parts of experts, whose weights and state another choice finds in other files.
sed 's/experts = 8/experts = 6/' model.hep >six.hep
expect 0 '' "$HEPC" --domain ep -o six.hepb six.hep
expect 0 '' "$HEPC" --domain gather -o six_gather.hepb six.hep
train six_begin -n 3 --checkpoint six six.hepb
for plan in six six_gather; do
  train "end_$plan" -n 5 --resume six/step-000003 --checkpoint "to_$plan" "$plan.hepb"
done
python3 - <<'PYTHON' || fail "parts of experts: losses go another way"
import json
a, b = (json.load(open(f"end_{name}.json"))["loss"] for name in ("six", "six_gather"))
worst = max(abs(x / y - 1) for x, y in zip(a, b))
assert len(a) == len(b) and worst < 2e-4, worst # as tests/e2e/test_training.sh
PYTHON
for plan in ep gather inner wide two; do
  train moved -n 1 --learning-rate 0 --weight-decay 0 --resume kept --checkpoint "to_$plan" $plan.hepb &&
    { python3 experts.py weights kept/step-000010 "to_$plan/step-000011" || fail "weights moved to $plan"; }
  train back -n 1 --resume "to_$plan" outer.hepb
done
for plan in ep gather inner; do
  train "as_$plan" -n 10 --resume kept $plan.hepb
  python3 - "as_$plan" <<'PYTHON' || fail "losses go another way as $plan"
import json, sys
a, b = json.load(open("end.json"))["loss"], json.load(open(sys.argv[1] + ".json"))["loss"]
worst = max(abs(x / y - 1) for x, y in zip(a, b))
assert len(a) == len(b) and worst < 2e-4, worst # as tests/e2e/test_training.sh
PYTHON
done
expect 0 '' "$HEP_RUN" -n 1 --resume kept ep.hepb
grep -q 'resumed from kept/step-000010: .* iteration 11; strategy or number of ranks changed' out || fail "not reported: $(cat out)"

# What codecs remember is in checkpoints, too; of dense weights it is made again.
migrate() { # NAME MIGRATION
  sed "s/pass = training/pass = training  migration { $2 }/" model.hep >"$1.hep"
  expect 0 '' "$HEPC" --domain dc=2,gpu=1 -o "$1.hepb" "$1.hep"
}
migrate sr 'codec = sr  ratio = 8  shared_every = 3'
migrate delta 'codec = delta  ratio = 8  gradient = ternary'
for codec in sr delta; do
  train ${codec}_whole -n 10 $codec.hepb
  train ${codec}_begin -n 5 --validate 2 --checkpoint of_$codec $codec.hepb
  train ${codec}_end -n 5 --resume of_$codec $codec.hepb
  [ "$(losses ${codec}_whole)" = "$(losses ${codec}_begin ${codec}_end)" ] || fail "$codec: resumed losses are others"
  train ${codec}_of_dense -n 2 --resume kept --checkpoint ${codec}_of_dense $codec.hepb
  python3 - ${codec}_of_dense <<'PYTHON' || fail "$codec: continues from dense weights another way"
import json, sys
a, b = json.load(open("end.json"))["loss"], json.load(open(sys.argv[1] + ".json"))["loss"]
assert abs(a[0] / b[0] - 1) < 2e-3, (a[0], b[0]) # the same weights, less what the codec leaves out of them
PYTHON
  train dense_of_$codec -n 2 --resume of_$codec outer.hepb
done
train delta_of_sr -n 2 --resume of_sr delta.hepb
# Replicas of dense weights are exact: the first loss is that of dense migration.
[ "$(losses delta_of_dense | sed -n 1p)" = "$(losses end | sed -n 1p)" ] || fail "delta: replicas are not the weights"

# Another model, other data, another seed: refused by the name of what differs.
other() { # PATTERN SED
  sed "$2" model.hep >other.hep
  expect 0 '' "$HEPC" --domain ep -o other.hepb other.hep &&
    expect 3 "$1" "$HEP_RUN" -n 1 --resume kept other.hepb &&
    expect 3 "another model's checkpoints are there.*$1" "$HEP_RUN" -n 1 --checkpoint empty_of other.hepb
}
mkdir empty_of && cp -r kept/step-000010 empty_of/step-000000
other "model's hidden is 32 there, 64 in the plan" 's/hidden = 32/hidden = 64/'
other "model's dtype is f32 there, bf16 in the plan" 's/dtype = f32/dtype = bf16/'
other "model's experts is 8 there, 16 in the plan" 's/experts = 8/experts = 16/'
other "model's activation is gelu there, relu in the plan" 's/gelu/relu/'
seq 4000 >text
expect 3 'trained on generated data, this run has a file' "$HEP_RUN" -n 1 --resume kept --data text outer.hepb
expect 0 '' "$HEP_RUN" -n 1 --resume kept --data text --other-data outer.hepb
expect 3 'its seed is 0, --seed 3' "$HEP_RUN" -n 1 --resume kept --seed 3 outer.hepb
expect 0 '' "$HEP_RUN" -n 1 --data text --checkpoint of_text outer.hepb
seq 4001 >text
expect 3 'trained on a file of 18893 bytes .*, --data has 18898' "$HEP_RUN" -n 1 --resume of_text --data text outer.hepb

# Directories that cannot be what they should.
mkdir empty
expect 3 'empty: there is no checkpoint' "$HEP_RUN" --resume empty outer.hepb
expect 6 'absent: No such file' "$HEP_RUN" --resume absent outer.hepb
expect 6 'text: Not a directory' "$HEP_RUN" --resume text outer.hepb
expect 6 'absent/deep: No such file' "$HEP_RUN" --checkpoint absent/deep outer.hepb
expect 6 'text' "$HEP_RUN" --checkpoint text outer.hepb
expect 3 'of iteration 10, beyond where this run begins: --resume it' "$HEP_RUN" --checkpoint kept outer.hepb

# What does not go together.
expect 2 "every.* how often --checkpoint" "$HEP_RUN" --every 3 ep.hepb
expect 2 "every 'often'" "$HEP_RUN" --checkpoint x --every often ep.hepb
expect 2 "every '0'" "$HEP_RUN" --checkpoint x --every 0 ep.hepb
expect 2 '--other-data goes with --resume' "$HEP_RUN" --other-data ep.hepb
expect 2 'not with --resume' "$HEP_RUN" --check -n 1 --resume kept ep.hepb

if has_mpi outer.hepb; then
  processes() { # NAME OPTIONS...
    expect 0 '' timeout 100 mpirun --oversubscribe -n 4 "$HEP_RUN" --learning-rate 0.01 --json="$1.json" "${@:2}"
  }
  processes mpi_begin -n 10 --checkpoint by_mpi --every 4 outer.hepb
  processes mpi_end -n 10 --resume by_mpi outer.hepb
  [ "$(losses mpi_begin mpi_end)" = "$(losses whole)" ] || fail "processes resume otherwise"
  cmp -s by_mpi/step-000010/rank-00002 kept/step-000010/rank-00002 || fail "processes write other checkpoints"
  processes mpi_thread -n 10 --resume kept outer.hepb
  [ "$(losses mpi_thread)" = "$(losses end)" ] || fail "processes resume a checkpoint of threads otherwise"
else
  echo "no MPI: checkpoints of processes are not checked"
fi
finish
