"""A Kafka of one node, run from its jars by the machine's Java."""

import subprocess

from . import install
from .waiting import NotThere

VERSION = "4.4.0"

POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId>
  <artifactId>kafka-run</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""

CLUSTER = "cXVldWVjYXN0LWxvY2FsLQ"
"""The name of the cluster: 16 bytes in base 64, as Kafka wants it."""

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}/data
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.share.max.record.lock.duration.ms=3600000
# Its default of 128 MiB is taken from the heap at start.
log.cleaner.dedupe.buffer.size=4194304
"""

JAVA = ("java", "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC")


def fetch(folder):
    """Its jars, 43 MB. Raises NotThere without Java or Maven."""
    install.maven_jars(POM, _libs(folder))


def prepare(folder, port, controller):
    """Write its settings and, the first time, format its data. Raises NotThere with what the formatting said."""
    settings = _settings(folder)
    settings.write_text(PROPERTIES.format(folder=folder, port=port, controller=controller))
    format_data = ("kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(settings))
    command = [*_java(folder), *format_data, "--standalone", "--ignore-formatted"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotThere(f"Kafka cannot format {folder / 'data'}: {done.stdout}{done.stderr}")


def command(folder):
    """How to run the node whose folder is prepared."""
    return [*_java(folder), "kafka.Kafka", str(_settings(folder))]


def _java(folder):
    return [*JAVA, "-cp", f"{_libs(folder)}/*"]


def _libs(folder):
    return folder / f"libs-{VERSION}"


def _settings(folder):
    return folder / "server.properties"
