"""A candidate in a process of its own: ``python -m tests.unit.cluster.candidate ETCD NAME LEASE_S``.

It says ``leads TERM`` and ``parts`` as that happens. On a line ``arm`` it takes the fence of its term and says
``armed``, on ``write`` it makes a transaction with that fence and says ``done`` or ``void``; on ``ask`` whether it
leads: ``yes`` or ``no``.
"""

import asyncio
import sys
from collections.abc import Sequence

from fairlead.base import logs
from fairlead.base.clock import SystemClock
from fairlead.cluster.leadership import Leadership
from fairlead.cluster.leases import GatewayLeases
from fairlead.cluster.tenure import Timing
from fairlead.store.etcd import EtcdStore
from fairlead.store.gateway import Gateway
from fairlead.store.protocol import Compare, Put


async def main(endpoint: str, name: str, lease_s: str) -> None:
    logs.start(name, "info")  # on standard error
    gateway = Gateway([endpoint])
    store = EtcdStore(gateway)
    leadership = Leadership(store, GatewayLeases(gateway), SystemClock(), node=f"id-{name}", name=name,
                            timing=Timing(int(lease_s), 0.5))
    told = [False]

    def say(word: str) -> None:
        sys.stdout.write(f"{word}\n")
        sys.stdout.flush()

    def changed() -> None:
        if told[-1] != leadership.leading:
            told.append(leadership.leading)
            say(f"leads {leadership.term}" if told[-1] else "parts")

    leadership.on_change(changed)
    loop = asyncio.get_running_loop()
    fence: Sequence[Compare] = ()
    running = asyncio.create_task(leadership.run())
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        match line.strip():
            case "arm":
                fence = leadership.fence()
                say("armed")
            case "ask":
                say("yes" if leadership.leading else "no")
            case "write":
                outcome = await store.transact(fence, [Put("work", name.encode())])
                say("done" if outcome.succeeded else "void")
    running.cancel()
    await asyncio.wait((running,))
    await store.close()
    await gateway.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
