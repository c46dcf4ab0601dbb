"""Where the decoder starts: blocks that pass every channel on."""

import torch

from ghn.decode.conv import ConvDecoder


def test_a_start_from_identity_is_added_to_every_block() -> None:
    """The same at all kernel positions, whatever the node; nothing else of the decoder changes."""
    torch.manual_seed(0)
    decoder = ConvDecoder(8, (6, 4, 3, 3), 10)
    states, shapes = [torch.randn(2, 8), torch.randn(1, 8)], [(6, 4, 3, 3), (3, 2, 1, 1)]
    with torch.no_grad():
        decoder.conv[2].bias.zero_()
        before = decoder(states, shapes)
        decoder.start_from_identity(0.7)
        after = decoder(states, shapes)
    for old, new, (out, inp, _, _) in zip(before, after, shapes, strict=True):
        expected = 0.7 * torch.eye(6, 4)[:out, :inp, None, None].expand(new.shape)
        torch.testing.assert_close(new - old, expected)
