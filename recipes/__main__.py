"""`python -m recipes`: the catalogue. Lists, searches and copies recipes, and measures
results."""

import argparse
import shutil
import sys
from pathlib import Path

from deep_learning_recipes import UsageError, catalogue, did_you_mean


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 1 if a claim fell, or 2 for bad
    input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands = {
        "copy": copy_command,
        "results": results_command,
        "table": table_command,
    }
    try:
        if arguments and arguments[0] in commands:
            return commands[arguments[0]](arguments[1:])
        return list_command(arguments)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `python -m recipes | head`
        sys.stderr.close()
        return 0


def list_command(arguments: list[str]) -> int:
    """Lists the recipes by theme, or those in which all the given words occur."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes",
        description="The catalogue of recipes. Run one with `python -m recipes.NAME`.",
        epilog="more commands: copy NAME FILE, results NAME... [--seeds N], table [--check]; "
        "each has its own --help",
    )
    parser.add_argument(
        "words", nargs="*", help="search names, titles, lectures and papers"
    )
    parser.add_argument("--theme", metavar="THEME", help=", ".join(catalogue.THEMES))
    options = parser.parse_args(arguments)

    if options.theme and options.theme not in catalogue.THEMES:
        themes = list(catalogue.THEMES)
        raise UsageError(
            f"there is no theme {options.theme!r}"
            f"{did_you_mean(options.theme, themes)}; the themes are {', '.join(themes)}"
        )
    recipes = catalogue.find_recipes()
    found = [
        recipe
        for recipe in recipes
        if recipe.matches(options.words) and options.theme in (None, recipe.theme)
    ]
    if not found:
        names = [recipe.name for recipe in recipes]
        asked = " ".join(options.words) or f"theme {options.theme}"
        raise UsageError(
            f"no recipe matches {asked!r}{did_you_mean(asked, names)}; "
            "`python -m recipes` lists them all"
        )
    width = max(len(recipe.name) for recipe in found) + 2
    for theme, about in catalogue.THEMES.items():
        shelf = [recipe for recipe in found if recipe.theme == theme]
        if shelf:
            print(f"\n{theme} — {about}")
        for recipe in shelf:
            print(f"  {recipe.name:{width}}{recipe.title}")
            if options.words:
                print(
                    f"  {'':{width}}{'; '.join(recipe.lectures)}\n  {'':{width}}{recipe.paper}"
                )
    plural = "" if len(found) == 1 else "s"
    print(f"\n{len(found)} recipe{plural}. Run one: python -m recipes.{found[0].name}")
    return 0


def copy_command(arguments: list[str]) -> int:
    """Writes a recipe's file for a project of one's own."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes copy",
        description="Write a recipe's file for a project of your own. All above `main` needs "
        "third-party packages only.",
    )
    parser.add_argument("name", help="the recipe")
    parser.add_argument(
        "file", type=Path, help="the file to write; it may not exist yet"
    )
    options = parser.parse_args(arguments)

    recipe = catalogue.find_recipe(options.name)
    target = options.file / recipe.path.name if options.file.is_dir() else options.file
    if target.exists():
        raise UsageError(f"{target} exists already; name a file that does not")
    try:
        with target.open("xb") as file, recipe.path.open("rb") as source:
            shutil.copyfileobj(source, file)
    except OSError as error:
        raise UsageError(
            f"{target} cannot be written ({error.strerror}); name another"
        ) from error
    print(f"{target}: {recipe.title} Run it: python {target}")
    return 0


def results_command(arguments: list[str]) -> int:
    """Measures recipes over seeds and writes results/NAME.json and its pictures."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes results",
        description="Run recipes' default preset once for each seed; write results/NAME.json and "
        "small pictures of the first seed. Finished seeds are kept, so it can be interrupted.",
    )
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="the recipes; `all` for all"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="how many, from 0 (default: 3)"
    )
    parser.add_argument(
        "--preset", choices=("quick", "default", "full"), default="default"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results"), help="default: results"
    )
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        raise UsageError(f"--seeds {options.seeds}: at least one seed is needed")

    from deep_learning_recipes.catalogue import results

    names = options.names
    if names == ["all"]:
        names = [recipe.name for recipe in catalogue.find_recipes()]
    recipes = [catalogue.find_recipe(name) for name in names]
    return results.measure(
        recipes, seeds=options.seeds, preset=options.preset, out=options.out
    )


def table_command(arguments: list[str]) -> int:
    """Writes the table of recipes into README.md."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes table",
        description="Write the table of recipes, with what results/ holds, into README.md.",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if it is stale"
    )
    options = parser.parse_args(arguments)

    from deep_learning_recipes.catalogue import results

    stale = results.update_readme(
        Path("README.md"), Path("results"), write=not options.check
    )
    if stale and options.check:
        print("README.md: the table of recipes is stale; run `python -m recipes table`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
