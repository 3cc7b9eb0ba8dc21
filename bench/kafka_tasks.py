"""No-op tasks on Kafka: how many a second are submitted, and run by one worker process, at which CPU a task?

queuecast confirms every submit and every step of every task in the queue's event log, with acks=all; FastStream keeps
no trail. Beside them queuecast on RabbitMQ, and the plain client: what Kafka itself takes and gives. Fresh nodes.
"""

import argparse
from functools import partial

import ours
from lib import kafka, options, proc, rabbitmq, report, trials
from lib.options import Name
from peers import kafka_faststream, raw_kafka

SUBJECTS = tuple(map(Name, ("queuecast", "queuecast_rabbitmq", "faststream", "confluent_kafka")))


def on_kafka(chosen: argparse.Namespace) -> trials.Figures:
    with proc.workdir() as folder, kafka.node(folder, proc.SERVER_CPU) as address:
        return ours.server_tasks(folder, f"kafka://{address}", chosen.tasks)


def on_rabbitmq(chosen: argparse.Namespace) -> trials.Figures:
    with proc.workdir() as folder, rabbitmq.node(folder, proc.SERVER_CPU) as url:
        return ours.server_tasks(folder, url, chosen.tasks)


def faststream(ack: str, chosen: argparse.Namespace) -> trials.Figures:
    with proc.workdir() as folder, kafka.node(folder, proc.SERVER_CPU) as address:
        return kafka_faststream.measure(folder, address=address, tasks=chosen.tasks, ack=ack)


def plain(chosen: argparse.Namespace) -> trials.Figures:
    with proc.workdir() as folder, kafka.node(folder, proc.SERVER_CPU) as address:
        return raw_kafka.rates(address, 5 * chosen.tasks)


def main() -> None:
    parser = options.parser(__doc__, rounds=1)
    parser.add_argument("--tasks", type=int, default=20_000)
    chosen = parser.parse_args()

    cases: dict[str, dict[str, trials.Trial]] = {
        "queuecast": {"kafka": partial(on_kafka, chosen)},
        "queuecast_rabbitmq": {"classic": partial(on_rabbitmq, chosen)},
        "faststream": {f"ack_{ack}": partial(faststream, ack, chosen) for ack in kafka_faststream.ACKS},
        "confluent_kafka": {"plain": partial(plain, chosen)},
    }
    names = [subject.name for subject in options.chosen(SUBJECTS, chosen)]
    results = trials.interleaved(
        {(name, case): of for name in names for case, of in cases[name].items()}, chosen.rounds
    )
    report.emit(
        "kafka_tasks",
        vars(chosen),
        results,
        run_ratios=trials.ratios(trials.best(results, "run_per_s")),
        submit_ratios=trials.ratios(trials.best(results, "submitted_per_s")),
    )


if __name__ == "__main__":
    main()
