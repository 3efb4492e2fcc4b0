/* Makes mappings of every kind and crashes. Arguments: "plain", "sparse GIBIBYTES", "kinds FILE", "huge", "holes FILE MEBIBYTES [ended]": of
   each kind of memory that may have holes this much, of which one MiB is touched, and another thread crashes when the main thread has
   ended; "names DIRECTORY": so many mappings of a file with a long name that the kernel lists none; "poisoned": a page that is there and
   cannot be read; "forbidden": 4 MiB that may not be read; "crowded": more holes than are listed, and behind them 4 GiB of shared memory
   that nobody has touched; or "many MAPPINGS": this many mappings of a page, of which it has touched an eighth. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ioctl.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <linux/userfaultfd.h>
#include <unistd.h>

static int *volatile nowhere;
#define MIB (1ul << 20)

static void *crash_later(void *unused) {
    (void)unused;
    usleep(100000);
    *nowhere = 1;
    return 0;
}

static void *map(size_t length, int protection, int flags, int fd) {
    void *memory = mmap(0, length, protection, flags, fd, 0);
    if (memory == MAP_FAILED) { perror("mmap"); exit(2); }
    return memory;
}

static void fill(void *memory, size_t from, size_t to) {
    for (size_t at = from; at < to; at += 8) *(size_t *)((char *)memory + at) = at * 2654435761u + 1;
}

/* Memory of every kind that has no contents until it is touched, or written to through its file: the N-th, and 0 after the last. */
static char *sparse_kind(int n, const char *path, size_t length) {
    int rw = PROT_READ | PROT_WRITE, fd = -1, id;
    char *memory;
    switch (n) {
    case 0: return map(length, rw, MAP_PRIVATE | MAP_NORESERVE, open("/dev/zero", O_RDWR));
    case 1: return map(length, rw, MAP_SHARED | MAP_NORESERVE, open("/dev/zero", O_RDWR));
    case 2: return map(length, rw, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    case 3: fd = memfd_create("shape", 0); break;
    case 4: fd = memfd_create("private", 0); break;
    case 5:
        id = shmget(IPC_PRIVATE, length, IPC_CREAT | SHM_NORESERVE | 0600);
        memory = shmat(id, 0, 0);
        if (memory == (void *)-1) { perror("shmat"); exit(2); }
        shmctl(id, IPC_RMID, 0);
        return memory;
    case 6: fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600); break;
    case 7: fd = open(path, O_RDWR); break;
    case 8: return map(length, rw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    default: return 0;
    }
    if (fd < 0 || ftruncate(fd, length) != 0) { perror(path); exit(2); }
    /* The first page is not mapped, so that places in the file are not places in memory; and one is written to, but never mapped. */
    if (pwrite(fd, "not in the page table", 21, length / 2 + 4096) != 21) exit(2);
    int flags = n == 4 || n == 7 ? MAP_PRIVATE : MAP_SHARED;
    memory = mmap(0, length - 4096, rw, flags | MAP_NORESERVE, fd, 4096);
    if (memory == MAP_FAILED) { perror("mmap"); exit(2); }
    return memory;
}

static void touch(char *memory, size_t length, size_t pages, size_t page) {
    for (size_t i = 0; i < pages; i++) fill(memory + length / pages * i / page * page, 0, 64);
}

static void huge_kinds(void) {
    int rw = PROT_READ | PROT_WRITE, anonymous = MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE;
    touch(map(16 * MIB, rw, MAP_PRIVATE | anonymous, -1), 16 * MIB, 1, 2 * MIB);
    char *shared = map(16 * MIB, rw, MAP_SHARED | anonymous, -1);
    touch(shared + 4 * MIB, 8 * MIB, 1, 2 * MIB);
    int fd = memfd_create("huge", MFD_HUGETLB);
    if (fd < 0 || ftruncate(fd, 16 * MIB) != 0) { perror("memfd_create"); exit(2); }
    char *other = mmap(0, 2 * MIB, rw, MAP_SHARED, fd, 6 * MIB);         /* in the file, but not in the page table below */
    if (other == MAP_FAILED) { perror("mmap"); exit(2); }
    fill(other, 8192, 12288);
    munmap(other, 2 * MIB);
    map(16 * MIB, rw, MAP_SHARED | MAP_NORESERVE, fd);
}

/* Mappings that not every kernel knows. Their numbers are the same on all architectures; headers may be older. */
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

static void rarer_kinds(void) {
    int rw = PROT_READ | PROT_WRITE, anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
    char *droppable = mmap(0, MIB, rw, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);        /* Linux 6.11 */
    if (droppable != MAP_FAILED) fill(droppable, 0, MIB); else perror("MAP_DROPPABLE");
    char *guarded = map(MIB, rw, anonymous, -1);                                        /* Linux 6.13 */
    fill(guarded, 0, MIB);
    if (madvise(guarded + MIB / 4, MIB / 4, MADV_GUARD_INSTALL) != 0) perror("MADV_GUARD_INSTALL");
    int secret = (int)syscall(SYS_memfd_secret, 0);                                     /* Linux 5.14 */
    if (secret >= 0 && ftruncate(secret, MIB) == 0) fill(map(MIB, rw, MAP_SHARED, secret), 0, 8192); else perror("memfd_secret");
    char *grows = mmap(0, MIB, rw, anonymous | MAP_GROWSDOWN, -1, 0);
    if (grows != MAP_FAILED) fill(grows, MIB - 8192, MIB); else perror("MAP_GROWSDOWN");
    int sealed = memfd_create("sealed", MFD_ALLOW_SEALING);
    if (ftruncate(sealed, MIB) != 0 || pwrite(sealed, "sealed", 6, 4096) != 6) exit(2);
    if (fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) perror("F_ADD_SEALS");
    fill(map(MIB, rw, MAP_PRIVATE, sealed), 8192, 12288);
    map(MIB, PROT_READ, MAP_PRIVATE, sealed);
    char *same = map(MIB, rw, anonymous, -1);
    for (size_t at = 0; at < MIB; at += 4096) memset(same + at, 7, 4096);
    if (madvise(same, MIB, MADV_MERGEABLE) != 0) perror("MADV_MERGEABLE");
    char *wiped = map(MIB, rw, anonymous, -1);
    fill(wiped, 0, 8192);
    madvise(wiped, MIB, MADV_WIPEONFORK);
    /* In swap, if there is any. */
    char *out = map(4 * MIB, rw, anonymous, -1), *shared = map(4 * MIB, rw, MAP_SHARED | MAP_ANONYMOUS, -1);
    fill(out, 0, 3 * MIB);
    fill(shared, 0, 3 * MIB);
    madvise(out, 4 * MIB, MADV_PAGEOUT);
    madvise(shared, 4 * MIB, MADV_PAGEOUT);
    /* Nobody answers for what is missing, and the descriptor stays open. */
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    char *awaited = map(4 * MIB, rw, anonymous, -1);
    fill(awaited, 0, MIB);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.range = {(size_t)awaited, 4 * MIB}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range)) perror("userfaultfd");
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
    char *sparse;
    for (int n = 0; (sparse = sparse_kind(n, "/dev/shm/coreward-shapes", 8 * MIB)); n++) touch(sparse, 8 * MIB - 4096, 7, 4096);
    unlink("/dev/shm/coreward-shapes");
    rarer_kinds();
    (void)sink;
}

static void names(const char *directory) {
    char name[251] = {0};
    memset(name, 'n', 250);
    if (chdir(directory) != 0) exit(2);
    for (int depth = 0; depth < 15; depth++) if (mkdir(name, 0700) != 0 || chdir(name) != 0) { perror(name); exit(2); }
    int fd = open("file", O_RDWR | O_CREAT, 0600);
    if (ftruncate(fd, 4096) != 0) exit(2);
    /* More than core_file_note_size_limit, 4 MiB. */
    for (int i = 0; i < 1300; i++) map(4096, PROT_READ, MAP_SHARED, fd);
}

/* Linux 6.6 (include/uapi/linux/userfaultfd.h); headers may be older. */
struct poison {
    struct uffdio_range range;
    __u64 mode;
    __s64 updated;
};
#define POISON _IOWR(UFFDIO, 0x08, struct poison)
#define FEATURE_POISON (1 << 14)

static void poisoned(void) {
    char *memory = map(4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_POISON};
    struct uffdio_register range = {.range = {(size_t)memory, 4 * 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    struct poison poison = {.range = {(size_t)memory + 4096, 4096}};
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range) || ioctl(fd, POISON, &poison)) {
        perror("userfaultfd");
        exit(2);
    }
    close(fd);
    fill(memory, 0, 4096);
}

static void crowded(void) {
    int rw = PROT_READ | PROT_WRITE, empty = memfd_create("empty", 0), full = memfd_create("crowded", 0);
    if (ftruncate(empty, 4096 * MIB) != 0 || ftruncate(full, 64 * MIB) != 0) exit(2);
    /* The kernel places each mapping below the one before. */
    map(4096 * MIB, rw, MAP_SHARED | MAP_NORESERVE, empty);
    touch(map(64 * MIB, rw, MAP_SHARED, full), 64 * MIB, 8192, 4096);
    for (int i = 0; i < 39; i++) map(64 * MIB, rw, MAP_SHARED, full);
}

static void many(size_t pages) {
    char *memory = map(pages * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    for (size_t page = 0; page < pages; page += 2) {
        if (mprotect(memory + page * 4096, 4096, PROT_READ | PROT_WRITE) != 0) { perror("mprotect"); exit(2); }
        if (page % 8 == 0) fill(memory, page * 4096, page * 4096 + 64);
    }
}

static void forbidden(void) {
    char *memory = map(4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    for (size_t at = 0; at < 4 * MIB; at += 32) memcpy(memory + at, "this memory may not be read now", 32);
    mprotect(memory, 4 * MIB, PROT_NONE);
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
        huge_kinds();
    } else if (!strcmp(shape, "names")) {
        names(argv[2]);
    } else if (!strcmp(shape, "poisoned")) {
        poisoned();
    } else if (!strcmp(shape, "many")) {
        many(strtoull(argv[2], 0, 10));
    } else if (!strcmp(shape, "forbidden")) {
        forbidden();
    } else if (!strcmp(shape, "crowded")) {
        crowded();
    } else if (!strcmp(shape, "holes")) {
        size_t length = strtoull(argv[3], 0, 10) * MIB;
        char *sparse;
        for (int n = 0; (sparse = sparse_kind(n, argv[2], length)); n++) touch(sparse, length - 4096, 256, 4096);
        pthread_t thread;
        if (argc > 4 && !pthread_create(&thread, 0, crash_later, 0)) pthread_exit(0);
    }
    return *nowhere;
}
