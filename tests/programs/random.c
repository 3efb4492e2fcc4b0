/* Fills MEBIBYTES (argument) of memory with what does not compress, and raises SIGSEGV. If the environment has GATE, the path of a FIFO, it
   waits until that is opened for writing before it faults. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
    size_t words = (argc > 1 ? strtoull(argv[1], 0, 10) : 16) << 17;
    volatile uint64_t *memory = malloc(words * 8);
    if (!memory) return 2;
    uint64_t state = 88172645463325252ull;
    for (size_t i = 0; i < words; i++) {
        state ^= state << 13; state ^= state >> 7; state ^= state << 17;
        memory[i] = state;
    }
    if (getenv("GATE")) close(open(getenv("GATE"), O_RDONLY));
    *(volatile int *)0 = 1;
    return 0;
}
