// Bump allocator over a list of calloc'ed blocks, newest first. Blocks grow with the arena, and a
// request larger than a block gets one of its own. Owns every block until the arena is destroyed.
// A guard lists the arenas that its action created, so that none is lost by the jump out of it.
#include "ir/base/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES_MIN = 16 * 1024, BLOCK_BYTES_MAX = 1024 * 1024 };

typedef struct Block {
    struct Block *next;
    size_t used, size;
    _Alignas(max_align_t) unsigned char bytes[];
} Block;

struct Arena {
    Block *blocks;
    size_t next_block_bytes;
    Arena *next, **link; // in the list of the guard that it was created in; link: NULL outside of guards
};

typedef struct Guard {
    struct Guard *outer;
    Arena *arenas;
    jmp_buf escape;
} Guard;

static _Thread_local Guard *innermost;

static void arena_unlist(Arena *arena)
{
    if (arena->link)
        *arena->link = arena->next;
    if (arena->next)
        arena->next->link = arena->link;
    arena->next = NULL;
    arena->link = NULL;
}

static void arena_list(Arena *arena, Guard *guard)
{
    arena->next = guard->arenas;
    arena->link = &guard->arenas;
    if (arena->next)
        arena->next->link = &arena->next;
    guard->arenas = arena;
}

// A function of its own: what is local to the one that calls setjmp would be undefined after the jump.
static bool guard_run(Guard *guard, void (*action)(void *context), void *context)
{
    if (setjmp(guard->escape) != 0)
        return false;
    action(context);
    return true;
}

bool memory_guard(void (*action)(void *context), void *context, Fault *fault)
{
    Guard guard = {.outer = innermost};
    innermost = &guard;
    bool ended = guard_run(&guard, action, context);
    innermost = guard.outer;
    while (guard.arenas) {
        Arena *arena = guard.arenas;
        arena_unlist(arena);
        if (!ended)
            arena_destroy(arena);
        else if (guard.outer)
            arena_list(arena, guard.outer);
    }
    return ended || fault_set(fault, FAULT_MEMORY, "out of memory");
}

bool memory_is_guarded(void)
{
    return innermost != NULL;
}

_Noreturn void memory_exhausted(void)
{
    if (!innermost)
        abort();
    longjmp(innermost->escape, 1);
}

Arena *arena_create(void)
{
    Arena *arena = calloc(1, sizeof(*arena));
    if (!arena)
        memory_exhausted();
    arena->next_block_bytes = BLOCK_BYTES_MIN;
    if (innermost)
        arena_list(arena, innermost);
    return arena;
}

void arena_destroy(Arena *arena)
{
    if (!arena)
        return;
    arena_unlist(arena);
    for (Block *block = arena->blocks; block;) {
        Block *next = block->next;
        free(block);
        block = next;
    }
    free(arena);
}

void arena_join(Arena *arena, Arena *joined)
{
    Block **last = &arena->blocks; // the first stays the one that is filled
    while (*last)
        last = &(*last)->next;
    *last = joined->blocks;
    joined->blocks = NULL;
    arena_destroy(joined);
}

static Block *arena_add_block(Arena *arena, size_t bytes)
{
    size_t size = bytes > arena->next_block_bytes ? bytes : arena->next_block_bytes;
    uint64_t total;
    if (!checked_add(size, sizeof(Block), &total))
        memory_exhausted();
    Block *block = calloc(1, total);
    if (!block)
        memory_exhausted();
    block->size = size;
    block->next = arena->blocks;
    arena->blocks = block;
    if (arena->next_block_bytes < BLOCK_BYTES_MAX)
        arena->next_block_bytes *= 2;
    return block;
}

void *arena_alloc(Arena *arena, size_t bytes)
{
    const size_t align = _Alignof(max_align_t);
    if (bytes > SIZE_MAX - align)
        memory_exhausted();
    size_t rounded = bytes ? (bytes + align - 1) / align * align : align;
    Block *block = arena->blocks;
    if (!block || block->size - block->used < rounded)
        block = arena_add_block(arena, rounded);
    void *memory = block->bytes + block->used;
    block->used += rounded;
    return memory;
}

void *arena_alloc_array(Arena *arena, size_t count, size_t element_bytes)
{
    uint64_t bytes;
    if (!checked_mul(count, element_bytes, &bytes))
        memory_exhausted();
    return arena_alloc(arena, bytes);
}

char *arena_copy_string(Arena *arena, const char *text, size_t length)
{
    if (length == SIZE_MAX)
        memory_exhausted();
    char *copy = arena_alloc(arena, length + 1);
    if (length)
        memcpy(copy, text, length);
    return copy;
}

char *arena_format(Arena *arena, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = arena_alloc(arena, length < 0 ? 1 : (size_t)length + 1);
    if (length >= 0)
        vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}
