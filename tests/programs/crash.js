// Aborts below functions that V8 has compiled: node --no-turbo-inlining crash.js

"use strict";

function crashHere(count, then) {
    let sum = 0;
    for (let i = 0; i < count; i++) {
        sum = (sum + i * 3) | 0;
    }
    return then(sum);
}

function callsIt(count, then) {
    return crashHere(count, then) + 1;
}

// So many that the compiled call takes any.
const functions = [(sum) => sum, (sum) => -sum, (sum) => sum + 1, (sum) => sum + 2, (sum) => sum * 2, (sum) => sum * 3];
for (let i = 0; i < 60000; i++) {
    callsIt(100, functions[i % functions.length]);
}
// The compiler works in another thread.
const begun = Date.now();
while (Date.now() < begun + 300) {
    callsIt(100, functions[Date.now() % functions.length]);
}
callsIt(100, process.abort);
