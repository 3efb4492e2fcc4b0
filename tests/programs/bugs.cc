// Crashes of C++: uncaught exceptions, inlined code, a pure virtual call.
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

volatile int zero;

struct Base {
    Base() { indirect(); }
    virtual ~Base() = default;
    __attribute__((noinline)) void indirect() { run(); }
    virtual void run() = 0;
};
struct Derived : Base { void run() override { zero = 1; } };

template <typename T> inline T &take(std::vector<T> &from, size_t at) { return from.at(at); }

__attribute__((noinline)) void thrown_here() { throw std::runtime_error("here"); }
__attribute__((noinline)) void thrown_there() { throw std::runtime_error("there"); }
__attribute__((noinline)) void out_of_range() { std::vector<int> v(3); zero = take(v, 7u + zero); }
__attribute__((noinline)) void inlined() { std::map<std::string, int *> m; zero = *m["x"]; }
__attribute__((noinline)) void rethrown()
{
    try {
        thrown_here();
    } catch (...) {
        zero = 3;
        throw;
    }
}

int main(int argc, char **argv)
{
    switch (argc > 1 ? atoi(argv[1]) : 0) {
    case 1: thrown_here(); break;
    case 2: thrown_there(); break;
    case 3: out_of_range(); break;
    case 4: inlined(); break;
    case 5: { Derived derived; break; }
    case 6: rethrown(); break;
    }
    return zero;
}
