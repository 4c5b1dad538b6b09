"""What `python -m recipes` prints: the recipes by theme, or those that were searched."""

from deep_learning_recipes.catalogue.headers import THEMES, Recipe, by_theme


def print_recipes(recipes: list[Recipe], *, details: bool) -> None:
    """Prints names and titles theme by theme; details: also lectures and paper."""
    width = max(len(recipe.name) for recipe in recipes) + 2
    for theme, shelf in by_theme(recipes).items():
        print(f"\n{theme} — {THEMES[theme]}")
        for recipe in shelf:
            print(f"  {recipe.name:{width}}{recipe.title}")
            if details:
                print(f"  {'':{width}}{'; '.join(recipe.lectures)}")
                print(f"  {'':{width}}{recipe.paper}")
    plural = "" if len(recipes) == 1 else "s"
    print(
        f"\n{len(recipes)} recipe{plural}. Run one: python -m recipes.{recipes[0].name}"
    )
