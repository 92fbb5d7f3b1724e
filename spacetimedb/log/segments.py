"""Segment files of the commit log: their format, and how a damaged one is judged.

A log is a directory of segments `<first offset, 20 digits>.stdb.log`, each with a watermark `<same>.stdb.mark`. All
integers are little-endian.

    segment := magic "(ds)^2"  version:u8 = 1  checksum:u8 = 0 (CRC-32C)  reserved:u16 = 0  commit*
    commit  := min_tx_offset:u64  epoch:u64  n:u16  len:u32  records[len]  crc32c:u32

The CRC covers the commit up to itself. A commit holds n >= 1 transaction payloads back to back (see `txdata`); its
`min_tx_offset` is the one of the commit before plus that one's n, also from segment to segment. Version 0 lacks the
epoch; it is read, not written.

A segment that nobody appends to any more may have been replaced by the same bytes in zstd's seekable format: frames,
and behind them a table of them that ends with the bytes b1 ea 92 8f. It is read, never written; all byte positions are
those of the uncompressed bytes.

    mark := slot slot
    slot := crc32c:u32 (of the rest)  flags:u32 (1 = sealed)  next_offset:u64  end:u64  sequence:u64

The mark says: the segment's bytes before `end`, the transactions before `next_offset`, have been through a successful
fdatasync. The two slots are written in turn, after the fdatasync; the higher sequence counts. The first is synced when
the segment is opened for writing, the later ones are not. So a mark is never ahead of the disk, and behind it only
after a power failure. `sealed` is set once the segment after this one exists, directory entry included.

Judging a segment. Let p be the end of its last good commit, W the mark's `end` (without a mark: the end of the last
commit that an upstream offset index `.stdb.ofs` correctly points at).

* p < W: durable data is damaged. Refused, never shortened.
* The mark is sealed but no segment follows: a file is lost. Refused.
* Not the last segment: whatever is behind p is refused, unless the next segment starts at exactly the next offset; then
  nothing is missing, the rest is a torn tail that was passed over.
* The last segment, p >= W: with an intact mark the rest was never durable: a torn tail. Without one the rest is
  searched for a valid commit: if there is one, something before it was damaged, and it is refused; else it is torn.
* A good commit with an offset that does not continue the log is refused; an exact repetition of the one before is not.

A torn tail is cut off when the log is opened for writing (`commit_log`) and passed over when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from struct import Struct, unpack_from

import msgspec
from crc32c import crc32c

from spacetimedb.log.files import FileSystem, write_all

MAGIC = b"(ds)^2"
VERSION = 1
SEGMENT_HEADER = MAGIC + bytes([VERSION, 0, 0, 0])
SEGMENT_SUFFIX, MARK_SUFFIX, INDEX_SUFFIX = ".stdb.log", ".stdb.mark", ".stdb.ofs"
COMMIT_HEADER = Struct("<QQHI")
"""min_tx_offset, epoch, n, len"""
COMMIT_HEADER_V0 = Struct("<QHI")
CRC = Struct("<I")
MAX_COMMIT_BYTES = 1 << 30
"""Longest `len` that is believed."""

SEALED = 1
MARK_SLOT = Struct("<IIQQQ")
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_END = b"\xb1\xea\x92\x8f"
MAX_UNPACKED_BYTES = 4 << 30
"""A compressed segment that gives more is refused."""
_UNPACK_BYTES = 8 << 20
_NAME = re.compile(r"\d{20}\.stdb\.log")


class LogDamaged(Exception):
    """The log cannot be used as it is: it is intact up to `position` (byte) of `file`, before transaction `offset`."""

    def __init__(self, file: Path, position: int, offset: int, what: str) -> None:
        super().__init__(
            f"{file}: {what}; intact up to byte {position}, transactions before offset {offset}. "
            f"Nothing was changed. Restore a backup; or cut the log there, with `spacetime log repair {file.parent}`"
        )
        self.file = file
        self.position = position
        self.offset = offset
        self.what = what


class Mark(msgspec.Struct, frozen=True):
    """A watermark. `intact`: none of the file's slots is damaged."""

    next_offset: int
    end: int
    sequence: int
    sealed: bool
    intact: bool


class Commit(msgspec.Struct, frozen=True, gc=False):
    """One commit: `n` payloads from `body[at:]` on; `body` is the commit without its CRC."""

    offset: int
    epoch: int
    n: int
    body: bytes
    at: int


def segment_path(directory: Path, first_offset: int) -> Path:
    return directory / f"{first_offset:020}{SEGMENT_SUFFIX}"


def list_segments(files: FileSystem, directory: Path) -> list[tuple[int, Path]]:
    """(first offset, path) of every segment, ascending; other files are ignored."""
    names = sorted(name for name in files.list(directory) if _NAME.fullmatch(name))
    return [(int(name[:20]), directory / name) for name in names]


def pack_mark(next_offset: int, end: int, sequence: int, sealed: bool) -> bytes:
    """A slot; it belongs at byte `sequence % 2 * MARK_SLOT.size` of the mark."""
    slot = MARK_SLOT.pack(0, SEALED if sealed else 0, next_offset, end, sequence)
    return CRC.pack(crc32c(slot[4:])) + slot[4:]


def read_mark(files: FileSystem, segment: Path) -> Mark | None:
    """The watermark of a segment, None without a usable one."""
    try:
        data = files.read(mark_path(segment))
    except FileNotFoundError:
        return None
    best: Mark | None = None
    intact = True
    for at in (0, MARK_SLOT.size):
        slot = data[at : at + MARK_SLOT.size]
        if not any(slot):
            continue
        if len(slot) < MARK_SLOT.size or CRC.unpack_from(slot)[0] != crc32c(slot[4:]):
            intact = False
            continue
        _, flags, next_offset, end, sequence = MARK_SLOT.unpack(slot)
        if best is None or sequence > best.sequence:
            best = Mark(next_offset, end, sequence, bool(flags & SEALED), True)
    if best is not None and not intact:
        best = msgspec.structs.replace(best, intact=False)
    return best


def mark_path(segment: Path) -> Path:
    return segment.with_name(segment.name.removesuffix(SEGMENT_SUFFIX) + MARK_SUFFIX)


class Walk:
    """Reads the commits of one segment from the start. While and after iterating:

    `position` is the byte behind the last good commit, `next_offset` what the next commit must start with, `problem`
    why the walk ended before the end of the file (None: it did not), `epoch` the highest epoch, `version` the format's,
    `is_compressed` whether the file is not `data` itself.
    """

    def __init__(self, path: Path, first_offset: int, data: bytes) -> None:
        self.path = path
        self.data = data
        self.position = len(SEGMENT_HEADER)
        self.next_offset = first_offset
        self.epoch = 0
        self.problem: str | None = None
        self.version = VERSION
        self.is_compressed = False
        if len(data) >= len(SEGMENT_HEADER):
            self.version = self._check_header(data)
        else:
            self.position = 0
            self.problem = f"the segment header is cut short, {len(data)} bytes"

    def _check_header(self, data: bytes) -> int:
        if data[:6] != MAGIC:
            expected, found = (", ".join(f"{byte:x}" for byte in magic) for magic in (MAGIC, data[:6]))
            raise self.damaged(f"segment header does not start with magic: expected [{expected}], got [{found}]", 0)
        if data[6] > VERSION:
            raise self.damaged(f"unsupported log format version: {data[6]}", 0)
        if data[7] != 0:
            raise self.damaged(f"unsupported checksum algorithm: {data[7]}", 0)
        return data[6]

    def damaged(self, what: str, position: int | None = None) -> LogDamaged:
        return LogDamaged(self.path, self.position if position is None else position, self.next_offset, what)

    def __iter__(self) -> Iterator[Commit]:
        if self.problem is not None:
            return
        data, size = self.data, len(self.data)
        header = COMMIT_HEADER if self.version else COMMIT_HEADER_V0
        header_size = header.size
        previous_crc = -1
        previous_offset = -1
        while size - self.position >= header_size:
            at = self.position
            if self.version:
                offset, epoch, n, length = COMMIT_HEADER.unpack_from(data, at)
            else:
                offset, n, length = COMMIT_HEADER_V0.unpack_from(data, at)
                epoch = 0
            end = at + header_size + length
            if end + 4 > size or length > MAX_COMMIT_BYTES:
                if not any(data[at : at + header_size]) and not any(data[at:]):
                    self.problem = f"{size - at} zero bytes"
                else:
                    self.problem = f"failed to read {length} bytes of commit payload: {size - at} bytes left"
                return
            body = data[at:end]
            crc = crc32c(body)
            if crc != unpack_from("<I", data, end)[0] or not n:
                if not any(body) and not any(data[at:]):
                    self.problem = f"{size - at} zero bytes"
                else:
                    self.problem = f"checksum mismatch at offset={self.next_offset}"
                return
            if offset != self.next_offset:
                if offset != previous_offset:
                    raise self.damaged(
                        f"out-of-order commit: expected-offset={self.next_offset} actual-offset={offset}"
                    )
                if crc != previous_crc:
                    raise self.damaged(f"forked history: offset={offset}")
                self.position = end + 4
                continue
            self.position = end + 4
            self.next_offset = offset + n
            if epoch > self.epoch:
                self.epoch = epoch
            previous_offset, previous_crc = offset, crc
            yield Commit(offset, epoch, n, body, header_size)
        if self.position < size:
            self.problem = f"{size - self.position} stray bytes"


def unpack_segment(path: Path, first_offset: int, data: bytes) -> bytes:
    """The uncompressed bytes of a segment file's content. Raises LogDamaged."""
    if data[:4] != ZSTD_MAGIC:
        return data
    if not data.endswith(ZSTD_END):
        raise LogDamaged(path, 0, first_offset, "the end of the compressed segment is missing")
    from zstandard import ZstdDecompressor, ZstdError

    parts: list[bytes] = []
    size = 0
    try:
        with ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            while part := reader.read(_UNPACK_BYTES):
                parts.append(part)
                size += len(part)
                if size > MAX_UNPACKED_BYTES:
                    raise LogDamaged(path, 0, first_offset, f"unpacked it has more than {MAX_UNPACKED_BYTES} bytes")
    except ZstdError as error:
        raise LogDamaged(path, 0, first_offset, f"the compressed segment cannot be unpacked: {error}") from error
    return b"".join(parts)


def open_walk(files: FileSystem, path: Path, first_offset: int) -> Walk:
    """A walk over a segment file, compressed or not. Raises LogDamaged, OSError."""
    data = files.read(path)
    walk = Walk(path, first_offset, unpack_segment(path, first_offset, data))
    walk.is_compressed = data[:4] == ZSTD_MAGIC
    return walk


def judge(files: FileSystem, walk: Walk, following: int | None) -> int:
    """Judges a segment that was walked to its end; `following` is the next segment's first offset, if there is one.

    Returns the number of bytes of a torn tail, 0 if there is none. Raises LogDamaged.
    """
    mark = read_mark(files, walk.path)
    position, size = walk.position, len(walk.data)
    durable = mark.end if mark is not None else _indexed_end(files, walk)
    problem = walk.problem or "the file is too short"
    if walk.is_compressed and walk.problem is not None:
        raise walk.damaged(f"{walk.problem} in a compressed segment, which nobody was writing")
    if position < durable and (mark is None or walk.next_offset < mark.next_offset):
        raise walk.damaged(f"{problem}, but the data up to byte {durable} was durable")
    if following is not None:
        if following != walk.next_offset:
            raise walk.damaged(f"{walk.problem or 'the segment ends'}, and the next segment starts at {following}")
        return size - position
    if mark is not None and mark.sealed:
        raise walk.damaged(f"the segment that starts at offset {mark.next_offset} is missing")
    if walk.problem is None:
        return 0
    if (mark is None or not mark.intact) and (found := _later_commit(walk)) is not None:
        raise walk.damaged(f"{problem}, but there is a good commit behind it, at byte {found}")
    return size - position


def _indexed_end(files: FileSystem, walk: Walk) -> int:
    """End of the last commit that upstream's offset index points at: (offset, byte position) pairs, key 0 ends them."""
    path = walk.path.with_name(walk.path.name.removesuffix(SEGMENT_SUFFIX) + INDEX_SUFFIX)
    try:
        index = files.read(path)
    except FileNotFoundError:
        return 0
    data, durable = walk.data, 0
    for at in range(0, len(index) - 15, 16):
        offset, start = unpack_from("<QQ", index, at)
        if not offset:
            break
        if start + COMMIT_HEADER.size > len(data):
            continue
        found, _, _, length = COMMIT_HEADER.unpack_from(data, start)
        end = start + COMMIT_HEADER.size + length
        if found == offset and end + 4 <= len(data) and crc32c(data[start:end]) == unpack_from("<I", data, end)[0]:
            durable = max(durable, end + 4)
    return durable


def _later_commit(walk: Walk) -> int | None:
    """Byte position of a valid commit behind the walk's end with an offset that could continue the log.

    Commits of version 1 are looked for in any segment: the version may be what is damaged.
    """
    data, expected = walk.data, walk.next_offset
    start = walk.position + 1 if walk.version else walk.position
    high = re.escape((expected >> 32).to_bytes(4, "little") + walk.epoch.to_bytes(8, "little"))
    for match in re.compile(rb"(?=.{4}" + high + rb"(?!\0\0))", re.DOTALL).finditer(data, start):
        at = match.start()
        if at + COMMIT_HEADER.size > len(data):
            break
        offset, _, _, length = COMMIT_HEADER.unpack_from(data, at)
        end = at + COMMIT_HEADER.size + length
        if offset < expected or end + 4 > len(data):
            continue
        if crc32c(data[at:end]) == unpack_from("<I", data, end)[0]:
            return at
    return None


def read_commits(files: FileSystem, directory: Path, start: int = 0) -> Iterator[tuple[Path, Commit]]:
    """Every commit with transactions from offset `start` on, with its file, in order, verified.

    Reads one segment at a time, changes nothing. A torn tail ends the log. Raises LogDamaged, also if the log begins
    behind `start` or ends before it.
    """
    segments = list_segments(files, directory)
    first_needed = max((i for i, (first, _) in enumerate(segments) if first <= start), default=0)
    expected = min(segments[first_needed][0], start) if segments else 0
    for i in range(first_needed, len(segments)):
        first, path = segments[i]
        following = segments[i + 1][0] if i + 1 < len(segments) else None
        walk = open_walk(files, path, first)
        if first != expected:
            raise LogDamaged(path, 0, expected, f"the segment starts at offset {first}, expected {expected}")
        for commit in walk:
            if commit.offset + commit.n > start:
                yield path, commit
        judge(files, walk, following)
        expected = walk.next_offset
    if expected < start:
        path = segments[-1][1] if segments else directory
        raise LogDamaged(path, 0, expected, f"the log ends at offset {expected}, but {start} transactions were durable")


def start_segment(files: FileSystem, directory: Path, offset: int) -> None:
    """Makes an empty segment; its directory entry is not synced. Raises OSError."""
    fd = files.open(segment_path(directory, offset))
    try:
        write_all(files, fd, 0, SEGMENT_HEADER)
        files.sync_data(fd)
    finally:
        files.close(fd)


def prune_segments(files: FileSystem, directory: Path, before: int) -> int:
    """Removes the segments that hold only transactions before an offset, oldest first; returns how many.

    The last segment stays. What belongs to a removed segment goes with it. Raises OSError.
    """
    segments = list_segments(files, directory)
    gone = [path for (_, path), (following, _) in pairwise(segments) if following <= before]
    names = set(files.list(directory)) if gone else set()
    for path in gone:
        stem = path.name.removesuffix(SEGMENT_SUFFIX)
        files.remove(path)
        for suffix in (MARK_SUFFIX, INDEX_SUFFIX):
            if stem + suffix in names:
                files.remove(path.with_name(stem + suffix))
        files.sync_directory(directory)
    return len(gone)
