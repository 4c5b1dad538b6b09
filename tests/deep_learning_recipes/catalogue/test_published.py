"""The table of convnets, written from what the recipes measured."""

import json
from pathlib import Path

from conftest import ROOT

from deep_learning_recipes.catalogue import published


def test_the_table_is_fresh():
    assert not published.update_architectures(ROOT / "results", write=False), (
        "run `python -m recipes table`"
    )


def of_network(name, parameters, **more):
    values = {
        f"parameters_{name}": parameters,
        f"multiply_adds_{name}": 724_406_816,
        f"activations_{name}": 3.21,
        f"ms_per_image_{name}_batch_1": 12.3,
        **more,
    }
    return {metric: {"mean": value} for metric, value in values.items()}


def test_networks_stand_by_their_parameters_with_what_was_published():
    folder = Path("results")
    folder.mkdir()
    metrics = of_network("alexnet", 60_965_224)
    metrics |= of_network("small_net", 950, test_accuracy_small_net=0.875)
    metrics |= {"multiply_adds_saved": {"mean": 3.0}}
    (folder / "some.json").write_text(json.dumps({"metrics": metrics}))

    assert published.update_architectures(folder, write=True)
    assert not published.update_architectures(folder, write=True)
    lines = (folder / "architectures.md").read_text().splitlines()
    rows = [line for line in lines if "`some`" in line]
    assert rows == [
        "| small net | `some` | 950 | 724 M | 3.21 MB | 12.3 |  | 0.875 |  |  |",
        "| AlexNet | `some` | 61 M | 724 M | 3.21 MB | 12.3 |  |  | 8 | 16.4 % |",
    ]
    assert any("Krizhevsky" in line for line in lines)
