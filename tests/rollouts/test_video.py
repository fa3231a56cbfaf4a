import imageio
import numpy as np
import pytest

from qsft_robot.rollouts.video import BAR_HEIGHT, COMMAND_HEIGHT, VideoFile, draw_overlay

FRAME = np.full((50, 121, 3), 90, np.uint8)


def bar(*arguments):
    return draw_overlay(FRAME, *arguments)[-BAR_HEIGHT:]


def test_the_overlay_leaves_the_picture_and_adds_a_bar_of_even_size():
    drawn = draw_overlay(FRAME, "put the red cube in the blue bowl, then " * 3, [0.5], None)
    assert drawn.shape == (50 + BAR_HEIGHT, 122, 3)
    assert (drawn[:50, :121] == FRAME).all()


def test_instruction_value_and_outcome_are_each_seen_in_the_bar():
    plain = bar("", [], None)
    assert not plain.any()
    for arguments in (("lift", [], None), ("", [0.3], None), ("", [], True), ("", [], False)):
        assert bar(*arguments).any()
    assert (bar("", [], True) != bar("", [], False)).any()
    assert (bar("", [0.3], None) != bar("", [0.8], None)).any()


def test_a_command_is_wrapped_below_the_picture_and_shows_that_it_was_refused():
    words = "take the very long peppershaker 3 from the diningtable 1"
    rows = []
    for command in ("", "look", words, words * 9):
        drawn = draw_overlay(FRAME, "", [], None, command)
        assert drawn.shape == (50 + COMMAND_HEIGHT + BAR_HEIGHT, 122, 3)
        said = drawn[50 : 50 + COMMAND_HEIGHT].any((1, 2))
        rows.append((said[:16].any(), said[16:].any()))
        assert not drawn[50 + COMMAND_HEIGHT :].any()
    assert rows == [(False, False), (False, True), (True, True), (True, True)]
    given, refused = (draw_overlay(FRAME, "", [], None, "look", no) for no in (False, True))
    assert (given != refused).any()
    assert (draw_overlay(FRAME, "", [], None, "x" * 200)[50:] != 0).any()


def test_the_curve_rises_with_the_value_and_skips_what_is_unknown():
    frame = np.zeros((50, 300, 3), np.uint8)

    def height_of_curve(values):
        drawn = draw_overlay(frame, "", values, None)[50:, 60:200]
        rows = np.argwhere((drawn == (90, 170, 255)).all(-1))[:, 0]
        return rows.mean()

    assert height_of_curve([0.9] * 50) < height_of_curve([0.1] * 50)
    assert height_of_curve([None] * 20 + [0.5] * 30) > 0
    assert height_of_curve([2.0] * 50) == height_of_curve([1.0] * 50)


def test_a_video_appears_whole_under_its_name_or_not_at_all(tmp_path):
    with VideoFile(tmp_path, fps=10) as film:
        for i in range(7):
            film.append(draw_overlay(FRAME, "lift", [i / 7], None))
        assert not list(tmp_path.glob("[!.]*"))
        path = film.keep("a.mp4")
    assert len([frame for frame in imageio.get_reader(path)]) == 7
    with pytest.raises(RuntimeError), VideoFile(tmp_path, fps=10) as film:  # noqa: PT012
        film.append(draw_overlay(FRAME, "lift", [], None))
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    with pytest.raises(ValueError, match="without a frame"):
        VideoFile(tmp_path, fps=10).keep("b.mp4")
