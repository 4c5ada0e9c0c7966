// See store.h. Spare pieces lie in a list of a fixed length; the oldest is freed when it is full.
#include "runtime/library/store.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { SPARE_MAX = 32, PIECE_ALIGNMENT = 64 };

typedef struct {
    _Alignas(PIECE_ALIGNMENT) uint64_t bytes; // of the piece after it
} Head;

struct Store {
    atomic_uint references;
    pthread_mutex_t mutex;
    bool closed;
    Head *spare[SPARE_MAX];
    uint32_t next; // to be replaced
};

Store *store_create(void)
{
    Store *store = calloc(1, sizeof(*store));
    if (!store)
        return NULL;
    atomic_init(&store->references, 1);
    pthread_mutex_init(&store->mutex, NULL);
    return store;
}

Store *store_keep(Store *store)
{
    atomic_fetch_add(&store->references, 1);
    return store;
}

void store_close(Store *store)
{
    if (!store)
        return;
    pthread_mutex_lock(&store->mutex);
    store->closed = true;
    for (uint32_t s = 0; s < SPARE_MAX; s++) {
        free(store->spare[s]);
        store->spare[s] = NULL;
    }
    pthread_mutex_unlock(&store->mutex);
}

void store_drop(Store *store)
{
    if (!store || atomic_fetch_sub(&store->references, 1) != 1)
        return;
    store_close(store);
    pthread_mutex_destroy(&store->mutex);
    free(store);
}

// The smallest that is large enough, unless most of it would be idle.
static Head *take_spare(Store *store, uint64_t bytes)
{
    Head **best = NULL;
    for (uint32_t s = 0; s < SPARE_MAX; s++) {
        Head **at = &store->spare[s];
        if (*at && (*at)->bytes >= bytes && (*at)->bytes / 4 <= bytes + 4096 &&
            (!best || (*at)->bytes < (*best)->bytes))
            best = at;
    }
    Head *found = best ? *best : NULL;
    if (best)
        *best = NULL;
    return found;
}

void *store_take(Store *store, uint64_t bytes, Fault *fault)
{
    pthread_mutex_lock(&store->mutex);
    Head *head = take_spare(store, bytes);
    pthread_mutex_unlock(&store->mutex);
    if (!head && bytes < UINT64_MAX / 4) {
        uint64_t room = bytes + bytes / 8 + PIECE_ALIGNMENT; // the next one may be a little larger
        room = room / PIECE_ALIGNMENT * PIECE_ALIGNMENT;
        head = aligned_alloc(PIECE_ALIGNMENT, sizeof(*head) + room);
        if (head)
            head->bytes = room;
    }
    if (head)
        return head + 1;
    fault_set(fault, FAULT_MEMORY, "out of memory for %" PRIu64 " bytes of rows", bytes);
    return NULL;
}

void store_give(Store *store, void *piece)
{
    if (!piece)
        return;
    Head *head = (Head *)piece - 1;
    pthread_mutex_lock(&store->mutex);
    uint32_t free_place = store->next;
    for (uint32_t s = 0; s < SPARE_MAX; s++)
        if (!store->spare[s])
            free_place = s;
    Head *out = store->closed ? head : store->spare[free_place];
    if (!store->closed) {
        store->spare[free_place] = head;
        store->next = (store->next + 1) % SPARE_MAX;
    }
    pthread_mutex_unlock(&store->mutex);
    free(out);
}
