"""Live sound: from a microphone or raw from standard input, in; what is heard, on the terminal, out. No torch."""

from __future__ import annotations

import queue
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Self, TextIO

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len

Next = Callable[[], bytes]  # gives the next piece of sound, b"" at the end
BLOCK = 0.1  # seconds of sound that a microphone gives at a time
FILES = (b"RIFF", b"fLaC", b"OggS", b"ID3\x03", b"ID3\x04")  # how sound files begin that are not raw


class Interrupt:
    """Ctrl-C as the end of a recording: at once while we wait for sound, else after what is being heard and what has come since.
    A second one stops."""

    def __init__(self) -> None:
        self.over = self.waiting = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _came(self, *_: object) -> None:
        again, self.over = self.over, True
        if again or self.waiting:
            raise KeyboardInterrupt

    def wait(self, following: Next, waiting: Next) -> bytes:
        """What `following` gives; once Ctrl-C came, what `waiting` does."""
        try:
            self.waiting = True
            return waiting() if self.over else following()
        except KeyboardInterrupt:
            return waiting()
        finally:
            self.waiting = False


@contextmanager
def piped(file: BinaryIO, rate: int) -> Iterator[tuple[Next, Next, int]]:
    """Raw sound of a pipe: what waits for the next piece, 16-bit samples, one channel; what gives those that have come already;
    and their rate.

    Raises:
        ValueError: the pipe is a terminal, or brings a file with a header.
    """
    if file.isatty():
        raise ValueError("--stdin hears what is piped in: arecord -t raw -f S16_LE -r 16000 | longshort listen MODEL --stdin")
    size, first, read = 2 * rate, True, getattr(file, "read1", file.read)

    def following() -> bytes:
        nonlocal first
        made = read(size)
        while made and (len(made) % 2 or (first and len(made) < 4)):  # whole samples
            if not (more := read(1)):
                return made[: len(made) // 2 * 2]
            made += more
        if first and made[:4] in FILES:
            raise ValueError(
                "standard input is a sound file, but raw 16-bit samples are wanted. arecord: -t raw; FFmpeg: -f s16le -ac 1."
            )
        first = False
        return made

    yield following, bytes, rate


@contextmanager
def microphone(device: str | None, rate: int | None) -> Iterator[tuple[Next, Next, int]]:
    """The sound of a microphone, as `piped` gives it. What comes while we compute is not lost.

    Args:
        device: number or part of the name; None is the default one.
        rate: samples per second; None is what the microphone likes.

    Raises:
        ImportError: sounddevice or PortAudio is not installed.
        ValueError: no such microphone can be opened.
    """
    try:
        import sounddevice
    except ImportError as e:
        raise ImportError("a microphone needs sounddevice: pip install 'longshort[microphone]', or pipe into --stdin.") from e
    except OSError as e:
        raise ImportError(f"a microphone needs PortAudio (Debian: libportaudio2): {e}; or pipe into --stdin.") from e
    came: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    which = int(device) if device is not None and device.isdecimal() else device

    def heard(samples: Any, *_: object) -> None:
        came.put(bytes(samples))

    try:
        own = rate or round(sounddevice.query_devices(which, "input")["default_samplerate"])
        stream = sounddevice.RawInputStream(own, int(BLOCK * own), which, channels=1, dtype="int16", callback=heard,
                                            finished_callback=lambda: came.put(b""))  # fmt: skip
        stream.start()
    except (sounddevice.PortAudioError, ValueError) as e:
        raise ValueError(f"the microphone cannot be opened: {e}. `python -m sounddevice` lists them: --device.") from e

    def waiting() -> bytes:
        stream.stop()
        return b"" if came.empty() else came.get()

    try:
        yield came.get, waiting, own
    finally:
        stream.close()


def samples(made: bytes) -> NDArray[np.int16]:
    """16-bit samples, least significant byte first, [N]."""
    return np.frombuffer(made, "<i2").astype(np.int16)


class Line:
    """One line of a terminal that is written again and again; nothing at all where there is no terminal.

    Args:
        file: the terminal.
        quiet: show nothing.
    """

    def __init__(self, file: TextIO, quiet: bool = False) -> None:
        self._file, self._shown, self._live = file, "", file.isatty() and not quiet

    def show(self, text: str) -> None:
        """Show the end of a text, as much as fits."""
        if not self._live or text == self._shown:
            return
        room, self._shown = shutil.get_terminal_size().columns - 1, text
        while cell_len(text) > room:
            text = text[max((cell_len(text) - room) // 2, 1) :]
        self._file.write(f"\r{text}\x1b[K")
        self._file.flush()

    def clear(self) -> None:
        """An empty line."""
        self.show("")


def listen(stream: Any, source: tuple[Next, Next, int], line: Line, interrupt: Interrupt) -> Iterator[Any]:
    """Utterances as they are over; meanwhile the line shows what is heard.

    Args:
        stream: `Recognizer.stream(endpoint=Endpoint())`.
        source: see `piped`.
        line: of the terminal.
        interrupt: entered.
    """
    *ways, rate = source
    given = 0
    while made := interrupt.wait(*ways):
        stream.accept(samples(made), rate)
        if given < len(stream.finished):
            line.clear()
            yield from stream.finished[given:]
            given = len(stream.finished)
        line.show(stream.result.text)
    stream.finish()
    line.clear()
    yield from (t for t in stream.finished[given:] if t.text)
