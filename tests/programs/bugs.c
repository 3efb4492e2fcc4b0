/* Crashes with the bug whose number is the argument. Each must have a signature of its own. */
#define _GNU_SOURCE
#include <assert.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <pthread.h>
#include <unistd.h>

#define APART __attribute__((noinline, noclone))

volatile int zero;
volatile long sink;
int *volatile nothing;
char *volatile no_text;
void (*volatile no_function)(void);

APART static int read_one(int *at) { return *at + 1; }
APART static int read_other(int *at) { return *at + 2; }
APART static void first_caller(void) { sink = read_one(nothing) + 1; }
APART static void second_caller(void) { sink = read_one(nothing) + 2; }
APART static void length_here(void) { sink = (long)strlen(no_text) + 1; }
APART static void length_there(void) { sink = (long)strlen(no_text) + 2; }
APART static void abort_here(void) { sink++; abort(); }
APART static void abort_there(void) { sink += 2; abort(); }
APART static void assert_here(void) { assert(zero == 1); sink++; }
APART static void assert_there(void) { assert(zero == 2); sink++; }
APART static void divide(void) { sink = 77 / zero; }
APART static void illegal(void) { sink++; __builtin_trap(); }
APART static void call_nothing_here(void) { no_function(); sink++; }
APART static void call_nothing_there(void) { no_function(); sink += 2; }

APART static void free_twice(void)
{
    char *volatile text = malloc(64);
    char *volatile again = text;
    free(text);
    free(again);
    sink++;
}

APART static long deep(long n) { volatile char pad[200]; pad[0] = (char)n; return n < 0 ? n : deep(n + 1) + pad[0]; }
APART static long odd(long n);
APART static long even(long n) { volatile char pad[100]; pad[1] = (char)n; return n < 0 ? n : odd(n + 1) + pad[1]; }
APART static long odd(long n) { volatile char pad[300]; pad[2] = (char)n; return n < 0 ? n : even(n + 1) + pad[2]; }

static int compare(const void *a, const void *b) { (void)a; (void)b; return *nothing; }
APART static void in_callback(void)
{
    int numbers[] = {3, 1, 2};
    qsort(numbers, 3, sizeof *numbers, compare);
}

static void bad_handler(int number) { sink = read_other(nothing) + number; }
static void abort_handler(int number) { (void)number; abort(); }
static char other_stack[65536];
APART static void in_handler(void) { signal(SIGUSR1, bad_handler); raise(SIGUSR1); sink++; }

APART static void handled(int *at)
{
    stack_t stack = {.ss_sp = other_stack, .ss_size = sizeof other_stack};
    struct sigaction action = {.sa_handler = abort_handler, .sa_flags = SA_ONSTACK};
    sigaltstack(&stack, NULL);
    sigaction(SIGSEGV, &action, NULL);
    sink = read_one(at);
    sink++;
}
APART static void handled_here(void) { handled(nothing); sink++; }
APART static void handled_there(void) { handled(nothing); sink += 2; }

APART static void smash(const char *text, size_t length)
{
    char buffer[16];
    for (size_t i = 0; i < length; i++) ((volatile char *)buffer)[i] = text[i];
    sink += buffer[3];
}

APART static void in_vdso(void)
{
    /* Called through a pointer, so that the compiler cannot replace the call. */
    int (*volatile clock)(clockid_t, struct timespec *) = clock_gettime;
    clock(CLOCK_MONOTONIC, (struct timespec *)8);
    sink++;
}

APART static void in_generated_code(void)
{
    /* push %rbp; mov %rsp,%rbp; xor %eax,%eax; mov %eax,(%rax); pop %rbp; ret */
    static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0x31, 0xc0, 0x89, 0x00, 0x5d, 0xc3};
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(page, code, sizeof code);
    ((void (*)(void))(uintptr_t)page)();
    sink++;
}

static void *in_thread(void *unused) { (void)unused; sink = read_other(nothing) + 3; return NULL; }
APART static void threaded(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, in_thread, NULL);
    pthread_join(thread, NULL);
}

int main(int argc, char **argv)
{
    static char filler[256];
    memset(filler, 'A', sizeof filler);
    switch (argc > 1 ? atoi(argv[1]) : 0) {
    case 1: first_caller(); break;
    case 2: second_caller(); break;
    case 3: length_here(); break;
    case 4: length_there(); break;
    case 5: abort_here(); break;
    case 6: abort_there(); break;
    case 7: assert_here(); break;
    case 8: assert_there(); break;
    case 9: divide(); break;
    case 10: illegal(); break;
    case 11: call_nothing_here(); break;
    case 12: call_nothing_there(); break;
    case 13: free_twice(); break;
    case 14: sink = deep(0); break;
    case 15: sink = even(0); break;
    case 16: in_callback(); break;
    case 17: in_handler(); break;
    case 18: handled_here(); break;
    case 19: handled_there(); break;
    case 20: threaded(); break;
    case 21: in_vdso(); break;
    case 22: in_generated_code(); break;
    case 23: smash(filler, 200); break;
    default: puts("23"); return 0;
    }
    return (int)sink;
}
