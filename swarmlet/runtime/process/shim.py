"""The supervisor of one task, run alone as `python -I -S -E -B shim.py`. It outlives the daemon.

Given: stdin, the configuration (sandbox.Config); stdout, a pipe for one line of answer, either
`started PID` or `failed STEP ERRNO`; descriptor 3, the bundle's lock, held by inheritance while
the shim lives; descriptor 4, where the task's health is checked, what the daemon needs for that.
Left in the bundle's folder:

    shim.pid, task.pid   `PID START`: a pid counts only with its start time (/proc/PID/stat)
    init.pid             the same of the pid namespace's first process, where there is one
    log, log.1, ...      what the task wrote (log_writer)
    status               `STEP ERRNO` where the task could not be executed
    exit                 {"exit_code": N, "at_ms": N}; by rename, when nothing of the task lives

Nothing of the configuration is written to disk. A signal sent to the shim goes to the process group
of the task; killing the shim kills the task, by the kernel (PR_SET_PDEATHSIG).

It takes from swarmlet only the four modules beside it, which need nothing but a few of the standard
library's: neither json nor signal, which would make its start and its memory half as large again.
"""

import os
import sys

if __name__ == "__main__":
    _folder = os.path.dirname(os.path.abspath(__file__))
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(_folder))))
    from swarmlet.runtime.process.supervisor import main

    main()
