#!/usr/bin/env python3
"""Supervises a daemon as systemd does for coreward.service: listens on the intake socket, passes it to the daemon, and starts
the next daemon 100 ms after one has ended. Used by scripts/bench.
  scripts/supervise.py ROOT      writes the PID of each daemon to ROOT/pid; stops the daemon and exits at SIGTERM
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


def pass_socket():
    os.dup2(intake.fileno(), 3)
    os.set_inheritable(3, True)


signal.signal(signal.SIGTERM, stop)
while not stopping:
    # LISTEN_PID must be the daemon's own PID: the shell knows it, and keeps it when it executes the daemon.
    command = ["sh", "-c", 'LISTEN_PID=$$ exec "$0" --root "$1"', f"{root}/usr/libexec/coreward/corewardd", root]
    environment = dict(os.environ, LISTEN_FDS="1", LISTEN_FDNAMES="intake")
    daemon = subprocess.Popen(command, env=environment, pass_fds=(3,), preexec_fn=pass_socket)
    with open(f"{root}/pid.new", "w") as file:
        file.write(str(daemon.pid))
    os.rename(f"{root}/pid.new", f"{root}/pid")
    if stopping:
        daemon.terminate()
    daemon.wait()
    if not stopping:
        time.sleep(0.1)
