"""What may not get into the repository, in whichever file."""

from __future__ import annotations

import re

import pytest

from tests.architecture.sources import REPOSITORY, repository_files

# The brackets keep the patterns from finding themselves.
FORBIDDEN = {
    # A site's own mirror or proxy decides where packages come from.
    "a package registry's host": r"pypi[.]org|pythonhosted[.]org|anaconda[.](org|com)|prefix[.]dev|download[.]pytorch",
    "where pip or uv is to look": r"--(extra-)?index-url[ =]|--find-links[ =]|--default-index[ =]",
    "a path of somebody's machine": r"(?<![\w.}])/(root|work|Users)/\w",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what):
    found = [
        f"{path}:{number} {line.strip()[:80]}"
        for path in repository_files()
        for number, line in enumerate(_lines(path), start=1)
        if re.search(FORBIDDEN[what], line)
    ]

    assert not found, f"{what} is named in {', '.join(found)}"


def _lines(path) -> list[str]:
    return (REPOSITORY / path).read_text(errors="replace").splitlines()
