// What hep.h declares and the library does not do yet: each says so.
#include "runtime/library/library.h"

static hep_status pending(const char *what)
{
    Fault fault = {0};
    fault_set(&fault, FAULT_INFEASIBLE, "%s is not in this version of the library", what);
    return library_end(&fault);
}

hep_status hep_comm_threads(int ranks, const hep_comm_options *options, hep_comm *comms[])
{
    (void)ranks;
    (void)options;
    (void)comms;
    return pending("hep_comm_threads");
}

hep_status hep_comm_mpi(int fortran_comm, const hep_comm_options *options, hep_comm **comm)
{
    (void)fortran_comm;
    (void)options;
    (void)comm;
    return pending("hep_comm_mpi");
}

int hep_has_mpi(void)
{
    return 0;
}

hep_status hep_comm_carrier(int rank, int ranks, const hep_carrier *carrier, void *user,
                            const hep_comm_options *options, hep_comm **comm)
{
    (void)rank;
    (void)ranks;
    (void)carrier;
    (void)user;
    (void)options;
    (void)comm;
    return pending("hep_comm_carrier");
}

hep_status hep_nccl_id(uint8_t id[128])
{
    (void)id;
    return pending("hep_nccl_id");
}

hep_status hep_comm_nccl(int rank, int ranks, const uint8_t id[128], const hep_comm_options *options, hep_comm **comm)
{
    (void)rank;
    (void)ranks;
    (void)id;
    (void)options;
    (void)comm;
    return pending("hep_comm_nccl");
}

void hep_comm_free(hep_comm *comm)
{
    (void)comm;
}

hep_status hep_create(const hep_plan *plan, hep_comm *comm, const hep_options *options, hep_context **context)
{
    (void)plan;
    (void)comm;
    (void)options;
    (void)context;
    return pending("hep_create");
}

void hep_abort(hep_context *context, const char *why)
{
    (void)context;
    (void)why;
}

void hep_destroy(hep_context *context)
{
    (void)context;
}

int hep_rank(const hep_context *context)
{
    (void)context;
    return -1;
}

hep_status hep_bind(hep_context *context, int layer, int count, const hep_tensor own[], const hep_tensor grads[],
                    const hep_tensor full[])
{
    (void)context;
    (void)layer;
    (void)count;
    (void)own;
    (void)grads;
    (void)full;
    return pending("hep_bind");
}

hep_status hep_begin(hep_context *context, int flags, void *stream)
{
    (void)context;
    (void)flags;
    (void)stream;
    return pending("hep_begin");
}

hep_status hep_gathered(hep_context *context, int layer, int flags, void *stream)
{
    (void)context;
    (void)layer;
    (void)flags;
    (void)stream;
    return pending("hep_gathered");
}

hep_status hep_used(hep_context *context, int layer, int flags, void *stream)
{
    (void)context;
    (void)layer;
    (void)flags;
    (void)stream;
    return pending("hep_used");
}

hep_status hep_return(hep_context *context, int layer, int count, const hep_tensor full_grads[], double scale,
                      void *stream)
{
    (void)context;
    (void)layer;
    (void)count;
    (void)full_grads;
    (void)scale;
    (void)stream;
    return pending("hep_return");
}

hep_status hep_finish(hep_context *context, void *stream)
{
    (void)context;
    (void)stream;
    return pending("hep_finish");
}

hep_status hep_dense_share(const hep_context *context, int64_t elements, int64_t *share, int64_t *first)
{
    (void)context;
    (void)elements;
    (void)share;
    (void)first;
    return pending("hep_dense_share");
}

hep_status hep_dense_gather(hep_context *context, const hep_tensor *share, const hep_tensor *full, void *stream)
{
    (void)context;
    (void)share;
    (void)full;
    (void)stream;
    return pending("hep_dense_gather");
}

hep_status hep_dense_return(hep_context *context, const hep_tensor *full, double scale, const hep_tensor *share,
                            void *stream)
{
    (void)context;
    (void)full;
    (void)scale;
    (void)share;
    (void)stream;
    return pending("hep_dense_return");
}

hep_status hep_dispatch(hep_context *context, int layer, const hep_tensor *x, const hep_tensor *experts,
                        const hep_tensor *weights, int flags, void *stream, hep_route **route)
{
    (void)context;
    (void)layer;
    (void)x;
    (void)experts;
    (void)weights;
    (void)flags;
    (void)stream;
    (void)route;
    return pending("hep_dispatch");
}

hep_status hep_route_rows(hep_route *route, int64_t *rows, int64_t *records, int64_t *per_expert)
{
    (void)route;
    (void)rows;
    (void)records;
    (void)per_expert;
    return pending("hep_route_rows");
}

hep_status hep_dispatch_finish(hep_route *route, const hep_tensor *x, const hep_tensor *experts,
                               const hep_tensor *weights, void *stream)
{
    (void)route;
    (void)x;
    (void)experts;
    (void)weights;
    (void)stream;
    return pending("hep_dispatch_finish");
}

hep_status hep_combine(hep_route *route, const hep_tensor *results, const hep_tensor *out, void *stream)
{
    (void)route;
    (void)results;
    (void)out;
    (void)stream;
    return pending("hep_combine");
}

hep_status hep_combine_backward(hep_route *route, const hep_tensor *dout, const hep_tensor *dresults, void *stream)
{
    (void)route;
    (void)dout;
    (void)dresults;
    (void)stream;
    return pending("hep_combine_backward");
}

hep_status hep_dispatch_backward(hep_route *route, const hep_tensor *dx, const hep_tensor *dweights,
                                 const hep_tensor *out_dx, const hep_tensor *out_dweights, void *stream)
{
    (void)route;
    (void)dx;
    (void)dweights;
    (void)out_dx;
    (void)out_dweights;
    (void)stream;
    return pending("hep_dispatch_backward");
}

void hep_route_keep(hep_route *route)
{
    (void)route;
}

void hep_route_free(hep_route *route)
{
    (void)route;
}

hep_status hep_count(hep_context *context, hep_traffic levels[], hep_times *times, int reset)
{
    (void)context;
    (void)levels;
    (void)times;
    (void)reset;
    return pending("hep_count");
}

hep_status hep_state_bytes(hep_context *context, uint64_t *bytes)
{
    (void)context;
    (void)bytes;
    return pending("hep_state_bytes");
}

hep_status hep_state_save(hep_context *context, void *bytes, uint64_t size, void *stream)
{
    (void)context;
    (void)bytes;
    (void)size;
    (void)stream;
    return pending("hep_state_save");
}

hep_status hep_state_load(hep_context *context, const void *bytes, uint64_t size, void *stream)
{
    (void)context;
    (void)bytes;
    (void)size;
    (void)stream;
    return pending("hep_state_load");
}

void hep_last_error(const hep_context *context, hep_error *error)
{
    Fault fault = {0};
    hep_error filled;
    (void)context;
    library_describe(library_last(), &filled);
    if (!library_give(error, &filled, sizeof(filled), &fault))
        return;
}
