/* A program for another machine, which runs in an emulator: guest BUG (1 or 2). */
#include <stdlib.h>

#define APART __attribute__((noinline, noclone))

static int *volatile nothing;
volatile long sink;

APART static int read_one(int *at) { return *at + 1; }
APART static int read_other(int *at) { return at[4] + 2; }

int main(int argc, char **argv)
{
    if (argc > 1 && atoi(argv[1]) == 1) sink = read_one(nothing) + 1;
    else sink = read_other(nothing) + 2;
    return 0;
}
