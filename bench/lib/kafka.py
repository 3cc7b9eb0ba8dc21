"""What benchmarks have made on a Kafka that is running goes again."""

from confluent_kafka.admin import AdminClient


def delete(address: str, *topics: str) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    for deleted in admin.delete_topics([*topics]).values():
        deleted.result()
