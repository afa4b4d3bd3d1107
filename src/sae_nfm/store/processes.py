"""How processes end: with the one that started them, at once, and not without ending those they wait for."""

import atexit
import ctypes
import gc
import os
import signal
import sys
import threading
from multiprocessing import parent_process

ENDS_WITH = "SAE_NFM_ENDS_WITH"
"""Environment variable: id of the process that starts this one and without which it has nothing to do."""
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def end_with_parent() -> None:
    """Have the kernel end this process when the one that started it dies, be it by `kill -9`.

    Otherwise the ranks of a study would wait for a first rank that is gone, on GPUs for half an hour. Nothing
    is done in a process that was started by hand, nor where there is no Linux.
    """
    parent = os.environ.get(ENDS_WITH)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit(1)


def end_with_maker() -> None:
    """End this process when the one that made it by `multiprocessing` dies.

    The kernel would do so, as above, as soon as the *thread* ends that asked for the process.
    """
    maker = parent_process()
    assert maker is not None

    def end() -> None:
        maker.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def end_without_looking_back() -> None:
    """Have this process leave its memory to the system when it exits.

    Python would look through all that torch and Lightning have made for garbage, which takes a second or two.
    """
    atexit.register(gc.freeze)


def raise_when_terminated() -> None:
    """Have SIGTERM raise `SystemExit`, so that whoever waits for a process can end it first.

    A handler that is there, such as submitit's, stays.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
