/* Threads fail, and a handler of the fault ends the process: handled HOW FLAGS BUG...
   A thread for each BUG: null, other (two bugs with a bad pointer), divide, abort, deep (a stack overflow), wait (no bug). "main-BUG" is one of the
   main thread, which comes last. The last bug waits until the others are in the handler, where they wait.
   HOW the handler ends the process: kill, queue, raise, tgkill (the main thread), abort, fault (a bug of its own), return (with the signal's default action);
   hang: it only waits; report: it waits, and the main thread calls abort; none: there is no handler; outside: there is none, and the main thread sends itself a SIGSEGV.
   FLAGS: i (SA_SIGINFO), n (SA_NODEFER), m (all signals blocked), s (an alternate stack); - for none of them. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define APART __attribute__((noinline, noclone))

static const char *how, *flags;
static int *volatile nothing;
static volatile int zero;
static volatile long sink;
static atomic_int waiting, in_handler;
static int bugs;
static char **arguments;

APART static int read_null(int *at) { return *at + 1; }
APART static void null_bug(void) { sink = read_null(nothing) + 1; }
APART static int read_other(int *at) { return *at + 2; }
APART static void other_bug(void) { sink = read_other(nothing) + 2; }
APART static void divide_bug(void) { sink = 77 / zero; }
APART static void abort_bug(void) { sink++; abort(); }
APART static long deep(long n) { volatile char pad[200]; pad[0] = (char)n; return n < 0 ? n : deep(n + 1) + pad[0]; }
APART static void deep_bug(void) { sink = deep(1); }
APART static void wait_here(void) { for (;;) pause(); }

APART static void crash_report(int number)
{
    /* Other threads than the last wait in the handler, as for a lock that the reporting thread has. */
    if (atomic_fetch_add(&in_handler, 1) + 1 < bugs) wait_here();
    struct sigaction normal = {.sa_handler = SIG_DFL};
    union sigval none = {0};
    if (strcmp(how, "abort") && strcmp(how, "fault")) sigaction(number, &normal, NULL);
    if (!strcmp(how, "kill")) kill(getpid(), number);
    if (!strcmp(how, "queue")) sigqueue(getpid(), number, none);
    if (!strcmp(how, "raise")) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, number);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        raise(number);
    }
    if (!strcmp(how, "tgkill")) syscall(SYS_tgkill, getpid(), getpid(), number);
    if (!strcmp(how, "abort")) abort();
    if (!strcmp(how, "fault")) sink = read_other(nothing);
    if (!strcmp(how, "return")) return;
    wait_here();
}

static void plain_handler(int number) { crash_report(number); }
static void info_handler(int number, siginfo_t *info, void *context)
{
    (void)info, (void)context;
    crash_report(number);
}

static void set_alternate_stack(void)
{
    stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
    if (strchr(flags, 's')) sigaltstack(&stack, NULL);
}

static void *run(void *argument)
{
    char **place = argument;
    const char *bug = *place;
    /* The bugs before this one come first. */
    int number = 0;
    for (char **other = arguments; other < place; other++) number += strcmp(*other, "wait") != 0;
    if (!strncmp(bug, "main-", 5)) bug += 5;
    set_alternate_stack();
    pthread_setname_np(pthread_self(), bug);
    if (!strcmp(bug, "wait")) wait_here();
    atomic_fetch_add(&waiting, 1);
    while (atomic_load(&waiting) < bugs || atomic_load(&in_handler) < number) usleep(1000);
    /* Until the others wait, any of them may get a signal. */
    usleep(20000);
    if (!strcmp(bug, "null")) null_bug();
    if (!strcmp(bug, "other")) other_bug();
    if (!strcmp(bug, "divide")) divide_bug();
    if (!strcmp(bug, "abort")) abort_bug();
    if (!strcmp(bug, "deep")) deep_bug();
    return NULL;
}

APART static void start_all(int count, char **names)
{
    for (int i = 0; i < count; i++) {
        pthread_t thread;
        if (strncmp(names[i], "main-", 5) && pthread_create(&thread, NULL, run, names + i)) exit(2);
    }
}

int main(int argc, char **argv)
{
    if (argc < 4) return 2;
    how = argv[1];
    flags = argv[2];
    /* It ends in any case. */
    alarm(30);
    struct sigaction action = {.sa_handler = plain_handler};
    if (strchr(flags, 'i')) action.sa_sigaction = info_handler, action.sa_flags |= SA_SIGINFO;
    if (strchr(flags, 'n')) action.sa_flags |= SA_NODEFER;
    if (strchr(flags, 'm')) sigfillset(&action.sa_mask);
    if (strchr(flags, 's')) action.sa_flags |= SA_ONSTACK;
    int faults[] = {SIGSEGV, SIGFPE, SIGABRT, SIGBUS, SIGILL};
    for (unsigned i = 0; strcmp(how, "none") && strcmp(how, "outside") && i < sizeof faults / sizeof *faults; i++) {
        if (strcmp(how, "abort") || faults[i] != SIGABRT) sigaction(faults[i], &action, NULL);
    }
    for (int i = 3; i < argc; i++) bugs += strcmp(argv[i], "wait") != 0;
    arguments = argv + 3;
    start_all(argc - 3, arguments);
    if (!strcmp(how, "report")) {
        while (!atomic_load(&in_handler)) usleep(1000);
        usleep(20000);
        signal(SIGABRT, SIG_DFL);
        abort();
    }
    if (!strcmp(how, "outside")) usleep(100000), kill(getpid(), SIGSEGV);
    for (int i = 3; i < argc; i++) {
        if (!strncmp(argv[i], "main-", 5)) run(argv + i);
    }
    wait_here();
}
