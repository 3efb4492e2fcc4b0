/* A library of modules.c: calls the next one, and the last one faults. With -DHIDDEN the name of its function is in no symbol table that is mapped. */
typedef void step(void **next);

#ifdef HIDDEN
static
#endif
__attribute__((noinline)) void call_next(void **next)
{
    if (*next)
        ((step *)*next)(next + 1);
    else
        *(volatile int *)0 = 1;
    __asm__ volatile("" ::: "memory");
}

step *entry = call_next;
