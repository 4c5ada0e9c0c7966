// Bump allocator over a list of calloc'ed blocks, newest first. Blocks grow with the arena, and a
// request larger than a block gets one of its own. Owns every block until the arena is destroyed.
#include "ir/base/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/base/exit_codes.h"

enum { BLOCK_BYTES_MIN = 16 * 1024, BLOCK_BYTES_MAX = 1024 * 1024 };

typedef struct Block {
    struct Block *next;
    size_t used, size;
    _Alignas(max_align_t) unsigned char bytes[];
} Block;

struct Arena {
    Block *blocks;
    size_t next_block_bytes;
};

static void exhausted_default(void)
{
    fputs("error: memory is exhausted\n", stderr);
    exit(exit_code_of(FAULT_MEMORY));
}

static void (*exhausted_handler)(void) = exhausted_default;

void arena_set_exhausted_handler(void (*handler)(void))
{
    exhausted_handler = handler ? handler : exhausted_default;
}

_Noreturn void arena_exhausted(void)
{
    exhausted_handler();
    abort();
}

Arena *arena_create(void)
{
    Arena *arena = calloc(1, sizeof(*arena));
    if (!arena)
        arena_exhausted();
    arena->next_block_bytes = BLOCK_BYTES_MIN;
    return arena;
}

void arena_destroy(Arena *arena)
{
    if (!arena)
        return;
    for (Block *block = arena->blocks; block;) {
        Block *next = block->next;
        free(block);
        block = next;
    }
    free(arena);
}

static Block *arena_add_block(Arena *arena, size_t bytes)
{
    size_t size = bytes > arena->next_block_bytes ? bytes : arena->next_block_bytes;
    uint64_t total;
    if (!checked_add(size, sizeof(Block), &total))
        arena_exhausted();
    Block *block = calloc(1, total);
    if (!block)
        arena_exhausted();
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
        arena_exhausted();
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
        arena_exhausted();
    return arena_alloc(arena, bytes);
}

char *arena_copy_string(Arena *arena, const char *text, size_t length)
{
    if (length == SIZE_MAX)
        arena_exhausted();
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
