/* Makes mappings of every kind and crashes. Arguments: "plain", "sparse GIBIBYTES", "kinds FILE" or "huge". */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int *volatile nowhere;
#define MIB (1ul << 20)

static void *map(size_t length, int protection, int flags, int fd) {
    void *memory = mmap(0, length, protection, flags, fd, 0);
    if (memory == MAP_FAILED) { perror("mmap"); exit(2); }
    return memory;
}

static void fill(void *memory, size_t from, size_t to) {
    for (size_t at = from; at < to; at += 8) *(size_t *)((char *)memory + at) = at * 2654435761u + 1;
}

static void kinds(const char *path) {
    int rw = PROT_READ | PROT_WRITE, anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
    fill(map(8 * MIB, rw, anonymous, -1), 3 * MIB + 4096, 5 * MIB);       /* touched in the middle */
    char *undumped = map(8 * MIB, rw, anonymous, -1);
    fill(undumped, 0, 8 * MIB);
    madvise(undumped + 2 * MIB, 4 * MIB, MADV_DONTDUMP);
    char *forbidden = map(4 * MIB, rw, anonymous, -1);
    fill(forbidden, 0, MIB);
    mprotect(forbidden, 4 * MIB, PROT_NONE);
    volatile char sink = 0;
    char *readonly = map(2 * MIB, rw, anonymous, -1);                     /* the zero page, and private pages */
    for (size_t at = 0; at < MIB; at += 4096) sink += readonly[at];
    fill(readonly, MIB, MIB + 8192);
    fill(map(4 * MIB, rw, MAP_SHARED | MAP_ANONYMOUS, -1), MIB, 2 * MIB); /* shared: absent pages may have data */
    int memory = memfd_create("shape", 0);
    if (ftruncate(memory, 4 * MIB) != 0) exit(2);
    if (pwrite(memory, "not mapped by a page table", 26, 3 * MIB) != 26) exit(2);
    fill(map(4 * MIB, rw, MAP_SHARED, memory), 0, 8192);
    int file = open(path, O_RDWR | O_CREAT, 0600);
    char block[4096];
    for (int page = 0; page < 1024; page++) {
        memset(block, page + 1, sizeof block);
        if (write(file, block, sizeof block) != sizeof block) exit(2);
    }
    fill(map(4 * MIB, rw, MAP_PRIVATE, file), MIB, MIB + 4096);           /* one page copied on write */
    sink += *(char *)map(4 * MIB, PROT_READ, MAP_PRIVATE, file);          /* not written to */
    fill(map(4 * MIB, rw, MAP_SHARED, file), 0, 4096);
    char *beyond = map(4 * MIB, rw, MAP_PRIVATE, file);
    fill(beyond, 0, 4096);
    if (ftruncate(file, 2 * MIB) != 0) exit(2);                           /* the second half is past the end of the file */
    char *gone = map(4 * MIB, rw, anonymous, -1);
    fill(gone, 0, 4 * MIB);
    madvise(gone + MIB, MIB, MADV_DONTNEED);
    (void)sink;
}

int main(int argc, char **argv) {
    const char *shape = argc > 1 ? argv[1] : "plain";
    if (!strcmp(shape, "sparse")) {
        size_t length = strtoull(argv[2], 0, 10) << 30, step = length / 64;
        char *memory = map(length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
        for (size_t at = 0; at < length; at += step) fill(memory + at, 0, 4096);
    } else if (!strcmp(shape, "kinds")) {
        kinds(argv[2]);
    } else if (!strcmp(shape, "huge")) {
        char *memory = map(16 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
        madvise(memory, 16 * MIB, MADV_HUGEPAGE);
        fill(memory, 5 * MIB, 9 * MIB);
        void *pages = mmap(0, 8 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
        if (pages != MAP_FAILED) fill(pages, 2 * MIB, 2 * MIB + 4096);
    }
    return *nowhere;
}
