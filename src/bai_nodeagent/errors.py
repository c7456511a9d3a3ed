"""The errors that modules raise for each other. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from .text import clean_lines


class InvalidSpec(Exception):
    """A document is wrong; `mistakes` holds every one of them, as sentences."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__("; ".join(str(m) for m in mistakes))
        self.mistakes = mistakes


class Unavailable(Exception):
    """A component can't be reached now: try later. The text says what and where."""

    def __init__(self, text: str = "") -> None:
        super().__init__(clean_lines(text))  # it quotes paths and other programs


class Stuck(Exception):
    """A call has not come back and can't be taken back: ask no second time until it does."""

    def __init__(self, text: str = "") -> None:
        super().__init__(clean_lines(text))


class Overtaken(Exception):
    """Somebody else changed the node in the same moment: nothing was done; observe again."""


class Refused(Exception):
    """An action won't work until somebody changes something; `message` says what."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        self.message = clean_lines(message)
        super().__init__(self.message)


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One thing that is wrong with a document: LAYER: key.path: what; what is allowed."""

    layer: str
    key: str
    what: str

    def __str__(self) -> str:
        return (
            f"{self.layer}: {self.key}: {self.what}" if self.key else f"{self.layer}: {self.what}"
        )
