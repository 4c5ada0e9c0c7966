// Which engine is measured by which device. Owns the list alone.
#include <string.h>

#include "runtime/calibrate/calibrate_internal.h"

static const struct {
    const char *engine;
    const CalibrateDevice *device;
} devices[] = {{"cuda", &cuda_calibrate}};

const CalibrateDevice *calibrate_device_of(const char *engine)
{
    for (size_t d = 0; d < COUNT_OF(devices); d++)
        if (strcmp(devices[d].engine, engine) == 0)
            return devices[d].device;
    return NULL;
}
