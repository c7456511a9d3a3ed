"""What `make test` leaves to `make test-all`.

`make test` proves every capability once with its real component. Of the files below it takes the
tests named here; all others in them, more versions, faults and points to crash at, are marked
`matrix` and run in `make test-all` alone. A file that isn't here runs whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

ONCE: Mapping[str, tuple[str, ...]] = {
    "e2e/test_lab.py": ("*pid_1*", "*installed_as_documented", "*kernel_mounts_nfs"),
    "e2e/test_mount.py": ("*a_put_mounts*", "*without_its_share*"),
    "e2e/test_real_agent.py": (
        "*from_an_empty_folder*26.8*",
        "*killed*both-26.8*",
        "*etcd_refuses*26.8*",
        "*taken_port*6001-26.8*",
        "*bad_key*node0*",
    ),
    # By pip with an agent of the tests' own: integration/test_agent_environment.py
    "e2e/test_real_agent_environment.py": (),
    "e2e/test_real_agent_rollback.py": ("*poisonous*26.8*",),
    "e2e/test_real_agent_sessions.py": (
        "*run_by_hand*26.8*",
        "*outlive*",  # up to 25.9 a stop ends batch sessions: both lines
        "*each_change*26.8*",
    ),
    "e2e/test_real_agent_unit.py": (
        "*from_nothing*26.8*",
        "*killed*26.8-both*",
        "*each_way*26.8-etcd*",
        "*sessions_outlive*26.8*",
    ),
    "e2e/test_real_agent_unit_environment.py": (),
    "integration/test_crashes.py": ("*a first document*", "*a changed key*", "*a dead agent*"),
    "integration/test_dialect.py": ("*26.8*",),
    "walk/test_walk.py": ("*single*",),
}


def is_matrix(path: str, name: str) -> bool:
    """Whether a test, by its file's path and its name with parameters, is for `test-all` alone."""
    for file, once in ONCE.items():
        if path.endswith(f"/tests/{file}"):
            return not any(fnmatchcase(name, pattern) for pattern in once)
    return False
