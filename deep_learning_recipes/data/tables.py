"""Tables of numbers with something to predict, in the units of their columns."""

import numpy as np

from deep_learning_recipes.data.pixels import Split
from deep_learning_recipes.data.registry import check_name


def load_table(name: str) -> Split:
    """A table as `((x_train, y_train), (x_test, y_test))`, a fixed random 80/20 split.

    x: float32 (n, features), raw units: scale it by the train part.
    `feature_names(name)` has the columns. y: int64 labels for breast_cancer and wine
    (`class_names(name)`), float32 for diabetes and randhie.

    name: breast_cancer (455 + 114 rows, 30 features; CC BY 4.0, UCI): malignant or
        benign. wine (142 + 36, 13; CC BY 4.0, UCI): the cultivar. diabetes (353 + 89,
        10; by scikit-learn, no license stated): progress in a year. randhie
        (statsmodels; public domain): visits to a doctor in a year, 9 features. A person
        has a row a year, so the split is by person (rows that share `disea`).
    Measured, columns standardized: logistic regression 0.98 (breast_cancer), 1.00
    (wine); linear regression explains 0.33 (diabetes) and 0.02 (randhie) of the
    variance, boosted trees less: there is little to learn in the last two.
    """
    from sklearn.model_selection import GroupShuffleSplit, train_test_split

    check_name("table", name, TABLES)
    x, y, _ = TABLES[name]()
    rows = np.arange(len(x))
    if name == "randhie":
        people = x[:, feature_names(name).index("disea")]
        splitter = GroupShuffleSplit(n_splits=1, test_size=0.2, random_state=0)
        train, test = next(splitter.split(rows, groups=people))
    else:
        classes = y if np.issubdtype(y.dtype, np.integer) else None
        train, test = train_test_split(
            rows, test_size=0.2, random_state=0, stratify=classes
        )
    return (x[train], y[train]), (x[test], y[test])


def feature_names(name: str) -> list[str]:
    """The columns of a table's x, in their order."""
    check_name("table", name, TABLES)
    return TABLES[name]()[2]


Table = tuple[np.ndarray, np.ndarray, list[str]]


def breast_cancer() -> Table:
    from sklearn.datasets import load_breast_cancer

    return from_bunch(load_breast_cancer(), "int64")


def wine() -> Table:
    from sklearn.datasets import load_wine

    return from_bunch(load_wine(), "int64")


def diabetes() -> Table:
    from sklearn.datasets import load_diabetes

    return from_bunch(load_diabetes(scaled=False), "float32")


def randhie() -> Table:
    from statsmodels.datasets import randhie

    table = randhie.load_pandas()
    return (
        table.exog.to_numpy("float32"),
        table.endog.to_numpy("float32"),
        list(table.exog.columns),
    )


def from_bunch(bunch, label_type: str) -> Table:
    """From scikit-learn's container."""
    names = [str(name) for name in bunch.feature_names]
    return bunch.data.astype("float32"), bunch.target.astype(label_type), names


TABLES = {
    "breast_cancer": breast_cancer,
    "wine": wine,
    "diabetes": diabetes,
    "randhie": randhie,
}
