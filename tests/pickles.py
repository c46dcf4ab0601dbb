"""Pickles written by hand: a batch as Python 2 wrote CIFAR-10's, opcode by opcode."""

import numpy as np


def python2_string(text: bytes) -> bytes:
    """A `str` of Python 2: with a length byte, or four."""
    return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + len(text).to_bytes(4, "little") + text


def number(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def python2_batch(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A batch of CIFAR-10's python version as protocol 2 of Python 2's cPickle has it. pixels: (N, 3, 32, 32) uint8."""
    rows = pixels.reshape(len(pixels), -1)
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + b"(" + number(0) + b"t"
    kind = b"cnumpy\ndtype\n" + python2_string(b"u1") + b"K\x00K\x01\x87R"
    kind += b"(K\x03" + python2_string(b"|") + b"NNN" + number(-1) + number(-1) + b"K\x00tb"
    shape = number(rows.shape[0]) + number(rows.shape[1]) + b"\x86"
    array = (
        empty + python2_string(b"b") + b"\x87R(K\x01" + shape + kind + b"\x89" + python2_string(rows.tobytes()) + b"tb"
    )
    listed = b"](" + b"".join(number(label) for label in labels) + b"e"
    names = b"](" + b"".join(python2_string(b"some_name_%d.png" % i) for i in range(len(labels))) + b"e"
    fields = [
        (b"batch_label", python2_string(b"training batch 1 of 5")),
        (b"labels", listed),
        (b"data", array),
        (b"filenames", names),
    ]
    return b"\x80\x02}(" + b"".join(python2_string(key) + value for key, value in fields) + b"u."
