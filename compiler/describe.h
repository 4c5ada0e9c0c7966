// What the plan says of its own making: the strategies it was compared with, the solver, the proof.
#ifndef HEP_DESCRIBE_H
#define HEP_DESCRIBE_H

#include "compiler/choose/choose.h"

void describe_choice(const Chosen *chosen, Plan *plan);

#endif
