"""`python -m recipes`: the catalogue. Lists and searches recipes, begins new ones,
copies them, and measures results."""

import argparse
import sys
from pathlib import Path

from deep_learning_recipes import UsageError, catalogue
from deep_learning_recipes.catalogue import (
    copying,
    headers,
    listing,
    new,
    published,
    readme,
)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 1 if a claim failed, or 2 for bad
    input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands = {
        "new": new_command,
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
    recipes = catalogue.find_recipes()
    parser = argparse.ArgumentParser(
        prog="python -m recipes",
        description="The catalogue of recipes. Run one with `python -m recipes.NAME`.",
        epilog="more commands: new NAME --theme THEME, copy NAME FILE, results NAME... "
        "[--seeds N], table [--check]; each has its own --help",
    )
    parser.add_argument(
        "words", nargs="*", help="search names, tags, and all else that headers say"
    )
    parser.add_argument(
        "--theme", metavar="THEME", help=", ".join(headers.by_theme(recipes))
    )
    options = parser.parse_args(arguments)
    print(listing.listing(recipes, words=options.words, theme=options.theme))
    return 0


def new_command(arguments: list[str]) -> int:
    """Writes a new recipe and its test into the checkout."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes new",
        description="Write a recipe that runs as it stands, and its test, to start from: "
        "recipes/THEME/NAME.py and tests/recipes/THEME/test_NAME.py.",
    )
    parser.add_argument("name", help="lower-case letters, digits and underscores")
    parser.add_argument(
        "--theme",
        metavar="THEME",
        help=f"{', '.join(catalogue.THEMES)}; a recipe that is planned has one",
    )
    options = parser.parse_args(arguments)
    print(new.new_recipe(options.name, options.theme))
    return 0


def copy_command(arguments: list[str]) -> int:
    """Writes a recipe's file for a project of one's own."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes copy",
        description="Write a recipe's file for a project of your own. What stands above the "
        "banner `# The experiment` needs third-party packages only (in a file without "
        "banners: all but `main`).",
    )
    parser.add_argument("name", help="the recipe")
    parser.add_argument(
        "file", type=Path, help="the file to write; it may not exist yet"
    )
    parser.add_argument(
        "--standalone",
        action="store_true",
        help="write a file that runs without this package: the idea, and a short main "
        "that loads the data and trains",
    )
    options = parser.parse_args(arguments)

    recipe = catalogue.find_recipe(options.name)
    target = copying.copy_recipe(recipe, options.file, standalone=options.standalone)
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

    if options.names == ["all"]:
        recipes = catalogue.find_recipes()
    else:
        recipes = [catalogue.find_recipe(name) for name in options.names]

    # Matplotlib takes a second to import.
    from deep_learning_recipes.catalogue import results

    return results.measure(
        recipes, seeds=options.seeds, preset=options.preset, out=options.out
    )


def table_command(arguments: list[str]) -> int:
    """Writes the tables of recipes and of architectures."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes table",
        description="Write what results/ holds: the table of recipes into README.md, that "
        "of the convnets into results/architectures.md.",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if one is stale"
    )
    options = parser.parse_args(arguments)

    write = not options.check
    results = Path("results")
    stale = {
        "README.md": readme.update_readme(Path("README.md"), results, write=write),
        "results/architectures.md": published.update_architectures(
            results, write=write
        ),
    }
    if options.check and any(stale.values()):
        names = " and ".join(name for name, is_stale in stale.items() if is_stale)
        print(f"{names}: the table is stale; run `python -m recipes table`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
