#!/usr/bin/env python3
"""The daemon under a manager that does what coreward.service asks of systemd: it holds the intake socket, and starts the next
daemon 100 ms after one has ended.
  scripts/supervise.py ROOT      writes the PID of each daemon to ROOT/pid, and ends with it at SIGTERM
"""
import os
import signal
import socket
import subprocess
import sys
import time

root = sys.argv[1]
intake = socket.socket(socket.AF_UNIX)
intake.bind(f"{root}/run/coreward/intake.sock")
intake.listen(4096)
daemon, stopping = None, False


def stop(*_):
    global stopping
    stopping = True
    if daemon is not None:
        daemon.terminate()


def hand_over():
    os.dup2(intake.fileno(), 3)
    os.set_inheritable(3, True)


signal.signal(signal.SIGTERM, stop)
while not stopping:
    # The shell knows the PID that LISTEN_PID must name before the daemon runs under it.
    command = ["sh", "-c", 'LISTEN_PID=$$ exec "$0" --root "$1"', f"{root}/usr/libexec/coreward/corewardd", root]
    environment = dict(os.environ, LISTEN_FDS="1", LISTEN_FDNAMES="intake")
    daemon = subprocess.Popen(command, env=environment, pass_fds=(3,), preexec_fn=hand_over)
    with open(f"{root}/pid.new", "w") as file:
        file.write(str(daemon.pid))
    os.rename(f"{root}/pid.new", f"{root}/pid")
    if stopping:
        daemon.terminate()
    daemon.wait()
    if not stopping:
        time.sleep(0.1)
