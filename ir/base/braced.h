// For macros that stand for an initializer: BRACED(a, b) is what versions of clang-format lay out alike, while braces
// in the body of a macro are a block to some and a list to others.
#ifndef HEP_BRACED_H
#define HEP_BRACED_H

// clang-format off
#define BRACED(...) {__VA_ARGS__}
// clang-format on

#endif
