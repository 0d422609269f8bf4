"""The operator's installation: PostgreSQL, a Prefect server, a worker and the upkeep loop, as children of one process.

installation.py  `up`: starts everything in order, says what runs, stops it in the opposite order
supervise.py     a component, started, watched, restarted, stopped
database.py      the embedded PostgreSQL: where it lives, how it is made, who may talk to it
settings.py      the environments of the children: every Prefect setting that we change, as tables
secrets.py       passwords and keys, generated once, mode 0600
leftovers.py     what an `up` that was killed left behind, and how the next one ends it
register.py      (a process of its own) block, work pool and deployments, told to the server
upkeep.py        (a process of its own) the loop that resumes runs whose driver died
"""
