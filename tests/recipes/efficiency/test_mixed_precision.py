"""Mixed precision: dtypes of everything, and what float16 rounds to nothing."""

import keras
import numpy as np
import pytest

from recipes import mixed_precision

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(32, 5)).astype("float32")
Y = RANDOM.integers(0, 10, 32)


@pytest.mark.parametrize(
    ("policy", "compute"),
    [
        ("float32", "float32"),
        ("mixed_float16", "float16"),
        ("mixed_bfloat16", "bfloat16"),
    ],
)
def test_variables_and_logits_stay_in_32_bits(policy, compute):
    model = mixed_precision.build_model(5, 8, policy)
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert model.get_layer("hidden_1").compute_dtype == compute
    assert model.output.dtype == "float32"
    size = 4 if compute == "float32" else 2
    assert mixed_precision.activation_bytes(model, X) == 2 * 32 * 8 * size


def test_only_float16_scales_its_loss():
    for policy, scaled in (("float32", 0), ("mixed_bfloat16", 0), ("mixed_float16", 1)):
        model = mixed_precision.build_model(5, 8, policy)
        mixed_precision.compile_classifier(model, policy, 1e-3)
        assert (
            isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == scaled
        )


def test_gradients_below_float16_vanish_until_scaled():
    keras.utils.set_random_seed(0)
    model = mixed_precision.build_model(5, 8, "mixed_float16")
    assert mixed_precision.vanished_share(model, X, Y, 1.0, 1.0) < 0.05
    assert mixed_precision.vanished_share(model, X, Y, 1e-9, 1.0) > 0.4
    assert mixed_precision.vanished_share(model, X, Y, 1e-9, 2.0**24) < 0.05
    exact = mixed_precision.build_model(5, 8, "mixed_bfloat16")
    exact.set_weights(model.get_weights())
    assert mixed_precision.vanished_share(exact, X, Y, 1e-9, 1.0) < 0.05


def test_a_step_below_half_a_spacing_moves_no_16_bit_weight():
    """Between 0.5 and 1 neighboring float16 numbers lie 2⁻¹¹ apart."""
    assert np.float16(0.75) + np.float16(2**-12.1) == np.float16(0.75)
    _, still = mixed_precision.descend("float16", X, Y, 8, steps=3, learning_rate=1e-5)
    _, master = mixed_precision.descend("float32", X, Y, 8, steps=3, learning_rate=1e-5)
    assert still > 0.8
    assert master < 0.5
