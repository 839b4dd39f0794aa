"""Archives that the package `barecat` writes."""

import random
import sqlite3


def barecat_files():
    """Return about 120 files in nested directories, some with unusual names, by path."""
    rng = random.Random(5)
    files = {
        f"class_{i % 7:03d}/image {i}.jpg": rng.randbytes(rng.choice([0, 1, 700, 3000]))
        for i in range(120)
    }
    files.update({"top.txt": b"one\r\ntwo\n\xc3\xa4", ".hidden": b"h", "class_001/.hid.jpg": b"."})
    files.update({"deep/a/b/c/x.bin": b"deep", "deep/ä/日本.txt": b"unicode", "it's 100%.x": b"%"})
    return files


def write_barecat(path, files, **options):
    """Write an archive with the package `barecat`; return its path."""
    import barecat

    with barecat.Barecat(path, readonly=False, **options) as archive:
        for name, data in files.items():
            archive[name] = data
        archive.mkdir("empty/directory")
    return path


def execute_sql(path, *statements):
    """Change the database of an archive."""
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
