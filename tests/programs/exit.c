/* A core_pattern helper that exits at once: the lower bound for any helper. To be linked statically. */
int main(void) { return 0; }
