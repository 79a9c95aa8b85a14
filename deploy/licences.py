"""`python deploy/licences.py [-o FILE]`: what an installation consists of, and under which licences.

Every distribution that this Python finds, as CSV: name, version, licence, where that was found, files with licence
texts. The licence is the package's own word: the SPDX expression of its metadata, else its classifiers, else its
free text. Exits with 1 where a package says nothing, so that an image is not built with something unknown in it.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageMetadata, distributions
from pathlib import Path
from typing import TextIO

FIELDS = ("name", "version", "licence", "found", "files")
UNKNOWN = "unknown"


def licence(metadata: PackageMetadata) -> tuple[str, str]:
    """The licence, and which field of the metadata says so."""
    expression = _field(metadata, "License-Expression")
    if expression:
        return expression, "expression"
    prefix = "License :: "
    classifiers = [str(line) for line in metadata.get_all("Classifier") or [] if str(line).startswith(prefix)]
    if classifiers:
        return "; ".join(line.rpartition(" :: ")[2] for line in classifiers), "classifier"
    text = _field(metadata, "License").strip()
    if text and text.upper() != "UNKNOWN":
        return text.splitlines()[0], "text"
    return UNKNOWN, ""


def _field(metadata: PackageMetadata, name: str) -> str:
    return str(next(iter(metadata.get_all(name) or ()), ""))


def texts(found: Distribution) -> list[str]:
    """Files of the distribution that hold licence texts."""
    names = ("licen", "copying", "notice", "thirdparty")
    return sorted({str(file) for file in found.files or [] if Path(file).name.lower().startswith(names)})


def rows(found: Iterable[Distribution]) -> list[dict[str, str]]:
    """One row a distribution, by name."""
    listed = {}
    for one in found:
        name = str(one.metadata["Name"])
        words, field = licence(one.metadata)
        values = (name, one.version, words, field, " ".join(texts(one)))
        listed.setdefault(
            name.lower(), dict(zip(FIELDS, values, strict=True))
        )  # the first one is what is imported
    return [listed[name] for name in sorted(listed)]


def write(found: list[dict[str, str]], file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows([row[field] for field in FIELDS] for row in found)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, help="the file to write; stdout by default")
    asked = parser.parse_args(argv)
    found = rows(distributions())
    if asked.out is None:
        write(found, sys.stdout)
    else:
        with open(asked.out, "w", encoding="utf-8", newline="") as file:
            write(found, file)
    silent = [row["name"] for row in found if row["licence"] == UNKNOWN]
    if silent:
        print(f"no licence is given by {', '.join(silent)}", file=sys.stderr)
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())
