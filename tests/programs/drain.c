/* A core_pattern helper that reads the core, one MiB at a time, and discards it: measures the cost of the kernel's pipe. To be
   linked statically. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <unistd.h>

static char buffer[1 << 20];

int main(void) {
    fcntl(0, F_SETPIPE_SZ, sizeof buffer);
    while (read(0, buffer, sizeof buffer) > 0) {}
    return 0;
}
