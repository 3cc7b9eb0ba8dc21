"""No-op tasks on RabbitMQ: how many a second are submitted, and run by one worker process, at which CPU a task?

queuecast confirms every submit and every step of every task in the queue's event log. The peers keep no trail: Celery
and Dramatiq confirm nothing unless they are asked to (they run both ways), Taskiq confirms what it submits. Dramatiq
knows classic queues only. Each runs with several numbers of threads or prefetched tasks: the best counts.
"""

import argparse
from functools import partial

import ours
from lib import options, proc, rabbitmq, report, trials
from lib.options import Name
from peers import amqp_tasks

KINDS = ("classic", "quorum")
SUBJECTS = tuple(map(Name, ("queuecast", "celery", "celery_confirms", "dramatiq", "dramatiq_confirms", "taskiq")))
WORKERS = {
    "celery": {f"prefetch_{n}": amqp_tasks.celery(n) for n in (100,)},
    "dramatiq": {f"threads_{n}": amqp_tasks.dramatiq(n) for n in (8,)},
    "taskiq": {f"tasks_{n}": amqp_tasks.taskiq(n) for n in (200,)},
}


def queuecast(kind: str, chosen: argparse.Namespace) -> trials.Figures:
    with proc.workdir() as folder, rabbitmq.node(folder, proc.SERVER_CPU) as url:
        return ours.server_tasks(folder, f"{url}?type={kind}", chosen.tasks)


def peer(subject: str, kind: str, worker: list[str], chosen: argparse.Namespace) -> trials.Figures:
    with proc.workdir() as folder, rabbitmq.node(folder, proc.SERVER_CPU) as url:
        return amqp_tasks.measure(folder, subject, url=url, kind=kind, tasks=chosen.tasks, worker=worker)


def main() -> None:
    parser = options.parser(__doc__, rounds=1)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--kinds", default=",".join(KINDS), help="of queues, comma-separated")
    chosen = parser.parse_args()

    todo: dict[tuple[str, str], trials.Trial] = {}
    for kind in chosen.kinds.split(","):
        for subject in options.chosen(SUBJECTS, chosen):
            system = subject.name.partition("_")[0]
            if subject.name == "queuecast":
                todo[subject.name, kind] = partial(queuecast, kind, chosen)
            elif system != "dramatiq" or kind == "classic":
                for case, worker in WORKERS[system].items():
                    todo[subject.name, f"{kind}_{case}"] = partial(peer, subject.name, kind, worker, chosen)
    results = trials.interleaved(todo, chosen.rounds)
    found = {kind: trials.of_kind(results, kind) for kind in chosen.kinds.split(",")}
    report.emit(
        "rabbitmq_tasks",
        vars(chosen),
        results,
        run_ratios={kind: trials.ratios(trials.best(of, "run_per_s")) for kind, of in found.items()},
        submit_ratios={kind: trials.ratios(trials.best(of, "submitted_per_s")) for kind, of in found.items()},
    )


if __name__ == "__main__":
    main()
