"""Chess endgames: rules, exact play, the game, and what is wrong with positions and arguments."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsft_robot.parts.simulators import build_env, build_expert
from sim.games.chess.env import ChessEndgameEnv
from sim.games.chess.notation import command_of, fen_of, plain_move, read_fen, san_of, uci_of
from sim.games.chess.position import Position
from sim.games.chess.retrograde import ENDINGS, best_moves, moves_to_mate, table_of

KRK = table_of("R")


@st.composite
def positions(draw):
    """Two kings and up to four queens and rooks of either side."""
    squares = draw(st.lists(st.integers(0, 63), min_size=2, max_size=6, unique=True))
    board = ["."] * 64
    pieces = draw(st.text("QRqr", min_size=len(squares) - 2, max_size=len(squares) - 2))
    for square, piece in zip(squares, "Kk" + pieces, strict=True):
        board[square] = piece
    position = Position("".join(board), draw(st.booleans()))
    there = Position(position.board, not position.white_to_move)
    return position if not there.in_check else Position("K" + "." * 61 + "qk")


def brute_force(board, white):
    """Boards after each legal move, by coordinates alone: whoever lets the king be taken is out."""

    def boards(board, white):
        for x, y in product(range(8), range(8)):
            piece = board[x + 8 * y]
            if piece == "." or piece.isupper() != white:
                continue
            for dx, dy in product((-1, 0, 1), (-1, 0, 1)):
                if (dx, dy) == (0, 0) or (piece in "Rr" and dx and dy):
                    continue
                for n in range(1, 2 if piece in "Kk" else 8):
                    i, j = x + n * dx, y + n * dy
                    if not (0 <= i < 8 and 0 <= j < 8):
                        break
                    other = board[i + 8 * j]
                    if other != "." and other.isupper() == white:
                        break
                    after = list(board)
                    after[x + 8 * y], after[i + 8 * j] = ".", piece
                    yield "".join(after)
                    if other != ".":
                        break

    king = "K" if white else "k"
    return [b for b in boards(board, white) if all(king in c for c in boards(b, not white))]


def perft(position, depth):
    if depth == 0:
        return 1
    return sum(perft(position.after(move), depth - 1) for move in position.moves)


def brute_perft(board, white, depth):
    if depth == 0:
        return 1
    return sum(brute_perft(after, not white, depth - 1) for after in brute_force(board, white))


@settings(deadline=None, max_examples=60)
@given(positions())
def test_the_legal_moves_are_those_after_which_no_king_can_be_taken(position):
    after = [position.after(move).board for move in position.moves]
    assert sorted(after) == sorted(brute_force(position.board, position.white_to_move))
    assert read_fen(fen_of(position)) == position
    for notation in ("san", "uci"):  # what names a move names no other one
        names = [plain_move(command_of(position, x, notation), notation) for x in position.moves]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("fen", "moves"),
    [
        ("8/8/8/8/8/8/8/K6k w - -", 3),  # a king in its corner
        ("8/8/8/3Q4/8/8/8/K6k b - -", 2),  # the queen sees the diagonal behind the king, h1 too
        ("7k/8/8/8/8/8/8/R3K3 w - -", 15),  # ten squares for the rook, five for the king
        ("7k/8/8/3Q4/8/8/8/K7 w - -", 30),  # 27 for a queen in the middle, three for the king
    ],
)
def test_moves_of_known_positions_by_number(fen, moves):
    assert len(read_fen(fen).moves) == moves


def test_perft_of_both_sides_with_heavy_pieces_is_brute_force_s():
    position = read_fen("r2k4/8/8/3q4/8/2Q5/8/1K3R2 w - -")
    found = [perft(position, depth) for depth in (1, 2)]
    assert found == [brute_perft(position.board, True, depth) for depth in (1, 2)]


@pytest.mark.parametrize(
    ("fen", "end"),
    [
        ("R6k/8/6K1/8/8/8/8/8 b - -", "checkmate"),
        ("R5k1/8/6K1/8/8/8/8/8 b - -", "checkmate"),
        ("7k/5Q2/6K1/8/8/8/8/8 b - -", "stalemate"),
        ("7k/8/6K1/8/8/8/8/8 w - -", "bare kings"),
        ("7k/8/6K1/8/8/8/8/R7 w - - 100 80", "fifty moves"),
        ("7k/8/6K1/8/8/8/8/R7 w - - 99 80", None),
    ],
)
def test_how_games_end(fen, end):
    assert read_fen(fen).end == end


def test_san_tells_which_piece_by_file_rank_or_both():
    def san(fen, origin, target):
        position = read_fen(fen)
        move = next(x for x in position.moves if uci_of(x) == origin + target)
        return san_of(position, move)

    assert san("7k/8/8/8/8/8/8/R2R3K w - -", "a1", "b1") == "Rab1"
    assert san("7k/8/8/R7/8/R7/8/7K w - -", "a3", "a4") == "R3a4"
    assert san("8/8/7k/8/Q7/7K/8/Q5Q1 w - -", "a1", "d4") == "Qa1d4"
    assert san("7k/r7/8/8/8/8/8/R6K w - -", "a1", "a7") == "Rxa7"
    assert san("6k1/8/6K1/8/8/8/8/R7 w - -", "a1", "a8") == "Ra8#"


def test_king_and_rook_by_moves_to_mate_is_the_published_table():
    """Black to move, positions that a symmetry of the board makes equal counted once: the numbers
    of the well-known KRK data set (draws, then mate in 0 to 16)."""

    def counted(words):
        bits = (words[..., None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)).astype(bool)
        diagonals = np.arange(8) * 9, np.arange(1, 9) * 7
        fixed = sum(int(bits[np.ix_(x, x, x)].sum()) for x in diagonals)
        return (int(bits.sum()) + fixed) // 8  # Burnside: no other symmetry fixes a position

    draws = counted(KRK._free & ~KRK.lost[-1])
    found = [
        counted(level & ~before)
        for before, level in zip([np.zeros_like(KRK.lost[0]), *KRK.lost], KRK.lost, strict=False)
    ]
    assert draws == 2796
    assert found == [27, 78, 246, 81, 198, 471, 592, 683, 1433, 1712, 1985, 2854, 3597, 4194, 4553,
                     2166, 390]  # fmt: skip


def test_the_longest_mates_are_the_known_ones():
    assert {name: table_of(pieces).longest for name, pieces in ENDINGS.items()} == {
        "KQK": 10, "KRK": 16, "KQRK": 6, "KRRK": 7,
    }  # fmt: skip


@pytest.mark.parametrize("pieces", ["R", "Q", "RR"])
@given(seed=st.integers(0, 2**20))
@settings(deadline=None, max_examples=15)
def test_a_position_is_one_move_further_from_mate_than_its_best_move_leads(pieces, seed):
    table = table_of(pieces)
    rng = np.random.default_rng(seed)
    position = table.draw(rng, 1 + int(rng.integers(table.longest)))
    left = moves_to_mate(position)
    after = [moves_to_mate(position.after(move)) for move in position.moves]
    assert left == 1 + min(n for n in after if n is not None)
    reply = position.after(best_moves(position)[0])
    if reply.moves:  # Black's best move costs White all the moves that are left
        assert max(moves_to_mate(reply.after(move)) for move in reply.moves) == left - 1
        assert moves_to_mate(reply.after(best_moves(reply)[0])) == left - 1
    else:
        assert (left, reply.end) == (1, "checkmate")


def play(env, noise, seed):
    env.reset(seed=seed)
    actor = build_expert(env, None, noise, np.random.default_rng([seed, 1]))
    rewards, over, moves = [], False, []
    while not over:
        moves.append(actor.act())
        said, reward, ended, cut, info = env.step(moves[-1])
        rewards.append(reward)
        over = ended or cut
        assert not info["invalid_command"]
    return rewards, moves, said, info


@pytest.mark.parametrize("notation", ["san", "uci"])
def test_exact_play_mates_in_the_moves_of_the_table_and_a_seed_gives_the_same_game(notation):
    kwargs = {"endings": "KQK,KRK", "least_moves": 12, "notation": notation}
    env = build_env({"env_name": "chess_endgames", "env_kwargs": kwargs})
    for seed in range(3):
        said, _ = env.reset(seed=seed)
        needed = moves_to_mate(read_fen(said["fen"]))
        assert needed >= 12  # which no queen needs
        rewards, moves, _, info = play(env, 0.0, seed)
        assert rewards == [0.0] * (needed - 1) + [1.0]
        assert (info["success"], info["end"]) == (True, "checkmate")
        assert moves == play(env, 0.0, seed)[1]
    assert all(
        len(move.split()) == (1 if notation == "uci" else len(move) // 2 + 1) for move in moves
    )


def test_noise_loses_wins_and_drawn_games_end_with_nothing():
    env = ChessEndgameEnv("KRK", opponent="random")
    returns = {noise: np.mean([sum(play(env, noise, s)[0]) for s in range(30)]) for noise in (0, 1)}
    assert returns[0] == 1.0 > returns[1] + 0.5


def test_an_illegal_move_costs_one_changes_nothing_and_ends_nothing():
    env = ChessEndgameEnv("KRK", max_steps=3)
    before, _ = env.reset(options={"fen": "8/8/8/3k4/8/2K5/8/R7 w - -"})
    listed = before["admissible_commands"].split("\n")
    assert "R a 5 +" in listed
    assert len(listed) == 20
    for text in ("K d 4", "a1a5", ""):
        said, reward, ended, cut, info = env.step(text)
        assert (said["fen"], reward, ended) == (before["fen"], -1.0, False)
        assert info["invalid_command"]
    assert cut
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step("R a 5 +")
    assert before["board"].sum() == 3
    assert before["pieces"].split() == ["wra1", "wkc3", "bkd5"]


@pytest.mark.parametrize("text", ["R a 8 #", "Ra8", " R a 8 + "])
def test_signs_and_spaces_of_a_move_make_no_difference(text):
    env = ChessEndgameEnv(terminate_on_success=False)
    env.reset(options={"fen": "6k1/8/6K1/8/8/8/8/R7 w - -"})
    assert env.step(text)[1:4] == (1.0, False, False)
    assert env.step(text)[1:3] == (0.0, False)  # nothing more is won or lost
    assert env.render().shape == (256, 256, 3)


def test_being_mated_costs_one_where_black_has_pieces():
    env = ChessEndgameEnv(opponent="random")
    lost = []
    for seed in range(30):
        env.reset(seed=seed, options={"fen": "q6k/8/8/8/8/8/7r/4K3 w - -"})
        rewards, over, rng = [], False, np.random.default_rng(seed)
        while not over:
            _, reward, ended, cut, info = env.step(env.commands[rng.integers(len(env.commands))])
            rewards.append(reward)
            over = ended or cut
        assert not info["success"]
        assert sum(rewards) == rewards[-1] == (-1.0 if info["end"] == "checkmate" else 0.0)
        lost.append(info["end"] == "checkmate")
    assert any(lost)


def test_games_begin_in_turns_from_the_positions_of_a_file(tmp_path):
    file = tmp_path / "positions.txt"
    fens = ["8/8/8/3k4/8/2K5/8/R7 w - - 0 1", "8/8/8/3k4/8/2K5/8/Q7 w - - 0 1"]
    file.write_text("\n\n".join(fens))
    env = ChessEndgameEnv(positions=str(file))
    assert [env.reset(seed=seed)[0]["fen"] for seed in range(3)] == [*fens, fens[0]]
    assert env.env_args["position_set"]["number"] == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "no position"),
        ("8/8/8/8/8/8/8/8 w - -", "each side has one king"),
        ("8/8/8/3k4/8/2K5/8 w - -", "8 ranks of 8 squares"),
        ("8/8/8/3k4/8/2K5/P7/8 w - -", "'P' is no king, queen or rook"),
        ("8/8/8/3k4/8/2K5/8/R7 w KQ -", "no castling"),
        ("8/8/8/3k4/8/2K5/8/R7", "2 fields|1 fields"),
        ("8/8/8/3k4/8/2K5/8/R7 w - - x 1", "count half moves"),
        ("8/8/8/3k4/8/2K5/8/3R4 w - -", "not to move stands in check"),
        ("8/8/8/3k4/8/2K5/8/R7 b - -", "Black is to move"),
        ("8/8/8/3k4/8/2K5/8/8 w - -", "bare kings"),
        ("8/8/8/r2k4/8/2K5/8/R7 w - -", "opponent=stockfish or opponent=random"),
        ("\xe9", "not a text file"),
    ],
)
def test_a_bad_position_is_answered_with_file_and_line(tmp_path, line, said):
    file = tmp_path / "positions.txt"
    file.write_bytes(b"8/8/8/3k4/8/2K5/8/R7 w - -\n" * bool(line) + line.encode("latin1"))
    with pytest.raises(ValueError, match=said) as error:
        ChessEndgameEnv(positions=str(file))
    assert str(error.value).startswith((f"{file}:", "'"))


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"endings": "KPK"}, "KQK, KRK, KQRK, KRRK"),
        ({"endings": ""}, "KQK"),
        ({"endings": "KQK,KRK", "least_moves": 17}, "the most is KQK 10, KRK 16"),
        ({"least_moves": 0}, "at least 1"),
        ({"max_steps": 0}, "at least 1"),
        ({"nodes": 0}, "at least 1"),
        ({"notation": "lan"}, "san, uci"),
        ({"opponent": "me"}, "exact, random, stockfish"),
        ({"ending": "KRK"}, "Did you mean 'endings'"),
    ],
)
def test_bad_arguments_are_answered(kwargs, said):
    with pytest.raises(ValueError, match=said):
        build_env({"env_name": "chess_endgames", "env_kwargs": kwargs})
