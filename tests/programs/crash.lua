-- Writes to an address that is not mapped, in a loop that LuaJIT has compiled: luajit crash.lua

local ffi = require("ffi")
local there = ffi.new("int[1]")

local function store_many(address, count)
    for i = 1, count do
        address[0] = i
    end
end

for _ = 1, 200 do
    store_many(ffi.cast("int *", there), 100)
end
store_many(ffi.cast("int *", 8), 100)
