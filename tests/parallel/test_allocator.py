"""The allocator keeps its memory where glibc is, in a process of its own."""

import subprocess
import sys

CODE = """
import resource, sys
import numpy as np
if sys.argv[1] == "kept":
    from fmzoo.parallel.allocator import keep_heap
    assert keep_heap()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**22)
before = faults()
for _ in range(10):
    np.ones(2**22)  # 32 MiB
print(faults() - before)
"""


def faults(how):
    out = subprocess.run([sys.executable, "-c", CODE, how], check=True, capture_output=True, text=True).stdout
    return int(out)


def test_memory_taken_again_faults_no_more():
    assert faults("kept") < 0.1 * faults("not kept")
