/* Raises SIGSEGV below a chain of functions with names. */
#include <stdio.h>

static int *volatile nowhere;

__attribute__((noinline)) int innermost(int value) { return *nowhere + value; }
__attribute__((noinline)) int middle(int value) { return innermost(value + 1) + 1; }
__attribute__((noinline)) int outermost(int value) { return middle(value + 1) + 1; }

int main(void) { return outermost(1); }
