"""Files as bytes, whatever they are packed with; broken or cut ones are refused, never read as if they were whole."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from posttrain.errors import DataError

CHUNK = 1 << 20
MAX_WINDOW = 1 << 31  # zstd --long=31; its default limit refuses such files
SIGNS = {
    b"\x1f\x8b": ".gz", b"\xfd7zXZ\x00": ".xz", b"BZh": ".bz2", b"\x28\xb5\x2f\xfd": ".zst", b"PAR1": ".parquet",
    b"PK\x03\x04": ".zip",
}  # fmt: skip


def open_bytes(file: Path) -> BinaryIO:
    """The unpacked bytes of a file, by its ending. Reading raises as `refusing` expects."""
    opener = OPENERS.get(file.suffix.lower())
    return opener(file) if opener else file.open("rb")


@contextmanager
def refusing(file: Path) -> Iterator[list[int]]:
    """DataError instead of what opening, unpacking and reading raise. The caller keeps the last line that it read as
    the one item of the list, so that the message can name where the file breaks off."""
    at: list[int] = [0]
    try:
        yield at
    except EOFError:
        raise _error(file, at, "the packed data ends too early, so the file was cut off; copy it again") from None
    except (zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _error(
            file, at, f"the packed data is broken ({error}); copy the file again, or mend its ending"
        ) from None
    except OSError as error:
        raise _error(file, at, f"cannot be read: {first_line(error)}") from None


def _error(file: Path, at: list[int], message: str) -> DataError:
    return DataError(f"{message}.", file=str(file), line=at[0] + 1 if at[0] else None)


def first_line(error: Exception) -> str:
    """What another library says of its error, cut to what a message can hold."""
    said = getattr(error, "strerror", None) or str(error)
    return (said.strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")


def check_sign(head: bytes, file: Path) -> None:
    """Refuse text that begins like something else: a wrong ending is the commonest cause of unreadable text."""
    for sign, ending in SIGNS.items():
        if head.startswith(sign):
            raise DataError(
                f"this is no text but {ending[1:]} data; give the file the ending {ending}.", file=str(file)
            )
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError("this is UTF-16 text; save the file as UTF-8.", file=str(file))


class _Zstd(io.RawIOBase):
    """Frames of zstd one after another. The library's own reader takes a cut frame for the end of the file."""

    def __init__(self, file: Path) -> None:
        import zstandard

        self._broken = zstandard.ZstdError
        self._new = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj
        self._packed, self._plain = file.open("rb"), b""
        self._frame: Any = None

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._packed.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._plain:
            packed = (self._frame.unused_data if self._frame and self._frame.eof else b"") or self._packed.read(CHUNK)
            if not packed:
                if self._frame and not self._frame.eof:
                    raise EOFError
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._new()
            try:
                self._plain = self._frame.decompress(packed)
            except self._broken as error:
                raise zlib.error(str(error)) from None
        count = min(len(buffer), len(self._plain))
        buffer[:count], self._plain = self._plain[:count], self._plain[count:]
        return count


OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.GzipFile,
    ".xz": lzma.LZMAFile,
    ".bz2": bz2.BZ2File,
    ".zst": lambda file: io.BufferedReader(_Zstd(file), CHUNK),
}
