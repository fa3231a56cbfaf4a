"""An evaluation that was interrupted goes on where it was."""

import json

import pytest
from walking_policy import Walker, evaluate, outcomes, point


def test_an_interrupted_evaluation_goes_on_with_what_it_had(tmp_path):
    class Counts(Walker):
        def __init__(self, tires=10**6):
            super().__init__()
            self.tires, self.begun = tires, []

        def begin_episode(self, seed):
            if len(self.begun) == self.tires:
                raise KeyboardInterrupt
            self.begun.append(seed)
            return super().begin_episode(seed)

    words = {"workers": 1, "envs_per_worker": 2, "progress": False, "identity": {"name": "walker"}}
    whole = evaluate(Counts(), point(), range(12), **words)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Counts(tires=8), point(), range(12), out=tmp_path, **words)
    # Cut as by a machine that stops while a line is written.
    partial = tmp_path / "partial_episodes.jsonl"
    there = [json.loads(line)["seed"] for line in partial.read_text().splitlines()]
    partial.write_text(partial.read_text() + '{"seed": 11, "st')
    later = Counts()
    resumed = evaluate(later, point(), range(12), out=tmp_path, **words)
    assert sorted(there + later.begun) == [*range(12)]
    assert len(there) == resumed.summary["resumed"] > 0
    assert outcomes(resumed) == outcomes(whole)
    assert not list(tmp_path.glob("partial_*"))


@pytest.mark.parametrize("change", ["policy", "environment", "nobody"])
def test_what_another_evaluation_left_is_not_taken_over(tmp_path, change):
    class Stops(Walker):
        def begin_episode(self, seed):
            if seed == 5:
                raise KeyboardInterrupt
            return super().begin_episode(seed)

    words = {"workers": 1, "envs_per_worker": 1, "progress": False, "out": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        evaluate(Stops(), point(), range(6), identity={"name": 1}, **words)
    args = point(max_steps=29) if change == "environment" else point()
    if change == "nobody":
        assert evaluate(Walker(), args, range(6), **words).summary["resumed"] == 0
        return
    identity = {"name": 2 if change == "policy" else 1}
    with pytest.warns(UserWarning, match="begins anew"):
        result = evaluate(Walker(), args, range(6), identity=identity, **words)
    assert result.summary["resumed"] == 0


def test_decisions_that_are_computed_alone_are_the_same_to_the_bit():
    walker = Walker()
    one = evaluate(walker, point(), range(8), max_batch=1, progress=False)
    assert set(walker.batches) == {1}
    assert outcomes(one) == outcomes(evaluate(Walker(), point(), range(8), progress=False))
    with pytest.raises(ValueError, match="max_batch is 0"):
        evaluate(walker, point(), range(8), max_batch=0, progress=False)
