"""`python -m servers NAME...` starts local servers, and with `--stop` stops them. What `make brokers` runs."""

import argparse
import sys

from .local import SERVERS
from .waiting import NotThere


def main():
    parser = argparse.ArgumentParser(prog="python -m servers", description="Local servers for development and tests.")
    parser.add_argument("--stop", action="store_true", help="stop those that were started from here")
    parser.add_argument("names", nargs="+", choices=list(SERVERS), metavar="NAME", help=", ".join(SERVERS))
    chosen = parser.parse_args()
    failed = False
    for server in map(SERVERS.get, chosen.names):
        try:
            server.stop() if chosen.stop else server.start()
        except NotThere as reason:
            failed = True
            print(f"{server.name}: {reason}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
