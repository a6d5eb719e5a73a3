"""Types of CSV columns by the head of a file: the quick way finds what a plain slow one does."""

from __future__ import annotations

import csv as writer
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st

from celeriac import errors
from celeriac.datasets import csv, kinds
from celeriac.datasets.streams import Head

NULLS = ["", "NA", "NaN", "nan", "-nan", "null", "NULL", "N/A", "#N/A N/A", "-1.#IND", "1.#QNAN"]
INTS = ["0", "1", "-1", "42", "9" * 15, "-" + "9" * 15, "9" * 16, "9" * 18]
FLOATS = ["0.5", "-0", "-0.25", "1e5", "1E-7", "2.50", "1e+300", "9" * 15 + ".5"]
BOOLS = ["true", "false", "True", "FALSE"]
ODD = [
    "007", "-01", "+1", "1.", ".5", "1e", "1e1000", "9" * 19, "9" * 16 + ".5", "0x1F", "1_000",
    "1,5", "inf", "-inf", "Infinity", "NAN", "tRUE", "yes", "None", " 1", "1 ", "\t1", " ", "1\n",
    "1\r\n", "2026-11-26", "2026-11-26T10:00:00Z", "10:30", "a", 'a "b"', '"', "a, b", "a\nb",
    "\r", "ä", "\u0661", "\ufeff", "\ufeff5", "\0", "'1'",
]
COLUMNS = st.sampled_from([
    INTS, FLOATS, BOOLS, NULLS, ODD, INTS + NULLS, FLOATS + NULLS, BOOLS + NULLS, INTS + FLOATS,
    ["0", "1"], ["1", "9" * 17], [""], ["", "5"],
])
SCRAPS = st.sampled_from([
    b'"', b'""', b",", b",,", b"\n", b"\r", b"\r\n", b" ", b"0", b"1", b"7", b".5", b"-", b"e5",
    b"a", b"true", b"NaN", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"1,2\n", b"3,4.5\r\n", b'"6",x\n',
    b"\0",
])
PATTERNS = {
    "int": r"(0|-?[1-9][0-9]{0,17})",
    "float": r"-?(?P<whole>0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE](?P<exponent>[+-]?[0-9]{1,3}))?",
    "bool": "(true|false|True|False|TRUE|FALSE)",
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, bytes]:
    """Columns that are mostly of one kind: how many, and the records."""
    columns = draw(st.lists(COLUMNS, min_size=1, max_size=4))
    rows = [*map(list, draw(st.lists(st.tuples(*map(st.sampled_from, columns)), max_size=40)))]
    if rows and draw(st.booleans()):
        odd = draw(st.sampled_from(ODD + INTS + FLOATS + NULLS))
        rows[draw(st.integers(0, len(rows) - 1))][draw(st.integers(0, len(columns) - 1))] = odd
    text = io.StringIO()
    quoting = draw(st.sampled_from([writer.QUOTE_MINIMAL, writer.QUOTE_ALL]))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    writer.writer(text, quoting=quoting, lineterminator=end).writerows(rows)
    lines = text.getvalue().encode().splitlines(keepends=True)
    for scrap in draw(st.lists(SCRAPS, max_size=2)):
        lines.insert(draw(st.integers(0, len(lines))), scrap)
    return len(columns), b"".join(lines)


def plain(head: Head, names: list[str]) -> dict[str, str]:
    """All values as texts, and each against the patterns, in turn."""
    data, _ = csv.head_rows(head, 0)
    data, _, _ = csv._drop_undecodable(data)
    table, _ = csv._parse(head.path, data, names, dict.fromkeys(names, "text"), names)
    return {name: plain_type(table[name].to_pylist()) for name in names}


def plain_type(texts: list[str]) -> str:
    values = [text for text in texts if text not in kinds.NULLS.to_pylist()]
    for kind, pattern in PATTERNS.items():
        if values and all(matches(pattern, value) for value in values):
            rounded = (value for value in values if not matches(PATTERNS["float"], value))
            return "long" if kind == "int" and any(rounded) else kind
    return "text" if values else "null"


def matches(pattern: str, value: str) -> bool:
    """11e300 is left a text, as what might be infinite."""
    found = re.fullmatch(pattern, value)
    if found is None or "exponent" not in found.groupdict():
        return found is not None
    return int(found["exponent"] or 0) <= (307 if len(found["whole"]) == 1 else 292)


def check(columns: int, data: bytes, *, is_whole: bool, first: int, is_quick: bool) -> None:
    head, names = Head(Path("odd.csv"), data, is_whole), [f"c{number}" for number in range(columns)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv, "_FIRST_LOOK_BYTES", first)
        patch.setattr(kinds.Kinds, "is_quicker", lambda *_: is_quick)
        assert outcome(csv.infer_types, head, names, 0) == outcome(plain, head, names)


def outcome(call: Callable[..., dict[str, str]], *arguments: Any) -> dict[str, str] | str:
    try:
        return call(*arguments)
    except errors.DatasetError as error:
        return str(error)


@settings(max_examples=300)
@given(tables(), st.booleans(), st.sampled_from([1, 8, 64]), st.booleans())
@example((1, b"5\n" * 9 + b"\xef\xbb\xbf5\n"), True, 1, True)
@example((2, b"1,2\n" * 9 + b'1,"2'), True, 1, True)
@example((2, b'1,2\n"1",2\n' * 9), True, 1, True)
@example((2, b"1,2\n" * 9 + b'1,"2\n3,"\n'), True, 1, True)
@example((2, b"1,a\n" * 9 + b'1,"a\n2.5,b"\n'), True, 1, True)
@example((2, b"0.5,a\n" * 9 + b"1.,a\n"), True, 1, True)
@example((2, b"1,\n" * 9 + b"1,0\n"), True, 1, True)
@example((1, b"1\n" + b"1" * 17 + b"\n1.5\n"), True, 1, True)
@example((1, b"0\n11e+300\n"), True, 1, True)
@example((1, b"0\n1e+300\n"), True, 1, True)
def test_types_are_those_of_the_plain_way(
    table: tuple[int, bytes], is_whole: bool, first: int, is_quick: bool
) -> None:
    check(*table, is_whole=is_whole, first=first, is_quick=is_quick)


@settings(max_examples=300)
@given(st.lists(SCRAPS, max_size=40), st.booleans(), st.sampled_from([1, 16]), st.integers(1, 3))
@example([b"\xef\xbb\xbf"], True, 1, 1)
@example([b"\xef\xbb\xbf", b"\n", b"1", b"\n"], True, 1, 1)
@example([b"\xef\xbb\xbf", b"\r", b"\n", b"1", b"\n"], False, 1, 1)
@example([b"\xef\xbb\xbf", b'""', b"\n", b"1", b"\n"], True, 1, 1)
def test_damaged_records_change_nothing(
    scraps: list[bytes], is_whole: bool, first: int, columns: int
) -> None:
    check(columns, b"".join(scraps), is_whole=is_whole, first=first, is_quick=True)


WIDE = "".join(",".join([f"{row}", f"{row}.5", "true", "NA", *["0.25"] * 16]) + "\n"
               for row in range(3000))
AS_WIDE = {"c0": "int", "c1": "float", "c2": "bool", "c3": "null", "c4": "float", "c19": "float"}


def of_wide(data: str) -> tuple[dict[str, str], int]:
    """Types of 20 columns with some late rows, and how many rows were looked at by column."""
    looked: list[int] = []
    narrow = kinds.Kinds.narrow
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            kinds.Kinds, "narrow",
            lambda self, table: (looked.append(table.num_rows), narrow(self, table))[1],
        )
        head = Head(Path("wide.csv"), data.encode(), True)
        types = csv.infer_types(head, [f"c{number}" for number in range(20)], 0)
    return {name: types[name] for name in AS_WIDE}, sum(looked)


def test_records_that_change_nothing_are_not_taken_apart() -> None:
    types, looked = of_wide(WIDE)
    assert types == AS_WIDE
    assert looked < 600


@pytest.mark.parametrize(("row", "changed"), [
    ("007,1.5,true,," + ",".join(["1"] * 16), {"c0": "text"}),
    ("1,1e+400,true,NA," + ",".join(["1"] * 16), {"c1": "text"}),
    ("1.5,1,true,NaN," + ",".join(["1"] * 16), {"c0": "float"}),
    ("1,1,1,1," + ",".join(["1"] * 16), {"c2": "text", "c3": "int"}),
    ("1,1,true,NA," + ",".join(["1"] * 14) + ',"a ""b""\nc",1,', {}),  # 21 fields
    ('1,1,true,NA,"a ""b""\nc",' + ",".join(["1"] * 15), {"c4": "text"}),
    ("1,1,true,-nan," + ",".join(["1"] * 15) + ', "1"', {"c19": "text"}),
])
def test_one_late_value_counts(row: str, changed: dict[str, str]) -> None:
    types, looked = of_wide(f"{WIDE}{row}\n{WIDE}")
    assert types == {**AS_WIDE, **changed}
    assert looked < 3000


def test_types_are_found_without_pandas(tmp_path: Path) -> None:
    """Parts of pyarrow import it, which takes longer than all else in a first plan, and 30 MB."""
    path = tmp_path / "rows.csv"
    path.write_text(f"{','.join(AS_WIDE)}\n1,0.5,true,NA,2.5,1\n", encoding="utf-8")
    script = (
        "import sys; from pathlib import Path; from celeriac.datasets.sources import open_source; "
        "print([column.dtype for column in open_source(Path(sys.argv[1])).columns]); "
        "print('pandas' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == [
        "['int', 'float', 'bool', 'text', 'float', 'int']", "False",
    ]
