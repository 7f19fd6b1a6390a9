"""Text that flows through: lines as they come, read ahead while others are translated; and where translations go."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, BinaryIO, TypeVar, cast

from longshort.apps.translate.text import lines

T = TypeVar("T")
FIRST = 50  # lines of the first group; later ones are larger, up to what is asked for
LINGER = 0.02  # seconds in which a group waits for one more line


def read(paths: Sequence[Path]) -> Iterator[str]:
    """The lines of text files, one file after another, with their ends; of standard input where there is no file. Files may be
    gzipped. A line end is added only between files, so that no line becomes one with the next.

    Raises:
        OSError: a file cannot be opened.
        ValueError: a line is not UTF-8, or a gzip file is damaged; the message names the file and the line.
    """
    whole = True
    for path in paths or (None,):
        if not whole:
            yield "\n"
        for line in _lines(path):
            whole = line.endswith("\n")
            yield line


def openable(paths: Iterable[Path]) -> None:
    """Prove, before a file is written, that others can be read.

    Raises:
        OSError: one cannot be opened.
    """
    for path in paths:
        if not path.is_fifo():  # it opens once
            with open(path, "rb"):
                pass


def ahead(items: Iterable[T], most: int) -> Iterator[list[T]]:
    """Items in groups of those that are there: only the first one of a group is waited for. Meanwhile others are read.

    What goes wrong with an item is raised after those before it were given.

    Args:
        items: read in a thread of their own.
        most: of a group; the first groups are smaller.
    """
    ready: Queue[tuple[list[T], Exception | None]] = Queue(2 * most)
    gone = Event()

    def put(item: list[T], wrong: Exception | None = None) -> None:
        while not gone.is_set():
            try:
                return ready.put((item, wrong), timeout=0.1)
            except Full:
                continue

    def fill() -> None:
        try:
            for item in items:
                put([item])
                if gone.is_set():
                    return
            put([])
        except Exception as e:
            put([], e)

    Thread(target=fill, daemon=True).start()
    room = min(FIRST, most)
    try:
        while True:
            found, wrong = ready.get()
            group, more = list(found), bool(found)
            while more and len(group) < room:
                try:
                    found, wrong = ready.get(timeout=LINGER)
                except Empty:
                    break
                group, more = group + found, bool(found)
            if group:
                yield group
            if wrong is not None:
                raise wrong
            if not more:
                return
            room = min(2 * room, most)
    finally:
        gone.set()


@contextmanager
def writer(path: Path | None) -> Iterator[Callable[[str], object]]:
    """What writes text to a file, gzipped if it is called .gz, or to standard output, where it is seen at once."""
    if path is None:
        out = sys.stdout.buffer

        def write(text: str) -> None:
            out.write(text.encode())
            out.flush()

        sys.stdout.flush()
        yield write
        return
    with cast(BinaryIO, gzip.open(path, "wb")) if path.suffix == ".gz" else open(path, "wb") as file:
        yield lambda text: file.write(text.encode())


@contextmanager
def counted(what: str, seen: bool) -> Iterator[Callable[[int], object]]:
    """What counts lines on standard error while the work goes on, if that is a terminal.

    Args:
        what: is done, as it is shown: translated.
        seen: False shows nothing.
    """
    if not (seen and sys.stderr is not None and sys.stderr.isatty()):
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    said = SpinnerColumn(), TextColumn(f"{what} {{task.completed}} lines"), TimeElapsedColumn(), TextColumn("{task.description}")
    console = Console(stderr=True)
    with Progress(*said, console=console, redirect_stdout=False, redirect_stderr=False, transient=True) as bar:
        task = bar.add_task("", total=None)

        def advance(n: int) -> None:
            bar.advance(task, n)
            speed = bar.tasks[0].completed / max(bar.tasks[0].elapsed or 0.0, 1e-9)
            bar.update(task, description=f"{speed:.0f}/s")

        yield advance


def _lines(path: Path | None) -> Iterator[str]:
    name = "standard input" if path is None else str(path)
    with _opened(path) as file:
        packed = file.peek(2)[:2] == b"\x1f\x8b"
        try:
            yield from lines(cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file, name)
        except (EOFError, gzip.BadGzipFile, zlib.error) as e:
            raise ValueError(f"{name}: is a damaged gzip file: {e}") from None


def _opened(path: Path | None) -> Any:
    if path is not None:
        return open(path, "rb")
    if sys.stdin is None:
        raise ValueError("there is no standard input to read. Name a file.")
    try:  # a door of our own: a thread that waits at the common one would hold up the end of the program
        return open(os.dup(sys.stdin.fileno()), "rb")
    except io.UnsupportedOperation:
        return io.BufferedReader(cast(Any, sys.stdin.buffer))
