// Is killed by SIGSEGV while functions run that V8 has compiled: node --no-turbo-inlining crash.js

"use strict";

function crashHere(count) {
    let sum = 0;
    for (let i = 0; i < count; i++) {
        sum = (sum + i * 3) | 0;
    }
    return sum;
}

function callsIt(count) {
    return crashHere(count) + 1;
}

for (let i = 0; i < 20000; i++) {
    callsIt(100);
}
require("child_process").spawn("sh", ["-c", `sleep 0.5; kill -SEGV ${process.pid}`], { stdio: "ignore" });
for (;;) {
    callsIt(1 << 28);
}
