/* Fails in the way that the argument names: faults KIND. Each has a relation of its own to what is mapped. */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define APART __attribute__((noinline, noclone))

volatile long sink;
volatile int zero;
static const char text[] = "read-only";
static unsigned char data[64] = {0xc3};

APART static void write_to(volatile int *at) { *at = 1; }
APART static void read_from(volatile long *at) { sink = *at; }
APART static void call(void (*function)(void)) { function(); sink++; }
APART static long deep(long n) { volatile char pad[200]; pad[0] = (char)n; return n < 0 ? n : deep(n + 1) + pad[0]; }

static void *in_thread(void *unused) { (void)unused; sink = deep(0); return NULL; }
static void *wait_here(void *guard)
{
    pthread_attr_t attributes;
    void *stack;
    size_t length;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &stack, &length);
    *(void *volatile *)guard = stack;
    pause();
    return NULL;
}

static void again(int number)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    signal(number, SIG_DFL);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    kill(getpid(), number);
    for (;;) pause();
}

static char *pages(int count) { return mmap(NULL, (size_t)count * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "";
    if (!strcmp(kind, "null")) write_to((int *)17);
    if (!strcmp(kind, "below-null")) read_from((long *)-8L);
    if (!strcmp(kind, "handled")) {
        struct sigaction action = {.sa_handler = again};
        sigaction(SIGSEGV, &action, NULL);
        write_to((int *)17);
    }
    if (!strcmp(kind, "overflow")) sink = deep(0);
    if (!strcmp(kind, "thread-overflow")) {
        pthread_t thread;
        pthread_create(&thread, NULL, in_thread, NULL);
        pthread_join(thread, NULL);
    }
    if (!strcmp(kind, "guard")) {
        char *volatile stack = NULL;
        pthread_t thread;
        pthread_create(&thread, NULL, wait_here, (void *)&stack);
        while (!stack) usleep(1000);
        usleep(20000);
        read_from((long *)(stack - 64));
    }
    if (!strcmp(kind, "unmapped")) {
        char *all = pages(4);
        munmap(all + 4096, 2 * 4096);
        read_from((long *)(all + 4096 + 16));
    }
    if (!strcmp(kind, "constant")) write_to((int *)(uintptr_t)text);
    if (!strcmp(kind, "no-access")) {
        char *page = pages(3);
        mprotect(page + 4096, 4096, PROT_NONE);
        read_from((long *)(page + 4096));
    }
    if (!strcmp(kind, "jump-data")) call((void (*)(void))(uintptr_t)data);
    if (!strcmp(kind, "jump-null")) call((void (*)(void))0);
    if (!strcmp(kind, "not-canonical")) read_from((long *)0x6465657020736563);
    if (!strcmp(kind, "kernel")) read_from((long *)0xffff888000000000);
    if (!strcmp(kind, "end-of-file")) {
        FILE *file = tmpfile();
        (void)!ftruncate(fileno(file), 4096);
        char *all = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fileno(file), 0);
        read_from((long *)(all + 4096));
    }
    if (!strcmp(kind, "divide")) sink = 77 / zero;
    if (!strcmp(kind, "trap")) __builtin_trap();
    if (!strcmp(kind, "filter")) {
        struct sock_filter filter[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
        sink = getppid();
    }
#ifdef __x86_64__
    if (!strcmp(kind, "misaligned")) __asm__ volatile("movaps %%xmm0, (%0)" : : "r"(data + 1) : "memory");
    if (!strcmp(kind, "privileged")) __asm__ volatile("hlt");
    if (!strcmp(kind, "breakpoint")) __asm__ volatile("int3");
#endif
    if (!strcmp(kind, "key")) {
        int key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
        char *page = pages(1);
        if (key < 0) return 3;
        pkey_mprotect(page, 4096, PROT_READ | PROT_WRITE, key);
        read_from((long *)page);
    }
    return 1;
}
