/* Starts THREADS threads (first argument, default 8). All but the last wait; the last raises SIGSEGV. Before that, fills
   MEBIBYTES (second argument) of memory with data that does not compress. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

static int *volatile nowhere;
static pthread_barrier_t barrier;

__attribute__((noinline)) void wait_for_ever(void) { for (;;) pause(); }
__attribute__((noinline)) void crash_here(void) { *nowhere = 1; }

static void *run(void *last) {
    pthread_barrier_wait(&barrier);
    if (last) { usleep(50000); crash_here(); }
    wait_for_ever();
    return 0;
}

int main(int argc, char **argv) {
    long count = argc > 1 ? atol(argv[1]) : 8;
    size_t words = argc > 2 ? (strtoull(argv[2], 0, 10) << 20) / 8 : 0;
    uint64_t *memory = malloc(words * 8 + 8), state = 88172645463325252ull;
    for (size_t i = 0; i < words; i++) {
        state ^= state << 13; state ^= state >> 7; state ^= state << 17;
        memory[i] = state;
    }
    __asm__ volatile("" : : "r"(memory) : "memory");
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 128 * 1024);
    pthread_barrier_init(&barrier, 0, (unsigned)count);
    for (long i = 0; i < count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, run, i == count - 1 ? &barrier : 0)) return 2;
    }
    wait_for_ever();
}
