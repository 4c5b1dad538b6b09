"""A world model: a network dreams a game, and a policy learns in the dream alone.

Three parts, trained one after the other on games that were played at random. A
variational autoencoder squeezes a frame into a few numbers z. A recurrent network says
what comes next, p(z', reward | z, action, h), and its state h remembers what no single
frame shows, such as a velocity. A controller picks the action, linear in z and h;
evolution finds its weights, and all of its tries are played within the recurrent
network: z' is drawn, not seen, and the temperature τ (times the variances) says how
much chance there is. At last it plays the game itself.
Look at what it earns there, at what its dreams had promised, and at the film of a game
and dreams.

The paper's p is a mixture of Gaussians; for this game one is enough.

Lectures: N18 Model-based Intelligence (world models)
Paper: Ha and Schmidhuber, Recurrent world models facilitate policy evolution, 2018
Tags: model-based rl, latent dynamics, imagination, evolution strategy, vae, gru
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib.figure import Figure

from deep_learning_recipes import figures, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    games: Annotated[int, Interval(ge=600)] = 8000
    """played at random, to learn the model from"""
    latent_size: int = 8
    """numbers in z"""
    units: int = 96
    """of the recurrent network, numbers in h"""
    epochs: int = 20
    """passes over the games for the recurrent network; the autoencoder makes 6"""
    generations: int = 60
    """of evolution in the dream"""


QUICK = Config(games=5000, epochs=16, generations=40)
FULL = Config(games=40_000, latent_size=16, units=256, epochs=60, generations=1000)

# --------------------------------------------------------------------------------------
# The idea: an eye, a memory that says what comes next, and tries within it
# --------------------------------------------------------------------------------------

PIXEL_DEVIATION = 0.1  # σ of a pixel around what the decoder says
REWARD_WEIGHT = 20  # few rewards, many z
MOMENTUM = 0.8  # of evolution


class Trained(keras.Model):
    """Goes down the gradient of the sum of `terms(batch)`, a dict."""

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            terms = self.terms(batch)
            # Does nothing but in float16.
            loss = self.optimizer.scale_loss(sum(terms.values()))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return terms


class VAE(Trained):
    """encoder: frames (batch, pixels) to μ and log σ² of z. decoder: z to the pixels'
    logits."""

    def __init__(self, pixels: int, latent_size: int, **kwargs):
        super().__init__(**kwargs)
        frame = keras.Input((pixels,), name="frame")
        hidden = layers.Dense(128, activation="relu")(frame)
        mean = layers.Dense(latent_size, dtype="float32")(hidden)
        log_variance = layers.Dense(latent_size, dtype="float32")(hidden)
        self.encoder = keras.Model(frame, [mean, log_variance], name="encoder")

        z = keras.Input((latent_size,), name="z")
        hidden = layers.Dense(128, activation="relu")(z)
        logits = layers.Dense(pixels, dtype="float32")(hidden)
        self.decoder = keras.Model(z, logits, name="decoder")
        self.seeds = keras.random.SeedGenerator()

    def terms(self, frames):
        """−log p(frame | z) but for a constant, and the divergence of z from N(0, I)."""
        mean, log_variance = self.encoder(frames)
        noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
        logits = self.decoder(mean + ops.exp(log_variance / 2) * noise)
        errors = ops.sum((frames - ops.sigmoid(logits)) ** 2, axis=-1)
        errors = errors / (2 * PIXEL_DEVIATION**2)
        kl = ops.sum(mean**2 + ops.exp(log_variance) - 1 - log_variance, axis=-1) / 2
        return {"errors": ops.mean(errors), "kl": ops.mean(kl)}


class Dynamics(Trained):
    """The recurrent network M: from z and one-hot actions (batch, steps, ...) to z' and
    reward."""

    def __init__(self, latent_size: int, units: int, actions: int, **kwargs):
        super().__init__(**kwargs)
        self.actions = actions
        self.memory = layers.GRU(units, return_sequences=True)
        self.head = layers.Dense(2 * latent_size + 1, dtype="float32")
        z = keras.Input((None, latent_size))
        action = keras.Input((None, actions))
        both = layers.Concatenate()([z, action])
        self.network = keras.Model([z, action], self.head(self.memory(both)))

    def outlook(self, z, outputs):
        """Of the network's outputs μ and log σ of z' (..., latent), and the reward's
        logit (...)"""
        move, log_sigma = ops.split(outputs[..., 1:], 2, axis=-1)
        return z + move, ops.clip(log_sigma, -5, 2), outputs[..., 0]

    def remember(self, state, z, action):
        """h' of h (batch, units), z (batch, latent), action (batch,)."""
        both = ops.concatenate([z, ops.one_hot(action, self.actions)], axis=-1)
        following, _ = self.memory.cell(both, [state])
        return following

    def surprise(self, z, actions, following, rewards):
        """−log p(z') in nats, and that of the reward, (batch, steps) each."""
        mean, log_sigma, logits = self.outlook(z, self.network([z, actions]))
        distance = ((following - mean) / ops.exp(log_sigma)) ** 2
        of_z = ops.sum(distance / 2 + log_sigma + math.log(2 * math.pi) / 2, axis=-1)
        return of_z, ops.binary_crossentropy(rewards, logits, from_logits=True)

    def terms(self, batch):
        (steps,) = batch
        of_z, of_reward = self.surprise(*steps)
        return {"z": ops.mean(of_z), "reward": REWARD_WEIGHT * ops.mean(of_reward)}

    @tf.function
    def dream(self, controllers, z, noise, temperature):
        """Games of each controller (population, latent + units, actions) from the same
        first z (dreams, latent), with the same noise (steps, dreams, latent). Returns
        catches (population, dreams) and all z' (steps, population · dreams, latent)."""
        population = controllers.shape[0]
        dreams = z.shape[0]
        z = tf.tile(z, (population, 1))
        state = tf.zeros((population * dreams, self.memory.units))
        catches = 0.0
        seen = []
        for chance in tf.unstack(noise):
            features = tf.concat([z, state], axis=1)
            features = tf.reshape(features, (population, dreams, -1))
            action = tf.argmax(features @ controllers, axis=-1)
            state = self.remember(state, z, tf.reshape(action, [-1]))

            mean, log_sigma, reward = self.outlook(z, self.head(state))
            deviation = tf.exp(log_sigma) * tf.sqrt(temperature)
            z = mean + deviation * tf.tile(chance, (population, 1))
            catches += tf.reshape(tf.sigmoid(reward), (population, dreams))
            seen.append(z)
        return catches, tf.stack(seen)


def climb(weights, velocity, noise, returns) -> None:
    """Moves the weights, in place, toward the noise (population, ...) of higher rank
    (Salimans et al., Evolution strategies as a scalable alternative to reinforcement
    learning, 2017)."""
    rank = np.argsort(np.argsort(returns)) / (len(returns) - 1) - 0.5
    velocity[...] = MOMENTUM * velocity + np.tensordot(rank, noise, axes=1) / len(rank)
    weights += velocity


def build_player(encoder, dynamics, controller) -> keras.Model:
    """Frames, and h of the step before, to actions and h. controller: (latent + units,
    actions)"""
    frame = encoder.input
    memory = keras.Input((dynamics.memory.units,), name="memory")
    z, _ = encoder(frame)
    values = ops.concatenate([z, memory], axis=1) @ controller
    _, best = ops.top_k(values, 1)
    action = ops.squeeze(best, axis=-1)
    outputs = {"action": action, "next_memory": dynamics.remember(memory, z, action)}
    return keras.Model({"frame": frame, "memory": memory}, outputs, name="player")


# --------------------------------------------------------------------------------------
# The experiment: a ball that bounces and a bat, played at random, dreamed, and played
# --------------------------------------------------------------------------------------

SIDE = 16  # pixels
STEPS = SIDE - 2  # of a game: until the ball is down
ACTIONS = 3  # left, stay, right
REACH = 2.0  # half of the bat
WIND = 0.05  # deviation of the gusts
HELD_OUT = 500  # games

LEARNING_RATE = 4e-3
VAE_EPOCHS = 6
POPULATION = 64
DREAMS = 64  # of each controller in a generation
SPREAD = 0.3  # of the controllers around their mean
GENERATIONS_BETWEEN_GAMES = 10
TRIALS = 1000
TEMPERATURES = (0, 1)


def play(state, action, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A step. state: (games, 4), the ball's column, row, and velocity in columns a
    step, and the bat's column. Returns the new states, and 1 where a ball was caught as
    it came down."""
    column, row, velocity, bat = state.T
    velocity = velocity + WIND * random.normal(size=len(state))
    column = column + velocity
    row = row + 1
    beyond = np.clip(column, 0, SIDE - 1) - column
    column = column + 2 * beyond
    velocity = np.where(beyond != 0, -velocity, velocity)

    bat = np.clip(bat + action - 1, 0, SIDE - 1)
    caught = (row >= SIDE - 2) & (np.abs(column - bat) <= REACH)
    return np.stack([column, row, velocity, bat], axis=1), caught.astype("float32")


def draw(state) -> np.ndarray:
    """Frames (count, SIDE²) in [0, 1]: a ball, and a bat on the last row. No velocity
    is seen."""
    column, row, _, bat = state.T[..., np.newaxis, np.newaxis]
    across = np.arange(SIDE)
    down = across[:, np.newaxis]
    ball = np.exp(-((across - column) ** 2 + (down - row) ** 2) / 2)
    bats = np.clip(REACH + 0.5 - np.abs(across - bat), 0, 1) * (down == SIDE - 1)
    return np.maximum(ball, bats).reshape(len(state), -1).astype("float32")


@dataclass
class Games:
    frames: np.ndarray
    """(games, STEPS + 1, SIDE²)"""
    actions: np.ndarray
    """(games, STEPS)"""
    catches: np.ndarray
    """(games, STEPS), 1 where a ball was caught"""

    @property
    def caught(self) -> float:
        """Share of the games."""
        return float(self.catches.sum(axis=1).mean())


def play_games(act: Callable, units: int, count: int, random) -> Games:
    """Whole games. act: from frames and memory (count, units) to actions and the next
    memory, such as `player_of` and `RandomPlayer` give."""
    ball, bat = random.uniform(0, SIDE - 1, (2, count))
    velocity = random.uniform(-1, 1, count)
    state = np.stack([ball, 0 * ball, velocity, bat], axis=1)
    memory = np.zeros((count, units), "float32")
    frames = [draw(state)]
    actions = []
    catches = []
    for _ in range(STEPS):
        action, memory = act(frames[-1], memory)
        state, caught = play(state, action, random)
        frames.append(draw(state))
        actions.append(action)
        catches.append(caught)
    return Games(
        np.stack(frames, axis=1), np.stack(actions, axis=1), np.stack(catches, axis=1)
    )


class RandomPlayer:
    """Takes each action for three steps, so that bats get about."""

    def __init__(self, count: int, random: np.random.Generator):
        drawn = random.integers(ACTIONS, size=(SIDE // 3 + 1, count))
        self.actions = iter(drawn.repeat(3, axis=0))

    def __call__(self, frames, memory):
        return next(self.actions), memory


def player_of(network: keras.Model) -> Callable:
    """For `play_games`, of what `build_player` gives."""

    def act(frames, memory):
        answer = network({"frame": frames, "memory": memory})
        return np.asarray(answer["action"]), np.asarray(answer["next_memory"])

    return act


def fit(model: Trained, x, epochs: int, batch_size: int, run: Run) -> None:
    examples = len(keras.tree.flatten(x)[0])
    steps = epochs * math.ceil(examples / batch_size)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(keras.optimizers.Adam(rate))
    training.fit(
        model, x, epochs=epochs, batch_size=batch_size, callbacks=run.callbacks
    )


@dataclass
class World:
    """What was learned of the game."""

    vae: VAE
    dynamics: Dynamics
    first: np.ndarray
    """z of first frames, (games, latent)"""
    surprise: dict[str, np.ndarray]
    """see `surprises`; on held-out games"""

    def dream(self, controllers, temperature: float, count: int, random):
        """Catches (population, count) and all z', as of `Dynamics.dream`."""
        first = self.first[random.integers(len(self.first), size=count)]
        noise = random.normal(size=(STEPS, count, self.first.shape[1]))
        return self.dynamics.dream(
            tf.constant(controllers, "float32"),
            tf.constant(first, "float32"),
            tf.constant(noise, "float32"),
            tf.constant(temperature, "float32"),
        )

    def player(self, controller: np.ndarray) -> keras.Model:
        return build_player(self.vae.encoder, self.dynamics, controller)


def encode(vae: VAE, frames: np.ndarray, random) -> np.ndarray:
    """z (games, steps, latent), drawn, as in a dream."""
    mean, log_variance = vae.encoder(frames.reshape(-1, SIDE**2))
    z = random.normal(mean, np.exp(log_variance / 2))
    return z.reshape(*frames.shape[:2], -1).astype("float32")


def learn_world(games: Games, config: Config, random, run: Run) -> World:
    """From all games but the held-out ones."""
    vae = VAE(SIDE**2, config.latent_size, name="vae")
    fit(vae, games.frames[HELD_OUT:].reshape(-1, SIDE**2), VAE_EPOCHS, 256, run)
    z = encode(vae, games.frames, random)
    actions = np.eye(ACTIONS, dtype="float32")[games.actions]
    steps = (z[:, :-1], actions, z[:, 1:], games.catches)
    held_out = tuple(part[:HELD_OUT] for part in steps)
    known = tuple(part[HELD_OUT:] for part in steps)

    dynamics = Dynamics(config.latent_size, config.units, ACTIONS, name="dynamics")
    fit(dynamics, known, config.epochs, 64, run)
    forgetful = Dynamics(config.latent_size, config.units, ACTIONS, name="forgetful")
    fit(forgetful, one_by_one(known), config.epochs, 64 * STEPS, run)
    surprise = surprises(dynamics, forgetful, held_out)
    return World(vae, dynamics, z[:, 0], surprise)


def one_by_one(steps: tuple) -> tuple:
    """Each step as a game of its own, which leaves nothing to remember."""
    return tuple(part.reshape(-1, 1, *part.shape[2:]) for part in steps)


def surprises(dynamics: Dynamics, forgetful: Dynamics, held_out) -> dict:
    """Nats by step, (STEPS,), with memory and without."""
    with_memory, _ = dynamics.surprise(*held_out)
    without, _ = forgetful.surprise(*one_by_one(held_out))
    return {
        "with h": np.mean(with_memory, axis=0),
        "without": np.reshape(without, (-1, STEPS)).mean(axis=0),
    }


def judge_memory(surprise: dict[str, np.ndarray], run: Run) -> None:
    first = {name: float(each[0]) for name, each in surprise.items()}
    later = {name: float(each[1:].mean()) for name, each in surprise.items()}
    run.metrics("surprise_after_more_frames_than_one", later, unit="nats")
    gain_first = first["without"] - first["with h"]
    gain_later = later["without"] - later["with h"]
    run.claim(
        "The recurrent state knows what no single frame shows: after more frames than "
        "one it expects the next one much better than the same network that was trained "
        "on single frames; after one frame it has no such lead",
        holds=gain_later > gain_first + 0.5,
        measured=f"−log p(z') after one frame {first['with h']:.2f} nats, without memory "
        f"{first['without']:.2f}; after more {later['with h']:.2f}, without memory "
        f"{later['without']:.2f}",
    )


@dataclass
class Evolved:
    """A controller that was found in dreams of one temperature."""

    controller: np.ndarray
    curve: np.ndarray
    """share of the balls caught in the game itself, by generation; NaN between games"""
    dreamed: float
    """share of the balls caught in dreams in the end"""
    film: np.ndarray
    """frames of a dream"""
    played: Games
    """in the game itself, in the end"""


def evolve(world: World, temperature: int, config: Config, run: Run) -> Evolved:
    random = np.random.default_rng(run.seed)
    shape = (config.latent_size + config.units, ACTIONS)
    weights = np.zeros(shape)
    velocity = np.zeros(shape)
    curve = np.full(config.generations, np.nan)
    state = {"all": [weights, velocity, curve, random]}
    name = f"dreams, τ = {temperature}"
    for generation in run.loop(name, config.generations, state, unit="generations"):
        noise = SPREAD * random.normal(size=(POPULATION // 2, *shape))
        noise = np.concatenate([noise, -noise])
        caught, _ = world.dream(weights + noise, temperature, DREAMS, random)
        climb(weights, velocity, noise, np.mean(caught, axis=1))
        is_last = generation == config.generations - 1
        if is_last or generation % GENERATIONS_BETWEEN_GAMES == 0:
            # It learns nothing from these games.
            watched = np.random.default_rng([run.seed, generation])
            curve[generation] = try_out(world, weights, 200, watched).caught

    random = np.random.default_rng(2**31 + run.seed)
    controller = weights.astype("float32")
    caught, seen = world.dream(controller[np.newaxis], temperature, TRIALS, random)
    film = ops.sigmoid(world.vae.decoder(seen[:, 0]))
    played = try_out(world, controller, TRIALS, random)
    return Evolved(controller, curve, float(np.mean(caught)), np.asarray(film), played)


def try_out(world: World, weights, count: int, random) -> Games:
    """In the game itself."""
    player = world.player(weights.astype("float32"))
    return play_games(player_of(player), world.dynamics.memory.units, count, random)


def judge_games(found: dict[int, Evolved], at_random: float, run: Run) -> None:
    drawn = found[1]
    still = found[0]
    run.claim(
        "What was learned in dreams alone works in the game itself",
        holds=drawn.played.caught > at_random + 0.1,
        measured=f"{drawn.played.caught:.1%} of {TRIALS:,} balls caught, "
        f"{at_random:.1%} at random",
    )
    broken = {
        temperature: each.dreamed - each.played.caught
        for temperature, each in found.items()
    }
    run.claim(
        "A dream without chance is exploited: it promises far more than the game keeps",
        holds=broken[0] > broken[1] + 0.1,
        measured=f"caught in dreams and in the game: {still.dreamed:.1%} and "
        f"{still.played.caught:.1%} at τ = 0, {drawn.dreamed:.1%} and "
        f"{drawn.played.caught:.1%} at τ = 1",
    )


def draw_evolution(found: dict[int, Evolved], at_random: float) -> Figure:
    lines = {}
    for temperature, each in found.items():
        played = np.flatnonzero(np.isfinite(each.curve))
        lines[f"learned in dreams, τ = {temperature}"] = (
            played + 1,
            each.curve[played],
        )
    in_the_game = figures.Panel(
        title="In the game itself, which no generation learns from",
        xlabel="generation",
        ylabel="share of the balls caught",
        lines=lines,
        levels={"at random": at_random},
        ylim=(0, 1),
    )
    return figures.panels(in_the_game)


def draw_film(found: dict[int, Evolved]) -> Figure:
    rows = {f"dream, τ = {t}": each.film for t, each in found.items()}
    rows["the game itself"] = found[1].played.frames[0, 1:]
    return figures.image_rows(rows, title="Dreams, and a game", columns=STEPS)


def main(config: Config, run: Run) -> None:
    run.plan(3 + len(TEMPERATURES))
    random = np.random.default_rng(run.seed)
    by_chance = RandomPlayer(config.games, random)
    games = play_games(by_chance, config.units, config.games, random)
    world = learn_world(games, config, random, run)
    found = {
        temperature: evolve(world, temperature, config, run)
        for temperature in TEMPERATURES
    }

    run.metric("catches", found[1].played.caught, unit="of a ball")
    judge_memory(world.surprise, run)
    judge_games(found, games.caught, run)
    run.figure("evolution", draw_evolution(found, games.caught))
    run.figure("film", draw_film(found))
    example = {
        "frame": games.frames[:3, 0],
        "memory": np.zeros((3, config.units), "float32"),
    }
    run.export(world.player(found[1].controller), example=example)


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
