"""Which backend a request gets, or why none. A choice is honoured or refused, never replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from agentkernel.model.errors import Denied, Refused, Unsupported
from agentkernel.model.kinds import Backend, Feature, Isolation, Vmm
from agentkernel.model.readiness import Capabilities, Readiness
from agentkernel.model.spec import OWN_USER
from agentkernel.policy.config import Config
from agentkernel.policy.environment import check_command, checked_cwd, checked_user
from agentkernel.policy.images import checked_image

Choice = tuple[Backend, Vmm | None]
"""What one driver is known by."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One driver on this host.

    Attributes:
        readiness: None as long as nobody has tried it.
        runtimes: recipes that it can run; None for all.
        programs: patterns of the names of programs that it can run; None for whatever an image holds.
    """

    readiness: Readiness | None
    capabilities: Capabilities
    runtimes: frozenset[str] | None = None
    programs: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request says that matters for admission; empty is the default.

    Attributes:
        backend: None for `auto`.
        runtime: empty where `image` is not.
        command: None where no program is asked for (acquire, prewarm); empty for the image's own.
        needs: features without which the request makes no sense (`STDIN`, `FILES`).
    """

    runtime: str
    backend: Backend | None = Backend.MICROVM
    command: Sequence[str] | None = None
    vmm: Vmm | None = None
    minimum_isolation: Isolation | None = None
    cwd: str = ""
    user: str = ""
    image: str = ""
    profile: str = ""
    network: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)
    needs: frozenset[Feature] = frozenset()


@dataclass(frozen=True, slots=True)
class Admitted:
    """Go ahead, with this driver; `isolation` is the tier to name in the reply.

    Attributes:
        image: the image by name to run in place of a runtime; empty for none.
    """

    backend: Backend
    vmm: Vmm | None
    isolation: Isolation
    image: str = ""


_VMM_ORDER = [Vmm.FIRECRACKER, Vmm.QEMU]
"""Between monitors of one tier: the smaller one first."""


def admit(wish: Wish, offers: Mapping[Choice, Offer], config: Config) -> Admitted:
    """The driver for a request.

    Args:
        offers: every driver of this installation; those that come into question have been tried.

    Raises:
        Refused: the request is not well formed (empty command, `vmm` for what has none).
        Unsupported: it asks for what this version, this host or the chosen backend cannot do; reason and remedy are
        in it. Denied: the configuration forbids what it asks for.
    """
    _check(wish, config, may_omit_command=bool(wish.image))
    wish = replace(wish, image=wish.image or config.sandbox.image)
    if wish.vmm and wish.backend not in {None, Backend.MICROVM}:
        raise Refused(
            f"Invalid request: vmm {wish.vmm} with backend {wish.backend}",
            hint="Only microVMs have a vmm; leave it out.",
        )
    objections: list[Refused] = []
    for choice in _candidates(wish, offers, config):
        verdict = _judge(choice, offers, wish, config)
        if isinstance(verdict, Isolation):
            return Admitted(*choice, verdict, wish.image)
        objections.append(verdict)
    raise _verdict(wish, objections)


def admit_to(
    choice: Choice, wish: Wish, offers: Mapping[Choice, Offer], config: Config, *, image_name: str = ""
) -> None:
    """May this run in a sandbox that a driver has made already, of a lease? Its backend and runtime are what they are;
    all else of a request is honoured or refused as for a fresh sandbox.

    Args:
        image_name: the image by name that it was made from; empty for a runtime.

    Raises:
        Refused: as `admit`.
    """
    _check(wish, config, may_omit_command=bool(image_name))
    if wish.image not in {"", image_name}:
        raise Unsupported(
            f"Unsupported: this sandbox was made from {image_name or 'a runtime'}, not from {wish.image[:64]}",
            hint="Leave image out, or acquire another sandbox with it.",
        )
    if wish.vmm and wish.vmm is not choice[1]:
        raise Unsupported(
            f"Unsupported: this sandbox was made by {choice[1] or choice[0]}, not by {wish.vmm}",
            hint="Leave vmm out, or acquire another sandbox with it.",
        )
    anything = {known: replace(offer, runtimes=None) for known, offer in offers.items()}
    verdict = _judge(choice, anything, replace(wish, image=image_name), config)
    if not isinstance(verdict, Isolation):
        raise verdict


def _check(wish: Wish, config: Config, *, may_omit_command: bool) -> None:
    """Whether the request is well formed, and asks for nothing that no driver has yet."""
    if wish.command is not None and (wish.command or not may_omit_command):
        check_command(wish.command)
    checked_cwd(wish.cwd)
    checked_user(wish.user)
    checked_image(wish.image)
    _refuse_what_is_not_yet(wish, config)


def _refuse_what_is_not_yet(wish: Wish, config: Config) -> None:
    security = config.security
    effective = {
        "profile": (wish.profile or security.profile, "moderate"),
        "network": (wish.network or security.network, "none"),
        "limits": (" ".join(wish.limits), ""),
        "security.domains.allow": (" ".join(security.domains.allow), ""),
    }
    for name, (value, default) in effective.items():
        if value != default:
            what = f"Unsupported: {name} `{value[:64]}` is not part of this version"
            rule = f"only the default, `{default}`, is" if default else "leave it out"
            raise Unsupported(what, hint=f"For {name}, {rule}; look into the request and the configuration.")


def strength(choice: Choice, verdict: Readiness | None) -> tuple[int, int]:
    """Sorts drivers, strongest first; what nobody has tried last."""
    tiers = list(Isolation)
    tier = verdict.isolation if verdict else None
    return (tiers.index(tier) if tier else len(tiers), _VMM_ORDER.index(choice[1]) if choice[1] else len(_VMM_ORDER))


def _candidates(wish: Wish, offers: Mapping[Choice, Offer], config: Config) -> list[Choice]:
    """Drivers to try, strongest first."""
    pinned = wish.vmm or (None if config.microvm.vmm == "auto" else Vmm(config.microvm.vmm))
    if wish.backend is not None and wish.backend is not Backend.MICROVM:
        return [(wish.backend, None)]
    if wish.backend is Backend.MICROVM and pinned:
        return [(Backend.MICROVM, pinned)]
    known = [
        (backend, vmm)
        for backend, vmm in offers
        if wish.backend in {None, backend}
        and (backend is not Backend.MICROVM or pinned in {None, vmm})
        and (wish.vmm is None or vmm is wish.vmm)
    ]
    return sorted(known, key=lambda choice: strength(choice, offers[choice].readiness))


def _judge(choice: Choice, offers: Mapping[Choice, Offer], wish: Wish, config: Config) -> Isolation | Refused:
    """The tier that the driver gives, or what stands against it."""
    name, offer = _name(choice), offers.get(choice)
    if offer is None:
        return Unsupported(f"Unsupported: {name} has no driver here", hint=_remedy(choice, ""))
    if wish.image and (missing := _missing(name, offer, wish, offers)):
        return missing  # whether it works here or not: so that nobody mends it in vain
    ready = offer.readiness
    if ready is None:
        return Unsupported(f"Unsupported: {name} has not been tried yet", hint="`agentkernel doctor` tries it.")
    if not ready.usable or ready.isolation is None:
        return Unsupported(
            f"Unsupported: {name} is not usable here: {ready.reason}", hint=_remedy(choice, ready.remedy)
        )
    if wish.minimum_isolation and not ready.isolation.at_least(wish.minimum_isolation):
        return Unsupported(
            f"Unsupported: {name} gives isolation {ready.isolation}; wanted is {wish.minimum_isolation} or stronger",
            hint="Lower minimum_isolation, or choose another backend; `agentkernel doctor` shows what there is.",
        )
    least = config.security.minimum_isolation
    if least and not ready.isolation.at_least(Isolation(least)):
        return Denied(
            f"Denied: {name} gives isolation {ready.isolation}; the configuration wants {least} or stronger",
            hint="Change [security] minimum_isolation, or choose another backend.",
        )
    return _missing(name, offer, wish, offers) or ready.isolation


def _missing(name: str, offer: Offer, wish: Wish, offers: Mapping[Choice, Offer]) -> Refused | None:
    if not wish.image and offer.runtimes is not None and wish.runtime not in offer.runtimes:
        return Unsupported(
            f"Unsupported: {name} cannot run the runtime {wish.runtime}",
            hint=f"It runs: {' '.join(sorted(offer.runtimes)) or 'nothing yet'}. Choose another backend.",
        )
    if wish.command and offer.programs is not None and not _runs(wish.command[0], offer.programs):
        return Unsupported(
            f"Unsupported: {name} cannot run {wish.command[0][:64]}",
            hint=f"It runs: {' '.join(offer.programs)}. For other programs choose backend firecracker.",
        )
    needs = set(wish.needs)
    if wish.user not in OWN_USER:
        needs.add(Feature.USER_ROOT)
    if wish.image:
        needs.add(Feature.IMAGES)
    for feature in sorted(needs):
        if feature not in offer.capabilities:
            return Unsupported(
                f"Unsupported: {name} lacks {feature}",
                hint=f"{_WITHOUT.get(feature, 'Leave it out')}, or {_others(needs, offers)}.",
            )
    return None


def _runs(program: str, patterns: Sequence[str]) -> bool:
    """Whether a program's name, without its directory, fits one of them."""
    return any(fnmatchcase(program.rpartition("/")[2], pattern) for pattern in patterns)


_WITHOUT = {
    Feature.USER_ROOT: "Leave user out",
    Feature.IMAGES: "Leave image out and name a runtime",
}


def _others(needs: set[Feature], offers: Mapping[Choice, Offer]) -> str:
    """Which backends can do it: those that work here or may, else those that would."""
    able = [(choice[0], offer) for choice, offer in offers.items() if needs <= offer.capabilities.features]
    usable = {backend for backend, offer in able if offer.readiness is None or offer.readiness.usable}
    if usable:
        return f"choose a backend that can: {' '.join(sorted(usable))}"
    if would := {backend for backend, _ in able}:
        return f"make one work that can: {' '.join(sorted(would))} (`agentkernel doctor` says how)"
    return "look at `agentkernel doctor`: no backend here can"


def _remedy(choice: Choice, remedy: str) -> str:
    if choice[0] is Backend.HYPERLIGHT:
        return f"{remedy} The backend wasm runs WebAssembly without a hypervisor, at the weaker tier wasm.".strip()
    return remedy or "`agentkernel doctor` shows what works here and what to do."


def _verdict(wish: Wish, objections: list[Refused]) -> Refused:
    """One refusal out of all: the only one as it is, else a list of who cannot and why."""
    if len(objections) == 1:
        return objections[0]
    what = "no backend" if wish.backend is None else "no microVM"
    if not objections:
        return Unsupported(f"Unsupported: {what} is there", hint="`agentkernel doctor` shows what to install.")
    reasons = "; ".join(cause.message.removeprefix("Unsupported: ") for cause in objections)
    remedies = dict.fromkeys(cause.hint for cause in objections)
    kind = Denied if any(isinstance(cause, Denied) for cause in objections) else Unsupported
    return kind(f"{kind.__name__}: {what} can do this: {reasons}", hint=" ".join(remedies))


def _name(choice: Choice) -> str:
    backend, vmm = choice
    return f"{backend} ({vmm})" if vmm else backend.value
