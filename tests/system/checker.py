"""The judge: what a log must look like, and what a client must have seen of it.

Events are plain dicts as the clients got them. Nothing here knows queuecast's own fold; each rule is a promise in
other words. Every function returns the flaws it found, as sentences.
"""

from collections import Counter, defaultdict


def flaws_of_log(log, accepted):
    """`log`: all events of all queues, in order within each. `accepted`: by task id, its `Work`."""
    told = by_task(log)
    flaws = [f"{id} was accepted and is not in the log" for id in accepted if id not in told]
    for id, events in told.items():
        flaws += [f"{id}: {flaw}" for flaw in flaws_of_task(events)]
        if id not in accepted:
            flaws.append(f"{id} was never submitted")
        elif not accepted[id].is_done_by(events):
            flaws.append(f"{id} is not what was asked for, {accepted[id]}: {events}")
    return flaws


def flaws_of_task(events):
    """A dense `seq` per run, nothing of a superseded run but its result, and one result at the end."""
    flaws = []
    runs = []
    last = outputs = 0
    over = False
    for event in events:
        if over:
            flaws.append(f"goes on after its result: {event}")
        over = over or event["type"] == "result"
        run = event.get("run")
        superseded = run in runs[:-1]
        if run is None or superseded:
            if superseded and event["type"] != "result":
                flaws.append(f"an event of a superseded run: {event}")
            continue
        if run not in runs:
            runs.append(run)
            last = outputs = 0
            if event["type"] != "task" or event["task"]["state"] != "running":
                flaws.append(f"a run that begins in the middle: {event}")
        if event["seq"] != last + 1:
            flaws.append(f"seq {event['seq']} after {last}: {event}")
        last = event["seq"]
        if event["type"] == "output":
            if event["index"] != outputs:
                flaws.append(f"output {event['index']} where {outputs} was due: {event}")
            outputs += 1
    return flaws if over else [*flaws, "has no result"]


def flaws_of_stream(seen, log, *, part="whole"):
    """The events one client got over all its connections are the log: its queues', in order, none left out or twice.

    `part` is "head" for a client that left early, and "tail" for one that came late.
    """
    flaws = []
    for queue, expected in by_queue(log).items():
        got = by_queue(seen).get(queue, [])
        first, last = {
            "whole": (0, len(expected)),
            "head": (0, len(got)),
            "tail": (len(expected) - len(got), len(expected)),
        }[part]
        if got != expected[first:last]:
            flaws.append(f"{queue}: {_first_difference(got, expected[first:last])}")
    return flaws


def flaws_of_witness(begun, accepted, *, kills):
    """`begun`: (id, attempt) of each time a handler began. At least once, and again only after a kill."""
    times = Counter(begun)
    flaws = [
        f"{id}: attempt {attempt} was never begun, so who did it?"
        for id, work in accepted.items()
        for attempt in range(1, work.attempts + 1)
        if not times[id, attempt]
    ]
    for (id, attempt), count in times.items():
        if count > 1 + kills:
            flaws.append(f"{id}: attempt {attempt} was begun {count} times with {kills} kills")
        if id in accepted and attempt > accepted[id].attempts:
            flaws.append(f"{id}: a lost worker used up an attempt")
    return flaws


def by_task(log):
    tasks = defaultdict(list)
    for event in log:
        tasks[event["id"]].append(event)
    return tasks


def by_queue(log):
    queues = defaultdict(list)
    for event in log:
        queues[event["queue"]].append(event)
    return queues


def _first_difference(got, expected):
    both = zip(got, expected, strict=False)
    place = next((place for place, (a, b) in enumerate(both) if a != b), min(len(got), len(expected)))
    if place == len(got):
        return f"{len(expected) - place} events are missing at the end, from {expected[place]}"
    event = got[place]
    if event in got[:place]:
        return f"event {place} is repeated: {event}"
    if event in expected:
        return f"event {place} is left out: {expected[place]}"
    return f"event {place} is from nowhere: {event}"
