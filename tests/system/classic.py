"""The programs of examples/classic as they are, on a RabbitMQ, and a plain program of the tests' own."""

from contextlib import suppress
from pathlib import Path

import pika
import pika.exceptions

from .processes import Machine

EXAMPLES = Path(__file__).parents[2] / "examples" / "classic"

QUEUES = ("task_queue", "orders")
"""Of the examples, and of `foreign`."""

SECONDS = 20
"""A failure bound for an answer."""

PREFETCH = 100


class Classic(Machine):
    """A machine with plain programs on it, which share a RabbitMQ with ours."""

    def __init__(self, folder, broker):
        super().__init__(folder, broker)
        self.gate = folder / "gate"

    @property
    def variables(self):
        return super().variables | {"AMQP_URL": self.broker, "GATE": str(self.gate)}

    def server(self, port, program="server"):
        uvicorn = ("uvicorn", f"{program}:app", "--port", port, "--http", "queuecast.gateway.server:StreamProtocol")
        return self.start(program, *uvicorn, ready="Uvicorn running on", folder=EXAMPLES)

    def shop(self, port):
        """Gateway and worker."""
        return self.start("shop", "queuecast", "run", "shop:qc", "--port", port, ready="is ready", folder=EXAMPLES)

    def plain(self, program, *arguments):
        return self.start(program, program, *arguments, folder=EXAMPLES)


class Plain:
    """A plain program in the test itself, with a reply queue of its own."""

    def __init__(self, url):
        parameters = pika.URLParameters(url)
        self.user = parameters.credentials.username
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()
        self.replies = self._channel.queue_declare("", exclusive=True).method.queue
        # One consumer for all of them: a cancelled one would lose what it was handed already.
        self._answers = self._channel.consume(self.replies, auto_ack=True, inactivity_timeout=SECONDS)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with suppress(pika.exceptions.AMQPError):
            self._connection.close()

    def publish(self, queue, body, **properties):
        self._channel.basic_publish("", queue, body, pika.BasicProperties(**properties), mandatory=True)

    def answer(self):
        """The next one: its properties and its body."""
        _, properties, body = next(self._answers)
        assert body is not None, "no answer came"
        return properties, body

    def waiting(self, queue):
        """How many messages wait for a consumer."""
        return self._channel.queue_declare(queue, passive=True).method.message_count

    def dead_letter(self, id):
        """What the dead letters hold of this task."""
        channel = self._connection.channel()
        channel.basic_qos(prefetch_count=PREFETCH)
        entries = channel.consume("_qc.dead", arguments={"x-stream-offset": "first"}, inactivity_timeout=SECONDS)
        for method, _, body in entries:
            assert body is not None, f"{id} is not among the dead letters"
            channel.basic_ack(method.delivery_tag)
            for line in body.splitlines():
                if id.encode() in line:
                    channel.close()
                    return line.decode()
        raise AssertionError("the dead letters are gone")
