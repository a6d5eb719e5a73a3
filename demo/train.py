"""Train the demonstration's models: ordinary scikit-learn and torch, nothing of Celeriac."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from celeriac.registry.manifest import InputSchema, Pixels
from celeriac.runtimes.architectures import DigitCNN


def text_classifier(texts: pd.Series, labels: pd.Series) -> Pipeline:
    """TF-IDF of one and two words, and logistic regression."""
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        LogisticRegression(C=4.0, max_iter=1_000),
    )
    model.fit(texts, labels)
    return model


def films_in_halves(reviews: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reviews of every other film, to train on, and those of the others."""
    known = reviews["film"].isin(sorted(reviews["film"].unique())[::2])
    return reviews[known], reviews[~known]


def digit_images() -> tuple[Any, Any, Any, Any]:
    """Scikit-learn's scanned digits, 8 x 8 pixels of 0 to 16: train, held out, and the labels."""
    digits = load_digits()
    train, held_out, labels, held_out_labels = train_test_split(
        digits.images.astype(np.float32), digits.target,
        test_size=0.25, random_state=0, stratify=digits.target,
    )
    return train, held_out, labels, held_out_labels


DIGIT_IMAGE = InputSchema(
    kind="image", shape=(8, 8), dtype="float32", pixels=Pixels(mode="L", scale=16 / 255)
)
"""How the file of an image becomes 8 x 8 pixels of 0 to 16."""


def as_png(image: Any) -> bytes:
    """One digit as a file."""
    file = io.BytesIO()
    Image.fromarray((image * (255 / 16)).round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def digit_classifier(images: Any, labels: Any, *, epochs: int = 20) -> torch.nn.Module:
    """A small convolutional network, trained for a few seconds."""
    torch.manual_seed(0)
    model = DigitCNN(scale=16.0)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(64):
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
            loss.backward()
            optimiser.step()
    return model.eval()


def digits_of(model: torch.nn.Module, images: Any) -> Any:
    """The digit that the network sees in each image."""
    with torch.inference_mode():
        return model(torch.from_numpy(images)).argmax(1).numpy()


def accuracy(predicted: Any, true: Any) -> float:
    """Share of answers that are right."""
    return float((np.asarray(predicted) == np.asarray(true)).mean())


FLIGHT_NUMBERS = [
    "hour", "distance", "temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib",
]
FLIGHT_COLUMNS = [*FLIGHT_NUMBERS, "origin", "carrier"]


def delay_classifier(flights: pd.DataFrame, arrivals: pd.Series) -> Pipeline:
    """Will a flight be late? Boosted trees on schedule and weather."""
    model = make_pipeline(
        make_column_transformer(
            (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
             ["origin", "carrier"]),
            remainder="passthrough",
        ),
        HistGradientBoostingClassifier(random_state=0),
    )
    model.fit(flights, arrivals)
    return model


KNOWN_DAYS = 21
"""Of the month that a model of delays is trained on; the rest of the month is held out."""


def delays(month: pd.DataFrame) -> Pipeline:
    """A model of the first three weeks of a month."""
    known = month[month["day"] <= KNOWN_DAYS]
    return delay_classifier(known[FLIGHT_COLUMNS], known["arrival"])


def delay_reference(month: pd.DataFrame) -> dict[str, Any]:
    """What drift is measured against: the whole month, and the truth of its last ten days."""
    held_out = month["day"] > KNOWN_DAYS
    return {
        "examples": month[FLIGHT_COLUMNS].head(50),
        "reference": month[FLIGHT_COLUMNS],
        "reference_labels": month["arrival"].where(held_out, None).tolist(),
    }
