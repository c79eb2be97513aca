"""What a rank imports."""

import subprocess
import sys

LOADED = """
import sys
{statement}
print("sklearn" in sys.modules)
import sklearn
"""


def loaded_after(statement: str) -> str:
    program = (sys.executable, "-c", LOADED.format(statement=statement))
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout.strip()


def test_tensorflow_comes_without_what_no_rank_needs_and_who_needs_it_can_import_it():
    assert loaded_after("from trainers.lean_imports import import_tensorflow; import_tensorflow()") == "False"
    # The test can fail: Keras still imports it by itself.
    assert loaded_after("import keras") == "True"
