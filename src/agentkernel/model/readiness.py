"""What a driver can do, and whether it can do it here."""

from __future__ import annotations

from dataclasses import dataclass

from agentkernel.model.kinds import Feature, Isolation, Vmm


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Declared facts about every sandbox of a driver. What is not in `features` is refused as Unsupported."""

    features: frozenset[Feature]

    def __contains__(self, feature: Feature) -> bool:
        return feature in self.features


@dataclass(frozen=True, slots=True)
class About:
    """What a reader should know of a driver beside its features, each in one line without a full stop. `doctor` and
    the reference print it; it stands nowhere else.

    Attributes:
        makes: what a sandbox is.
        tiers: that its sandboxes can have, strongest first; which one, a probe finds.
        needs: of the host, and who brings it.
        tested: what the tests of this project run it against, and what they never met.
        lacks: what it cannot, beside features that it does not declare.
    """

    makes: str
    tiers: tuple[Isolation, ...]
    needs: str
    tested: str
    lacks: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """The verdict of a probe that really tried.

    Attributes:
        isolation: the tier that sandboxes of this driver have on this host; None when not usable.
        reason: one line: why it is not usable, or what a user should know of how it is.
        remedy: one line: what to do about it; empty when nothing.
        version: of the program behind the driver.
    """

    usable: bool
    isolation: Isolation | None = None
    vmm: Vmm | None = None
    reason: str = ""
    remedy: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """What a guest said of itself in its greeting; hostile until proved otherwise.

    Attributes:
        features: names from guest/PROTOCOL.md 3.
        facts: `arch kernel boot_id pid1 transport agent memory_kib`, whichever it sent.
    """

    features: frozenset[str]
    facts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a sandbox is; no two have the same. The entropy and the clock are added when it is sent."""

    hostname: str
    machine_id: bytes
