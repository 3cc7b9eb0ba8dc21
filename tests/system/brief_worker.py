"""`queuecast worker`, but that it gives running tasks a second to finish in where the real one gives twenty."""

import asyncio
import signal
import sys

from queuecast.worker import Worker

from .workload import qc

GRACE_SECONDS = 1.0


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    session = await qc.session()
    async with Worker(qc, session, grace=GRACE_SECONDS).running():
        print("is ready", file=sys.stderr)
        await stop.wait()
        print("stopping", file=sys.stderr)
    await qc.close()


if __name__ == "__main__":
    asyncio.run(main())
