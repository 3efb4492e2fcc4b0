// One of many libraries that call each other, with as much debug information as C++ usually has. For scripts/bench.
#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

extern "C" int enter(int number, int depth);

namespace library {
template <int number> struct Table {
    std::map<std::string, std::vector<int>> rows;
    inline int next(int depth) { return enter(number + 1, depth - 1) + static_cast<int>(rows.size()); }
    __attribute__((noinline)) int walk(int depth, const std::function<int(int)> &then)
    {
        rows["row"].push_back(depth);
        std::sort(rows["row"].begin(), rows["row"].end(), std::greater<int>());
        return then(next(depth)) + depth;
    }
};
}

#define NAME(number) NAME_OF(number)
#define NAME_OF(number) run_##number
extern "C" int NAME(NUMBER)(int depth);
extern "C" int NAME(NUMBER)(int depth)
{
    library::Table<NUMBER> table;
    return table.walk(depth, [&](int n) { return n + depth; }) + 1;
}
