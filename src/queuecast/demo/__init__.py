"""`queuecast demo`: five queues with handlers on real input, and the page that shows them.

`app.py` is a program as a user would write it; the modules beside it do its work and know nothing of queuecast.
"""
