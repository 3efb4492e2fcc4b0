# Crashes in a C function below Python frames of all kinds; faulthandler writes their traceback to standard error first.
import ctypes
import faulthandler
import sys
import threading


class Controller:
    def show(self, n):
        return [self.render(x) for x in [n]]

    def render(self, n):
        return sorted([3, 1], key=lambda k: self.deep(k,
                                                      n))

    def deep(self, k, n):
        if n:
            return self.deep(k, n - 1)
        for item in items():
            pass


def items():
    yield from fault()


def fault():
    try:
        café = 8
        ctypes.string_at(café)
    finally:
        pass
    yield 1


def handle():
    Controller().show(2)


faulthandler.enable(all_threads=False)
if "thread" in sys.argv:
    thread = threading.Thread(target=handle)
    thread.start()
    thread.join()
else:
    handle()
