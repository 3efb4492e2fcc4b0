// A library that is loaded at run time.
static inline __attribute__((always_inline)) int library_inlined(int *at) { return *at + 1; }
static __attribute__((noinline)) int library_static(int *at) { return library_inlined(at) * 2; }
int library_run(int *at);
int library_run(int *at) { return library_static(at) + 3; }
