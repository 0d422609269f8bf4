"""Reports that other tools wrote, read into rows: what goes in is hostile until read, what comes out is accounted for.

find.py     paths, folders, globs and `-` become sources
read.py     sources become batches of rows, in child processes that may die without harm (pool.py, child.py)
detect.py   which kind a file is, by its content
junit.py, gtest_json.py, reportlog.py, dynamo_csv.py, benchmark_v3.py    the kinds, each with what base.py asks for
stamp.py    rows become the columns of a segment
"""

from tasks.collect.readers.base import Issue, Limits, Reading
from tasks.collect.readers.find import Source, find
from tasks.collect.readers.read import Batch, read

__all__ = ["Batch", "Issue", "Limits", "Reading", "Source", "find", "read"]
