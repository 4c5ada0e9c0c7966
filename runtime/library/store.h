// Memory of routes and calls that is used again: fresh pages cost more than the copies that fill them. A store outlives
// its context as long as routes have pieces of it. What the memory of a GPU was given back for may still be in line
// there: it serves only what comes after that.
#ifndef HEP_LIBRARY_STORE_H
#define HEP_LIBRARY_STORE_H

#include "runtime/engine/moves.h"

typedef struct Store Store;

Store *store_create(const MoveOps *moves); // of memory of that kind. NULL: no memory
Store *store_keep(Store *store);
void store_drop(Store *store);  // takes NULL
void store_close(Store *store); // frees what is not in use; what is given back later is freed at once. Takes NULL

// At least `bytes`, 64-byte aligned. NULL and a fault. Any thread.
void *store_take(Store *store, uint64_t bytes, Fault *fault) MUST_CHECK;
void store_give(Store *store, void *piece); // takes NULL

#endif
