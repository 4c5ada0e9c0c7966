// Preloaded into a program: while it makes a file durable, the signal of the number in HEP_RAISE comes.
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

int fsync(int file)
{
    int (*original)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    const char *number = getenv("HEP_RAISE");
    if (number)
        kill(getpid(), (int)strtol(number, NULL, 10));
    return original(file);
}
