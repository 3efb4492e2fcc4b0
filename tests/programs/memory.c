/* Touches MEBIBYTES (argument) of memory, a quarter zero, half structured, a quarter random, and dies of SIGSEGV. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    size_t bytes = (argc > 1 ? strtoull(argv[1], 0, 10) : 16) << 20;
    uint8_t *memory = malloc(bytes);
    if (!memory) return 2;
    uint64_t state = 88172645463325252ull;
    for (size_t page = 0; page < bytes; page += 4096) {
        uint64_t *words = (uint64_t *)(memory + page);
        switch ((page / 4096) % 4) {
        case 0: memset(words, 0, 4096); break;
        case 1:
        case 2: for (int i = 0; i < 512; i++) words[i] = page + (uint64_t)i * 8 + (i % 7 == 0 ? 0x7f0000000000 : 0); break;
        default:
            for (int i = 0; i < 512; i++) {
                state ^= state << 13; state ^= state >> 7; state ^= state << 17;
                words[i] = state;
            }
        }
    }
    __asm__ volatile("" : : "r"(memory) : "memory"); /* the compiler must not think that nobody looks */
    *(volatile int *)0 = 1;
    return 0;
}
