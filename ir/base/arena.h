// Bump allocator: everything a compilation or a loaded plan needs is freed at once.
// Not thread-safe; one arena belongs to one owner.
// And what happens when memory has run out: allocations of the base library (arenas, Text, files) and of cJSON end the
// action of the innermost memory_guard of their thread, because no caller in between could go on.
#ifndef HEP_ARENA_H
#define HEP_ARENA_H

#include "ir/base/fault.h"

typedef struct Arena Arena;

Arena *arena_create(void);
void arena_destroy(Arena *arena); // takes NULL
// What `joined` holds belongs to `arena` from now on; `joined` is gone.
void arena_join(Arena *arena, Arena *joined);

// Zeroed memory, aligned for any type. Never returns NULL.
void *arena_alloc(Arena *arena, size_t bytes);
void *arena_alloc_array(Arena *arena, size_t count, size_t element_bytes); // overflow = exhausted
char *arena_copy_string(Arena *arena, const char *text, size_t length);    // NUL-terminated copy
char *arena_format(Arena *arena, const char *format, ...) PRINTF_LIKE(2, 3);

// Runs `action`. False and a fault of kind FAULT_MEMORY when memory ran out in it: it was left by a jump, arenas that
// it had created are destroyed, other memory and files that it held open are lost. An action must therefore hold no
// lock and leave no temporary file where it allocates. Guards nest; each thread has its own.
MUST_CHECK bool memory_guard(void (*action)(void *context), void *context, Fault *fault);
// Leaves the innermost guard's action. Without a guard, which is a mistake of ours, the process is aborted.
_Noreturn void memory_exhausted(void);
bool memory_is_guarded(void); // is the thread inside one?
// Makes cJSON's allocations end guarded actions, too. For programs, before they use it; others get NULL from cJSON.
void memory_guard_json(void);

#endif
