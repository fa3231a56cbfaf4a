"""The description of a policy: policy.json as attributes, checked once, written as it was read."""

import json
from dataclasses import replace

import pytest
from policy_fixtures import OTHERS, SETTINGS, describe
from served_description import served

from qsft_robot.policy.description import KEPT_BACK, PolicyDescription


@pytest.mark.parametrize("name", [*SETTINGS, *OTHERS])
def test_a_description_comes_back_from_its_json_and_a_second_time(name):
    value = json.loads(json.dumps(describe(**{**SETTINGS, **OTHERS}[name]).to_json()))
    again = PolicyDescription.from_json(value, "policy.json")
    assert again.to_json() == value
    assert again.cameras == {key: tuple(size) for key, size in value["cameras"].items()}


def test_a_served_one_has_all_but_what_the_server_keeps_and_may_be_of_a_later_version():
    value = describe(history=2).to_json()
    value = {name: x for name, x in value.items() if name not in KEPT_BACK}
    value["acting"] = {**value["acting"], "of_a_later_version": 1}
    found = PolicyDescription.from_json(value, "the server's policy", served=True)
    assert (found.history, found.networks, found.acting.k) == (1, (), 1.0)
    with pytest.raises(ValueError, match=r"^policy\.json: no networks"):
        PolicyDescription.from_json(value, "policy.json")


def test_one_unit_stands_for_all_numbers_of_an_action():
    assert served(action={"units": "rad"}).action.units == ("rad",) * 4
    assert served(action={"units": ["m", "m", "m", "1"]}).action.units == ("m", "m", "m", "1")


@pytest.mark.parametrize(
    ("entry", "value", "says"),
    [
        ("acting", {"k": "big"}, "k is 'big', where float is expected"),
        ("acting", {"execute": 4}, "acting.execute is 4, but its chunks have 1"),
        ("acting", {"unheard_of": 1}, "has no setting 'unheard_of'"),
        ("networks", ["behavior", "torso"], "there are: behavior, value"),
        ("norm_stats", {"state": {}, "actions": {"low": [0, 0], "high": [0, 1]}}, "low < high"),
        ("format", "qsft-robot policy 9", "reads up to 'qsft-robot policy 2'. Upgrade it"),
        ("format", "a policy 9", "this version reads"),
    ],
)
def test_an_entry_that_makes_no_sense_is_named_with_the_file(entry, value, says):
    told = {**describe(state=False, cameras=True).to_json(), entry: value}
    with pytest.raises(ValueError, match=r"^folder/policy\.json: ") as error:
        PolicyDescription.from_json(told, "folder/policy.json")
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"state_keys": []}, r"state_keys \[\] have 0 numbers .* model\.config\.state_dim is "),
        ({"cameras": {}}, r"cameras has \[\], but model\.config\.cameras is "),
        ({"config": {"cameras": 5}}, "but model.config.cameras is 5"),
        ({"config": {"state_dim": "8"}}, "but model.config.state_dim is 8"),
    ],
)
def test_what_a_policy_is_given_is_what_its_model_reads(changes, says):
    told = json.loads(json.dumps(describe(cameras=True).to_json()))
    told["model"]["config"] |= changes.get("config", {})
    told |= {name: x for name, x in changes.items() if name != "config"}
    with pytest.raises(ValueError, match=rf"^folder/policy\.json: .*{says}"):
        PolicyDescription.from_json(told, "folder/policy.json")


def test_the_action_range_of_the_logs_is_of_the_actions_size():
    seen = {"low": [0.0], "high": [1.0], "largest_change": [0.1]}
    with pytest.raises(ValueError, match=r"action\.seen\.low has 1 numbers, action\.dim is 4"):
        served(action={"seen": seen})


def test_the_folder_of_a_policy_does_not_tell_its_own_checksum():
    assert replace(describe(), policy_sha256="ab").to_json()["policy_sha256"] == "ab"
    assert "policy_sha256" not in describe().to_json()
