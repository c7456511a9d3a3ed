"""What the agent that reads agent.toml makes of it, asked of the agent itself.

Where it can't be asked, be it a source checkout, not installed yet or run by
an account that nobody knows, the rules in `schema_faults` guess, and say so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .... import toml
from ....desired.places import walk
from ....desired.secrecy import is_secret_place
from ....errors import Refused, Stuck, Unavailable
from ....model import Host
from ....redact import is_too_much
from ....system.blocking import in_thread
from ..environment import environments
from ..environment.rules import target
from ..given import NOT_SHOWN
from ..spec import AgentSpec
from . import release, schema_faults, validator
from .release import Release
from .schema_faults import NOBODY, Opinion
from .validator import Answer

RELEASE_DEADLINE_S = 5.0
ANSWER_DEADLINE_S = validator.DEADLINE_S + RELEASE_DEADLINE_S
# Two releases to be found, and two texts of which each may be asked.
DEADLINE_S = 2 * RELEASE_DEADLINE_S + 3 * ANSWER_DEADLINE_S


@dataclass(frozen=True, slots=True)
class Readers:
    """The agents that read the file: the installed one, and the one that is to come after it.

    coming   the same where nobody asks for another; None: it is not installed yet
    wanted   the version that its environment is to hold; "": nobody says
    """

    now: Release | None = None
    coming: Release | None = None
    wanted: str = ""

    @property
    def version(self) -> str:
        """ "": not known."""
        return self.now.version if self.now else ""


async def readers(spec: AgentSpec, command: Sequence[str], asker: str) -> Readers:
    """Raises Stuck. `asker` keeps concurrent callers apart."""
    now = await _release(f"{asker}: the agent's version", command)
    wanted = spec.install.agent_version if spec.install else ""
    is_same = wanted in ("", now.version if now else "")
    return Readers(now, now if is_same else await _coming(spec, asker), wanted)


async def _release(what: str, command: Sequence[str]) -> Release | None:
    return await in_thread(what, lambda: release.find(command), RELEASE_DEADLINE_S)


async def _coming(spec: AgentSpec, asker: str) -> Release | None:
    """The one in the environment that the agent is to run in, once that is built."""
    if spec.install is None:
        return None
    with contextlib.suppress(Refused, Unavailable, Stuck):
        wanted = target(spec.install, await environments.observe(spec.install.path, asker))
        python = environments.folder_of(spec.install.path) / wanted.name / "bin/python"
        if wanted.is_ready:
            return await _release(f"{asker}: the coming version", [str(python)])
    return None


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks for one resource.

    user  whom the agent runs as; None is this daemon's account, "" somebody who is not known
    """

    spec: AgentSpec
    host: Host
    name: str
    user: str | None

    async def opinions(
        self, readers: Readers, texts: Iterable[str]
    ) -> dict[tuple[str, str], Opinion]:
        """By version and text: of each text, until the coming version takes one; and the
        installed one's of that."""
        opinions_found: dict[tuple[str, str], Opinion] = {}
        coming = readers.wanted or readers.version
        for text in texts:
            opinions_found[coming, text] = await self._of(coming, readers.coming, text)
            if opinions_found[coming, text].faults:
                continue
            if readers.version not in ("", coming):
                opinions_found[readers.version, text] = await self._of(
                    readers.version, readers.now, text
                )
            break
        return opinions_found

    async def _of(self, version: str, release: Release | None, text: str) -> Opinion:
        if release is None or release.version != version or self.user == "":
            return schema_faults.opinion(version, text, NOBODY)
        found = frozenset(_secrets_in(text))
        answer = await self._asked(release, text)
        shown = tuple(NOT_SHOWN for _ in answer.why[:1])
        if not is_too_much(found):
            self.host.learn_passing(found)
            shown = tuple(self.host.redact(each) for each in answer.why)
        return schema_faults.opinion(version, text, replace(answer, why=shown))

    async def _asked(self, release: Release, text: str) -> Answer:
        # With systemd the environment is the unit's affair.
        env = self.spec.env if self.spec.supervisor == "child" else {}
        what = f"{self.name}: the validator of agent {release.version}"
        try:
            return await in_thread(
                what, lambda: validator.ask(release, self.user, env, text), ANSWER_DEADLINE_S
            )
        except Stuck as error:
            return Answer(None, (str(error),))


def _secrets_in(text: str) -> Iterator[str]:
    """What looks like a secret in a valid agent.toml, whoever wrote it."""
    for place, value in walk(toml.loads(text)):
        if isinstance(value, str) and is_secret_place(place):
            yield value
