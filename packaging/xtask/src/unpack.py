"""Unpacks part of a wheel: `unpack.py WHEEL OUT PATTERN=FOLDER...`

PATTERN is matched against each member's whole path (fnmatch). A FOLDER that ends in `/` takes the file alone;
any other is put in place of the pattern's fixed beginning, so that folders below it are kept.
"""
import fnmatch
import os
import shutil
import sys
import zipfile

wheel, out, rules = sys.argv[1], sys.argv[2], [rule.split("=", 1) for rule in sys.argv[3:]]
taken = 0
with zipfile.ZipFile(wheel) as archive:
    for member in archive.namelist():
        rule = next((r for r in rules if fnmatch.fnmatchcase(member, r[0])), None)
        if rule is None or member.endswith("/"):
            continue
        pattern, folder = rule
        name = os.path.basename(member) if folder.endswith("/") else member[len(pattern.split("*", 1)[0]):]
        path = os.path.join(out, folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with archive.open(member) as source, open(path, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        taken += 1
if taken == 0:
    sys.exit(f"{wheel}: no file matches {[r[0] for r in rules]}")
