// See store.h. Spare pieces lie in a list of a fixed length; of the host's memory the oldest is freed when it is full.
// Those in use are found by where they begin.
#include "runtime/library/store.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { SPARE_MAX = 32, DEVICE_SPARE_MAX = 512, BUCKETS = 1024, PIECE_ALIGNMENT = 64 };

typedef struct Piece {
    struct Piece *next; // of its bucket
    void *memory;
    uint64_t bytes;
} Piece;

struct Store {
    const MoveOps *moves;
    atomic_uint references;
    pthread_mutex_t mutex;
    bool closed;
    Piece *spare[DEVICE_SPARE_MAX];
    uint32_t spare_max, next; // next: to be replaced
    Piece *taken[BUCKETS];
};

Store *store_create(const MoveOps *moves)
{
    Store *store = calloc(1, sizeof(*store));
    if (!store)
        return NULL;
    store->moves = moves;
    store->spare_max = moves->of_device ? DEVICE_SPARE_MAX : SPARE_MAX;
    atomic_init(&store->references, 1);
    pthread_mutex_init(&store->mutex, NULL);
    return store;
}

Store *store_keep(Store *store)
{
    atomic_fetch_add(&store->references, 1);
    return store;
}

static void piece_free(const Store *store, Piece *piece)
{
    if (piece)
        store->moves->release(piece->memory);
    free(piece);
}

void store_close(Store *store)
{
    if (!store)
        return;
    pthread_mutex_lock(&store->mutex);
    store->closed = true;
    for (uint32_t s = 0; s < store->spare_max; s++) {
        piece_free(store, store->spare[s]);
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
static Piece *take_spare(Store *store, uint64_t bytes)
{
    Piece **best = NULL;
    for (uint32_t s = 0; s < store->spare_max; s++) {
        Piece **at = &store->spare[s];
        if (*at && (*at)->bytes >= bytes && (*at)->bytes / 4 <= bytes + 4096 &&
            (!best || (*at)->bytes < (*best)->bytes))
            best = at;
    }
    Piece *found = best ? *best : NULL;
    if (best)
        *best = NULL;
    return found;
}

static Piece **bucket_of(Store *store, const void *memory)
{
    return &store->taken[(uintptr_t)memory / PIECE_ALIGNMENT % BUCKETS];
}

static Piece *piece_make(const Store *store, uint64_t bytes)
{
    Piece *piece = bytes < UINT64_MAX / 4 ? calloc(1, sizeof(*piece)) : NULL;
    if (!piece)
        return NULL;
    uint64_t padded = bytes + bytes / 8 + PIECE_ALIGNMENT; // the next one may be a little larger
    piece->bytes = padded / PIECE_ALIGNMENT * PIECE_ALIGNMENT;
    piece->memory = store->moves->allocate(piece->bytes);
    if (piece->memory)
        return piece;
    free(piece);
    return NULL;
}

void *store_take(Store *store, uint64_t bytes, Fault *fault)
{
    pthread_mutex_lock(&store->mutex);
    Piece *piece = take_spare(store, bytes);
    pthread_mutex_unlock(&store->mutex);
    piece = piece ? piece : piece_make(store, bytes);
    if (!piece) {
        fault_set(fault, FAULT_MEMORY, "out of memory for %" PRIu64 " bytes of rows", bytes);
        return NULL;
    }
    pthread_mutex_lock(&store->mutex);
    Piece **bucket = bucket_of(store, piece->memory);
    piece->next = *bucket;
    *bucket = piece;
    pthread_mutex_unlock(&store->mutex);
    return piece->memory;
}

void store_give(Store *store, void *memory)
{
    if (!memory)
        return;
    pthread_mutex_lock(&store->mutex);
    Piece **at = bucket_of(store, memory);
    while ((*at)->memory != memory)
        at = &(*at)->next;
    Piece *piece = *at, *out = piece;
    *at = piece->next;
    if (!store->closed) {
        uint32_t free_place = store->next;
        for (uint32_t s = 0; s < store->spare_max; s++)
            if (!store->spare[s])
                free_place = s;
        out = store->spare[free_place];
        store->spare[free_place] = piece;
        store->next = (store->next + 1) % store->spare_max;
    }
    pthread_mutex_unlock(&store->mutex);
    piece_free(store, out);
}
