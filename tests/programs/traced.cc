// Crashes of C++: templates, lambdas, operators, constructors, exceptions, callbacks of the standard library.
#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

volatile int zero;
int *volatile nowhere;

namespace cache {
template <typename Key, int Ways> class Table {
public:
    __attribute__((noinline)) int find(Key key) const { return probe(key) + zero; }

private:
    inline int probe(Key key) const { return *slot(key); }
    inline const int *slot(Key) const { return nowhere; }
};

struct Entry {
    __attribute__((noinline)) explicit Entry(int n) : value(*nowhere + n) {}
    __attribute__((noinline)) ~Entry() { zero = value; }
    __attribute__((noinline)) Entry operator+(const Entry &other) const;
    int value;
};
inline Entry Entry::operator+(const Entry &other) const { return Entry(other.value + *nowhere); }

enum class Kind { small, large };
template <Kind kind, typename... Parts> __attribute__((noinline)) int variadic(Parts... parts)
{
    return *nowhere + (0 + ... + parts) + static_cast<int>(kind);
}
}

namespace {
__attribute__((noinline)) int hidden(const std::string &text) { return *nowhere + static_cast<int>(text.size()); }
struct Local {
    virtual ~Local() = default;
    virtual int run(std::string text) { return hidden(text) + zero; }
};
}

__attribute__((noinline)) void throws(const std::string &why) { throw std::runtime_error(why); }
__attribute__((noinline)) void not_allowed() noexcept { throws("not allowed"); }
template <typename Function> __attribute__((noinline)) int apply(Function function) { return function(3) + zero; }

int main(int argc, char **argv)
{
    std::vector<int> numbers{3, 1, 2};
    switch (argc > 1 ? atoi(argv[1]) : 0) {
    case 1: return cache::Table<std::string, 4>().find("key") + zero;
    case 2: return apply([&](int n) { return *nowhere + n + argc; }) + zero;
    case 3: return cache::Entry(argc).value + zero;
    case 4: return cache::variadic<cache::Kind::large>(1, 2L, 'c') + zero;
    case 5: return std::make_unique<Local>()->run("text") + zero;
    case 6: throws("uncaught"); break;
    case 7: not_allowed(); break;
    case 8: std::sort(numbers.begin(), numbers.end(), [](int left, int right) { return *nowhere + left < right; }); break;
    case 9: return std::function<int(int)>([](int n) { return *nowhere + n; })(argc) + zero;
    case 10: std::thread([&] { zero = hidden("thread"); }).join(); break;
    case 11: return numbers.at(zero + 7);
    case 12: return std::map<std::string, int *>()[argv[0]][zero];
    }
    return zero;
}
