"""An application for tests/sdk/python.rs: registers, follows a service, says what it sees, and ends as it is told to.

  application.py '{"servers": ["http://.."], "client": {..}, "follow": "users", "register": {..}, "health": "..", "end": ".."}'
"""

import json
import sys
from typing import Any, List

import tidegate


def say(**what: Any) -> None:
    print(json.dumps(what, sort_keys=True), flush=True)


def show(instances: List[tidegate.Instance]) -> None:
    say(ports=[instance.port for instance in instances if instance.takes_requests])


def main() -> None:
    told = json.loads(sys.argv[1])
    plane = tidegate.Client(told["servers"], **told.get("client", {}))
    try:
        users = plane.discover(told["follow"], show)
        registration = plane.register(**told["register"])
    except tidegate.Refused as refused:
        say(refused=refused.reason, permanent=refused.is_permanent)
        return
    say(error=users.error is not None, id=registration.id)
    if "health" in told:
        registration.set_health(told["health"])
    if told["end"] == "signal":
        registration.close_on_signal()
        user = users.pick()
        say(left=True, picked=None if user is None else user.port)
    elif told["end"] == "context":
        with registration, users:
            for instances in users.changes():
                if any(instance.id == registration.id for instance in instances):
                    break
        say(left=True, picked=None)
    # Otherwise at the end of the interpreter.


main()
