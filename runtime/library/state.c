// What codecs remember, for the caller's checkpoint: how far the training is, and of every layer and bound bundle what
// was sent, what others' packets have made, what gradients have left out. It is of one rank of one plan.
#include <inttypes.h>

#include "runtime/library/coded.h"
#include "runtime/library/order.h"

enum { STATE_VERSION = 1 };

static const char magic[8] = "hepstate";

typedef struct {
    char magic[8];
    uint64_t version, digest, rank, bytes, iterations;
} StateHead;

// Of a layer, then of every bundle.
typedef struct {
    uint64_t bytes, has_sent, gathers, returns;
} PartHead;

// One part: a layer's or a bundle's.
typedef struct {
    Coded *coded;
    Bundle *bundle; // NULL: of a layer
} Part;

// The n-th, layers first; false after the last. Bundles that are not bound have none.
static bool find_part(const hep_context *context, uint32_t n, Part *part)
{
    *part = (Part){0};
    if (n < context->plan->choice_count) {
        part->coded = &context->layers[n].coded;
        return true;
    }
    n -= context->plan->choice_count;
    for (uint32_t b = 0; b < context->bundle_count; b++)
        if (context->bundles[b] && n-- == 0) {
            *part = (Part){.coded = &context->bundles[b]->coded, .bundle = context->bundles[b]};
            return true;
        }
    return false;
}

static bool has_state(const hep_context *context)
{
    return coding_encodes(&context->plan->experts) || coding_encodes(&context->plan->dense);
}

static uint64_t state_bytes(const hep_context *context)
{
    Part part;
    uint64_t bytes = has_state(context) ? sizeof(StateHead) : 0;
    for (uint32_t n = 0; bytes && find_part(context, n, &part); n++)
        bytes += sizeof(PartHead) + part.coded->bytes;
    return bytes;
}

static bool check_idle(hep_context *context, Fault *fault)
{
    pthread_mutex_lock(&context->mutex);
    bool moves = context->returning > 0;
    for (uint32_t k = 0; k < context->plan->choice_count; k++)
        moves = moves || context->layers[k].state == EXPERTS_QUEUED || context->layers[k].state == EXPERTS_MOVING;
    pthread_mutex_unlock(&context->mutex);
    return !moves || fault_set(fault, FAULT_MISMATCH, "state is saved or loaded while transfers are under way");
}

// ---- saving ----------------------------------------------------------------------------------------

static void put(char **at, const void *from, uint64_t bytes)
{
    if (bytes)
        memcpy(*at, from, bytes);
    *at += bytes;
}

static bool save(const hep_context *context, char *at, uint64_t size, Fault *fault)
{
    MoveQueue *queue = context->gather_lane.queue;
    bool ok = true;
    Part part;
    StateHead head = {.version = STATE_VERSION,
                      .digest = context->handle->digest,
                      .rank = context->rank,
                      .bytes = size,
                      .iterations = context->iterations};
    memcpy(head.magic, magic, sizeof(magic));
    put(&at, &head, sizeof(head));
    for (uint32_t n = 0; ok && find_part(context, n, &part); n++) {
        PartHead of = {.bytes = part.coded->bytes,
                       .has_sent = part.coded->has_sent,
                       .gathers = part.bundle ? part.bundle->gathers : 0,
                       .returns = part.bundle ? part.bundle->returns : 0};
        put(&at, &of, sizeof(of));
        ok = context->moves->bring(queue, at, part.coded->memory, part.coded->bytes, fault);
        at += part.coded->bytes;
    }
    return ok;
}

static bool check_size(const hep_context *context, const void *bytes, uint64_t size, Fault *fault)
{
    uint64_t expected = state_bytes(context);
    if (size != expected)
        return fault_set(fault, FAULT_USAGE, "%" PRIu64 " bytes of state, expected %" PRIu64, size, expected);
    return size == 0 || library_given(bytes, "bytes", fault);
}

// ---- loading ---------------------------------------------------------------------------------------

static void take(const char **at, void *to, uint64_t bytes)
{
    if (bytes)
        memcpy(to, *at, bytes);
    *at += bytes;
}

// All of it is looked at before anything is changed.
static bool check_state(const hep_context *context, const char *at, uint64_t size, Fault *fault)
{
    StateHead head;
    Part part;
    take(&at, &head, sizeof(head));
    if (memcmp(head.magic, magic, sizeof(magic)) != 0 || head.version != STATE_VERSION || head.bytes != size)
        return fault_set(fault, FAULT_USAGE, "not a state of this version of the library");
    if (head.digest != context->handle->digest || head.rank != context->rank)
        return fault_set(fault, FAULT_USAGE, "the state is of another plan, or of rank %" PRId64,
                         context_process(context, head.rank < INT64_MAX ? (int64_t)head.rank : -1));
    for (uint32_t n = 0; find_part(context, n, &part); n++) {
        PartHead of;
        take(&at, &of, sizeof(of));
        if (of.bytes != part.coded->bytes || of.has_sent > 1)
            return fault_set(fault, FAULT_USAGE, "the state is damaged, or of other bundles");
        at += of.bytes;
    }
    return true;
}

static bool load(hep_context *context, const char *at, Fault *fault)
{
    MoveQueue *queue = context->gather_lane.queue;
    bool ok = true;
    StateHead head;
    Part part;
    take(&at, &head, sizeof(head));
    context->iterations = head.iterations;
    for (uint32_t n = 0; ok && find_part(context, n, &part); n++) {
        PartHead of;
        take(&at, &of, sizeof(of));
        ok = context->moves->put(queue, part.coded->memory, at, of.bytes, fault);
        at += of.bytes;
        part.coded->has_sent = of.has_sent;
        if (part.bundle) {
            part.bundle->gathers = of.gathers;
            part.bundle->returns = of.returns;
        }
    }
    return ok;
}

static bool reset(hep_context *context, Fault *fault)
{
    bool ok = true;
    Part part;
    context->iterations = 0;
    for (uint32_t n = 0; ok && find_part(context, n, &part); n++) {
        ok = coded_reset(part.coded, &context->gather_lane, fault);
        if (part.bundle)
            part.bundle->gathers = part.bundle->returns = 0;
    }
    return ok;
}

// What was gathered is of the weights before.
static void forget_gathered(hep_context *context)
{
    for (uint32_t k = 0; k < context->plan->choice_count; k++) {
        Layer *layer = &context->layers[k];
        layer->present = layer->has_kept = layer->coded.is_fresh = false;
        layer->state = EXPERTS_IDLE;
        layer->summed = 0;
    }
    for (uint32_t b = 0; b < context->bundle_count; b++)
        if (context->bundles[b])
            context->bundles[b]->is_gathered = context->bundles[b]->coded.is_fresh = false;
}

// ---- the functions ---------------------------------------------------------------------------------

hep_status hep_state_bytes(hep_context *context, uint64_t *bytes)
{
    Fault fault = {0};
    if (!library_given(context, "context", &fault) || !library_given(bytes, "bytes", &fault))
        return library_end(&fault);
    *bytes = state_bytes(context);
    return HEP_OK;
}

hep_status hep_state_save(hep_context *context, void *bytes, uint64_t size, void *stream)
{
    hep_status status;
    Fault fault = {0};
    if (!context_enter_on(context, stream, &status))
        return status;
    bool ok = check_size(context, bytes, size, &fault) && check_idle(context, &fault) && order_settle(context, &fault);
    ok = ok && (!size || save(context, bytes, size, &fault));
    return context_leave(context, ok, &fault);
}

hep_status hep_state_load(hep_context *context, const void *bytes, uint64_t size, void *stream)
{
    hep_status status;
    Fault fault = {0};
    if (!context_enter_on(context, stream, &status))
        return status;
    bool resets = !bytes && size == 0;
    bool ok = check_idle(context, &fault) && (resets || check_size(context, bytes, size, &fault)) &&
              (size == 0 || check_state(context, bytes, size, &fault)) && order_settle(context, &fault);
    if (ok && has_state(context)) {
        ok = resets ? reset(context, &fault) : load(context, bytes, &fault);
        ok = ok && order_settle(context, &fault);
        forget_gathered(context);
    }
    return context_leave(context, ok, &fault);
}
