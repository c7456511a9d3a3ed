"""What `make test` leaves to `make test-all`.

`make test` proves every capability once with its real component. What it leaves, more versions,
faults and points to crash at, is marked `matrix` and runs in `make test-all` alone. A file that is
in neither list runs whole. tests/unit/test_tiers.py fails on a pattern that names no test.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

# Of these files `make test` takes the named tests alone. Of the agent only the newest line: each
# other line is an environment to install first.
ONCE: Mapping[str, tuple[str, ...]] = {
    "e2e/test_lab.py": ("*pid_1*", "*installed_as_documented", "*kernel_mounts_nfs"),
    "e2e/test_mount.py": ("*a_put_mounts*", "*without_its_share*"),
    "e2e/test_real_agent.py": (
        "*from_an_empty_folder*26.8*",
        "*killed*both-26.8*",
        "*etcd_refuses*26.8*",
        "*occupied_port*6001-26.8*",
        "*bad_key*node1*",
    ),
    # By pip with an agent of the tests' own: integration/test_agent_environment.py
    "e2e/test_real_agent_environment.py": (),
    "e2e/test_real_agent_rollback.py": ("*poisonous*26.8*",),
    "e2e/test_real_agent_sessions.py": (
        "*run_by_hand*26.8*",
        "*outlive*26.8*",
        "*each_change*26.8*",
    ),
    "e2e/test_real_agent_unit.py": (
        "*from_nothing*26.8*",
        "*killed*26.8-both*",
        "*each_way*26.8-etcd*",
    ),
    "e2e/test_real_agent_unit_environment.py": (),
    "integration/test_crashes.py": ("*a changed key*",),
    "integration/test_schema_faults.py": ("*26.8*",),
    "walk/test_walk.py": ("*single*",),
}
# Of these it takes all but the named ones.
BEYOND: Mapping[str, tuple[str, ...]] = {
    "hostile/test_addresses.py": ("*container_that_starts*",),
    "hostile/test_validator.py": ("*what_never_ends*",),
    "integration/test_agent_environment.py": (
        "*killed_after_every_action*",
        "*cannot_be_built*",
    ),
    "integration/test_agent_unit.py": ("*dies_after_any_action*0?", "*dies_after_any_action*2?"),
    "integration/test_daemon.py": (
        "*[[]files*",  # test_file_store.py, test_readme.py
        "*another_node_with_this_id*",  # hostile/test_own_files.py
    ),
    "integration/test_daemon_faults.py": ("*frozen_member*",),  # the walk
    "integration/test_swarm.py": (
        "*killed_after_any_action*inactive*",
        "*goes_on_in_the_background*",
        "*fails_in_the_background*",
        "*rotated_token_keeps*",
        "*frozen_in_the_middle*",
    ),
}


def is_matrix(path: str, name: str) -> bool:
    """Whether a test, by its file's path and its name with parameters, is for `test-all` alone."""
    for file, once in ONCE.items():
        if path.endswith(f"/tests/{file}"):
            return not _names(once, name)
    return any(path.endswith(f"/tests/{file}") and _names(BEYOND[file], name) for file in BEYOND)


def _names(patterns: tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
