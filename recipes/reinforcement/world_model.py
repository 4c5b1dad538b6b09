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
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops, optimizers

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

SIDE, ACTIONS, REACH, WIND = (
    16,
    3,
    2.0,
    0.05,
)  # pixels; left, stay, right; half of the bat; gusts
POPULATION, DREAMS, SPREAD, MOMENTUM = 64, 64, 0.3, 0.8  # of evolution


def play(state, action, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A step. state: (games, 4), the ball's column, row, and velocity in columns a
    step, and the bat's column. Returns the new states, and 1 where a ball was caught as
    it came down."""
    column, row, velocity, bat = state.T
    velocity = velocity + WIND * random.normal(size=len(state))
    column, row = column + velocity, row + 1
    beyond = np.clip(column, 0, SIDE - 1) - column
    column, velocity = column + 2 * beyond, np.where(beyond != 0, -velocity, velocity)
    bat = np.clip(bat + action - 1, 0, SIDE - 1)
    caught = (row >= SIDE - 2) & (np.abs(column - bat) <= REACH)
    return np.stack([column, row, velocity, bat], axis=1), caught.astype("float32")


def draw(state) -> np.ndarray:
    """Frames (count, SIDE²) in [0, 1]: a ball, and a bat on the last row. No velocity
    is seen."""
    column, row, _, bat = state.T[..., None, None]
    pixels = np.arange(SIDE)
    distance = (pixels - column) ** 2 + (pixels[:, None] - row) ** 2
    bats = np.clip(REACH + 0.5 - np.abs(pixels - bat), 0, 1) * (
        pixels[:, None] == SIDE - 1
    )
    return (
        np.maximum(np.exp(-distance / 2), bats)
        .reshape(len(state), -1)
        .astype("float32")
    )


class Trained(keras.Model):
    """Goes down the gradient of the sum of `terms(batch)`, a dict."""

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            terms = self.terms(batch)
            loss = self.optimizer.scale_loss(
                sum(terms.values())
            )  # scales in float16 alone
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        return terms


class VAE(Trained):
    """encoder: frames (batch, pixels) to μ and log σ² of z. decoder: z to the pixels'
    logits."""

    def __init__(self, pixels: int, latent_size: int, **kwargs):
        super().__init__(**kwargs)
        frame, z = (
            keras.Input((pixels,), name="frame"),
            keras.Input((latent_size,), name="z"),
        )
        hidden = layers.Dense(128, activation="relu")(frame)
        code = [layers.Dense(latent_size, dtype="float32")(hidden) for _ in range(2)]
        self.encoder = keras.Model(frame, code, name="encoder")
        hidden = layers.Dense(128, activation="relu")(z)
        self.decoder = keras.Model(
            z, layers.Dense(pixels, dtype="float32")(hidden), name="decoder"
        )
        self.seeds = keras.random.SeedGenerator()

    def terms(self, frames):
        mean, log_variance = self.encoder(frames)
        noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
        logits = self.decoder(mean + ops.exp(log_variance / 2) * noise)
        errors = (
            ops.sum((frames - ops.sigmoid(logits)) ** 2, axis=-1) / 0.02
        )  # pixels: σ = 0.1
        kl = ops.sum(mean**2 + ops.exp(log_variance) - 1 - log_variance, axis=-1) / 2
        return {"errors": ops.mean(errors), "kl": ops.mean(kl)}


class Dynamics(Trained):
    """The recurrent network M: from z and one-hot actions (batch, steps, ...) to z' and
    reward."""

    def __init__(self, latent_size: int, units: int, **kwargs):
        super().__init__(**kwargs)
        z, action = keras.Input((None, latent_size)), keras.Input((None, ACTIONS))
        self.memory = layers.GRU(units, return_sequences=True)
        self.head = layers.Dense(2 * latent_size + 1, dtype="float32")
        both = layers.Concatenate()([z, action])
        self.network = keras.Model([z, action], self.head(self.memory(both)))

    def outlook(self, z, outputs):
        """Of the network's outputs μ and log σ of z' (..., latent), and the reward's
        logit (...)"""
        move, log_sigma = ops.split(outputs[..., 1:], 2, axis=-1)
        return z + move, ops.clip(log_sigma, -5, 2), outputs[..., 0]

    def remember(self, state, z, action):
        """h' of h (batch, units), z (batch, latent), action (batch,)."""
        both = ops.concatenate([z, ops.one_hot(action, ACTIONS)], axis=-1)
        return self.memory.cell(both, [state])[0]

    def surprise(self, z, actions, following, rewards):
        """−log p(z') in nats, and that of the reward, (batch, steps) each."""
        mean, log_sigma, logits = self.outlook(z, self.network([z, actions]))
        distance = ((following - mean) / ops.exp(log_sigma)) ** 2
        of_z = ops.sum(distance / 2 + log_sigma + math.log(2 * math.pi) / 2, axis=-1)
        return of_z, ops.binary_crossentropy(rewards, logits, from_logits=True)

    def terms(self, batch):
        of_z, of_reward = self.surprise(*batch[0])
        return {
            "z": ops.mean(of_z),
            "reward": 20 * ops.mean(of_reward),
        }  # few rewards, many z

    @tf.function
    def dream(self, controllers, z, noise, temperature):
        """Games of each controller (population, latent + units, ACTIONS) from the same
        first z (dreams, latent), with the same noise (steps, dreams, latent). Returns
        catches (population, dreams) and all z' (steps, population · dreams, latent)."""
        population, dreams = controllers.shape[0], z.shape[0]
        z, state = (
            tf.tile(z, (population, 1)),
            tf.zeros((population * dreams, self.memory.units)),
        )
        catches, seen = 0.0, []
        for chance in tf.unstack(noise):
            features = tf.reshape(
                tf.concat([z, state], axis=1), (population, dreams, -1)
            )
            action = tf.reshape(tf.argmax(features @ controllers, axis=-1), [-1])
            state = self.remember(state, z, action)
            mean, log_sigma, reward = self.outlook(z, self.head(state))
            z = mean + tf.exp(log_sigma) * tf.sqrt(temperature) * tf.tile(
                chance, (population, 1)
            )
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


def play_games(player, units: int, count: int, random: np.random.Generator):
    """Whole games of a player such as `build_player`. Returns frames (count, steps + 1,
    SIDE²), actions and catches (count, steps)."""
    ball, bat = random.uniform(0, SIDE - 1, (2, count))
    state = np.stack([ball, 0 * ball, random.uniform(-1, 1, count), bat], axis=1)
    answer = {"next_memory": np.zeros((count, units), "float32")}
    frames, actions, catches = [draw(state)], [], []
    for _ in range(SIDE - 2):
        answer = player(
            {"frame": frames[-1], "memory": np.asarray(answer["next_memory"])}
        )
        actions.append(np.asarray(answer["action"]))
        state, caught = play(state, actions[-1], random)
        frames.append(draw(state))
        catches.append(caught)
    return (np.stack(each, axis=1) for each in (frames, actions, catches))


def build_player(encoder, dynamics, controller) -> keras.Model:
    """Frames, and h of the step before, to actions and h. controller: (latent + units,
    ACTIONS)"""
    frame, memory = encoder.input, keras.Input((dynamics.memory.units,), name="memory")
    z = encoder(frame)[0]
    values = ops.concatenate([z, memory], axis=1) @ controller
    action = ops.squeeze(ops.top_k(values, 1)[1], axis=-1)
    outputs = {"action": action, "next_memory": dynamics.remember(memory, z, action)}
    return keras.Model({"frame": frame, "memory": memory}, outputs, name="player")


def main(config: Config, run: Run) -> None:
    run.plan(4)  # two networks, and two evolutions
    random = np.random.default_rng(run.seed)
    # An action for three steps at a time, so that bats get about.
    chance = iter(
        random.integers(ACTIONS, size=(SIDE // 3 + 1, config.games)).repeat(3, axis=0)
    )
    by_chance = lambda inputs: {"action": next(chance), "next_memory": inputs["memory"]}  # noqa: E731
    frames, actions, catches = play_games(by_chance, config.units, config.games, random)
    at_random = catches.sum(axis=1).mean()

    def fit(model, x, epochs, batch_size):
        steps = epochs * math.ceil(len(keras.tree.flatten(x)[0]) / batch_size)
        model.compile(optimizers.Adam(optimizers.schedules.CosineDecay(4e-3, steps)))
        training.fit(
            model, x, epochs=epochs, batch_size=batch_size, callbacks=run.callbacks
        )
        return model

    pixels = frames.reshape(-1, SIDE**2)
    vae = fit(VAE(SIDE**2, config.latent_size, name="vae"), pixels, 6, 256)
    mean, log_variance = (
        np.reshape(x, (*frames.shape[:2], -1)) for x in vae.encoder(pixels)
    )
    z = random.normal(mean, np.exp(log_variance / 2)).astype(
        "float32"
    )  # drawn, as in a dream
    steps = z[:, :-1], np.eye(ACTIONS, dtype="float32")[actions], z[:, 1:], catches
    dynamics = Dynamics(config.latent_size, config.units, name="dynamics")
    fit(dynamics, tuple(part[500:] for part in steps), config.epochs, 64)
    surprise = np.mean(dynamics.surprise(*(part[:500] for part in steps))[0], axis=0)

    def dreams_of(tries, temperature, count, random):
        first = z[random.integers(len(z), size=count), 0]
        noise = random.normal(size=(SIDE - 2, count, config.latent_size))
        inputs = tries, first, noise, temperature
        return dynamics.dream(*(tf.constant(x, "float32") for x in inputs))

    curves, films, dreamt, real = {}, {}, [], []
    for temperature in (0, 1):
        name, random = f"dreams, τ = {temperature}", np.random.default_rng(run.seed)
        weights, velocity = np.zeros((2, config.latent_size + config.units, ACTIONS))
        curves[name] = curve = np.full(config.generations, np.nan)
        for step in run.loop(
            name, config.generations, {"all": [weights, velocity, curve, random]}
        ):
            noise = SPREAD * random.normal(size=(POPULATION // 2, *weights.shape))
            noise = np.concatenate([noise, -noise])
            caught, _ = dreams_of(weights + noise, temperature, DREAMS, random)
            climb(weights, velocity, noise, np.mean(caught, axis=1))
            curve[step] = np.mean(caught)
        random, controller = (
            np.random.default_rng(2**31 + run.seed),
            weights.astype("float32"),
        )
        caught, seen = dreams_of(controller[None], temperature, 1000, random)
        player = build_player(vae.encoder, dynamics, controller)
        played, _, catches = play_games(player, config.units, 1000, random)
        dreamt.append(np.mean(caught))
        real.append(catches.sum(axis=1).mean())
        films[name] = ops.sigmoid(vae.decoder(seen[:, 0]))
    films["the game itself"] = played[0, 1:]

    run.metric("catches", real[1], unit="of a ball")
    run.claim(
        "What was learned in dreams alone works in the game itself",
        holds=real[1] > at_random + 0.1,
        measured=f"{real[1]:.1%} of 1,000 balls caught, {at_random:.1%} at random",
    )
    run.claim(
        "The recurrent state knows what no single frame shows, as it has seen more than one",
        holds=surprise[1] < surprise[0] - 0.5,
        measured=f"−log p(z') {surprise[0]:.2f} nats after one frame, {surprise[1]:.2f} after two",
    )
    run.claim(
        "A dream without chance is exploited: it promises far more than the game keeps",
        holds=dreamt[0] - real[0] > dreamt[1] - real[1] + 0.1,
        measured=f"caught in dreams and in the game: {dreamt[0]:.1%} and {real[0]:.1%} at τ = 0, "
        f"{dreamt[1]:.1%} and {real[1]:.1%} at τ = 1",
    )
    labels = {
        "xlabel": "generation",
        "ylabel": "balls caught",
        "title": "Evolution in the dream",
    }
    run.figure("evolution", figures.curves(curves, **labels))
    run.figure(
        "film", figures.image_rows(films, title="Dreams, and a game", columns=SIDE - 2)
    )
    nothing = np.zeros((3, config.units), "float32")
    run.export(player, example={"frame": pixels[:3], "memory": nothing})


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
