"""The kinds of build, a file each with the same two functions (see `tasks/build/base.py`)."""
