/* A thread with a name of its own, "crasher <N>", raises SIGSEGV. The program says what package it is of (.note.package). */
#define _GNU_SOURCE
#include <pthread.h>
#include <unistd.h>

__asm__(".pushsection .note.package,\"a\",@note\n"
        ".balign 4\n"
        ".long 4, 2f - 1f, 0xcafe1a7e\n"
        ".asciz \"FDO\"\n"
        "1: .asciz \"{\\\"type\\\":\\\"deb\\\",\\\"name\\\":\\\"named\\\",\\\"version\\\":\\\"1.2-3\\\"}\"\n"
        "2: .balign 4\n"
        ".popsection");

static int *volatile nowhere;

static void *run(void *unused) {
    pthread_setname_np(pthread_self(), "crasher <1>");
    *nowhere = 1;
    return unused;
}

int main(void) {
    pthread_t thread;
    if (pthread_create(&thread, 0, run, 0)) return 2;
    pause();
}
