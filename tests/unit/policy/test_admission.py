"""Which backend a request gets. Each refusal stands beside what is allowed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentkernel.model.errors import Denied, Refused, Unsupported
from agentkernel.model.kinds import Backend, Feature, Isolation, Vmm
from agentkernel.model.readiness import Capabilities, Readiness
from agentkernel.policy.admission import Admitted, Choice, Offer, Wish, admit, admit_to
from agentkernel.policy.config import Config
from agentkernel.policy.layers import load

ALL = frozenset(Feature)
QEMU: Choice = (Backend.MICROVM, Vmm.QEMU)
FIRECRACKER: Choice = (Backend.MICROVM, Vmm.FIRECRACKER)
DOCKER: Choice = (Backend.DOCKER, None)
WASM: Choice = (Backend.WASM, None)


def offer(tier: Isolation | None, features: frozenset[Feature] = ALL, runtimes: frozenset[str] | None = None) -> Offer:
    ready = Readiness(tier is not None, tier, reason="no such device", remedy="Enable it.")
    return Offer(ready, Capabilities(features), runtimes)


def config(**flags: object) -> Config:
    return load(flags={path.replace("__", "."): value for path, value in flags.items()}).config


EMULATED = {
    FIRECRACKER: offer(None),
    QEMU: offer(Isolation.VM_EMULATED),
    DOCKER: offer(Isolation.CONTAINER, ALL - {Feature.USER_ROOT}),
    WASM: offer(Isolation.WASM, frozenset(), frozenset({"wasm"})),
    (Backend.HYPERLIGHT, None): offer(None),
}
MANY = {
    QEMU: offer(Isolation.VM_EMULATED, ALL - {Feature.IMAGES}),
    DOCKER: offer(Isolation.CONTAINER),
    (Backend.GVISOR, None): offer(Isolation.KERNEL_PROXY),
    (Backend.PODMAN, None): offer(None),
}
IMAGE = Wish("", image="debian:12", backend=Backend.DOCKER)
KVM = {FIRECRACKER: offer(Isolation.VM), QEMU: offer(Isolation.VM)}


def test_a_microvm_is_made_by_the_strongest_monitor_that_works() -> None:
    assert admit(Wish("base", command=["ls"]), EMULATED, Config()) == Admitted(
        Backend.MICROVM, Vmm.QEMU, Isolation.VM_EMULATED
    )
    assert admit(Wish("base"), KVM, Config()).vmm is Vmm.FIRECRACKER


def test_a_pinned_monitor_is_used_or_refused() -> None:
    assert admit(Wish("base", vmm=Vmm.QEMU), KVM, Config()).vmm is Vmm.QEMU
    with pytest.raises(Unsupported, match=r"firecracker.*no such device") as caught:
        admit(Wish("base", vmm=Vmm.FIRECRACKER), EMULATED, Config())
    assert caught.value.hint == "Enable it."


def test_the_configured_monitor_is_used_or_refused_and_a_request_may_pin_another() -> None:
    pinned = config(microvm__vmm="qemu")
    assert admit(Wish("base"), KVM, pinned).vmm is Vmm.QEMU
    assert admit(Wish("base", vmm=Vmm.FIRECRACKER), KVM, pinned).vmm is Vmm.FIRECRACKER
    with pytest.raises(Unsupported):
        admit(Wish("base"), EMULATED, config(microvm__vmm="firecracker"))


def test_a_backend_is_never_replaced() -> None:
    with pytest.raises(Unsupported, match="apple has no driver here"):
        admit(Wish("base", backend=Backend.APPLE), EMULATED, Config())
    assert admit(Wish("base", backend=Backend.DOCKER), EMULATED, Config()).backend is Backend.DOCKER


def test_hyperlights_refusal_names_wasm_and_its_tier() -> None:
    with pytest.raises(Unsupported) as caught:
        admit(Wish("base", backend=Backend.HYPERLIGHT), EMULATED, Config())
    assert "wasm" in caught.value.hint
    assert "weaker tier" in caught.value.hint


def test_a_monitor_for_what_has_none_is_refused() -> None:
    with pytest.raises(Refused, match="vmm qemu with backend docker"):
        admit(Wish("base", backend=Backend.DOCKER, vmm=Vmm.QEMU), EMULATED, Config())


def test_auto_means_the_strongest_tier_that_can_run_it() -> None:
    assert admit(Wish("base", backend=None), EMULATED, Config()).isolation is Isolation.VM_EMULATED
    weak = {WASM: EMULATED[WASM], DOCKER: EMULATED[DOCKER]}
    assert admit(Wish("base", backend=None), weak, Config()).backend is Backend.DOCKER
    assert admit(Wish("wasm", backend=None), weak, Config()).backend is Backend.WASM
    with pytest.raises(Unsupported, match="no backend can do this"):
        admit(Wish("base", backend=None, user="root"), weak, Config())


def test_auto_honours_a_pinned_monitor() -> None:
    assert admit(Wish("base", backend=None, vmm=Vmm.QEMU), KVM, Config()).vmm is Vmm.QEMU
    with pytest.raises(Unsupported, match="no backend is there"):
        admit(Wish("base", backend=None, vmm=Vmm.QEMU), {DOCKER: EMULATED[DOCKER]}, Config())


def test_a_minimum_of_the_request_refuses_what_is_weaker() -> None:
    wish = Wish("base", minimum_isolation=Isolation.VM)
    assert admit(wish, KVM, Config()).isolation is Isolation.VM
    with pytest.raises(Unsupported, match="vm-emulated; wanted is vm or stronger"):
        admit(wish, EMULATED, Config())


def test_a_minimum_of_the_configuration_denies_what_is_weaker() -> None:
    strict = config(security__minimum_isolation="vm-emulated")
    assert admit(Wish("base"), EMULATED, strict).isolation is Isolation.VM_EMULATED
    with pytest.raises(Denied, match="the configuration wants vm-emulated"):
        admit(Wish("base", backend=Backend.DOCKER), EMULATED, strict)
    with pytest.raises(Denied, match="no backend can do this"):
        admit(Wish("base", backend=None), {DOCKER: EMULATED[DOCKER], WASM: EMULATED[WASM]}, strict)


@pytest.mark.parametrize(
    "wish",
    [
        Wish("base", profile="permissive"),
        Wish("base", network="open"),
        Wish("base", limits={"memory_mb": 1}),
    ],
)
def test_what_is_not_yet_is_refused_by_name_and_never_ignored(wish: Wish) -> None:
    with pytest.raises(Unsupported, match=r"Unsupported: (profile|network|limits) "):
        admit(wish, KVM, Config())


def test_the_defaults_said_aloud_are_no_wish() -> None:
    assert admit(Wish("base", profile="moderate", network="none"), KVM, Config())


def test_a_configuration_that_cannot_be_enforced_is_refused_too() -> None:
    with pytest.raises(Unsupported, match="profile `restrictive`"):
        admit(Wish("base"), KVM, config(security__profile="restrictive"))
    with pytest.raises(Unsupported, match=r"security\.domains\.allow"):
        admit(Wish("base"), KVM, config(security__domains__allow=["example.org"]))


def test_an_empty_command_is_invalid() -> None:
    with pytest.raises(Refused, match="command is empty"):
        admit(Wish("base", command=[]), KVM, Config())


@pytest.mark.parametrize("user", ["root", "0", "0:1000", "1000:0", "1234", "nobody"])
def test_another_user_than_the_sandboxs_needs_a_driver_that_declares_it(user: str) -> None:
    assert admit(Wish("base", user=user), KVM, Config())
    with pytest.raises(Unsupported, match="docker lacks user-root") as caught:
        admit(Wish("base", backend=Backend.DOCKER, user=user), EMULATED, Config())
    assert caught.value.hint.startswith("Leave user out")


@pytest.mark.parametrize("user", ["", "sandbox", "1000", "1000:1000"])
def test_the_sandboxs_own_user_needs_nothing_by_whatever_name(user: str) -> None:
    assert admit(Wish("base", backend=Backend.DOCKER, user=user), EMULATED, Config())


def test_a_needed_feature_that_is_missing_is_named() -> None:
    with pytest.raises(Unsupported, match="wasm lacks stdin"):
        admit(Wish("wasm", backend=Backend.WASM, needs=frozenset({Feature.STDIN})), EMULATED, Config())


def test_a_runtime_that_a_driver_cannot_run_is_refused() -> None:
    with pytest.raises(Unsupported, match="wasm cannot run the runtime python"):
        admit(Wish("python", backend=Backend.WASM), EMULATED, Config())


def test_when_no_monitor_works_all_reasons_are_told() -> None:
    with pytest.raises(Unsupported, match=r"no microVM can do this: .*firecracker.*; .*qemu"):
        admit(Wish("base"), {FIRECRACKER: offer(None), QEMU: offer(None)}, Config())
    with pytest.raises(Unsupported, match="no microVM is there"):
        admit(Wish("base"), {}, Config())


def test_a_lease_is_no_way_around_what_a_fresh_sandbox_would_be_refused() -> None:
    admit_to(QEMU, Wish("base", command=["ls"], minimum_isolation=Isolation.VM_EMULATED), EMULATED, Config())
    with pytest.raises(Unsupported, match="wanted is vm"):
        admit_to(QEMU, Wish("base", command=["ls"], minimum_isolation=Isolation.VM), EMULATED, Config())
    with pytest.raises(Unsupported, match="network"):
        admit_to(QEMU, Wish("base", command=["ls"], network="open"), EMULATED, Config())
    with pytest.raises(Unsupported, match="user-root"):
        admit_to(DOCKER, Wish("base", command=["ls"], user="root"), EMULATED, Config())
    with pytest.raises(Denied):
        admit_to(QEMU, Wish("base", command=["ls"]), EMULATED, config(security__minimum_isolation="vm"))
    with pytest.raises(Refused, match="command is empty"):
        admit_to(QEMU, Wish("base", command=[]), EMULATED, Config())


def test_a_lease_is_what_it_is_whatever_runtime_and_backend_a_request_names() -> None:
    admit_to(WASM, Wish("python", backend=Backend.MICROVM, command=["x"]), EMULATED, Config())
    with pytest.raises(Unsupported, match="was made by qemu, not by firecracker"):
        admit_to(QEMU, Wish("base", command=["ls"], vmm=Vmm.FIRECRACKER), EMULATED, Config())
    admit_to(QEMU, Wish("base", command=["ls"], vmm=Vmm.QEMU), EMULATED, Config())


def test_an_image_is_run_by_a_backend_that_declares_it_and_by_no_other() -> None:
    assert admit(IMAGE, MANY, Config()) == Admitted(Backend.DOCKER, None, Isolation.CONTAINER, "debian:12")
    with pytest.raises(Unsupported, match=r"microvm \(qemu\) lacks images") as caught:
        admit(replace(IMAGE, backend=Backend.MICROVM), MANY, Config())
    assert caught.value.hint == "Leave image out and name a runtime, or choose a backend that can: docker gvisor."


def test_auto_runs_an_image_on_the_strongest_tier_that_can() -> None:
    assert admit(replace(IMAGE, backend=None), MANY, Config()).backend is Backend.GVISOR
    assert admit(Wish("base", backend=None), MANY, Config()).backend is Backend.GVISOR
    without = {choice: found for choice, found in MANY.items() if choice[0] is not Backend.GVISOR}
    assert admit(replace(IMAGE, backend=None), without, Config()).backend is Backend.DOCKER
    assert admit(Wish("base", backend=None), without, Config()).backend is Backend.MICROVM


def test_a_backend_is_offered_by_any_monitor_of_it_that_works() -> None:
    """Here QEMU does and Firecracker does not, in either order."""
    for order in (FIRECRACKER, QEMU), (QEMU, FIRECRACKER):
        offers = {choice: EMULATED[choice] for choice in (*order, DOCKER)}
        with pytest.raises(Unsupported, match="docker lacks user-root") as caught:
            admit(Wish("base", backend=Backend.DOCKER, user="root"), offers, Config())
        assert caught.value.hint == "Leave user out, or choose a backend that can: microvm."


def test_where_no_backend_works_that_runs_images_the_refusal_says_which_would() -> None:
    broken = {QEMU: MANY[QEMU], DOCKER: offer(None)}
    with pytest.raises(Unsupported) as caught:
        admit(replace(IMAGE, backend=Backend.MICROVM), broken, Config())
    assert "make one work that can: docker (`agentkernel doctor` says how)" in caught.value.hint
    with pytest.raises(Unsupported) as caught:
        admit(replace(IMAGE, backend=Backend.MICROVM), {QEMU: MANY[QEMU]}, Config())
    assert "no backend here can" in caught.value.hint


def test_the_configured_image_takes_the_place_of_the_runtime_and_the_requests_wins() -> None:
    configured = config(sandbox__image="alpine")
    assert admit(Wish("python", backend=Backend.DOCKER), MANY, configured).image == "alpine"
    assert admit(IMAGE, MANY, configured).image == "debian:12"
    assert admit(Wish("python", backend=Backend.DOCKER), MANY, Config()).image == ""


@pytest.mark.parametrize("name", ["--privileged", "a b", "/etc/passwd", "a\n", "é", "x" * 513])
def test_what_is_no_name_of_an_image_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="Invalid request: image"):
        admit(replace(IMAGE, image=name), MANY, Config())
    assert admit(replace(IMAGE, image="host.example:5000/a/b_c:1.0@sha256:0f"), MANY, Config()).image


def test_only_an_image_may_run_without_a_command() -> None:
    assert admit(replace(IMAGE, command=[]), MANY, Config())
    admit_to(DOCKER, Wish("base", command=[]), MANY, Config(), image_name="debian:12")
    for configured in (Config(), config(sandbox__image="alpine")):
        with pytest.raises(Refused, match="command is empty"):
            admit(Wish("base", backend=Backend.DOCKER, command=[]), MANY, configured)
    with pytest.raises(Refused, match="command is empty"):
        admit(replace(IMAGE, command=[""]), MANY, Config())


def test_a_lease_is_of_its_image_and_of_no_other() -> None:
    admit_to(DOCKER, replace(IMAGE, command=["ls"]), MANY, Config(), image_name="debian:12")
    with pytest.raises(Unsupported, match="was made from alpine, not from debian:12"):
        admit_to(DOCKER, replace(IMAGE, command=["ls"]), MANY, Config(), image_name="alpine")
    with pytest.raises(Unsupported, match="was made from a runtime, not from debian:12"):
        admit_to(DOCKER, replace(IMAGE, command=["ls"]), MANY, Config())


def test_what_nobody_has_tried_is_not_taken_for_usable() -> None:
    untried = {DOCKER: Offer(None, Capabilities(ALL))}
    with pytest.raises(Unsupported, match="docker has not been tried yet"):
        admit(Wish("base", backend=Backend.DOCKER), untried, Config())
    assert admit(Wish("base", backend=None), {**untried, **KVM}, Config()).vmm is Vmm.FIRECRACKER


def test_a_program_that_a_backend_does_not_run_is_refused_with_what_it_runs() -> None:
    ready = Readiness(usable=True, isolation=Isolation.WASM)
    offers = {(Backend.WASM, None): Offer(ready, Capabilities(frozenset()), None, ("python3", "*.wasm"))}
    for command in (["python3", "-c", ""], ["/usr/bin/python3"], ["dir/app.wasm"]):
        assert admit(Wish("base", Backend.WASM, command), offers, Config()).isolation is Isolation.WASM
    assert admit(Wish("base", Backend.WASM), offers, Config()).backend is Backend.WASM
    for command in (["bash"], ["python3.12"], ["app.wasm/run"]):
        with pytest.raises(Unsupported, match=f"wasm cannot run {command[0]}") as caught:
            admit(Wish("base", Backend.WASM, command), offers, Config())
        assert "python3 *.wasm" in caught.value.hint
