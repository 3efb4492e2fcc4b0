/* Memory like that of a server: a quarter zeros, a half structured, a quarter that does not compress. */
#include <stdint.h>
#include <string.h>

static inline void mix(uint8_t *memory, size_t bytes) {
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
    __asm__ volatile("" : : "r"(memory) : "memory"); /* keeps the compiler from removing the writes */
}
