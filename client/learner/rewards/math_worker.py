"""The process behind `math-verify`: one request per line in, `true` or `false` per line out. Run as a script.

A timer's signal ends the process wherever it hangs, even if its parent is gone. math-verify's own timeouts need the
same signal, so they are turned off.
"""

import json
import logging
import resource
import signal
import sys

MEMORY_BYTES = 2 << 30


def main() -> None:
    """Answer requests until the input ends."""
    logging.disable(logging.CRITICAL)
    from math_verify import parse, verify

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.set_int_max_str_digits(5000)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["limit_s"])
        try:
            reference = parse("$" + request["right"] + "$", parsing_timeout=0)
            answer = parse(request["given"], parsing_timeout=0)
            equal = bool(verify(reference, answer, timeout_seconds=0))
        except Exception:  # sympy can raise anything on a model's text; the answer then counts as wrong
            equal = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        print("true" if equal else "false", flush=True)


if __name__ == "__main__":
    main()
