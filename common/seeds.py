"""Seeds: every source of randomness is derived from the run's seed and the names of its purpose.

Generators are never passed from round to round, so a resumed run and an uninterrupted one draw the same numbers, in
whichever process the work is done.
"""

from __future__ import annotations

import hashlib
import json


def derived_seed(seed: int, *names: str | int) -> int:
    """Return a 31-bit seed for `names` under the run's `seed`: the head of SHA-256 over both, so names do not collide.

    >>> derived_seed(0, "train", "client-1", 3) == derived_seed(0, "train", "client-1", 3)
    True
    >>> derived_seed(0, "a", "bc") == derived_seed(0, "ab", "c")
    False
    """
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1
