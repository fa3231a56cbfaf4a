"""What a file says of its robosuite environment, in each form that robosuite's versions write."""

from __future__ import annotations

import pytest

from qsft_robot.parts.simulators import showing
from sim.robosuite.args import LOW_DIM_KEYS, OWN_SECTION, composite_controller, read_settings

ARM = {"type": "OSC_POSE", "input_type": "delta", "gripper": {"type": "GRIP"}}


def test_arms_one_level_deeper_are_the_same_controller():
    """As the JSON of robosuite 1.5's own defaults has them."""
    flat = {"type": "BASIC", "body_parts": {"right": ARM}}
    nested = {"type": "BASIC", "body_parts": {"arms": {"right": ARM}}}
    assert composite_controller(nested) == composite_controller(flat) == flat
    assert "arms" in nested["body_parts"]


@pytest.mark.parametrize("parts", [{"arms": {"left": ARM}}, {}, {"arms": []}, [], {"right": 3}])
def test_a_controller_without_the_arm_is_refused(parts):
    with pytest.raises(ValueError, match="body_parts"):
        composite_controller({"type": "BASIC", "body_parts": parts})


@pytest.mark.parametrize(
    "kwargs", [{}, {"keys": None}, {"renderer_config": {OWN_SECTION: {"keys": ["object"]}}}]
)
def test_a_policys_keys_are_asked_for_beside_those_of_the_file(kwargs):
    wanted = ["robot0_joint_pos", "object"]
    env_args = showing({"env_name": "Lift", "env_kwargs": kwargs}, wanted)
    settings = read_settings("Lift", None, env_args["env_kwargs"], {}, "1.5.2")
    own = kwargs.get("renderer_config", {}).get(OWN_SECTION, {}).get("keys", LOW_DIM_KEYS)
    assert settings.keys == (*own, *[key for key in wanted if key not in own])


def test_other_environments_show_what_they_show():
    env_args = {"env_name": "tabletop", "env_kwargs": {"cameras": []}}
    assert showing(env_args, ["proprio"]) == env_args
