"""What a caller from elsewhere may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from celeriac import errors
from celeriac.datasets.roots import checking, find_inside, relative_to, roots_of
from celeriac.jobs.folder import JobFolder

S3 = ("s3://lake/in", "s3://lake/more")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "a.csv").touch()
    (root / "up").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    (root / "over").symlink_to("loop/../../x")
    (root / "same").symlink_to(root / "folder")
    (tmp_path / "rooted").mkdir()
    return root


@pytest.mark.parametrize("name", ["a.csv", "folder", ".", "absent/x.csv", "*.csv", "same/*.csv"])
def test_inside(root: Path, name: str) -> None:
    found = find_inside(name, [str(root)])
    assert found is not None
    assert str(found).startswith(str(root))
    assert find_inside(str(root / name), [str(root)]) == found


def test_links_within_the_root_are_resolved(root: Path) -> None:
    assert find_inside("same/x.csv", [str(root)]) == root / "folder/x.csv"
    assert find_inside("same/*.csv", [str(root)]) == root / "folder/*.csv"


@pytest.mark.parametrize(
    "name",
    ["..", "../rooted/x", "up/x", "up/*.csv", "folder/../../x", "a\0b", "a\nb", "s3://lake/in/x",
     "/etc/passwd", "folder/../a.csv", "up", "over"],
)  # fmt: skip
def test_outside(root: Path, name: str) -> None:
    assert find_inside(name, [str(root)]) is None


def test_a_root_is_no_mere_beginning_of_a_name(root: Path) -> None:
    assert find_inside(f"{root}ed/x", [str(root)]) is None
    assert find_inside("s3://lake/inner/x", S3) is None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("s3://lake/in/a.csv", "s3://lake/in/a.csv"), ("s3:/lake/in/a.csv", "s3://lake/in/a.csv"),
        ("s3://lake/more", "s3://lake/more"), ("a/*.csv", "s3://lake/in/a/*.csv"),
        ("s3://lake/out/a.csv", None), ("s3://lake/in/../out", None), ("s3://", None),
        ("/lake/in/a.csv", None), ("s3://*/in/a.csv", None),
    ],
)
def test_prefixes_of_s3(name: str, found: str | None) -> None:
    got = find_inside(name, S3)
    assert (None if got is None else str(got)) == found


def test_nothing_is_inside_of_no_roots() -> None:
    assert find_inside("a.csv", []) is None


def test_each_file_of_a_folder_is_checked(root: Path) -> None:
    check = checking([str(root)])
    check(root / "a.csv")
    check(root / "same")
    (root / "out.csv").symlink_to("/etc/passwd")
    for name in ("out.csv", "up/x.csv"):
        with pytest.raises(errors.DatasetError, match=r"\.csv: leads out") as caught:
            check(root / name)
        assert "passwd" not in caught.value.message


def test_links_in_a_circle_are_followed_no_further(root: Path) -> None:
    """Nothing can be read behind them, which who reads is told."""
    assert find_inside("loop/x.csv", [str(root)]) == root / "loop/x.csv"
    checking([str(root)])(root / "loop")
    assert JobFolder(root / "loop/out").path == root / "loop/out"


def test_paths_are_shown_below_their_roots(root: Path) -> None:
    assert relative_to(str(root / "folder/x.csv"), [str(root)]) == "folder/x.csv"
    assert relative_to("/home/me/x.csv", [str(root)]) == "x.csv"
    assert relative_to("a frame of 3 rows", []) == "a frame of 3 rows"
    assert roots_of("shop", ["/d/{tenant}/in"]) == ("/d/shop/in",)
