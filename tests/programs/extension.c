/* A library whose function raises SIGSEGV. BUILD makes another build of it. */
static int *volatile nowhere;
volatile int extension_build = BUILD;

__attribute__((noinline)) int faulty_extension(int value) { return *nowhere + value + extension_build; }
