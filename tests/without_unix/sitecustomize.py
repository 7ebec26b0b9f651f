"""Python as it is on Windows, as far as Linux can play that: put this folder on PYTHONPATH.

Every process that starts with it, loader processes too, has no `resource`, `fcntl`, fork, SIGHUP or masks of
signals, and starts others afresh ("spawn"). What other packages ask of a Linux (`os.uname`) stays.
"""

import multiprocessing
import os
import signal
import sys

for name in ("resource", "fcntl"):
    sys.modules[name] = None  # importing it is an ImportError

for module, names in {
    os: ("fork", "forkpty", "sched_getaffinity"),
    signal: ("SIGHUP", "SIGALRM", "alarm", "pthread_sigmask", "sigwaitinfo", "sigwait"),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

multiprocessing.set_start_method("spawn")
