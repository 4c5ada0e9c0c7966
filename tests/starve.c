// Lets allocations fail: linked into a copy of a program, it takes the place of malloc, calloc and realloc, for the
// libraries that the program uses, too. HEP_STARVE=N: from the Nth allocation of main on, none succeeds; N-: that one
// alone. Without it the number of allocations is written to standard error at the end.
#include <dlfcn.h>
#include <errno.h>
#include <gnu/libc-version.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Of sanitizers, where the program is built with them, else of the C library.
void *__interceptor_malloc(size_t bytes) __attribute__((weak));
void *__interceptor_calloc(size_t count, size_t bytes) __attribute__((weak));
void *__interceptor_realloc(void *memory, size_t bytes) __attribute__((weak));
void *__libc_malloc(size_t bytes) __attribute__((weak));
void *__libc_calloc(size_t count, size_t bytes) __attribute__((weak));
void *__libc_realloc(void *memory, size_t bytes) __attribute__((weak));

static atomic_ulong count;
static unsigned long first, last; // that fail; 0: none
static atomic_bool counts;
static void *c_library;

static void *library_of(const void *address)
{
    Dl_info info;
    return dladdr(address, &info) ? info.dli_fbase : NULL;
}

__attribute__((constructor)) static void starve_begin(void)
{
    const char *given = getenv("HEP_STARVE");
    char *end = NULL;
    first = given ? strtoul(given, &end, 10) : 0;
    last = end && *end == '-' ? first : ~0ul;
    c_library = library_of((const void *)gnu_get_libc_version);
    atomic_store(&counts, true);
}

__attribute__((destructor)) static void starve_end(void)
{
    char line[64];
    int length = snprintf(line, sizeof(line), "allocations: %lu\n", atomic_load(&count));
    if (first == 0 && length > 0 && write(STDERR_FILENO, line, (size_t)length) < 0)
        _exit(1);
}

// Where a thread begins, sanitizers rely on the C library to say where its stack is, and that needs these two.
static bool is_exempt(const void *caller)
{
    return library_of(caller) == c_library;
}

static bool is_refused(void)
{
    if (!atomic_load(&counts))
        return false;
    unsigned long index = atomic_fetch_add(&count, 1) + 1;
    if (first == 0 || index < first || index > last)
        return false;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t bytes)
{
    if (is_refused())
        return NULL;
    return __interceptor_malloc ? __interceptor_malloc(bytes) : __libc_malloc(bytes);
}

void *calloc(size_t items, size_t bytes)
{
    if (is_exempt(__builtin_return_address(0)) || !is_refused())
        return __interceptor_calloc ? __interceptor_calloc(items, bytes) : __libc_calloc(items, bytes);
    return NULL;
}

void *realloc(void *memory, size_t bytes)
{
    if (is_exempt(__builtin_return_address(0)) || !is_refused())
        return __interceptor_realloc ? __interceptor_realloc(memory, bytes) : __libc_realloc(memory, bytes);
    return NULL;
}
