/* Code without a file, as of a compiler at run time, fails: generated BUG. The frames below it are the same for each bug.
   1 writes to an address near zero, 2 reads from one; 3 is bug 1 in another function. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
    /* push %rbp; mov %rsp,%rbp; xor %eax,%eax; then mov %ecx,8(%rax) or mov 16(%rax),%rcx; pop %rbp; ret */
    static const unsigned char stores[] = {0x55, 0x48, 0x89, 0xe5, 0x31, 0xc0, 0x89, 0x48, 0x08, 0x5d, 0xc3};
    static const unsigned char loads[] = {0x55, 0x48, 0x89, 0xe5, 0x31, 0xc0, 0x48, 0x8b, 0x48, 0x10, 0x5d, 0xc3};
    int bug = argc > 1 ? atoi(argv[1]) : 0;
    unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(code, stores, sizeof stores);
    memcpy(code + 256, loads, sizeof loads);
    memcpy(code + 512, stores, sizeof stores);
    ((void (*)(void))(uintptr_t)(code + 256 * (bug - 1)))();
    return 0;
}
