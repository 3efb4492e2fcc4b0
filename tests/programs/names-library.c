/* A library that faults in a static function, below an exported one. */
#define STAY __asm__ volatile("" ::: "memory")

__attribute__((noinline)) static void library_fault(volatile int *where)
{
    *where = 1;
    STAY;
}

void library_entry(void)
{
    library_fault(0);
    STAY;
}

#ifdef OTHER
/* What moves the others. */
__attribute__((noinline)) void replaced_entry(void)
{
    library_entry();
    STAY;
}
#endif
