// See training.h.
#include "runtime/training/training.h"

#include <math.h>

double training_rate(const TrainingSettings *settings, uint64_t iteration)
{
    static const double pi = 3.14159265358979323846;
    if (iteration < settings->warmup)
        return settings->learning_rate * (double)(iteration + 1) / settings->warmup;
    if (settings->decay == 0)
        return settings->learning_rate;
    double done = fmin(1, (double)(iteration - settings->warmup) / settings->decay);
    double final = settings->final_rate;
    return settings->learning_rate * (final + (1 - final) * (1 + cos(pi * done)) / 2);
}
