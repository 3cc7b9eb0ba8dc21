"""What it takes to run a Kafka by the machine's Java: its jars, its settings, its data."""

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
node.id={node}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXY:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}/data
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.num.partitions=1
offsets.topic.replication.factor={replicas}
transaction.state.log.replication.factor={replicas}
share.coordinator.state.topic.replication.factor={replicas}
default.replication.factor={replicas}
min.insync.replicas={insync}
transaction.state.log.min.isr={insync}
share.coordinator.state.topic.min.isr={insync}
group.share.max.record.lock.duration.ms=3600000
# Its default of 128 MiB is taken from the heap at start.
log.cleaner.dedupe.buffer.size=4194304
"""

DATED = ("-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS")
"""What it logs, with the time of day: to be laid beside what its clients log."""

JAVA = ("java", "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", *DATED)

BRIEF = "-XX:TieredStopAtLevel=1"
"""For what runs a minute only: it starts with half the work, and never gets as fast as it might."""


def libs_in(folder):
    """Where its jars are, under a folder."""
    return folder / f"libs-{VERSION}"


def fetch(libs):
    """Its jars, 43 MB. Raises NotThere without Java or Maven."""
    install.maven_jars(POM, libs)


def prepare(folder, libs, port, controller):
    """The command that runs a node alone, whose folder this makes ready. Raises NotThere, see `format_data`."""
    lines = [
        f"controller.quorum.bootstrap.servers=127.0.0.1:{controller}",
        f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        f"advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
    ]
    settings = write_settings(folder, lines)
    format_data(libs, settings, "--standalone")
    return command(libs, settings)


def write_settings(folder, lines, node=1, replicas=1):
    """The file of a node's settings; `lines` are those that are its own."""
    settings = folder / "server.properties"
    common = PROPERTIES.format(folder=folder, node=node, replicas=replicas, insync=replicas // 2 + 1)
    settings.write_text(common + "".join(f"{line}\n" for line in lines))
    return settings


def format_data(libs, settings, *options):
    """The first time. Raises NotThere with what the formatting said."""
    tool = ("kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", settings, "--ignore-formatted", *options)
    done = subprocess.run(_java(libs, BRIEF, *tool), capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotThere(f"Kafka cannot format its data, with {settings}: {done.stdout}{done.stderr}")


def command(libs, settings, *options):
    """How to run the node that has these settings, with these options of Java."""
    return _java(libs, *options, "kafka.Kafka", settings)


def _java(libs, *arguments):
    return [*JAVA, "-cp", f"{libs}/*", *map(str, arguments)]
