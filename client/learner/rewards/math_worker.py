"""The process behind `math-verify`: a question per line in, `true` or `false` per line out. Run as a script.

The timer's signal ends the process, wherever it hangs, also if nobody is left to kill it; so math-verify's own
timeouts, which need the same signal, are off.
"""

import json
import logging
import resource
import signal
import sys

MEMORY_BYTES = 2 << 30


def main() -> None:
    """Answer questions until the input ends."""
    logging.disable(logging.CRITICAL)
    from math_verify import parse, verify

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.set_int_max_str_digits(5000)
    print("ready", flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, question["limit_s"])
        try:
            right = parse("$" + question["right"] + "$", parsing_timeout=0)
            given = parse(question["given"], parsing_timeout=0)
            equal = bool(verify(right, given, timeout_seconds=0))
        except Exception:  # of sympy on a text that a model wrote: whatever it is, the answer is not known to be right
            equal = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        print("true" if equal else "false", flush=True)


if __name__ == "__main__":
    main()
