/* Fills MEBIBYTES (argument) of memory as mixed.h does, and raises SIGSEGV. */
#include "mixed.h"
#include <stdlib.h>

int main(int argc, char **argv) {
    size_t bytes = (argc > 1 ? strtoull(argv[1], 0, 10) : 16) << 20;
    uint8_t *memory = malloc(bytes);
    if (!memory) return 2;
    mix(memory, bytes);
    *(volatile int *)0 = 1;
    return 0;
}
