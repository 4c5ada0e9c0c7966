// What comes after what, where tensors lie in a GPU's memory: calls of the caller on his stream, gathers and returns on
// two of the library's. In host memory all of this does nothing: there everything is done when it returns.
#ifndef HEP_LIBRARY_ORDER_H
#define HEP_LIBRARY_ORDER_H

#include "runtime/library/context.h"

// The lane comes after what the caller's stream has been given so far.
bool order_after_caller(hep_context *context, MoveLane lane, MoveMark **mark, Fault *fault) MUST_CHECK;
// *mark: what the lane has been given so far.
bool order_mark(hep_context *context, MoveLane lane, MoveMark **mark, Fault *fault) MUST_CHECK;
// The caller's stream comes after the mark.
bool order_before_caller(hep_context *context, const MoveMark *mark, Fault *fault) MUST_CHECK;
// Waits for what gathers and returns were given so far.
bool order_settle(hep_context *context, Fault *fault) MUST_CHECK;
void order_forget(const hep_context *context, MoveMark *mark);

#endif
