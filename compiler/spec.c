// Questions about a checked spec.
#include "compiler/spec.h"

bool spec_layer_is_moe(const SpecModel *model, uint32_t index)
{
    return index >= model->first_dense && (index + 1) % model->every == 0;
}
