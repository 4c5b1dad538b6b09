from deep_learning_recipes.run.record import Run, cli

__all__ = ["Run", "cli"]
