# Adds to a copy of the tree one of each of what docs/architecture.md counts under "What an addition takes", and nothing
# else; says what the table says wrongly. Usage: additions.py SOURCE COPY
import os, re, shutil, sys

source, copy = sys.argv[1:3]

# What is added: per edit the file, the line before which it goes (None: a new file), and the text (None: what describes
# or numbers the rest, and is counted alone).
ADDITIONS = {
    "a local op": [
        ("ir/ops.def", "HEP_OP(FFN, ", 'HEP_OP(MIRROR, mirror, 60, COMPUTE, LOCAL, OPERANDS(IN(x), OUT(y)), "y = x")\n'),
        ("ir/verify/verify_flow_network.c", "void flow_ffn(Flow *flow)", '''void flow_mirror(Flow *flow)
{
    Value rows = value_plain(HOLDS_INPUT_ROWS, flow->layer);
    flow_take(flow, OPERAND_x, rows);
    flow_give(flow, OPERAND_y, rows);
}

'''),
        ("compiler/lowering/lower.c", "    layer->x = x;", '''    int32_t y = lowering_add_temporary(l, k, "mirrored", model->dtype, l->tokens, model->hidden);
    lowering_add_local(l, OP_MIRROR, (int32_t)k, 0, (StepBuffers){.mirror = {.x = x, .y = y}});
    x = y;
'''),
        ("kernels/host/kernels.h", "void host_residual(", "void host_mirror(Tensor x, Tensor y);\n"),
        ("kernels/host/residual.c", "void host_residual(", '''void host_mirror(Tensor x, Tensor y)
{
    memcpy(y.data, x.data, x.rows * x.cols * dtype_bytes(x.dtype));
}

'''),
        ("runtime/engine/engine_host_ops.c", "bool host_run_ffn(", '''bool host_run_mirror(const HostStep *step, Fault *fault)
{
    (void)fault;
    host_mirror(step->operands.mirror.x, step->operands.mirror.y);
    return true;
}

'''),
        ("kernels/cuda/kernels.h", "cudaError_t cuda_residual(",
         "cudaError_t cuda_mirror(const CudaQueue *queue, Tensor x, Tensor y);\n"),
        ("kernels/cuda/residual.cu", "cudaError_t cuda_residual(",
         '''cudaError_t cuda_mirror(const CudaQueue *queue, Tensor x, Tensor y)
{
    return cudaMemcpyAsync(y.data, x.data, x.rows * x.cols * dtype_bytes(x.dtype), cudaMemcpyDeviceToDevice,
                           queue->stream);
}

'''),
        ("runtime/engine/engine_cuda_ops.c", "bool cuda_run_ffn(", '''bool cuda_run_mirror(CudaStep *step, Fault *fault)
{
    return copied(cuda_mirror(queue_of(step), step->operands.mirror.x, step->operands.mirror.y), fault);
}

'''),
        ("docs/ir.md", None, None),
    ],
    "a choice key of the language": [
        ("ir/names.def", "#undef HEP_NAMES\n", '''HEP_NAMES(Tempo, tempo, "a tempo")
HEP_NAME(TEMPO_SLOW, "slow", 0)
HEP_NAME(TEMPO_BRISK, "brisk", 0)
HEP_NAMES_END(Tempo, TEMPO_COUNT)
'''),
        ("grammar/keys.def", 'HEP_BLOCK(MIGRATION, "migration"',
         'HEP_KEY(PLAN, tempo, ONE_OF(tempo), SpecPlan, tempo, OPTIONAL, ANY, VALUE(TEMPO_SLOW), 0, 0, "how fast")\n'),
        ("compiler/spec/spec.h", "    PlacementRequest placement;", "    Tempo tempo;\n"),
        ("ir/plan.h", "    Coding experts, dense;", "    Tempo tempo;\n"),
        ("ir/schema.c", 'FIELD(Plan, "shared_every"', '                    MAYBE(Plan, "tempo", tempo, ONE_OF(tempo)),\n'),
        ("compiler/lowering/lower.c", "    plan->experts = spec->plan.experts;", "    plan->tempo = spec->plan.tempo;\n"),
        ("ir/binary.h", None, None),
        ("docs/plan-format.md", None, None),
        ("docs/language.md", None, None),
    ],
    "a communicator": [
        ("runtime/comm/communicators.def", "#undef HEP_COMMUNICATOR\n",
         'HEP_COMMUNICATOR(pigeons, HOST_PROCESSES, launcher_name, "pigeons", "a flock per rank")\n'),
        ("runtime/comm/comm_pigeons.c", None, '''// A communicator that never joins.
#include "runtime/comm/world.h"

static Comm *pigeons_create(const WorldOptions *options, Fault *fault)
{
    (void)options;
    fault_set(fault, FAULT_RUN, "the pigeons are asleep");
    return NULL;
}

const WorldOps pigeons_world_ops = {.communicator = COMMUNICATOR_pigeons, .create = pigeons_create};
'''),
        ("runtime/CMakeLists.txt", "  comm/comm_threads_calls.c", "  comm/comm_pigeons.c\n"),
    ],
    "a codec": [
        ("ir/names.def", "HEP_NAMES_END(Codec, CODEC_COUNT)", 'HEP_NAME(CODEC_MIRROR, "mirror", 0)\n'),
        ("ir/codec.c", "    [CODEC_COUNT] = {", "    [CODEC_MIRROR] = {.encodes = true},\n"),
        ("docs/plan-format.md", None, None),
        ("docs/language.md", None, None),
    ],
    "a column of traffic or of ranks": [
        ("runtime/comm/measures.def", 'HEP_TRAFFIC(planned_bytes,',
         'HEP_TRAFFIC(doubled_bytes, "doubled", MEAN, 2 * ALL_BYTES(own))\n'),
        ("docs/report.md", None, None),
    ],
}


def add(path, before, text):
    name = os.path.join(copy, path)
    if before is None:
        assert not os.path.exists(name), path
        open(name, "w").write(text)
        return
    old = open(name).read()
    places = [match.start() for match in re.finditer("^ *" + re.escape(before), old, re.M)] # indentation is clang-format's
    assert len(places) == 1, "%s: not one line begins with %r" % (path, before)
    open(name, "w").write(old[:places[0]] + text + old[places[0]:])


shutil.copytree(source, copy, ignore=lambda folder, names: [
    name for name in names if folder == source and name in ("build", "tests", "docs", "samples", ".git")])
document = open(os.path.join(source, "docs/architecture.md")).read()
wrong = 0
for what, edits in ADDITIONS.items():
    for path, before, text in edits:
        if text is not None:
            add(path, before, text)
    row = re.search(r"^\| %s \| \d+ \| (\d+) \| (.*) \|$" % re.escape(what), document, re.M)
    listed = re.findall(r"`([^`]+)`", row[2]) if row else []
    there = [path for path, _, _ in edits if os.path.exists(os.path.join(source, path))]
    if not row or int(row[1]) != len(edits) or sorted(listed) != sorted(there):
        print("docs/architecture.md: %s takes %d edits: %s" % (what, len(edits), [path for path, _, _ in edits]))
        wrong = 1
sys.exit(wrong)
