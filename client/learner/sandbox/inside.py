"""The script that runs inside the sandbox, in a bare interpreter with the standard library only.

It reads a request from standard input, gives up every right it can, calls the model's function, and writes one JSON
document to the pipe it was started with. Whatever the model's code does to this process or writes to that pipe, it can
only claim return values: the expected ones are not here.
"""

import builtins
import json
import os
import resource
import struct
import sys

READ_FILE, READ_DIR = 1 << 2, 1 << 3
LANDLOCK_FS = {3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""File-system rights that a kernel can revoke, by version of Landlock: version 5 added ioctl on devices."""
CREATE_RULESET, ADD_RULE, RESTRICT_SELF, OLDEST = 444, 445, 446, 3
"""System calls, and the oldest version of Landlock accepted: before 3 (Linux 6.2) files could still be truncated."""
SET_PDEATHSIG, SET_SECCOMP, SET_NO_NEW_PRIVS = 1, 22, 38
X86_64, ALLOW, REFUSE = 0xC000003E, 0x7FFF0000, 0x00050001
# Computing, files and clocks, by their numbers on x86-64. Left out on purpose: processes and threads, sockets, signals,
# executing, tracing, mounting, namespaces, limits; fcntl, whose F_SETOWN has the kernel send signals to others; chmod
# and utimensat, which Landlock does not govern.
SYSTEM_CALLS = (
    *(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21),  # read ... access
    *(23, 24, 25, 28, 32, 33, 35, 39, 60, 63),  # select, sched_yield, mremap, madvise, dup, nanosleep, getpid, exit
    *(77, 78, 79, 80, 82, 83, 84, 87, 89, 96, 98, 99, 100),  # ftruncate ... unlink, readlink, gettimeofday, getrusage
    *(102, 104, 107, 108, 110, 131, 186, 202, 204, 217, 219),  # get*id, sigaltstack, futex, getdents64
    *(228, 229, 230, 231, 257, 258, 262, 263, 264, 267, 269, 270, 271, 273),  # clocks, exit_group, openat, newfstatat
    *(292, 293, 316, 318, 332, 334, 439),  # dup3, pipe2, renameat2, getrandom, statx, rseq, faccessat2
)


def main():
    """Answer the one request, and exit without running exit handlers of the model's code."""
    with open(0, "rb", closefd=False) as request_file:
        request = json.load(request_file)
    pipe = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    limit(request)
    give_up_rights(request["readable"], request["seccomp"])  # errors up to here are still reported on standard error
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    answer = json.dumps(results(request)).encode()
    while answer:
        answer = answer[os.write(pipe, answer) :]
    os._exit(0)


def limit(request):
    """Set resource limits in the kernel. The hard limits cannot be raised again."""
    seconds = int(request["seconds"]) + 1
    for name, value in {
        "AS": request["memory_bytes"],
        "CPU": seconds,
        "FSIZE": request["file_bytes"],
        "NOFILE": 32,
        "NPROC": 1,
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
    }.items():
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))


def give_up_rights(readable, seccomp):
    """Restrict this process and all that it might start, permanently.

    Args:
        readable: with Landlock, the only paths that can still be opened, and for reading only; None if the
            sandbox has its own file system.
        seccomp: whether system calls are filtered.
    """
    if readable is None and not seccomp:
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def call(name, *arguments):
        status = getattr(libc, name)(*arguments)
        if status < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()) + " (" + name + ")")
        return status

    call("prctl", SET_PDEATHSIG, 9, 0, 0, 0)
    call("prctl", SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if readable is not None:
        landlock(call, readable)
    if seccomp:
        program = ctypes.create_string_buffer(filter_program(), len(filter_program()))
        whole = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(program))
        call("prctl", SET_SECCOMP, 2, ctypes.c_char_p(whole), 0, 0)


def landlock(call, readable):
    """Revoke all access to files except reading below the given paths."""
    version = call("syscall", CREATE_RULESET, None, 0, 1)
    if version < OLDEST:
        raise OSError("Landlock has version " + str(version) + ", but " + str(OLDEST) + " is needed (Linux 6.2)")
    rights = LANDLOCK_FS[min(version, max(LANDLOCK_FS))]
    network, scopes = 3 * (version >= 4), 3 * (version >= 6)
    attributes = struct.pack("QQQ", rights, network, scopes)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = call("syscall", CREATE_RULESET, attributes, len(attributes), 0)
    for path in readable:
        allowed = READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE
        opened = os.open(path, os.O_PATH)
        call("syscall", ADD_RULE, rules, 1, struct.pack("=Qi", allowed, opened), 0)
        os.close(opened)
    call("syscall", RESTRICT_SELF, rules, 0)
    os.close(rules)


def filter_program():
    """Return the filter in classic BPF: other architectures, and calls that are not listed, fail with EPERM."""
    count = len(SYSTEM_CALLS)
    steps = [(0x20, 0, 0, 4), (0x15, 0, count + 1, X86_64), (0x20, 0, 0, 0)]
    steps += [(0x15, count - place, 0, number) for place, number in enumerate(SYSTEM_CALLS)]
    steps += [(0x06, 0, 0, REFUSE), (0x06, 0, 0, ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def results(request):
    """Return, for each call, [value] or the name of the exception; one name for all if the code itself fails."""
    space = {"__name__": "completion", "__builtins__": builtins}
    try:
        exec(compile(request["code"], "completion", "exec"), space)
        function = space[request["function"]]
    except BaseException as error:
        return type(error).__name__
    return [result(function, arguments) for arguments in request["calls"]]


def result(function, arguments):
    """Return [the value] of one call, or the name of the exception; a value that is not JSON is a TypeError."""
    try:
        return [json.loads(json.dumps(function(*json.loads(arguments)), allow_nan=False))]
    except BaseException as error:
        return type(error).__name__


if __name__ == "__main__":
    sys.setrecursionlimit(2000)
    main()
