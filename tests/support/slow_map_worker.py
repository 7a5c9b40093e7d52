"""Stands in for the process that lays out a map: says how far it is, and then waits to be ended, or fails."""

from __future__ import annotations

import json
import os
import sys
import time


def say(fact: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(fact) + "\n")
    sys.stdout.flush()


def main() -> None:
    order = json.loads(sys.stdin.readline())
    say({"step": "laying out the map", "progress": 0.25})
    if os.environ.get("SLOW_MAP_FAILS") == "die":
        os._exit(3)
    if os.environ.get("SLOW_MAP_FAILS") == "say":
        say({"failed": f"no space left in {order['run']}"})
        return
    time.sleep(600)


if __name__ == "__main__":
    main()
