"""Passwords compared, and nothing else: ``python -m fairlead.cli.bench.hashing THREADS SECONDS WARM_S``.

The parameters are those with which accounts are made; the rate is what no log-in can exceed, on purpose.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher

from fairlead.users.accounts import account, new_password


def main(threads: int, seconds: float, warm_s: float) -> dict[str, float]:
    """How many in a second."""
    password = new_password()
    made, hasher = account("bench", "viewer", password).password_hash, PasswordHasher()
    opens = time.perf_counter() + warm_s
    closes = opens + seconds

    def again() -> int:
        count = 0
        while time.perf_counter() < closes:
            hasher.verify(made, password)
            count += opens <= time.perf_counter() <= closes
        return count

    with ThreadPoolExecutor(threads) as pool:
        counted = [pool.submit(again) for _ in range(threads)]
    return {"per_s": sum(one.result() for one in counted) / seconds}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))) + "\n")
