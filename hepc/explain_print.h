// The explanation (compiler/explain/explain.h) as text, as JSON and as a section of the HTML report, and the words that
// these forms share.
#ifndef HEP_EXPLAIN_PRINT_H
#define HEP_EXPLAIN_PRINT_H

#include "compiler/explain/explain.h"

void explain_print(const Explanation *explanation, Text *out);
void explain_print_json(const Explanation *explanation, Text *out);
void explain_print_html(const Explanation *explanation, Text *out); // a section of the report

const char *explain_format_layers(const ConfigRun *run, char *out, size_t size); // "layers 0..5"
const char *explain_format_quantity(const Explanation *explanation, Quantity quantity, double value,
                                    char out[FORMAT_MAX]);
// A bandwidth, or so many times those of all levels.
const char *explain_format_links(const EvenPoint *even, double value, char out[FORMAT_MAX]);
// Where plain EP is as good, in words.
void explain_append_even(const EvenPoint *even, Text *out);
// The choice with another number of micro-batches, in words.
void explain_append_micro_batches(const Explanation *explanation, const MicroBatchRow *row, Text *out);
// "at", or "already at" where the choice flips right here: one that simulation ranked first may lose by prediction.
const char *explain_flip_at(const Sensitivity *sensitivity, const Flip *flip);
// The choice beyond a flip, in words.
void explain_append_choice(const Explanation *explanation, const Flip *flip, Text *out);

#endif
