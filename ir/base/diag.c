// The diagnostics sink: records in the arena in the order they are reported, printed once. Spans
// are byte offsets and become lines, columns and carets here only. Owns no texts.
#include "ir/base/diag.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

typedef enum { SEVERITY_ERROR, SEVERITY_WARNING, SEVERITY_NOTE, SEVERITY_HELP } Severity;

typedef struct Record {
    struct Record *next;  // next diagnostic, or next note of the same diagnostic
    struct Record *notes; // of a diagnostic: its notes in order
    struct Record *last_note;
    Severity severity;
    bool placed;
    Span span;
    const char *message;
} Record;

typedef struct Source {
    struct Source *next;
    const char *name, *text;
    size_t length;
    bool included;
    Span parent;
} Source;

struct Diag {
    Arena *arena;
    Source *sources, *last_source;
    uint32_t source_count;
    Record *records, *last; // `last` is what notes attach to; NULL when it was beyond the limit
    Record *last_kept;
    size_t error_count, warning_count;
};

enum { TAB_COLUMNS = 8, LINE_SHOWN_MAX = 400 };

Diag *diag_create(Arena *arena)
{
    Diag *diag = arena_alloc(arena, sizeof(*diag));
    diag->arena = arena;
    return diag;
}

uint32_t diag_add_source(Diag *diag, const char *name, const char *text, size_t length, const Span *parent)
{
    Source *source = arena_alloc(diag->arena, sizeof(*source));
    *source = (Source){.name = name, .text = text, .length = length, .included = parent != NULL};
    if (parent)
        source->parent = *parent;
    if (diag->last_source)
        diag->last_source->next = source;
    else
        diag->sources = source;
    diag->last_source = source;
    return diag->source_count++;
}

static const Source *diag_source(const Diag *diag, uint32_t id)
{
    const Source *source = diag->sources;
    while (source && id--)
        source = source->next;
    return source;
}

const char *diag_source_name(const Diag *diag, uint32_t source)
{
    const Source *found = diag_source(diag, source);
    return found ? found->name : "";
}

// A control character begins here: one byte of ASCII, or two of UTF-8 (U+0080 to U+009F, which terminals obey as well).
static size_t control_bytes(const char *text, const char *end)
{
    unsigned char c = (unsigned char)text[0];
    if (c < 0x20 || c == 0x7f)
        return 1;
    return c == 0xc2 && text + 1 < end && (unsigned char)text[1] >= 0x80 && (unsigned char)text[1] <= 0x9f ? 2 : 0;
}

// Bytes that would move the cursor or break a terminal are shown as '?'; other UTF-8 passes.
static const char *format_message(Arena *arena, const char *format, va_list arguments)
{
    char *message = NULL;
    if (vasprintf(&message, format, arguments) < 0)
        memory_exhausted();
    char *copy = arena_copy_string(arena, message, strlen(message));
    free(message);
    const char *end = copy + strlen(copy);
    char *out = copy;
    for (const char *c = copy; c < end; c++) {
        size_t control = control_bytes(c, end);
        *out++ = control ? '?' : *c;
        c += control > 1;
    }
    *out = '\0';
    return copy;
}

static Record *record_create(Diag *diag, Severity severity, const Span *span, const char *message)
{
    Record *record = arena_alloc(diag->arena, sizeof(*record));
    *record = (Record){.severity = severity, .placed = span != NULL, .message = message};
    if (span)
        record->span = *span;
    return record;
}

// Reporting the same thing about the same place twice helps nobody.
static bool is_repeated(const Diag *diag, Severity severity, const Span *span, const char *message)
{
    for (const Record *record = diag->records; record; record = record->next)
        if (record->severity == severity && record->placed == (span != NULL) && strcmp(record->message, message) == 0 &&
            (!span || memcmp(&record->span, span, sizeof(*span)) == 0))
            return true;
    return false;
}

static void report(Diag *diag, Severity severity, const Span *span, const char *format, va_list arguments)
{
    size_t *count = severity == SEVERITY_ERROR ? &diag->error_count : &diag->warning_count;
    diag->last = NULL;
    if (*count >= DIAG_ERRORS_MAX) {
        ++*count;
        return;
    }
    const char *message = format_message(diag->arena, format, arguments);
    if (is_repeated(diag, severity, span, message))
        return;
    ++*count;
    Record *record = record_create(diag, severity, span, message);
    if (diag->last_kept)
        diag->last_kept->next = record;
    else
        diag->records = record;
    diag->last = diag->last_kept = record;
}

static void attach(Diag *diag, Severity severity, const Span *span, const char *format, va_list arguments)
{
    if (!diag->last)
        return;
    Record *note = record_create(diag, severity, span, format_message(diag->arena, format, arguments));
    if (diag->last->last_note)
        diag->last->last_note->next = note;
    else
        diag->last->notes = note;
    diag->last->last_note = note;
}

#define WITH_ARGUMENTS(call)                                                                                           \
    do {                                                                                                               \
        va_list arguments;                                                                                             \
        va_start(arguments, format);                                                                                   \
        call;                                                                                                          \
        va_end(arguments);                                                                                             \
    } while (0)

void diag_error(Diag *diag, Span span, const char *format, ...)
{
    WITH_ARGUMENTS(report(diag, SEVERITY_ERROR, &span, format, arguments));
}

void diag_warning(Diag *diag, Span span, const char *format, ...)
{
    WITH_ARGUMENTS(report(diag, SEVERITY_WARNING, &span, format, arguments));
}

void diag_error_plain(Diag *diag, const char *format, ...)
{
    WITH_ARGUMENTS(report(diag, SEVERITY_ERROR, NULL, format, arguments));
}

void diag_warning_plain(Diag *diag, const char *format, ...)
{
    WITH_ARGUMENTS(report(diag, SEVERITY_WARNING, NULL, format, arguments));
}

void diag_note(Diag *diag, Span span, const char *format, ...)
{
    WITH_ARGUMENTS(attach(diag, SEVERITY_NOTE, &span, format, arguments));
}

void diag_help(Diag *diag, const char *format, ...)
{
    WITH_ARGUMENTS(attach(diag, SEVERITY_HELP, NULL, format, arguments));
}

void diag_append(Diag *diag, Diag *from)
{
    if (from->records && diag->last_kept)
        diag->last_kept->next = from->records;
    else if (from->records)
        diag->records = from->records;
    if (from->records) {
        diag->last_kept = from->last_kept;
        diag->last = from->last;
    }
    diag->error_count += from->error_count;
    diag->warning_count += from->warning_count;
    *from = (Diag){.arena = from->arena};
}

size_t diag_error_count(const Diag *diag)
{
    return diag->error_count;
}

size_t diag_warning_count(const Diag *diag)
{
    return diag->warning_count;
}

// ---- printing --------------------------------------------------------------------------------

typedef struct {
    FILE *out;
    bool colour;
} Printer;

typedef struct {
    size_t line, column; // 1-based; columns count characters (UTF-8 code points)
    size_t begin, end;   // bytes of the line, without its end
} Place;

static bool is_continuation(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

static Place locate(const Source *source, size_t offset)
{
    Place place = {.line = 1, .column = 1};
    if (offset > source->length)
        offset = source->length;
    for (size_t i = 0; i < offset; i++) {
        if (source->text[i] == '\n') {
            place.line++;
            place.begin = i + 1;
        }
    }
    for (size_t i = place.begin; i < offset; i++)
        place.column += !is_continuation(source->text[i]);
    place.end = place.begin;
    while (place.end < source->length && source->text[place.end] != '\n')
        place.end++;
    if (place.end > place.begin && source->text[place.end - 1] == '\r')
        place.end--;
    return place;
}

// Columns a byte takes when shown at `column`; tabs go to the next stop.
static size_t shown_width(char c, size_t column)
{
    return c == '\t' ? TAB_COLUMNS - column % TAB_COLUMNS : !is_continuation(c);
}

static void print_source_line(Printer printer, const Source *source, const Place *place, size_t end)
{
    size_t column = 0;
    for (size_t i = place->begin; i < end; i++) {
        char c = source->text[i];
        size_t width = shown_width(c, column);
        column += width;
        size_t control = control_bytes(source->text + i, source->text + end);
        if (c == '\t')
            fprintf(printer.out, "%*s", (int)width, "");
        else
            fputc(control ? '?' : c, printer.out);
        i += c != '\t' && control > 1;
    }
    fputc('\n', printer.out);
}

static void print_carets(Printer printer, const Source *source, const Place *place, Span span, size_t end)
{
    size_t column = 0, i = place->begin;
    for (; i < span.begin && i < end; i++) {
        size_t width = shown_width(source->text[i], column);
        fprintf(printer.out, "%*s", (int)width, "");
        column += width;
    }
    fputs(printer.colour ? "\033[1;32m^" : "^", printer.out);
    size_t marked = 0;
    for (; i < span.end && i < end; i++) {
        size_t width = shown_width(source->text[i], column);
        column += width;
        marked += width;
    }
    for (size_t m = 1; m < marked; m++)
        fputc('~', printer.out);
    fputs(printer.colour ? "\033[0m\n" : "\n", printer.out);
}

static void print_record(Printer printer, const Diag *diag, const Record *record)
{
    static const char *const names[] = {"error", "warning", "note", "help"};
    static const char *const colours[] = {"\033[1;31m", "\033[1;35m", "\033[1;36m", "\033[1;32m"};
    const Source *source = record->placed ? diag_source(diag, record->span.source) : NULL;
    Place place = {0};
    if (source) {
        place = locate(source, record->span.begin);
        fprintf(printer.out, "%s:%zu:%zu: ", source->name, place.line, place.column);
    }
    fprintf(printer.out, "%s%s:%s %s\n", printer.colour ? colours[record->severity] : "", names[record->severity],
            printer.colour ? "\033[0m" : "", record->message);
    if (!source)
        return;
    size_t end = place.end - place.begin > LINE_SHOWN_MAX ? place.begin + LINE_SHOWN_MAX : place.end;
    if (record->span.begin > end && record->span.begin > place.end) // at the line's end
        end = place.end;
    if (record->span.begin - place.begin > LINE_SHOWN_MAX && place.end - place.begin > LINE_SHOWN_MAX)
        return; // too far right to show
    print_source_line(printer, source, &place, end);
    print_carets(printer, source, &place, record->span, end);
}

// Where an included text was included from, up to the first file.
static void print_include_chain(Printer printer, const Diag *diag, const Record *record)
{
    const Source *source = record->placed ? diag_source(diag, record->span.source) : NULL;
    while (source && source->included) {
        const Source *parent = diag_source(diag, source->parent.source);
        if (!parent)
            return;
        Place place = locate(parent, source->parent.begin);
        fprintf(printer.out, "%s:%zu:%zu: ", parent->name, place.line, place.column);
        fprintf(printer.out, "%snote:%s '%s' is included here\n", printer.colour ? "\033[1;36m" : "",
                printer.colour ? "\033[0m" : "", source->name);
        source = parent;
    }
}

void diag_print(const Diag *diag, FILE *out, bool colour)
{
    Printer printer = {.out = out, .colour = colour};
    for (const Record *record = diag->records; record; record = record->next) {
        print_record(printer, diag, record);
        for (const Record *note = record->notes; note; note = note->next)
            print_record(printer, diag, note);
        print_include_chain(printer, diag, record);
    }
    if (diag->error_count > DIAG_ERRORS_MAX)
        fprintf(out, "error: %zu more errors are not shown\n", diag->error_count - DIAG_ERRORS_MAX);
    if (diag->warning_count > DIAG_ERRORS_MAX)
        fprintf(out, "warning: %zu more warnings are not shown\n", diag->warning_count - DIAG_ERRORS_MAX);
}
