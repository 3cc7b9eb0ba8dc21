"""The promises, kept by real processes: killed, drained, crowded, short of disk, and watched by a real browser.

`processes` starts and kills them, `client` speaks to them over plain sockets, `checker` judges what was seen,
`workload` is the application they run. SOAK_SECONDS=600 makes the tests that kill go on for so long.
"""
