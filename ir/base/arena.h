// Bump allocator: everything a compilation or a loaded plan needs is freed at once.
// Not thread-safe; one arena belongs to one owner.
#ifndef HEP_ARENA_H
#define HEP_ARENA_H

#include "ir/base/base.h"

typedef struct Arena Arena;

Arena *arena_create(void);
void arena_destroy(Arena *arena); // takes NULL

// Zeroed memory, aligned for any type. Never returns NULL: exhausted memory ends the process
// through the handler below (default: message and exit code 70), because no caller could go on.
void *arena_alloc(Arena *arena, size_t bytes);
void *arena_alloc_array(Arena *arena, size_t count, size_t element_bytes); // overflow = exhausted
char *arena_copy_string(Arena *arena, const char *text, size_t length);    // NUL-terminated copy
char *arena_format(Arena *arena, const char *format, ...) PRINTF_LIKE(2, 3);

void arena_set_exhausted_handler(void (*handler)(void));
// Runs the handler; ends the process if the handler returns. For other allocators of the base library.
__attribute__((noreturn)) void arena_exhausted(void);

#endif
