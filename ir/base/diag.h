// Diagnostics sink: input errors are queued here with the spans they speak of and printed once,
// sorted as reported, with the source line and carets. Nothing here exits.
#ifndef HEP_DIAG_H
#define HEP_DIAG_H

#include <stdio.h>

#include "ir/base/arena.h"

typedef struct {
    uint32_t source;     // from diag_add_source
    uint32_t begin, end; // byte offsets, half-open
} Span;

typedef struct Diag Diag;

enum { DIAG_ERRORS_MAX = 20 }; // further errors are counted, not printed

Diag *diag_create(Arena *arena);

// Registers a text; it must outlive the sink. Returns its source id. `parent` is the span of the
// include (or other reference) that brought it in, or NULL.
uint32_t diag_add_source(Diag *diag, const char *name, const char *text, size_t length, const Span *parent);
const char *diag_source_name(const Diag *diag, uint32_t source);

void diag_error(Diag *diag, Span span, const char *format, ...) PRINTF_LIKE(3, 4);
void diag_warning(Diag *diag, Span span, const char *format, ...) PRINTF_LIKE(3, 4);
// About a whole file or the command line, where no span exists.
void diag_error_plain(Diag *diag, const char *format, ...) PRINTF_LIKE(2, 3);
void diag_warning_plain(Diag *diag, const char *format, ...) PRINTF_LIKE(2, 3);
// Attach to the diagnostic reported last: a related place, or advice without a place.
void diag_note(Diag *diag, Span span, const char *format, ...) PRINTF_LIKE(3, 4);
void diag_help(Diag *diag, const char *format, ...) PRINTF_LIKE(2, 3);

// Appends the diagnostics of another sink, whose spans refer to the same sources.
void diag_append(Diag *diag, Diag *from);

size_t diag_error_count(const Diag *diag);
size_t diag_warning_count(const Diag *diag);

// `file:line:column: error: message`, the source line, `^~~~` under the span, notes after it.
void diag_print(const Diag *diag, FILE *out, bool colour);

#endif
