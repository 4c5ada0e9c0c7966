// What a training run makes of its plan's settings, iteration by iteration.
#ifndef HEP_TRAINING_H
#define HEP_TRAINING_H

#include "ir/plan.h"

// The learning rate of iteration `iteration` (0 for the first): rises in a line over `warmup` iterations, stays where
// there is no `decay`, else falls as half a cosine over `decay` iterations to final_rate x learning_rate.
double training_rate(const TrainingSettings *settings, uint64_t iteration);

#endif
