from __future__ import annotations

import json

from bai_nodeagent.system.journald import ended, written

OLD, NEW = "f80c014612704c819e050914a733097f", "4fabce3e8d3849969696fb436f30edab"


def by_unit(message: str | list[int] | None, invocation_id: str | None) -> dict[str, object]:
    its = {"_SYSTEMD_INVOCATION_ID": invocation_id} if invocation_id else {}
    return {"MESSAGE": message, **its}


def by_systemd(message: str, invocation_id: str) -> dict[str, object]:
    return {"MESSAGE": message, "UNIT": "b.service", "INVOCATION_ID": invocation_id}


def newest_first(*entries: dict[str, object]) -> str:
    return "\n".join(json.dumps(entry) for entry in reversed(entries))


def test_lines_of_an_earlier_invocation_are_left_out() -> None:
    journal = newest_first(by_unit("old", OLD), by_unit("new 1", NEW), by_unit("new 2", NEW))
    assert written(journal, NEW) == ["new 1", "new 2"]


def test_lines_without_an_invocation_belong_to_the_next_newer_one() -> None:
    # As systemd 252 left it, of a process that died at once, twice.
    journal = newest_first(
        by_systemd("Starting b.service...", OLD),
        by_unit("old", None),
        by_systemd("b.service: Failed with result 'exit-code'.", OLD),
        by_systemd("Starting b.service...", NEW),
        by_systemd("b.service: Main process exited, code=exited, status=3", NEW),
        by_unit("line 1", None),
        by_unit("line 2", None),
        by_systemd("b.service: Failed with result 'exit-code'.", NEW),
    )
    assert written(journal, NEW) == ["line 1", "line 2"]


def test_systemds_own_words_are_not_the_units() -> None:
    journal = newest_first(by_unit("its own", NEW), by_systemd("Failed to start b.service.", NEW))
    assert written(journal, NEW) == ["its own"]


def test_a_late_mark_of_the_earlier_invocation_hides_nothing() -> None:
    journal = newest_first(
        by_unit("new", NEW),
        by_systemd("Stopping b.service...", OLD),
        by_systemd("Starting b.service...", NEW),
    )
    assert written(journal, NEW) == ["new"]


def test_only_a_newline_ends_an_entry() -> None:
    entry = {"MESSAGE": "one\u2028two", "_SYSTEMD_INVOCATION_ID": "second"}
    assert written(json.dumps(entry, ensure_ascii=False) + "\n", "second") == ["one\u2028two"]


def test_nothing_is_there_yet_of_the_last_invocation() -> None:
    assert written(newest_first(by_unit("old", OLD)), NEW) == []
    assert written("", NEW) == []


def test_bytes_that_are_no_text_and_lines_that_are_too_long() -> None:
    journal = newest_first(by_unit([0x61, 0x1B, 0xFF], NEW), by_unit(None, NEW))
    assert written(journal, NEW) == ["a\x1b�", ""]


def test_a_field_that_is_given_twice_is_both() -> None:
    entry = {"MESSAGE": ["one", [255, 116], None], "_SYSTEMD_INVOCATION_ID": "second"}
    assert written(json.dumps(entry) + "\n", "second") == ["one\n\ufffdt\n"]


def test_only_systemds_last_message_on_a_run_ends_it() -> None:
    success = "7ad2d189f7e94e70a38c781354912448"
    mark = {**by_systemd("b.service: Deactivated successfully.", NEW), "MESSAGE_ID": success}
    exited = {
        **by_systemd("b.service: Main process exited, code=exited, status=1", NEW),
        "MESSAGE_ID": "98e322203f7a4ed290d09fe03c09fe15",
    }
    assert ended(newest_first(by_unit("last words", NEW), mark), NEW)
    assert not ended(newest_first(mark), OLD)
    assert not ended(newest_first(exited, by_unit("first words", NEW)), NEW)
