// Crashes whose stacks debuggers name in different ways: inlined, recursive and tail calls, signal frames, alloca, setjmp, threads,
// callbacks of the C library, a library that is loaded at run time.
#include <alloca.h>
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))
#define INLINE static inline __attribute__((always_inline))

volatile int zero;
int *volatile nowhere;
static jmp_buf environment;

static NOINLINE int fault(int *at) { return *at + 1; }

INLINE int innermost(int *at) { return *at + zero; }
INLINE int middle(int *at) { return innermost(at) + 2; }
INLINE int outer(int *at) { return middle(at) * 3; }
static NOINLINE int inlined(int *at) { return outer(at) + zero; }

static NOINLINE int recurse(int depth)
{
    if (depth == 0)
        return fault(nowhere);
    return recurse(depth - 1) + zero;
}

NOINLINE int last(int n) { return n + fault(nowhere); }
NOINLINE int second(int n) { zero = n; return last(n + 1); }
NOINLINE int first(int n) { zero = n; return second(n * 2); }
static NOINLINE int tail_calls(int n) { return first(n) + zero; }

static void handler(int signal) { zero = signal; abort(); }
static NOINLINE int handled(void)
{
    struct sigaction action = { .sa_handler = handler };
    sigaction(SIGSEGV, &action, NULL);
    return fault(nowhere) + zero;
}

static NOINLINE int on_stack(int size)
{
    char *room = alloca(size + zero);
    memset(room, 1, size);
    return fault(nowhere) + room[size / 2];
}

static NOINLINE int jumped(void)
{
    if (setjmp(environment) == 0)
        longjmp(environment, 1);
    return fault(nowhere) + zero;
}

static int compare(const void *left, const void *right) { return fault(nowhere) + (left < right); }
static NOINLINE int sorted(void)
{
    int numbers[] = { 3, 1, 2 };
    qsort(numbers, 3, sizeof *numbers, compare);
    return numbers[0] + zero;
}

static void *sleeper(void *argument) { pause(); return argument; }
static void *worker(void *argument) { zero = inlined(nowhere); return argument; }
static NOINLINE int threads(void)
{
    pthread_t thread[3];
    for (int n = 0; n < 3; n++)
        pthread_create(&thread[n], NULL, n == 2 ? worker : sleeper, NULL);
    pthread_join(thread[2], NULL);
    return zero;
}

static NOINLINE int call_nothing(void)
{
    int (*volatile function)(void) = NULL;
    return function() + zero;
}

static NOINLINE void free_twice(void)
{
    void *volatile memory = malloc(100);
    free(memory);
    free(memory);
}

static NOINLINE int in_library(const char *path)
{
    void *library = dlopen(path, RTLD_NOW);
    int (*run)(int *) = (int (*)(int *))dlsym(library, "library_run");
    return run(nowhere) + zero;
}

static NOINLINE int waits(void) { return sleep(100) + zero; }

// GCC moves what is cold into a part of its own, `rare.cold`.
static NOINLINE __attribute__((noreturn, cold)) void give_up(int n) { zero = n; abort(); }
static NOINLINE int rare(int n)
{
    if (__builtin_expect(n > 0, 0))
        give_up(n);
    return n + zero;
}

int main(int argc, char **argv)
{
    alarm(30);
    switch (argc > 1 ? atoi(argv[1]) : 0) {
    case 1: return inlined(nowhere) + zero;
    case 2: return recurse(5) + zero;
    case 3: return tail_calls(argc) + zero;
    case 4: return handled() + zero;
    case 5: return on_stack(100) + zero;
    case 6: return jumped() + zero;
    case 7: return sorted() + zero;
    case 8: return threads() + zero;
    case 9: return call_nothing() + zero;
    case 10: free_twice(); return zero;
    case 11: return in_library(argv[2]) + zero;
    case 12: kill(getpid(), SIGSEGV); return waits() + zero;
    case 13: return rare(argc) + zero;
    case 14: puts((const char *)8); return zero;
    }
    return 0;
}
