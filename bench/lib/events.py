"""The payload that the load generators send and recognise.

It carries the moment of sending between `@` and `~`. The tilde occurs once an event and nowhere else
(not in cursors, names or times), so counting that one byte counts deliveries exactly, however the
kernel cuts the stream into reads.
"""

import re
import time

MARK = b"~"
STAMP = re.compile(rb"@(\d+)~")


def payload(size: int = 100) -> bytes:
    """A JSON object of exactly `size` bytes, stamped now. time.monotonic_ns is the same in all processes."""
    head = b'{"sent":"@%d~","pad":"' % time.monotonic_ns()
    return head + b"x" * (size - len(head) - 2) + b'"}'
