"""What hostile completions try in the sandbox: bodies of `def probe(spot, port, parent)`, one line of intent each.

`spot` is a folder of the test that anyone may read and write, with a file `secret` in it; `port` is one that the test
listens on; `parent` is its process.
"""

LIBC = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); "
CHECK = "; raise OSError('refused') if found < 0 else None"

REFUSED = {
    # reading
    "read the test's files": "return open(spot + '/secret').read()",
    "read the accounts": "return open('/etc/passwd').read()",
    "read the passwords": "return open('/etc/shadow').read()",
    "read the parent's environment": "return open(f'/proc/{parent}/environ').read()",
    "read its own environment in /proc": "return open('/proc/self/environ').read()",
    "read the first process's environment": "return open('/proc/1/environ').read()",
    "read the parent's memory": "return open(f'/proc/{parent}/mem', 'rb').read(1)",
    "list the homes": "import os; return os.listdir('/home') + os.listdir('/root')",
    "read through a symbolic link": "import os; os.symlink(spot, '/tmp/l'); return open('/tmp/l/secret').read()",
    "read through a hard link": "import os; os.link(spot + '/secret', '/tmp/h'); return open('/tmp/h').read()",
    "read through the root of another process": "return open(f'/proc/{parent}/root{spot}/secret').read()",
    "read a disk": "import os; os.mknod('/tmp/d', 0o60644, os.makedev(254, 0)); open('/tmp/d', 'rb').read(9)",
    # writing
    "write to the test's folder": "open(spot + '/escaped', 'w').write('x')",
    "write over the test's file": "open(spot + '/secret', 'w').write('x')",
    "truncate the test's file": "import os; os.truncate(spot + '/secret', 0)",
    "make the test's file anyone's": "import os; os.chmod(spot + '/secret', 0o777)",
    "remove the test's file": "import os; os.unlink(spot + '/secret')",
    "write in the root": "open('/escaped', 'w').write('x')",
    "write in the shared memory": "open('/dev/shm/escaped', 'w').write('x')",
    "write over the standard library": "import json; open(json.__file__, 'a').write('x')",
    "climb out by ..": "import os; os.chdir('/tmp'); return open('../..' + spot + '/secret').read()",
    # processes
    "fork": "import os; return os.fork() or os._exit(0)",
    "flood with forks": "import os\n    while True:\n        os.fork()",
    "start a thread": "import threading; threading.Thread(target=print).start()",
    "leave by daemonising": "import os\n    if os.fork() == 0:\n        os.setsid(); os.fork() or os.abort()",
    "start a program": "import subprocess; return subprocess.run(['/bin/true']).returncode",
    "become another program": "import os; os.execv('/usr/bin/python3', ['python3', '-c', '1'])",
    "kill the parent": "import os; os.kill(parent, 9)",
    "kill everything": "import os; os.kill(-1, 9)",
    "stop the parent by a signal of its files": (
        "import fcntl, os; pipe = os.pipe()[0]; fcntl.fcntl(pipe, fcntl.F_SETOWN, parent); fcntl.fcntl(pipe, 10, 9)"
    ),
    "slow the parent down": "import os; os.setpriority(os.PRIO_PROCESS, parent, 19)",
    "limit the parent's memory": "import resource; resource.prlimit(parent, resource.RLIMIT_AS, (1, 1))",
    "trace the parent": LIBC + "found = libc.ptrace(16, parent, 0, 0)" + CHECK,
    "read the parent's memory by a call": LIBC + "found = libc.process_vm_readv(parent, 0, 0, 0, 0, 0)" + CHECK,
    # rights
    "raise its own limits": "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (100, 100))",
    "become root": "import os; os.setuid(0)",
    "make a user namespace": LIBC + "found = libc.unshare(0x10000000)" + CHECK,
    "make a mount namespace": LIBC + "found = libc.unshare(0x00020000)" + CHECK,
    "mount": LIBC + "found = libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)" + CHECK,
    "change the root": "import os; os.chroot('/tmp')",
    "load a kernel program": LIBC + "found = libc.syscall(321, 0, 0, 0)" + CHECK,
    "use io_uring": LIBC + "found = libc.syscall(425, 8, ctypes.create_string_buffer(256))" + CHECK,
    # network
    "connect to the test": "import socket; socket.create_connection(('127.0.0.1', port), 1)",
    "send a datagram": "import socket; socket.socket(2, 2).sendto(b'x', ('127.0.0.1', port))",
    "connect to an abstract socket": "import socket; socket.socket(socket.AF_UNIX).connect('\\0fedgrpo-' + str(port))",
    "listen": "import socket; socket.create_server(('', 0))",
    "ask a name server": "import socket; socket.getaddrinfo('example.org', 80)",
    # resources
    "take all memory": "return len(bytearray(1 << 40))",
    "take memory bit by bit": "kept = []\n    while True:\n        kept.append(bytearray(1 << 24))",
    "open many files": "import os; return [os.dup(1) for _ in range(10_000)]",
    "write a large file": "open('/tmp/large', 'wb').write(bytes(1 << 26))",
    "fill the disk": "for n in range(100_000):\n        open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))",
    "make many empty files": "for n in range(100_000):\n        open(f'/tmp/{n}', 'w').close()",
    "make many folders": "import os\n    for n in range(100_000): os.mkdir(f'/tmp/{n}')",
    "recurse": "def again(): return again()\n    return again()",
    # answers that are none
    "leave early": "import sys; sys.exit(0)",
    "return what equals everything": "return type('E', (), {'__eq__': lambda *_: True, '__ne__': lambda *_: False})()",
    "return no number": "return float('nan')",
    "return itself": "loop = []; loop.append(loop); return loop",
    "return a very long number": "return 10 ** 10_000",
}
"""These raise: the sandbox refuses, or the value is none."""

OPEN_TO_ALL = ("read the test's files", "read the accounts", "write to the test's folder", "connect to the test")
OPEN_TO_ALL += ("connect to an abstract socket", "listen", "send a datagram", "read its own environment in /proc")
"""Of these, what a process without a sandbox can do: the control that the probes are right."""

OWN_NETWORK = ("listen", "send a datagram")
"""Without a filter of system calls these succeed in bubblewrap's network, which leads nowhere: no escape."""

ENDED = {
    "loop for ever": ("while True: pass", "TimeLimit"),
    "sleep": ("import time; time.sleep(60)", "TimeLimit"),
    "outlive signals": (
        "import signal\n    for n in range(1, 32):\n        if n not in (9, 19): signal.signal(n, signal.SIG_IGN)\n"
        "    while True: pass",
        "TimeLimit",
    ),
    "loop in C": ("return sum(range(10 ** 12))", "TimeLimit"),
    "catch whatever ends it": (
        "while True:\n        try:\n            while True: pass\n        except BaseException: pass",
        "TimeLimit",
    ),
    "leave at once": ("import os; os._exit(0)", "Died"),
    "crash": (LIBC + "libc.memset(0, 1, 1)", "Died"),
    "recurse in C": ("e = 'x'\n    for _ in range(100_000): e = [e]\n    return repr(e) and e", "RecursionError"),
    "return too much": ("return 'x' * (1 << 22)", "OutputLimit"),
    "flood the pipe": (
        "import os\n    while True:\n        for n in range(3, 9):\n            try: os.write(n, b'x' * 65536)\n"
        "            except OSError: pass",
        "OutputLimit",
    ),
    "close the pipe": ("import os; os.closerange(3, 32); return 1", "Died"),
    "write half an answer": ("import os; [os.write(n, b'[[1') for n in (3,)]; os._exit(0)", "Died"),
    "write what no parser likes": ("import os; os.write(3, b'[' * 500_000); os._exit(0)", "Died"),
}
"""These come to their end, and this is said of them."""
