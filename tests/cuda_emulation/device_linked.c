// Stands in for runtime/library/device_open.c where the plug-in of libhep is a part of the program, with emulated
// kernels.
#include "runtime/library/device.h"

extern LibraryDeviceEntry hep_library_device;

const LibraryDevice *library_device(Fault *fault)
{
    (void)fault;
    return hep_library_device();
}
