"""Train the model, register it, have it checked, and let it serve. Any training will do here."""

from __future__ import annotations

from app import MODEL
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from celeriac import release
from celeriac.registry.store import Registry
from celeriac.settings import get_settings


def main() -> None:
    """Leaves the next version of the model, promoted, and ``wines.csv`` with wines it never saw."""
    wine = load_wine(as_frame=True)
    names = wine.target_names[wine.target]
    known, unseen, labels, unseen_labels = train_test_split(
        wine.data, names, test_size=0.4, random_state=0, stratify=names
    )
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(known, labels)
    accuracy = float(model.score(unseen, unseen_labels))
    settings = get_settings()
    registry = Registry(settings.models.root)
    version = release.register(
        MODEL, model, registry=registry, examples=known.head(20), metrics={"accuracy": accuracy},
        reference=unseen, reference_labels=unseen_labels.tolist(),
    )
    release.promote(registry, version.ref, settings=settings, who="train.py")
    unseen.assign(grower=unseen_labels).to_csv("wines.csv", index=False)
    print(f"{version.ref}: accuracy {accuracy:.2f} on {len(unseen)} wines that it has not seen")


if __name__ == "__main__":
    main()
