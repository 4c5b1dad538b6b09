"""What training changes."""

import keras

from deep_learning_recipes.distribute.replicas import optimizers_of


def state_variables(model: keras.Model) -> list[keras.Variable]:
    """Everything that training changes: weights, random states, and the variables of
    every optimizer that the model holds (a GAN has two)."""
    metrics = {id(variable) for variable in model.metrics_variables}
    variables = [
        variable for variable in model.variables if id(variable) not in metrics
    ]
    return variables + [
        v for optimizer in optimizers_of(model) for v in optimizer.variables
    ]
