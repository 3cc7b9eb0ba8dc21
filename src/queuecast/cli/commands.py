"""What can be typed: every command with its options. The docstrings are the help texts.

Each command imports what it needs when it runs, so that `queuecast --help` is quick.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from typer import Argument, Option

from ..errors import ConfigurationError
from .exits import EXITS_IN_WORDS

if TYPE_CHECKING:
    from ..settings import Settings

commands: Final = typer.Typer(
    # Plain help: Rich would make every `--help` take twice as long.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Options that several commands share. What a command leaves None comes from environment, file or default.
Target = Annotated[str, Argument(metavar="MODULE:QC", help="The application: a module and the name of its Queuecast.")]
Broker = Annotated[str | None, Option(help="The broker's URL; beats the one that the program names.")]
Host = Annotated[str | None, Option(help="The address to listen on.  [default: 127.0.0.1]")]
Port = Annotated[int | None, Option(help="The port to listen on.  [default: 8765]")]
Workers = Annotated[int | None, Option(help="Gateway processes that share the port.  [default: 1]")]
Insecure = Annotated[bool | None, Option("--insecure", help="Listen beyond this machine without a login.")]
Queues = Annotated[list[str] | None, Option("--queue", help="Serve only this queue; may be repeated.")]
Concurrency = Annotated[int | None, Option(help="Tasks of one queue to run at once.  [default: 20]")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"] | None, Option(help="What to say on stderr.  [default: info]")
]
Url = Annotated[str | None, Option(help="The gateway.  [default: http://127.0.0.1:8765]")]
Json = Annotated[bool, Option("--json", help="Print JSON, one value a line.")]
Timeout = Annotated[float | None, Option(min=0.001, help="Seconds to watch; then the exit code is 6.")]
QueueName = Annotated[str, Argument(metavar="QUEUE", help="The queue's name.")]


def show_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        print(f"queuecast {__version__}")
        raise typer.Exit


@commands.callback(epilog=EXITS_IN_WORDS)
def queuecast(
    version: Annotated[
        bool, Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Tasks on named queues, and every client of a queue sees their progress and results at once.

    \b
    queuecast demo                                   see it work, with nothing to set up
    queuecast run shop:qc                            serve the application `qc` of shop.py
    queuecast submit reports render --arg id=7 --watch
    queuecast watch reports                          follow everything that happens on a queue

    An option may also be given as a variable (QUEUECAST_PORT) or as a key of queuecast.toml or of [tool.queuecast] in
    pyproject.toml (port). A flag beats the variable, the variable beats the file.
    """


# Serving


@commands.command()
def demo(
    folder: Annotated[Path, Option(help="Where its database, samples and results live.")] = Path("queuecast-demo"),
    *,
    broker: Annotated[str | None, Option(help="The URL of a broker, instead of the database.")] = None,
    host: Host = None,
    port: Port = None,
    insecure: Insecure = None,
    log_level: LogLevel = None,
) -> None:
    """Show it at work, with nothing to set up.

    Five queues with handlers on real files, and a page that submits to them and follows them.
    """
    settings = _serving(host=host, port=port, insecure=insecure, log_level=log_level)
    os.environ["QUEUECAST_DEMO_FOLDER"] = str(folder.absolute())
    from ..demo import samples
    from ..demo.app import qc
    from .serving import refuse_exposure, run_demo, worker_child
    from .working import run_in_loop

    if broker is not None:
        qc.use(broker)
    refuse_exposure(qc, settings)
    samples.prepare()
    run_in_loop(run_demo(qc, settings, worker_child("queuecast.demo.app:qc", settings, broker)))


@commands.command()
def run(
    target: Target,
    *,
    broker: Broker = None,
    host: Host = None,
    port: Port = None,
    workers: Workers = None,
    queue: Queues = None,
    concurrency: Concurrency = None,
    insecure: Insecure = None,
    log_level: LogLevel = None,
) -> None:
    """Serve an application: gateway and worker.

    The worker is a process of its own, so that no handler can hold up a stream; it is started again when it dies. With
    --workers so is each of the gateway's processes; there is one that runs tasks as before.

    SIGTERM and Ctrl-C stop all gracefully: streams are sent away, running tasks finish or are given back. The
    exit code is 0 then; a second signal stops them at once.
    """
    settings = _serving(
        broker=broker,
        host=host,
        port=port,
        workers=workers,
        queue=queue,
        concurrency=concurrency,
        insecure=insecure,
        log_level=log_level,
    )
    from . import serving
    from .loading import app_of
    from .working import run_in_loop

    app = app_of(target, settings, broker)
    serving.refuse_exposure(app, settings)
    worker = serving.worker_child(target, settings, broker)
    if settings.workers == 1:
        run_in_loop(serving.run(app, settings, worker))
    else:
        from .several import serve_in_several

        run_in_loop(serve_in_several(app, settings, serving.gateway_arguments(target, settings, broker), [worker]))


@commands.command()
def gateway(
    target: Annotated[
        str | None, Argument(metavar="MODULE:QC", help="The application, where its login is wanted.")
    ] = None,
    *,
    broker: Broker = None,
    host: Host = None,
    port: Port = None,
    workers: Workers = None,
    insecure: Insecure = None,
    log_level: LogLevel = None,
    fd: Annotated[list[int] | None, Option(hidden=True)] = None,
    parent: Annotated[int | None, Option(hidden=True)] = None,
) -> None:
    """Serve HTTP only: submit, status and streams.

    Without an application the gateway knows the queues from the broker and from what workers announce. With --workers
    several processes accept connections on one port; one that dies is started again.

    SIGTERM and Ctrl-C send the streams away, and then end. A second signal ends at once.
    """
    settings = _serving(broker=broker, host=host, port=port, workers=workers, insecure=insecure, log_level=log_level)
    from . import serving
    from .loading import app_of
    from .working import end_with, run_in_loop

    if parent is not None:
        end_with(parent)
    app = app_of(target, settings, broker)
    serving.refuse_exposure(app, settings)
    if fd:
        run_in_loop(serving.serve_shared(app, settings, fd))
    elif settings.workers == 1:
        run_in_loop(serving.serve_gateway(app, app.gateway, settings, lambda _: None))
    else:
        from .several import serve_in_several

        run_in_loop(serve_in_several(app, settings, serving.gateway_arguments(target, settings, broker)))


@commands.command()
def worker(
    target: Target,
    *,
    broker: Broker = None,
    queue: Queues = None,
    concurrency: Concurrency = None,
    log_level: LogLevel = None,
    parent: Annotated[int | None, Option(hidden=True)] = None,
) -> None:
    """Run tasks only: the handlers of an application.

    SIGTERM and Ctrl-C let running tasks finish, and give back those that take too long. A second signal ends at once.
    """
    settings = _serving(broker=broker, queue=queue, concurrency=concurrency, log_level=log_level)
    from . import working
    from .loading import app_of

    if parent is not None:
        working.end_with(parent)
    app = app_of(target, settings, broker)
    working.run_in_loop(working.work(app, settings.queue, settings.concurrency))


# Data


@commands.command(epilog=EXITS_IN_WORDS)
def submit(
    queue: QueueName,
    name: Annotated[str, Argument(metavar="NAME", help="The task's name: that of its handler.")],
    *,
    arg: Annotated[
        list[str] | None, Option(metavar="KEY=VALUE", help="One argument: JSON where it is JSON, else text.")
    ] = None,
    args: Annotated[
        str | None, Option(metavar="JSON", help="All arguments as a JSON object; - reads it from stdin.")
    ] = None,
    option: Annotated[
        list[str] | None,
        Option(metavar="KEY=VALUE", help="delay, timeout, retries, not_before, expires_at, idempotency_key, owner, …"),
    ] = None,
    watch: Annotated[bool, Option("--watch", help="Follow the task to its end.")] = False,
    timeout: Timeout = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Submit a task, and print its id.

    With --watch its outputs are printed as they come and then its result as JSON, on stdout; everything else goes to
    stderr, and the exit code is the outcome. Ctrl-C leaves the task running.
    """
    from . import data
    from .follow import follow_task
    from .http import RemoteGateway

    if timeout is not None and not watch:
        raise ConfigurationError("--timeout ends --watch; a task's own is --option timeout=SECONDS")
    submission = data.submission(name, arg or [], args, option or [])
    gateway = RemoteGateway(_settings(url=url).url)
    accepted = data.submit(gateway, queue, submission, json=json, watch=watch)
    if watch:
        raise typer.Exit(follow_task(gateway, queue, accepted["id"], json=json, timeout=timeout, after=None))


@commands.command(epilog=EXITS_IN_WORDS)
def watch(
    queue: QueueName,
    *,
    task: Annotated[
        str | None, Option(metavar="ID", help="Follow this task to its end; the exit code is its outcome.")
    ] = None,
    after: Annotated[str | None, Option(metavar="CURSOR", help="Where to start: a cursor, `first` or `last`.")] = None,
    timeout: Timeout = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Follow a queue, or one task to its end.

    Nothing is missed or repeated when the connection is lost.
    """
    from .follow import follow_queue, follow_task
    from .http import RemoteGateway

    gateway = RemoteGateway(_settings(url=url).url)
    if task is None:
        follow_queue(gateway, queue, json=json, timeout=timeout, after=after)
    raise typer.Exit(follow_task(gateway, queue, task, json=json, timeout=timeout, after=after))


@commands.command()
def queues(json: Json = False, url: Url = None) -> None:
    """List the queues with how many tasks are in each state."""
    from . import data
    from .http import RemoteGateway

    data.queues(RemoteGateway(_settings(url=url).url), json=json)


@commands.command()
def tasks(
    queue: QueueName,
    id: Annotated[str | None, Argument(metavar="ID", help="Show this task.")] = None,
    *,
    cancel: Annotated[str | None, Option(metavar="ID", help="Cancel this task.")] = None,
    state: Annotated[str | None, Option(help="Only tasks in this state.")] = None,
    limit: Annotated[int, Option(min=1, help="How many, the newest first.")] = 100,
    json: Json = False,
    url: Url = None,
) -> None:
    """List a queue's tasks, show one, or cancel one."""
    from . import data
    from .http import RemoteGateway

    if id is not None and cancel is not None:
        raise typer.BadParameter("show a task or cancel one, not both")
    gateway = RemoteGateway(_settings(url=url).url)
    if cancel is not None:
        data.cancel(gateway, queue, cancel, json=json)
    elif id is not None:
        data.task(gateway, queue, id, json=json)
    else:
        data.tasks(gateway, queue, state, limit, json=json)


@commands.command()
def dead(
    queue: QueueName,
    *,
    requeue: Annotated[str | None, Option(metavar="ID", help="Submit this dead letter again, as a new task.")] = None,
    requeue_all: Annotated[bool, Option("--requeue-all", help="Submit all of them again.")] = False,
    limit: Annotated[int, Option(min=1, help="How many, the newest first.")] = 100,
    json: Json = False,
    url: Url = None,
) -> None:
    """List a queue's dead letters, or submit them again.

    Dead letters are tasks that failed for good. A dead letter that is requeued twice is one new task.
    """
    from . import data
    from .http import RemoteGateway

    gateway = RemoteGateway(_settings(url=url).url)
    if requeue_all:
        data.requeue_all(gateway, queue, json=json)
    elif requeue is not None:
        data.requeue(gateway, queue, requeue, json=json)
    else:
        data.dead(gateway, queue, limit, json=json)


def _serving(**flags: Any) -> Settings:
    """The settings of a command that serves, with its log on stderr."""
    settings = _settings(**flags)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    if settings.log_level == "info":
        # What they have to say of starting and stopping, and of every channel, we say ourselves.
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        logging.getLogger("pika").setLevel(logging.CRITICAL)  # six lines for each connection that fails
    return settings


def _settings(**flags: Any) -> Settings:
    from ..settings import load_settings

    return load_settings(flags)
