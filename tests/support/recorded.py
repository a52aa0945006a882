"""Compressed replies of a real native server.

The files in tests/data/compressed hold the frames of rayforce-py 2.4.0's server, byte for byte as a client on another
host got them: the two stood in network namespaces of their own, joined by a pair of virtual interfaces.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayforce.ffi import FFI

from rayforce_trio._codec import encode, evaluate
from rayforce_trio._protocol import HEADER_SIZE, MessageType, Result
from support.frames import whole_frame

_DIRECTORY = Path(__file__).parents[1] / "data" / "compressed"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A query, and the file with its reply; `verbose` says whether what it printed was asked for, too."""

    query: str
    file: str
    verbose: bool = False

    def __str__(self) -> str:
        return self.file

    @property
    def request(self) -> bytes:
        return encode(self.query, MessageType.SYNC, verbose=self.verbose)

    @property
    def frame(self) -> bytes:
        """The compressed reply."""
        return (_DIRECTORY / self.file).read_bytes()

    @property
    def plain(self) -> bytes:
        """The reply of the engine in this process."""
        reply = evaluate(self.request)
        assert isinstance(reply, Result)
        return whole_frame(reply.frame)


RECORDED = [
    Recorded("(til 250)", "i64"),
    Recorded("(as 'F64 (til 300))", "f64"),
    Recorded("(% (* (til 400) 2654435761) 1000003)", "i64_irregular"),
    Recorded("(take 0x00 600000)", "u8_zeros"),
    Recorded("(take 0x00 2165)", "u8_2175_bytes"),  # a size whose first byte is the type code of errors
    Recorded("(take [2024.01.01 2024.02.29 0Nd] 600)", "date"),
    Recorded('(take ["é" "xyz" ""] 300)', "str"),
    Recorded("(map (fn [x] (as 'str x)) (til 250))", "list"),
    Recorded("(dict (til 200) (take [1.5 0Nf] 200))", "dict"),
    Recorded("(table [sym id price] (list (take [ab c def] 300) (til 300) (/ (til 300) 8)))", "table"),
]

RECORDED_VERBOSE = Recorded('(do (println "%" (til 3)) (til 250))', "verbose", verbose=True)


def payload_of(value: Any) -> bytes:
    """Return the payload of the frame that holds a Rayforce object."""
    return bytes(FFI.read_u8_vector(FFI.ser_obj(value.ptr)))[HEADER_SIZE:]
