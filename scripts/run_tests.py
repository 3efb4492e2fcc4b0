#!/usr/bin/env python3
"""Runs `cargo test` and fails if it tests nothing.
  scripts/run_tests.py FILE ARGUMENT...      ARGUMENTs of cargo test, with a "--" before those of the test programs

Prints the output of cargo test without that of successful tests. A test that cannot run on this machine passes after printing
a line "SKIPPED: REASON". Appends these tests and the ignored ones to FILE, one "NAME: REASON" a line.
"""
import re
import subprocess
import sys

skipped, arguments = sys.argv[1], sys.argv[2:]
command = ["cargo", "test", "--locked", *arguments, "--show-output"]
cargo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
passed, name, hidden = 0, "", False
with open(skipped, "a") as file:
    for line in cargo.stdout:
        # The output of successful tests follows "successes:", up to "failures:" or "test result:".
        if line == "successes:\n":
            hidden = True
        elif line == "failures:\n" or line.startswith("test result:"):
            hidden = False
        if match := re.match(r"---- (\S+) .*----$", line):
            name = match[1]
        elif hidden and line.startswith("SKIPPED: "):
            print(f"{name}: {line.removeprefix('SKIPPED: ').rstrip()}", file=file)
        elif match := re.match(r"test (\S+) .*\.\.\. ignored(?:, (.*))?$", line):
            print(f"{match[1]}: {match[2] or 'ignored'}", file=file)
        elif match := re.match(r"test result: .* (\d+) passed;", line):
            passed += int(match[1])
        if not hidden:
            print(line, end="", flush=True)
if cargo.wait() != 0:
    sys.exit(1)
if passed == 0:
    sys.exit(f"{' '.join(command)}: no test was run")
