/* A core_pattern helper that exits at once: the floor that a helper can reach. Built static. */
int main(void) { return 0; }
