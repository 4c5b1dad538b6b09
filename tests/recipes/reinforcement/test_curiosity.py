"""The rooms by breadth-first search, the plan by value iteration, the model's surprise
by SciPy."""

import keras
import numpy as np
import pytest
from scipy import special, stats

from recipes import curiosity

CELLS = curiosity.CELLS
ACTIONS = curiosity.ACTIONS


def make_agent(kind, **settings):
    keras.utils.set_random_seed(0)
    return curiosity.Agent(curiosity.Config(**settings), kind)


def distances():
    """Steps from the start to each cell, by breadth-first search."""
    found = {curiosity.START: 0}
    frontier = [curiosity.START]
    while frontier:
        cell = frontier.pop(0)
        for action in range(ACTIONS):
            following = int(curiosity.move(np.array([cell]), np.array([action]))[0])
            if following not in found:
                found[following] = found[cell] + 1
                frontier.append(following)
    return found


def test_every_cell_can_be_reached_and_the_goal_lies_behind_three_doors():
    found = distances()
    assert set(found) == set(np.flatnonzero(~curiosity.WALL))
    assert 40 < found[curiosity.GOAL] < curiosity.Config.limit


def test_moves_and_walls():
    start = curiosity.START
    width = curiosity.GRID.shape[1]
    following = curiosity.move(np.full(4, start), np.arange(4))
    np.testing.assert_array_equal(
        following, [start - width, start + width, start, start + 1]
    )


def test_the_screen_is_seen_at_its_cell_only_and_changes():
    cells = np.array([curiosity.SCREEN, curiosity.START])
    noise = np.random.default_rng(0)
    first = curiosity.observe(cells, noise)
    second = curiosity.observe(cells, noise)
    np.testing.assert_array_equal(first[:, :CELLS], np.eye(CELLS)[cells])
    assert (first[0, CELLS:] != second[0, CELLS:]).any()
    assert set(np.unique(first[0, CELLS:])) == {0, 1}
    assert not first[1, CELLS:].any()
    assert not curiosity.observe(cells, None)[:, CELLS:].any()


def test_surprise_is_the_negative_log_likelihood_of_what_was_seen():
    agent = make_agent("surprise", bonus=0.5)
    numbers = np.arange(agent.values.size)
    agent.seen[:] = curiosity.observe(numbers % CELLS, None)
    agent.seen[:, CELLS:] = np.random.default_rng(0).integers(
        2, size=agent.seen[:, CELLS:].shape
    )
    one_hot = np.hstack(
        [np.eye(CELLS)[numbers // ACTIONS], np.eye(ACTIONS)[numbers % ACTIONS]]
    )
    first, first_bias, place, place_bias, screen, screen_bias = (
        agent.model.get_weights()
    )
    hidden = np.maximum(one_hot @ first + first_bias, 0)
    places = hidden @ place + place_bias
    pixels = 1 / (1 + np.exp(-(hidden @ screen + screen_bias)))
    of_place = special.log_softmax(places, axis=1)[numbers, numbers % CELLS]
    of_screen = stats.bernoulli.logpmf(agent.seen[:, CELLS:], pixels).sum(axis=1)
    expected = -0.5 * (of_place + of_screen)
    np.testing.assert_allclose(agent.bonus().ravel(), expected, rtol=1e-4)


def test_surprise_falls_where_the_model_has_learned():
    agent = make_agent("surprise", bonus=1)
    agent.seen[:] = curiosity.observe(agent.following.ravel() + curiosity.START, None)
    entries = np.array([40, 45, 50, 55], "int32")
    agent.seen[entries] = curiosity.observe(np.array([31, 33, 35, 37]), None)
    before = agent.bonus().ravel()[entries]
    # An unknowing model: 1 of 261 places, and 16 pixels that are black or white.
    np.testing.assert_allclose(before, np.log(CELLS) + 16 * np.log(2), rtol=0.1)
    for _ in range(200):
        agent.learn(entries, agent.seen[entries])
    after = agent.bonus().ravel()
    assert (after[entries] < 0.05).all()
    assert after.mean() > 4  # elsewhere it expects what it has learned here


def test_noise_stays_surprising():
    agent = make_agent("surprise", bonus=1)
    random = np.random.default_rng(0)
    entries = np.full(16, 40, "int32")
    places = np.full(16, curiosity.SCREEN)
    for _ in range(300):
        agent.learn(entries, curiosity.observe(places, random))
    errors = np.asarray(agent.errors(entries, curiosity.observe(places, random)))
    assert errors.mean() == pytest.approx(16 * np.log(2), rel=0.2)


def test_counts_pay_one_by_the_root_of_the_visits():
    agent = make_agent("counts", bonus=0.6)
    agent.visits[3] = [1, 4, 9, 36]
    np.testing.assert_allclose(agent.bonus()[3], [0.6, 0.3, 0.2, 0.1])
    assert not make_agent("no bonus").bonus().any()


def test_with_the_world_known_the_plan_is_the_shortest_way():
    agent = make_agent("no bonus", discount=0.9)
    cells = np.flatnonzero(~curiosity.WALL)
    for action in range(ACTIONS):
        following = curiosity.move(cells, np.full(len(cells), action))
        agent.following[cells, action] = following
        agent.visits[cells, action] = 1
        agent.rewards[cells, action] = following == curiosity.GOAL
    for _ in range(10):
        agent.plan()
    # The last step of d pays 1: V = 0.9 to the power of d − 1.
    steps = distances()[curiosity.GOAL]
    assert agent.values[curiosity.START].max() == pytest.approx(0.9 ** (steps - 1))
    # What has not been tried is worth nothing yet.
    agent.visits[curiosity.START, 3] = 0
    agent.plan()
    assert agent.values[curiosity.START, 3] == 0


def test_an_episode_ends_at_the_goal_or_when_time_is_up():
    copies = curiosity.Copies(3)
    elsewhere = curiosity.START + 1
    ended = copies.go(np.array([elsewhere, curiosity.GOAL, elsewhere]), limit=2)
    np.testing.assert_array_equal(ended, [False, True, False])
    np.testing.assert_array_equal(copies.cells, [elsewhere, curiosity.START, elsewhere])
    # The second copy has begun anew and has a step left.
    ended = copies.go(np.full(3, elsewhere), limit=2)
    np.testing.assert_array_equal(ended, [True, False, True])


@pytest.mark.parametrize("kind", curiosity.KINDS)
def test_an_update_records_what_came_of_each_action(kind):
    agent = make_agent(kind, limit=5, horizon=10, copies=3)
    copies = curiosity.Copies(3)
    record = curiosity.Record(2)
    random = np.random.default_rng(0)
    for number in range(2):
        curiosity.update(agent, copies, random, None, record, number)
    assert agent.visits.sum() == 2 * 10 * 3
    # 3 copies, 5 steps an episode; the goal is farther away.
    np.testing.assert_array_equal(record.ended, [6, 6])
    np.testing.assert_array_equal(record.reached, [0, 0])
    assert record.known[-1] == (agent.visits.sum(axis=1) > 0).sum()
    cells, actions = np.nonzero(agent.visits)
    following = curiosity.move(cells, actions)
    np.testing.assert_array_equal(agent.following[cells, actions], following)
    seen = agent.seen[curiosity.entries_of(cells, actions)]
    np.testing.assert_array_equal(seen, curiosity.observe(following, None))
    steps = distances()
    assert max(steps[cell] for cell in cells) < 5


def test_the_exported_table_gives_its_values():
    values = np.arange(12.0).reshape(3, 4)
    table = curiosity.build_table(values)
    np.testing.assert_allclose(table(np.array([2, 0])), values[[2, 0]])
