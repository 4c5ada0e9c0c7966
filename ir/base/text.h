// Growing text buffer, and the one place where numbers become text: shortest round-trip
// decimals for files, human units (GB, ms, Gbit/s) for people.
#ifndef HEP_TEXT_H
#define HEP_TEXT_H

#include "ir/base/fault.h"

typedef struct {
    char *data; // NUL-terminated after the first append; NULL before
    size_t length, capacity;
} Text;

void text_free(Text *text); // leaves an empty, reusable buffer
void text_append(Text *text, const char *string);
void text_append_bytes(Text *text, const void *bytes, size_t length);
void text_format(Text *text, const char *format, ...) PRINTF_LIKE(2, 3);
void text_number(Text *text, double value); // shortest decimal that strtod reads back exactly

bool text_ends_with(const char *text, const char *end);

enum { FORMAT_MAX = 32 };
// Human forms, SI prefixes, three significant digits: "1.25 GB", "12.4 ms", "10 Gbit/s", "60 TFLOP/s".
const char *format_bytes(char out[FORMAT_MAX], double bytes);
const char *format_time(char out[FORMAT_MAX], double time_s);
const char *format_change(char out[FORMAT_MAX], double share); // 0.014 is "+1.4 %"; what rounds to nothing "0.0 %"
const char *format_bandwidth(char out[FORMAT_MAX], double bytes_per_s); // as bit/s, the way links are sold
const char *format_rate(char out[FORMAT_MAX], double flop_per_s);
// "671 B", "46.7 B", "8.4 M": a large count, as parameters are spoken of.
const char *format_count(char out[FORMAT_MAX], double count);
const char *format_double(char out[FORMAT_MAX], double value); // shortest round trip

// Faults of files (FAULT_IO) have the system's reason for a message, without the path: what names the file is the
// caller's, see fault_prefix.

// Reads a whole regular file ("-": standard input, whatever that is) into NUL-terminated malloc'ed memory, at most
// `limit_bytes`. NULL on failure.
// file_open_regular: to be read piece by piece; -1 on failure.
char *file_read(const char *path, size_t limit_bytes, size_t *length, Fault *fault) MUST_CHECK;
int file_open_regular(const char *path, Fault *fault) MUST_CHECK;

// Writes atomically: temporary file beside `path`, then rename; nothing is left on failure.
// "-" is standard output.
bool file_write(const char *path, const void *data, size_t length, Fault *fault) MUST_CHECK;

// A file of an earlier run, if there is one with something in it, gets a name of its own beside: "PATH.~1~", or the
// first number that is free.
bool file_set_aside(const char *path, Fault *fault) MUST_CHECK;

// Both paths lead to one existing regular file; false where one is NULL or leads nowhere.
bool file_is_same(const char *path, const char *other);

// Could file_write write `path` as things stand? Leaves nothing behind.
bool file_probe(const char *path, Fault *fault) MUST_CHECK;

// The candidate nearest to `word` by edit distance if it is close enough to be a slip, else NULL.
const char *nearest_word(const char *word, const char *const *candidates, size_t count);

#endif
