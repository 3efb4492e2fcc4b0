/* Calls a library whose function raises SIGSEGV. BUILD makes another build of it. */
int faulty_extension(int value);

volatile int build = BUILD;

__attribute__((noinline)) int call_extension(int value) { return faulty_extension(value + build) + 1; }

int main(void) { return call_extension(1) + 1; }
