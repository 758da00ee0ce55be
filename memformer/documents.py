"""`Document`: a text of any length, in a file or in a string, that can be read in parts."""

from __future__ import annotations

import codecs
import hashlib
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memformer.template import PIECE, text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# bytes of a file that are read at once
BYTES = 2**20
# formats that decode as text, but hold no text that a person would recognise
NOT_TEXT = {b"%PDF-": "a PDF", b"{\\rtf": "a rich text file", b"%!PS": "a PostScript file"}


@dataclass(frozen=True)
class Document:
    """A text that can be read from the beginning, any number of times.

    Args:
        name: the name that a person knows it by.
        checksum: the SHA-256 of the text.
        characters: the length of the text.
        texts: returns the text from the beginning, in parts of any size.
    """

    name: str
    checksum: str
    characters: int
    texts: Callable[[], Iterator[str]]

    @classmethod
    def of(cls, text: str, name: str) -> Document:
        """A document from a string.

        Raises:
            ValueError: the string is empty.
        """
        if not text.strip():
            raise ValueError(f"{name} is empty; there is nothing to read.")
        checksum = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return cls(name, checksum, len(text), lambda: iter([text]))

    @classmethod
    def file(cls, path: str | Path) -> Document:
        """A document from a file of UTF-8 text, which is checked to its end.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: the file can't be read.
            ValueError: the file is no text, or it is empty.
        """
        path = Path(path)
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            raise FileNotFoundError(f"There is no file {path}.") from None
        if stat.S_ISDIR(mode):
            raise ValueError(f"{path} is a folder; give one text file.")
        if not stat.S_ISREG(mode):
            raise ValueError(
                f"{path} is no regular file, and can't be read twice; give a file, or hand the "
                "text over on standard input."
            )
        digest, characters, blank = hashlib.sha256(), 0, True
        try:
            for text in _decoded(path):
                digest.update(text.encode())
                characters += len(text)
                blank = blank and not text.strip()
        except OSError as error:
            raise type(error)(f"{path} can't be read: {error.strerror}.") from error
        if blank:
            raise ValueError(f"{path} is empty; there is nothing to read.")
        return cls(path.name, digest.hexdigest(), characters, lambda: _decoded(path))

    def expected_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """An estimate of the number of tokens, made from the beginning of the text."""
        begin = ""
        for text in self.texts():
            begin += text[:PIECE]
            if len(begin) >= PIECE:
                break
        begin = begin[:PIECE]
        return round(len(text_ids(tokenizer, begin)) / max(len(begin), 1) * self.characters)


def _decoded(path: Path) -> Iterator[str]:
    """The text of a file in parts.

    Raises:
        ValueError: the file is not UTF-8 text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with path.open("rb") as file:
        while data := file.read(BYTES):
            if offset == 0:
                for begin, kind in NOT_TEXT.items():
                    if data.startswith(begin):
                        raise ValueError(f"{path} is {kind}, not a text file; convert it first.")
                data = data.removeprefix(codecs.BOM_UTF8)
                offset = file.tell() - len(data)
            if (place := data.find(b"\0")) >= 0:
                raise ValueError(
                    f"{path} is not text: byte {offset + place} is zero; give a text file."
                )
            waiting = len(decoder.getstate()[0])
            try:
                text = decoder.decode(data)
            except UnicodeDecodeError as error:
                raise _not_utf8(path, offset - waiting + error.start) from None
            offset += len(data)
            yield text
    waiting = len(decoder.getstate()[0])
    if waiting:
        raise _not_utf8(path, offset - waiting)


def _not_utf8(path: Path, place: int) -> ValueError:
    return ValueError(f"{path} is not UTF-8 text: byte {place} can't be decoded; convert it first.")
