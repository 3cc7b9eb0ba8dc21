"""An application that imports nothing but queuecast; `ours.py` starts its worker for startup.py."""

from queuecast import Queuecast

qc = Queuecast()


@qc.queue("noop").task
async def noop() -> None:
    return None
