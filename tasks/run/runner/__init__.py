"""The runner: executes units, watches them, spools what they gave.

It travels to machines as one zipapp, so it stands alone: standard library only, Python 3.9 and newer, no import of
ours, no key and no network. `serve` answers requests on a pipe; each lease has a process of its own that outlives
whoever asked for it.

    serve ─ operations ─┬─ leases ─ parts ─ spool          what lies on disk for each lease
                        ├─ claims                          whose leases may still be started
                        ├─ unpack, discover, fingerprint   what a machine does before any lease
                        └─(starts)─► execute ─ attempts ─┬─ company ─ gtest, pytest_kind
                                                         └─ single ─ benchmark, command
    process (one process, watched) ─ posix (all that is asked of the kernel), sandbox, workplace, output
    folders (those that two of us could want at the same time)
"""
