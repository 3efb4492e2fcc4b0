/* A failed assertion, which raises SIGABRT. */
#include <assert.h>

__attribute__((noinline)) void check(int value) { assert(value == 42 && "the answer"); }

int main(int argc, char **argv) {
    (void)argv;
    check(argc);
    return 0;
}
