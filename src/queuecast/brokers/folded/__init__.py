"""What brokers with a server share: tasks in the server's queues, events in its logs, and the fold made by each reader.

A server can neither fold events nor write a task and its event in one transaction. So its driver only has to repeat
rather than lose (`driver`), and what it repeats is made right here: `broker` keeps the contract, `projection` folds.
"""
