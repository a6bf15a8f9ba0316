"""The hybrid key: the draft's own vector, and neither half ever accepted alone."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milkyway_formats.hybrid import (
    MLDSA_SIGNATURE_BYTES,
    PUBLIC_BYTES,
    SIGNATURE_BYTES,
    BothHalvesRefusedError,
    Ed25519HalfRefusedError,
    HybridPrivateKey,
    HybridPublicKey,
    KeyRefusedError,
    MlDsaHalfRefusedError,
    SignatureLengthRefusedError,
    SignatureRefusedError,
    representative,
)

KEY = HybridPrivateKey(bytes(range(64)))
OTHER = HybridPrivateKey(bytes(range(64, 128)))
MESSAGE, CONTEXT = b"a message", b"application/vnd.milkyway.test.v1+json"
SIGNATURE = KEY.sign(MESSAGE, CONTEXT)

# id-MLDSA65-Ed25519-SHA512 of src/testvectors.json of lamps-wg/draft-composite-sigs (commit 5aa6a70c), IETF LAMPS
VECTOR_SECRET = "15uFQa8YW3u2HqmcMC3xHSt2DLiqHQYovoiCqC2HWJyEIQy28ZxuuzKZK1lEDrf01cddUOvhwY9V7RboVl41KQ=="
VECTOR_ED25519_PUBLIC = "339ce946319a92ae0d18d2a98659605081c8a3c1d4afa788c6d971f21a90c207"
VECTOR_MESSAGE = b"The quick brown fox jumps over the lazy dog."
VECTOR_SIGNATURE = """
ErzvJD1/RZozULzja0qsUZXM68/9dw+eQiLH+t6T9GLw5qHRKL0j1VJrlnAI20UB9a4vzyTNrBFO5HnWmuec4qr2EJEJqo/gTPoMJaGly6Hs5JYYXUr1Mude
ZNY0J/suGMRC01yJnn7eaXQ7ncA0g4vWcppItU+r9CU8LND2Z7MMA1IdVRv+euFpP5koQvDvOpCTzuentuQJJ5tBTTJCJUPh21lJJNz+LmfSC9+3Uah0obuL
M3Q3LybM8xxpQA/tN2i4hoZxV/kTRocI4gNUt7vsZbYd1axPkcvBy7hhY0PPjghKv/wqfhKakp/Pq6QwYZ6wA2/pDVi6p8BrxOTsqnMIYVZOtjN+lkV1ZSsB
zhXAdBV9xmzAGczB15WgoYV5+B6GXQvnOQe3HcQKhaXRRNN10JoM3eXKqi3YaYh4liVoE3MdE+mX8wIbwNZ/nfwnIqjl+BU3Ah5ArckiapJg1gSYJcmyx5oU
MwjP3HBn4gaWNU7KjLmuG3fSRnIYnwWxkhk20x4S8ICNveSdjIxYKQELvIVPqdLW9Vh+5hsx5rQoe4lS2ccx8Fb/5ZZHKJnzZmIcVFDiubx5TA1mZq5pYnG0
YmQUA3JudGsDp8Ja7+xDQUEgDuoVHKMDeq8U2E/Czl1MmIB5voWQXaBSJY0kizbgfLtMqiSL4POcM/8hT2wciyj/AKcTIrTulRnyl5re0uYWlbVdybaRLZ/F
Ht2EVh60Yh07k63aqteoiLdMlF3SFSQtUd2FNHhLGcjq/e0nNjK0vbvVCicgt7ZaE9WvCZIe1e6LFthdgmFy21r2cU3yDtO/nSLOrqs9aABdl7G4ny4fDOOd
XOgzJ8Iwb7RTG6pQdiPuhp/GsCO97K5wXEX2BPVsU4SgEBfwnEestr241BEU/E/3YXy3gRkMs1IRZMMJJGcJfT1BqbtOzIXRq2BNqjMi5PHUi/RPewFrkK53
HtHqTxVeWKR+QgAcUpWVs9PiFkGiLh0OOG9uW5bLbRt0rE1GKIOg3XABr1jU54qz0YmR0ETk725nBEXfutjUqG/njtqlvdalfJ2qSE/9b6coHpKmTHTZDeOP
M/T6ABeA3xWe75d0xQv2eQxts0RMOHHaHCfI0JFFaXsnvXPwP6vneELRer4BT44RlOJ6CUSvmwcZ1KEaX89WClonUDrZzds2dQtVjukNkQCJ4YxqmmtGCRfD
5fN+z5FCN8Vn+dke4XyADwC/RJVFVloOpvef5wC78Ol4otWC1NeBJ2PK2OFly8D/OasBbnCYjRpwx07Hf6hwFyUUgHiTFZn46pXJZPWpdwgUOX7DJz3zwoL5
HAWXTHcWpcAsShFjA/WenLLphqn4eTaFt+Wu3Jg9Q3ds+t7rKGczO7083oZGGYX4vhYSx0laS5Q4fY7EatiAjs0ZIuDmfmFuOzdNjmRGdK2IqAwtIH+sxHyl
Zoz5GWfEra60U9SPpsrSqK2jIGpGURZIb9uNUYeE422Ig2BlgHFS27b6x+320r6ftoOKbOSu54nSSq6JW0KwsDMj6Y9UpJfcllwUPRCLeFTRcrAdo2UkghFQ
NR6wtVpL5ir8lSRUDPzqiBYoltGCbwPhE1b6IWFwsfR+qEo806GhNVJNMqiiQGn/YYHoT/EwlnaPzMPy2YA4EGtBbuDQAQnQ6Fg0tfTwagjAiR0rF88dS/50
4qUzban6jYKT/hqdRuee8iZ/SN8YuxTO9SXhs5p8s8PouXPtFfasCIhQ4S+bUygi5sUcdaaRiXpj1IR2HxiEbbAUBF9s/3ZijJdaD/v+tyQgMgkmELxcaCSb
eZYpp96MlEHV9fwKQT7bHV9hZ5/1jZ30dZbrsOtmzx5oFzIzoXmz+Q47q0+MgS5YTmJZEQx1nJUfqOkq6CCS5snwWNPG+VirsHeE8Siq442uR2Rr37FB1YSA
L6PmzK9Wng4M2dVj7OL6HDPBcJL8nKmX0FIhIkMo9Gl+wXyM53EyjQnRWQROB+ybSz9VmzBItka3pP04ng0mhXrw+PiiVUzFVyqVGTO/vajdppu8Zrhcvd0B
LzC9JoeZhI9sVSEzbs5OyRd3jtr7eOLFrpAbfcSN2w0Mg5q1Hih30FePkaN3U23p+X00nnJscYNXBpvBnryirk0RqfVRtuAXk5zySd+ggIWEqoI/oIj1X6i6
6zprElCHwro4/VT6fpPP0rl7rfL5aNFgjKQtXj+5t8CMkX1pio+TatZa1LTDs5foGtryL3PThwhrVIotvhm9R4BPUqcp8V4mSCGAeBR/d8b+4Oo7ZBHU8l3x
o70K/euK5KinTZSd6eXfAskkUOvwSdXemLtt61myrMoIRcEHbu7iSsbPltYTVNhNEhr5HHpBlysmpaRA37hIDDFxVATYLKApdP+MK/VxRqP1Z6SMzSLKI8ky
AXC/NMXdsk7yeRL2xafVbt3l/aNk+OC5oDFdTAVtbsoCFoISta1hAYt7m0ORp4JQ9F+clJnuAdlCmpL+EiKgLAJzBwP1z1Hbue6XbbGM+RC2ycb45fdaIqNY
8ofkhbYUZZzKli7mqJ6Ue0zmHCTuP8dEbaLVTKmqWcku507Lt/UOqSqHuSW1BnN+r477uVX9PF7R4XpAWPxmvO/nPiMjsHXF3cWlevdqpRrrvKNMd3uAmtLF
rXuLLW+SdTl4P/PMdw2E8Ay8LrH4GDU27iXIS3w/ERwVG1YUA2gLHDB5pqxOXUH5pWhZYvFbvqo0ZtcgHjdqD4Yolp4G7Xv1QSi0xGNFET/N5nw7tdQHpAt2
klQ1TyNr1YU7j0x2WyTblziy/JiwT+TVL7My0VejgTGDonWggzhuaFYoUxlHfiukgSYdh5KwJYA1vlKqpGso2s/9enKMPNpj3wKxf1Z3l7NZ/RBBU4GvLZXC
d+qzzwAkvdCFPH4YGEWGVh0+A6l+zeB7Wi9QJoWNXjRZgFvd/iNcpfRDdsTr/jKBXj+a1v1PwRbn39RZF3AoKpS1F7oW039UObkPS7qHaS//cKrU3SPO+q7D
ZQuhYKkO9xmWUzCQRnftahCpH55W/l3tW40lQh6mCHWE7jebNwtLEXXxwPvPGzaFCn4C5FOs6KYlgYS0DNPJqByu155bP5ZffTc/gAulUFqATGfSGLo0t5xR
NYGEbEoEqQFd/fXW3wCcfupnLlrqhVE/uXRbidVGpO2KGirVpEtGlqAcjZxGKT8oAWLYcGeuZbYk+fk8pI/nyaFYWgbsabOpjaYniUu282a6EAf5WYeqGuvb
0HC5IkCitfdSYKQ5XC02mO7+HEkp8n5uSOEfFMcBKQvg0y7h8I9O49sIkXD6dRbagDjB4FMDNsOynXMJMIHycNxi2LXj5X/kn07uDLv4G55fW6d/Mh0tZehi
odU0qnHOpUE5BONmAjXo7c9KNhgUDf0vYgEml4/g50NntwR1pt3qO/hFTxUrDYtpXf9mSVeEHjHYfyidj/8j6ByWVL8VSCYK2kwDf7JC2GEq6SBRggNV3FjH
rMD48DJlQrhp9p5eL2uBq/vmJwPItLmxoNQl82xELQfRej2TPp2EddwG+d5jGV8ht2Zp9n2HzmOnNPhqoo5iA0x7OCj8M5IUZiFiiaWOrw/nJ9w7x34bmEqD
MJlAkvVTkSE0BpIRNV5cfM/F2mK3dwCJlc6HYTHtVifs4VTYgh3CVubWqkYTwcmFfLdUJRmfNRctfZHo4lV0G6AKmDva41ky1sLw2guZm/MphwozOWsPPwtO
6T2tSdtkVzveWGSkuVUbm5tCNAAuLZi9lbYz1wQJ32q6c8lhsjqaBp2xNsszkXQB71dBeyIiQPDTzFBn0l1/Z9cC+4EdvNbznqnZNEEtQ8hRnzqGkia1qzAu
C9djU2o+/IG3/PYaS1Pc/ftx/+3wol2LmTwwPwKRf/b+w2Lq4ATP1cIYwLIMRulhzEuwkwWEwwhy8lh/7h3jaiLRux4g2hxpWe5Nw6hfSpyJPEgQFO3O6IPX
RpnhSV0ms7q+BsP3gyYtN8m6OCoSd1zzWxRVVg6m0LHVLR45gvpL7iptDvu3Iu9JoCVmsu06OBPqQCGuU7VloHYrpAlNe5S5MKk9RvVgPdgeHqd3ANVtyITV
QL9d30iQNPt3myDgVyEsUvZIvpaswg8XZTVFQWlrDWiLf9o1W5RzSEsfbwimtvd3R8amsNWDYhHeXXWxcO4axiwEsJm9EIU1Y7lCZCr8+Txl4yN9ObJ9qy6P
2Y5QSwmTMK0lTAwNW1zRq5T8vofr4NVxc9j1vk2OoKugxzJ0fBwZWWKuKGF/hRnHz0BuJIek9q3DCDmXWHhScdmqJluy9nt+lfSTYKLHetQUckD/D1GxrRao
9uF4vMBEIEEQRE6it+gFSHaa5QEMInB0k62wuvVfa5ed1RVHgLYhPUZ/rvsAAAAAAAAAAAAAAAAAAAAAAAAABgsVGh4ks97zPavKFDAT5yFTP08cXUMt4AGz
DEUkJZcfsvUPX6wC+iSqIjEsSFnvvvUGbIr/q/xpHBHvjBu+wXilMlBVBg==
"""


def test_the_drafts_own_signature_holds_with_the_key_of_its_seed() -> None:
    key = HybridPrivateKey(base64.b64decode(VECTOR_SECRET)).public_key
    assert key.halves[1].hex() == VECTOR_ED25519_PUBLIC
    signature = base64.b64decode(VECTOR_SIGNATURE.replace("\n", ""))
    key.verify(VECTOR_MESSAGE, b"", signature)
    with pytest.raises(BothHalvesRefusedError):
        key.verify(VECTOR_MESSAGE, b"x", signature)


def test_the_representative_is_the_drafts() -> None:
    """Its example of M' with a context, but for the label: the example is of MLDSA65-ECDSA-P256."""
    m = representative(bytes(range(10)), bytes.fromhex("0813061205162623"))
    assert m.hex().startswith(b"CompositeAlgorithmSignatures2025COMPSIG-MLDSA65-Ed25519-SHA512\x08".hex() + "0813061205162623")
    assert m.hex().endswith(
        "0f89ee1fcb7b0a4f7809d1267a029719004c5a5e5ec323a7c3523a20974f9a3f"
        "202f56fadba4cd9e8d654ab9f2e96dc5c795ea176fa20ede8d854c342f903533"
    )


def test_a_signature_holds_for_its_message_and_context_alone() -> None:
    assert (len(SIGNATURE), len(KEY.public_key.raw)) == (SIGNATURE_BYTES, PUBLIC_BYTES)
    KEY.public_key.verify(MESSAGE, CONTEXT, SIGNATURE)
    for key, message, context in (
        (OTHER, MESSAGE, CONTEXT),
        (KEY, MESSAGE + b".", CONTEXT),
        (KEY, MESSAGE, CONTEXT[:-1]),
        (KEY, MESSAGE, b""),
    ):
        with pytest.raises(BothHalvesRefusedError, match=r"^cannot verify signature by key .*: both halves are wrong$"):
            key.public_key.verify(message, context, SIGNATURE)


FOREIGN = OTHER.sign(MESSAGE, CONTEXT)
MLDSA, ED25519 = SIGNATURE[:MLDSA_SIGNATURE_BYTES], SIGNATURE[MLDSA_SIGNATURE_BYTES:]


@pytest.mark.parametrize(
    ("signature", "refusal", "reason"),
    [
        (FOREIGN[:MLDSA_SIGNATURE_BYTES] + ED25519, MlDsaHalfRefusedError, "the ML-DSA-65 half is wrong"),
        (MLDSA + FOREIGN[MLDSA_SIGNATURE_BYTES:], Ed25519HalfRefusedError, "the Ed25519 half is wrong"),
        (bytes(MLDSA_SIGNATURE_BYTES) + ED25519, MlDsaHalfRefusedError, "the ML-DSA-65 half is wrong"),
        (MLDSA + bytes(64), Ed25519HalfRefusedError, "the Ed25519 half is wrong"),
        (ED25519 + MLDSA, BothHalvesRefusedError, "both halves are wrong"),
        (MLDSA, SignatureLengthRefusedError, "3309 bytes, both halves together are 3373"),
        (ED25519, SignatureLengthRefusedError, "64 bytes, both halves together are 3373"),
        (ED25519 + ED25519, SignatureLengthRefusedError, "128 bytes"),
        (SIGNATURE + b"\0", SignatureLengthRefusedError, "3374 bytes"),
        (SIGNATURE[:-1], SignatureLengthRefusedError, "3372 bytes"),
        (b"", SignatureLengthRefusedError, "0 bytes"),
    ],
)
def test_one_half_is_never_enough(signature: bytes, refusal: type[SignatureRefusedError], reason: str) -> None:
    with pytest.raises(refusal, match=reason) as raised:
        KEY.public_key.verify(MESSAGE, CONTEXT, signature)
    assert raised.value.check == "halves"


@settings(max_examples=200, deadline=None)
@given(st.integers(min_value=0, max_value=8 * SIGNATURE_BYTES - 1))
def test_every_bit_of_a_signature_counts(bit: int) -> None:
    flipped = bytearray(SIGNATURE)
    flipped[bit // 8] ^= 1 << bit % 8
    expected = MlDsaHalfRefusedError if bit // 8 < MLDSA_SIGNATURE_BYTES else Ed25519HalfRefusedError
    with pytest.raises(expected):
        KEY.public_key.verify(MESSAGE, CONTEXT, bytes(flipped))


def test_a_key_id_is_of_both_halves() -> None:
    key = KEY.public_key
    ids = {key.key_id}
    for position in (0, PUBLIC_BYTES - 1):
        raw = bytearray(key.raw)
        raw[position] ^= 1
        ids.add(HybridPublicKey(bytes(raw)).key_id)
    assert len(ids) == 3
    assert HybridPublicKey(key.raw).key_id == key.key_id


@pytest.mark.parametrize("length", [0, 32, 1952, 1983, 1985])
def test_a_public_key_has_its_length(length: int) -> None:
    with pytest.raises(KeyRefusedError, match=f"{length} bytes, must be 1984"):
        HybridPublicKey(bytes(length))


def test_a_private_key_has_its_length_and_shows_no_secret() -> None:
    with pytest.raises(KeyRefusedError, match="32 bytes, must be 64"):
        HybridPrivateKey(bytes(32))
    assert repr(KEY) == f"<HybridPrivateKey {KEY.public_key.key_id[:16]}>"


def test_a_public_key_that_is_no_point_is_refused_like_a_wrong_signature() -> None:
    """y = 2 is on no Edwards point; OpenSSL says so only when it verifies."""
    broken = HybridPublicKey(KEY.public_key.halves[0] + (2).to_bytes(32, "little"))
    with pytest.raises(Ed25519HalfRefusedError):
        broken.verify(MESSAGE, CONTEXT, SIGNATURE)
