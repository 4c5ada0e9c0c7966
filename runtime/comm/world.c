// See world.h. Owns nothing but the choice between them.
#include "runtime/comm/world.h"

#include "runtime/comm/comm_launcher.h"

// Those of plug-ins are handed over with them.
#define WORLD_OF_HOST_THREADS(name)
#define WORLD_OF_HOST_PROCESSES(name) &name##_world_ops,
#define WORLD_OF_DEVICE_THREADS(name)
#define WORLD_OF_DEVICE_PROCESSES(name)
#define HEP_COMMUNICATOR(name, KIND, ...) WORLD_OF_##KIND(name)
static const WorldOps *const worlds[] = {
#include "runtime/comm/communicators.def"
    NULL};

static const WorldOps *find(const WorldOps *const *list, const Communicator *communicator)
{
    for (; list && *list; list++)
        if (communicator_info((*list)->communicator) == communicator)
            return (*list)->create ? *list : NULL;
    return NULL;
}

static bool lacks_library(const Communicator *communicator, Fault *fault)
{
    const char *launcher = communicator->launcher();
    const Communicator *instead = communicator_of_threads(communicator->of_device);
    fault_set(fault, FAULT_RUN, "%s%s%s%s was built without %s: '--communicator %s' runs %s",
              launcher ? "started by " : "", launcher ? launcher : "", launcher ? ", but " : "",
              communicator->of_device ? "the CUDA engine" : "this hep-run", communicator->library, instead->name,
              instead->text);
    if (launcher_rank() != 0)
        fault->message[0] = '\0';
    return false;
}

bool world_join(const Communicator *communicator, const WorldOps *const *more, const WorldOptions *options,
                World *world, Fault *fault)
{
    *world = (World){0};
    if (!communicator->of_processes)
        return true;
    const WorldOps *own = find(worlds, communicator), *ops = own ? own : find(more, communicator);
    if (!ops)
        return lacks_library(communicator, fault);
    world->comm = ops->create(options, fault);
    world->ops = world->comm ? ops : NULL;
    return world->comm;
}

Comm *world_comm(const World *world, const Cluster *cluster)
{
    if (world->ops)
        world->ops->place(world->comm, cluster);
    return world->comm;
}

bool world_is_first(const World *world)
{
    Comm *comm = world_comm(world, NULL);
    return !comm || comm->rank == 0;
}

bool world_share(const World *world, int *code, char **data, size_t *length, Fault *fault)
{
    return !world->ops || world->ops->share(world->comm, code, data, length, fault);
}

void world_settle(const World *world, Fault *fault)
{
    if (world->ops && world->ops->settle)
        world->ops->settle(world->comm, fault);
}

void world_destroy(World *world)
{
    if (world->ops)
        world->ops->destroy(world->comm);
    *world = (World){0};
}
