"""Pushes by hand, the flow against SciPy, the cost and the planner against known
answers."""

import keras
import numpy as np
import pytest
from scipy import ndimage

from deep_learning_recipes.run import Run
from recipes import visual_foresight as vf

RANDOM = np.random.default_rng(0)
SIDE = vf.SIDE
TOUCH = vf.GRIPPER + vf.BLOCK


@pytest.fixture(scope="module")
def predictor():
    keras.utils.set_random_seed(0)
    return vf.build_predictor()


def test_pushes_by_hand():
    gripper = np.array([[7.0, 2], [7, 2], [7, 9], [7, 1]])
    block = np.array([[7.0, 6], [7, 12], [7, 12.9], [11, 1.5]])
    action = np.array([[0.0, 2], [0, 2], [0, 2], [0, -2]])
    gripper, block = vf.push(gripper, block, action)
    # Two pixels to the right, of which the first closes the gap: the block goes one.
    np.testing.assert_allclose([gripper[0], block[0]], [[7, 4], [7, 7]])
    np.testing.assert_allclose(
        [gripper[1], block[1]], [[7, 4], [7, 12]]
    )  # too far away
    # The block goes to the border, 13.5, and no farther; the gripper stops before it.
    np.testing.assert_allclose([gripper[2], block[2]], [[7, 10.5], [7, 13.5]])
    np.testing.assert_allclose(gripper[3], [7, 0.5])


def test_a_push_beside_the_middle_turns_the_block_aside():
    _, block = vf.push(np.array([6.0, 4]), np.array([7.0, 7.5]), np.array([0.0, 2]))
    assert block[0] > 7 and block[1] > 7.5


def test_nothing_tunnels_overlaps_or_leaves_the_board():
    gripper, block = vf.set_up(2000, RANDOM)
    for _ in range(20):
        gripper, block = vf.push(gripper, block, RANDOM.uniform(-2, 2, (2000, 2)))
        distance = np.linalg.norm(gripper - block, axis=-1)
        assert distance.min() > TOUCH - 1e-6
        assert block.min() >= vf.BLOCK - 0.5 and block.max() <= SIDE - 0.5 - vf.BLOCK
    # Straight at the block: it stays in front.
    gripper, block = np.array([7.0, 4]), np.array([7.0, 7.01])
    for _ in range(5):
        gripper, block = vf.push(gripper, block, np.array([0.0, 2]))
        assert block[1] - gripper[1] >= TOUCH - 1e-6


def test_the_mean_place_of_a_drawn_disc_is_its_place():
    place = np.array([[5.0, 8], [9, 3]])
    frames = vf.draw(place, place[::-1])
    assert (
        frames.shape == (2, SIDE, SIDE, 2) and frames.min() == 0 and frames.max() == 1
    )
    np.testing.assert_allclose(vf.mean_place(frames[..., 0]), place, atol=1e-4)
    np.testing.assert_allclose(vf.mean_place(frames[..., 1]), place[::-1], atol=1e-4)


def test_flow_is_a_correlation_with_the_probabilities_of_moves():
    frames = RANDOM.random((3, SIDE, SIDE, 2)).astype("float32")
    kernels = RANDOM.dirichlet(np.ones(5), (3, 2, 2)).astype("float32")
    flown = np.asarray(vf.flow(frames, kernels))
    for each in range(3):
        for color in range(2):
            rows, columns = kernels[each, :, color]
            expected = ndimage.convolve(
                frames[each, ..., color], np.outer(rows, columns), mode="constant"
            )
            np.testing.assert_allclose(flown[each, ..., color], expected, atol=1e-5)


def test_the_predictor_heeds_the_action_and_the_frame(predictor):
    frames = vf.draw(*vf.set_up(2, RANDOM))
    actions = np.array([[1.0, -2], [2, 0]], "float32")
    outputs = predictor({"frame": frames, "action": actions})
    np.testing.assert_allclose(np.sum(outputs["kernels"], axis=-1), 1, atol=1e-5)
    for other in ({"action": actions[::-1]}, {"frame": frames[::-1]}):
        changed = predictor({"frame": frames, "action": actions} | other)
        assert np.abs(np.asarray(outputs["kernels"]) - changed["kernels"]).max() > 1e-3


def test_foresight_goes_on_from_what_it_foresaw(predictor):
    frames = vf.draw(*vf.set_up(2, RANDOM))
    actions = RANDOM.uniform(-2, 2, (2, 3, 2)).astype("float32")
    foreseen = vf.build_foresight(predictor, 3)([frames, actions])
    for step in range(3):
        inputs = {"frame": np.asarray(frames), "action": actions[:, step]}
        frames = predictor(inputs)["next_frame"]
        np.testing.assert_allclose(foreseen[:, step], frames, atol=1e-6)


def test_costs_by_hand():
    start, goal = vf.draw(*np.array([[[2.0, 2]], [[7.0, 7]]])), np.array([[7.0, 12]])
    goals = vf.draw(np.full((1, 2), -9.0), goal)
    plans = np.zeros((1, 3, 2, 2))
    blind = lambda inputs: np.repeat(start, 3, axis=0)[:, None].repeat(2, axis=1)  # noqa: E731
    costs = vf.foreseen_costs(blind, start, goals, plans)
    share = start[0, ..., 1] / start[0, ..., 1].sum()
    rows, columns = np.indices((SIDE, SIDE))
    expected = 2 * np.sum(share * np.hypot(rows - 7, columns - 12))
    np.testing.assert_allclose(costs, np.full((1, 3), expected), rtol=1e-4)
    # In the world: one push by one pixel of the second plan, none of the others.
    plans[0, 1] = [[0, 2], [0, 2]]
    gripper, block = np.array([[7.0, 3]]), np.array([[7.0, 7]])
    costs = vf.costs_in_the_world(goal, gripper, block, plans)
    np.testing.assert_allclose(costs, [[10, 4 + 2, 10]])


def test_errors_by_hand():
    happened = np.zeros((2, 3, SIDE, SIDE, 2))
    guess = happened.copy()
    guess[0, 1, 4, 5, 0] = 2  # one pixel of the second step in one of two films
    np.testing.assert_allclose(vf.squared_error(guess, happened), [0, 2, 0])


def test_chance_holds_its_actions_and_paths_follow_the_pushes(tmp_path):
    tasks = vf.draw_tasks(3, np.random.default_rng(0))
    distance = np.linalg.norm(tasks.block - tasks.goal, axis=-1)
    assert ((distance > 4) & (distance < 7)).all()
    paths = vf.follow(vf.Chance(), tasks, "chance", Run("visual_foresight", tmp_path))
    random = np.random.default_rng(2**31)
    gripper = tasks.gripper
    block = tasks.block
    for step in range(vf.STEPS):
        if step % vf.HOLD == 0:
            action = random.uniform(-vf.REACH, vf.REACH, (3, 2))
        gripper, block = vf.push(gripper, block, action)
        np.testing.assert_allclose(paths.block[step + 1], block)
    assert not paths.reached(tasks.goal)[0].any()
    assert paths.reached(paths.block[-1])[-1].all()


def test_the_cross_entropy_method_finds_the_least_of_a_quadratic():
    best = RANDOM.uniform(-1.5, 1.5, (4, 1, 2, 2)).repeat(vf.HOLD, axis=2)
    costs_of = lambda plans: np.sum((plans - best) ** 2, axis=(2, 3))  # noqa: E731
    found = vf.cross_entropy_method(costs_of, (4, 2, 2), 300, RANDOM)
    assert found.shape == (4, 2 * vf.HOLD, 2)
    assert np.abs(found - best[:, 0]).max() < 0.4
    tried = RANDOM.uniform(-2, 2, (4, 900, 2, 2)).repeat(vf.HOLD, axis=2)
    assert (costs_of(found[:, None])[:, 0] < costs_of(tried).min(axis=1)).mean() >= 0.75
