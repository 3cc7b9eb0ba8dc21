"""No-op tasks on a SQLite file: how many a second are submitted, and run by one worker process?

Huey runs with fsync off (its default) and on, with the number of threads that suits it best; it keeps
no trail of what happened and its tasks have no result. queuecast syncs every commit and records
every step of every task.
"""

import argparse
from functools import partial

import ours
from lib import options, proc, report, trials
from lib.options import Name
from peers import huey_tasks

SUBJECTS = (Name("queuecast"), Name("huey_fsync_off"), Name("huey_fsync_on"))


def queuecast(chosen: argparse.Namespace) -> trials.Figures:
    with proc.workdir() as folder:
        took = ours.sqlite_tasks(folder, chosen.tasks)
    return {"submitted_per_s": chosen.tasks / took["submit_s"], "run_per_s": chosen.tasks / took["run_s"]}


def huey(fsync: bool, threads: int, chosen: argparse.Namespace) -> trials.Figures:
    with proc.workdir() as folder:
        return huey_tasks.measure(folder, chosen.tasks, fsync, threads)


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--threads", default="1,2,3,4", help="of Huey's consumer: the numbers to try")
    chosen = parser.parse_args()

    todo: dict[tuple[str, str], trials.Trial] = {}
    for subject in options.chosen(SUBJECTS, chosen):
        if subject.name == "queuecast":
            todo[subject.name, "full_sync"] = partial(queuecast, chosen)
            continue
        for threads in map(int, chosen.threads.split(",")):
            fsync = subject.name == "huey_fsync_on"
            todo[subject.name, f"threads_{threads}"] = partial(huey, fsync, threads, chosen)
    results = trials.interleaved(todo, chosen.rounds)
    run, submit = (trials.best(results, figure) for figure in ("run_per_s", "submitted_per_s"))
    report.emit(
        "sqlite_tasks",
        vars(chosen),
        results,
        best_run_per_s=run,
        best_submitted_per_s=submit,
        run_ratios=trials.ratios(run),
        submit_ratios=trials.ratios(submit),
    )


if __name__ == "__main__":
    main()
