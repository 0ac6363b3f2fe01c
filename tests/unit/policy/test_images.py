"""What an image says of its commands, and what of that holds."""

from __future__ import annotations

import pytest

from agentkernel.model.kinds import Feature
from agentkernel.model.readiness import Capabilities
from agentkernel.model.spec import ImageFacts, LeaseSpec
from agentkernel.policy.images import image_defaults, over

ANY_USER = Capabilities(frozenset({Feature.USER_ROOT, Feature.IMAGES}))
ONE_USER = Capabilities(frozenset({Feature.IMAGES}))
FACTS = ImageFacts("0" * 64, {"PATH": "/opt/bin", "A": "1"}, "/app", "node", ("/entry", "-x"), ("serve",))


def test_an_images_environment_directory_user_and_command_hold_where_nobody_says_otherwise() -> None:
    defaults = image_defaults(FACTS, ANY_USER)
    assert defaults == LeaseSpec({"PATH": "/opt/bin", "A": "1"}, "/app", "node", command=("/entry", "-x", "serve"))
    assert over(defaults, {}, "", "") == defaults
    said = over(defaults, {"A": "2"}, "/tmp", "root")
    assert (said.env, said.cwd, said.user) == ({"PATH": "/opt/bin", "A": "2"}, "/tmp", "root")


def test_an_images_user_is_not_taken_where_commands_cannot_choose_theirs() -> None:
    assert image_defaults(FACTS, ONE_USER).user == ""


@pytest.mark.parametrize(
    ("user", "taken"), [("1001:0", "1001:0"), ("node:staff", "node"), ("No Such", ""), ("", ""), ("0", "0")]
)
def test_an_images_user_is_taken_as_requests_spell_it(user: str, taken: str) -> None:
    assert image_defaults(ImageFacts("0" * 64, user=user), ANY_USER).user == taken


def test_what_an_image_says_and_no_request_could_is_left_out() -> None:
    defaults = image_defaults(ImageFacts("0" * 64, {"": "1", "A=B": "1", "C": "1"}, "relative"), ANY_USER)
    assert (dict(defaults.env), defaults.cwd) == ({"C": "1"}, "")
