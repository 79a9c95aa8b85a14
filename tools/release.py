"""Turn CHANGELOG's "Unreleased" into a version: the heading, pyproject.toml, a commit and a tag.

usage: python tools/release.py 0.2.0 [--dry-run]

It refuses a version that is not larger than the present one, an empty "Unreleased", a work tree with changes, and a tag
that is there already. Nothing is pushed: `git push --follow-tags` does that, once CI is green.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEADING = "## Unreleased\n"


class Refused(Exception):
    """Why there is no release."""


def numbers(version: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise Refused(f"a version is three numbers like 0.2.0, not {version!r}")
    return tuple(map(int, version.split(".")))


def released(changelog: str, version: str, day: str) -> str:
    """The changelog with an empty "Unreleased" above what was in it."""
    head, found, rest = changelog.partition(HEADING)
    news = rest.split("\n## ")[0].strip()
    if not found or not news:
        raise Refused("CHANGELOG.md has nothing under 'Unreleased'")
    return f"{head}{HEADING}\n## {version} ({day})\n{rest}"


def raised(project: str, version: str) -> str:
    """pyproject.toml with the version."""
    match = re.search(r'^version = "([^"]*)"$', project, re.MULTILINE)
    if match is None:
        raise Refused("pyproject.toml states no version")
    if numbers(version) <= numbers(match[1]):
        raise Refused(f"{version} is not above {match[1]}")
    return project[: match.start()] + f'version = "{version}"' + project[match.end() :]


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def release(version: str, *, dry: bool) -> None:
    if git("status", "--porcelain"):
        raise Refused("the work tree has changes; commit them first")
    if git("tag", "--list", f"v{version}"):
        raise Refused(f"there is a tag v{version} already")
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    files = {
        "CHANGELOG.md": released((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version, day),
        "pyproject.toml": raised((ROOT / "pyproject.toml").read_text(encoding="utf-8"), version),
    }
    if dry:
        print(f"would write {', '.join(files)}, commit, and tag v{version}")
        return
    for name, text in files.items():
        (ROOT / name).write_text(text, encoding="utf-8")
    git("commit", "--quiet", "--message", f"Release {version}", *files)
    git("tag", "--annotate", f"v{version}", "--message", f"onnxplain {version}")
    print(f"v{version} is committed and tagged; git push --follow-tags")


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("version")
    asked.add_argument("--dry-run", action="store_true")
    given = asked.parse_args()
    try:
        release(given.version, dry=given.dry_run)
    except Refused as why:
        print(why, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
